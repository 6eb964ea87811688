"""Foreign weights files: every tensor as torch reads it, and nothing in a file is ever run."""

from __future__ import annotations

import argparse
import contextlib
import copyreg
import io
import os
import pickle
import random
import struct
import sys
import time
import tracemalloc
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.converting import read_file
from zoo.converting.pickles import read_pickle
from zoo.converting.torch_files import Rebuilder, storage_ref
from zoo.errors import WeightsError


def tensors() -> dict[str, Tensor]:
    """One of every kind of layout and number that weights have."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    return {
        "plain.weight": base.clone(),
        "view.offset": base[1:, 1:3],
        "view.transposed": base.permute(2, 0, 1),
        "view.expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
        "tied.a": base,
        "tied.b": base,
        "half": torch.randn(2, 3).half(),
        "bfloat": torch.randn(7)[::2].bfloat16(),
        "double": torch.randn(2, dtype=torch.float64),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "bytes": torch.tensor([1, 255], dtype=torch.uint8),
        "empty": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.randn(2, 2)),
    }


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert torch.equal(found[name], tensor.detach()), name


def save_old(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


SAVERS: dict[str, Callable[[Any, Path], None]] = {"zip": torch.save, "old": save_old}


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_tensors_are_as_torch_reads_them(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    expected = tensors()
    save(OrderedDict(expected), tmp_path / "w.pt")
    found = read_file(tmp_path / "w.pt")
    assert_same(found.tensors, torch.load(tmp_path / "w.pt", weights_only=True))
    assert_same(found.tensors, expected)
    assert found.tensors["tied.a"].data_ptr() == found.tensors["tied.b"].data_ptr()
    assert found.num_bytes == (tmp_path / "w.pt").stat().st_size


def test_views_of_storages_in_very_old_files(tmp_path: Path) -> None:
    class Stored:
        def __init__(self, key: str, num: int, view: tuple[str, int, int] | None) -> None:
            self.id = ("storage", torch.FloatStorage, key, "cpu", num, view)

    class Rebuilt:
        def __init__(self, stored: Stored, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
            self.args = (stored, 1, shape, stride, False, OrderedDict())

        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, self.args

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.id if isinstance(value, Stored) else None

    whole, view = Stored("7", 12, None), Stored("7", 12, ("8", 5, 6))
    state = {"whole": Rebuilt(whole, (2, 3), (6, 1)), "view": Rebuilt(view, (2, 2), (3, 1))}
    with (tmp_path / "w.pth").open("wb") as file:
        for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, state, ["7"]):
            Pickler(file, protocol=2).dump(value)
        file.write(struct.pack("<q12f", 12, *range(12)))
    found = read_file(tmp_path / "w.pth").tensors
    assert_same(found, torch.load(tmp_path / "w.pth", weights_only=True))
    assert found["view"].tolist() == [[6, 7], [9, 10]]


def test_safetensors_and_newer_numbers(tmp_path: Path) -> None:
    expected = {"a": torch.randn(2, 3), "b": torch.randn(3).bfloat16()}
    save_file(expected, tmp_path / "w.bin")  # what a file is follows from its bytes
    assert_same(read_file(tmp_path / "w.bin").tensors, expected)
    newer = {"f8": torch.randn(4).to(torch.float8_e4m3fn), "u16": torch.tensor([1], dtype=torch.uint16)}
    torch.save(newer, tmp_path / "w.pt")
    found = read_file(tmp_path / "w.pt").tensors
    assert found["f8"].dtype == torch.float8_e4m3fn
    assert torch.equal(found["f8"].float(), newer["f8"].float())
    assert found["u16"].tolist() == [1]


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_checkpoint_with_foreign_objects(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    module = types.ModuleType("no_such_package_anywhere")
    code = (
        "import enum\nclass Config(dict):\n  def __setstate__(self, state): raise SystemExit('ran')\n"
        "  def __reduce__(self): return Config, (), {'a': 1}, iter([2]), iter([('k', 'v')])\n"
        "  def extend(self, items): pass\n  append = extend\n"
        "class Mode(enum.Enum):\n  FIT = 'fit'\n"
        "class Callback:\n  __slots__ = ('x',)\n"
    )
    exec(code, module.__dict__)
    for name in ("Config", "Mode", "Callback"):
        module.__dict__[name].__module__ = module.__name__
    sys.modules[module.__name__] = module
    callback = module.__dict__["Callback"]()
    callback.x = module.__dict__["Mode"].FIT
    expected = {"model.weight": torch.randn(3, 2), "model.bias": torch.randn(3)}
    checkpoint = {
        "state_dict": OrderedDict(expected),
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3, 2)}}}],
        "hyper_parameters": argparse.Namespace(
            lr=np.float64(1e-3), seen=np.arange(3), config=module.__dict__["Config"]()
        ),
        "callbacks": {module.__dict__["Callback"]: callback, module.__dict__["Mode"].FIT: {1, 2}},
        "big": 1 << 80,
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
    }
    save(checkpoint, tmp_path / "last.ckpt")
    del sys.modules[module.__name__]
    before = set(sys.modules)
    found = read_file(tmp_path / "last.ckpt")
    assert set(sys.modules) == before
    assert_same(found.tensors, expected)
    assert found.aside == tuple(sorted(checkpoint.keys() - {"state_dict"}))


def test_checkpoint_of_several_models(tmp_path: Path) -> None:
    torch.save(
        {"ema": {"w": torch.ones(1)}, "model": {"w": torch.zeros(1)}, "optimizer": {"w": torch.ones(9)}},
        tmp_path / "w.pt",
    )
    found = read_file(tmp_path / "w.pt")
    assert sorted(found.tensors) == ["ema.w", "model.w"]
    assert found.aside == ("optimizer",)
    averaged = {"state_dict": {"w": torch.ones(1)}, "ema_state_dict": {"w": torch.zeros(1)}, "args": {"w": 1}}
    torch.save(averaged, tmp_path / "w.pt")
    found = read_file(tmp_path / "w.pt")
    assert sorted(found.tensors) == ["ema_state_dict.w", "state_dict.w"]
    assert found.aside == ("args",)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.layers = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False))
        self.register_buffer("scale", torch.tensor([1.0, 2.0]).bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_whole_pickled_module(save: Callable[[Any, Path], None], tmp_path: Path) -> None:
    module = Block()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(module, tmp_path / "generator.pytorch")
    assert_same(read_file(tmp_path / "generator.pytorch").tensors, module.state_dict())


@pytest.mark.parametrize("how", ["script", "trace"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(how: str, tmp_path: Path) -> None:
    module = Block().eval()
    compiled = (
        torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.zeros(1, 2, 2, 2))
    )
    compiled.save(str(tmp_path / "model.jit"))
    found = read_file(tmp_path / "model.jit")
    assert found.kind == "TorchScript"
    assert_same(found.tensors, torch.jit.load(str(tmp_path / "model.jit")).state_dict())
    assert_same(found.tensors, module.state_dict())


EXTENSION = 0xF1


class Evil:
    """Asks to be made by a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def zip_of(data: bytes, path: Path, **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", data)
        for name, content in records.items():
            archive.writestr(f"w/{name}", content)
    return path


def attacks(sentinel: Path) -> dict[str, bytes]:
    """Pickles that would leave a file behind if any of their calls were made."""
    touch = f"touch {sentinel}"
    text = touch.encode()
    length = struct.pack("<I", len(text))
    written = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "reduce": pickle.dumps({"w": Evil(os.system, (touch,))}, protocol=2),
        "reduce, framed": pickle.dumps({"w": Evil(os.system, (touch,))}, protocol=5),
        "eval": pickle.dumps([Evil(eval, (written,))], protocol=4),
        "a method called by iteration": pickle.dumps(Evil(map, (exec, [written])), protocol=4),
        "extension": b"\x80\x02\x82" + bytes([EXTENSION]) + b"X" + length + text + b"\x85R.",
        "inst": b"(X" + length + text + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\nX" + length + text + b"o.",
        "newobj": b"\x80\x02cos\nsystem\nX" + length + text + b"\x85\x81.",
        "build of a callable": b"\x80\x02cos\nsystem\nX" + length + text + b"b.",
        "setstate": b"\x80\x02cbuiltins\nobject\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX"
        + length
        + text
        + b"b.",
        "inside torch's own": b"\x80\x02ctorch._utils\n_rebuild_parameter\ncos\nsystem\nX"
        + length
        + text
        + b"\x85R\x85R.",
        "load of bytes": b"\x80\x02ctorch.storage\n_load_from_bytes\nC"
        + bytes([len(text)])
        + text
        + b"\x85R.",
        "persistent": b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000"
        b"X\x03\x00\x00\x00cpuK\x01tQ.",
        "import": b"\x80\x02cantigravity\nfly\n)R.",
    }


@pytest.mark.parametrize("attack", attacks(Path("x")))
def test_hostile_pickles_run_nothing(attack: str, tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    data = attacks(sentinel)[attack]
    good = pickle.dumps(OrderedDict(), protocol=2)
    magic = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
    (tmp_path / "bare.pt").write_bytes(data if data[:1] == b"\x80" else b"\x80\x02" + data)
    (tmp_path / "old.pt").write_bytes(b"".join(magic) + data + good)
    zip_of(data, tmp_path / "zip.pt")
    zip_of(data, tmp_path / "jit.pt", **{"constants.pkl": data, "code/__torch__.py": b"import os"})
    "é".encode("cp437")  # zipfile imports this codec for names
    before = set(sys.modules)
    copyreg.add_extension("os", "system", EXTENSION)
    try:
        for name in ("bare", "old", "zip", "jit"):
            with pytest.raises(WeightsError):
                read_file(tmp_path / f"{name}.pt")
    finally:
        copyreg.remove_extension("os", "system", EXTENSION)
    assert not sentinel.exists()
    assert set(sys.modules) == before


def test_a_good_state_dict_beside_an_attack_is_read_and_the_attack_is_not_made(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    torch.save(
        {"state_dict": {"w": torch.ones(2)}, "x": Evil(os.system, (f"touch {sentinel}",))},
        tmp_path / "w.ckpt",
    )
    assert read_file(tmp_path / "w.ckpt").tensors["w"].tolist() == [1, 1]
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x02" + b"\x8c\xff", "cut short"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.", "more bytes"),
        (b"\x80\x02r" + struct.pack("<I", 0xFFFFFFFF) + b".", "damaged"),
        (b"\x80\x02}" + b"h\x09.", "damaged"),
        (b"\x80\x02]K\x01s.", "damaged"),
        (b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".", "nested"),
        (b"\x80\x02)" + b"\x85" * 200_000 + b".", "nested"),
        (b"\x80\x02)" + b"q\x00h\x00h\x00\x86" * 200 + b"}q\x01h\x00K\x01s.", "damaged|no tensors"),
        (b"\x80\x02)" + b"q\x00h\x00h\x00\x86" * 40 + b".", "more values|nested|damaged"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no tensors"),
    ],
    ids=[
        "short",
        "huge",
        "memo",
        "no memo",
        "no dict",
        "deep lists",
        "deep tuples",
        "hash bomb",
        "laughs",
        "buffer",
        "cycle",
    ],
)
def test_pickle_bombs_are_refused(data: bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=says):
        read_file(zip_of(data, tmp_path / "w.pt"))


def repeated(value: bytes, call: bytes, times: int = 20_000) -> bytes:
    """A pickle that calls something with one and the same value again and again."""
    return b"\x80\x02" + value + b"q\x000" + call + b"q\x010](" + b"h\x01h\x00R" * times + b"e."


NUMBERS = b"](" + b"K\x01" * 60_000 + b"e\x85"
PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(60_000)) + b"e\x85"
TYPED = b"(ccollections\nOrderedDict\nN" + PAIRS + b"Nt"


@pytest.mark.parametrize(
    ("value", "call"),
    [
        (NUMBERS, b"ctorch\nSize\n"),
        (PAIRS, b"ccollections\nOrderedDict\n"),
        (TYPED, b"ctorch._tensor\n_rebuild_from_type_v2\n"),
        (b"(" + b"K\x01" * 60_000 + b"t", b"cos\nsystem\n"),
    ],
    ids=["sizes", "dictionaries", "dictionaries within", "arguments"],
)
def test_a_small_pickle_cannot_have_one_long_list_copied_again_and_again(value: bytes, call: bytes) -> None:
    stream, begun = io.BytesIO(repeated(value, call)), time.process_time()
    tracemalloc.start()
    with contextlib.suppress(WeightsError):
        read_pickle(stream, call=Rebuilder(), persistent=storage_ref)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 << 20
    assert time.process_time() - begun < 20


CHOSEN = [((2**61 - 1) * i).to_bytes(12, "little") for i in range(1, 40_000)]
LONGS = [b"\x8a\x0c" + data for data in CHOSEN]


@pytest.mark.parametrize(
    "data",
    [
        b"}(" + b"".join(long + b"N" for long in LONGS) + b"u.",
        b"ccollections\nOrderedDict\n](" + b"".join(long + b"N\x86" for long in LONGS) + b"e\x85R.",
        b"N" + b"".join(b"p%d\n" % int.from_bytes(data, "little") for data in CHOSEN) + b".",
    ],
    ids=["dictionary", "ordered dictionary", "memo"],
)
def test_keys_that_all_have_one_hash_take_no_longer_than_others(data: bytes) -> None:
    begun = time.process_time()
    with contextlib.suppress(WeightsError):
        read_pickle(io.BytesIO(b"\x80\x02" + data), call=Rebuilder(), persistent=storage_ref)
    assert time.process_time() - begun < 10


def test_a_checkpoint_of_thousands_of_tensors_is_read(tmp_path: Path) -> None:
    state = {f"layer.{i}.weight": torch.ones(1) for i in range(6_000)}
    torch.save({"state_dict": state}, tmp_path / "w.pt")
    assert len(read_file(tmp_path / "w.pt").tensors) == 6_000


def saved(tmp_path: Path) -> tuple[Path, bytes]:
    torch.save({"a": torch.arange(1000.0), "b": torch.arange(500.0)}, tmp_path / "w.pt")
    return tmp_path / "w.pt", (tmp_path / "w.pt").read_bytes()


def rezip(
    source: bytes, path: Path, change: Callable[[str, bytes], tuple[str, bytes]], **options: Any
) -> None:
    with zipfile.ZipFile(io.BytesIO(source)) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    path, data = saved(tmp_path)

    def refused(says: str) -> None:
        with pytest.raises(WeightsError, match=says):
            read_file(path)

    rezip(data, path, lambda name, content: (name, content), compression=zipfile.ZIP_DEFLATED)
    refused("compressed")
    rezip(data, path, lambda name, content: (name.replace("data/0", "../../etc/passwd"), content))
    refused("leads out")
    rezip(data, path, lambda name, content: (name, content[:100] if name.endswith("data/1") else content))
    refused(r"storage '1' holds 100 bytes of 2,000; 1 storages before")
    rezip(data, path, lambda name, content: (name, b"big" if name.endswith("byteorder") else content))
    refused("byte order")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("w/data.pkl", b"")
    refused("there twice")
    path.write_bytes(data.replace(b"data/1", b"data/7"))
    refused("no record")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("b/data.pkl", b"")
    refused("2 records")
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number:0100}", b"")
    refused("list of records has .* bytes")
    # Two records that share their bytes: more would be read than the file has.
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        places = {info.filename: info.header_offset for info in archive.infolist()}
        size = {info.filename: info.file_size for info in archive.infolist()}
    directory = data.rfind(b"PK\x01\x02", 0, data.rfind(b"w/data/1"))
    changed = bytearray(data)
    changed[directory + 42 : directory + 46] = struct.pack("<I", places["w/data/0"])
    changed[directory + 20 : directory + 28] = struct.pack("<II", len(data) * 2, len(data) * 2)
    path.write_bytes(changed)
    assert size["w/data/1"] == 2000
    refused("too many|bytes|zip")


def test_tensors_that_reach_out_of_their_storage_are_refused(tmp_path: Path) -> None:
    def state(offset: int, shape: bytes, stride: bytes, num: int = 4) -> bytes:
        storage = (
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK%ctQ"
        )
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage.replace(b"%c", bytes([num]))
        return (
            b"\x80\x02}X\x01\x00\x00\x00w"
            + call
            + b"J"
            + struct.pack("<i", offset)
            + shape
            + stride
            + b"\x89}tRs."
        )

    def read(data: bytes) -> list[Any]:
        path = zip_of(data, tmp_path / "w.pt", **{"data/0": struct.pack("<4f", 1, 2, 3, 4)})
        return read_file(path).tensors["w"].tolist()

    assert read(state(1, b"K\x03\x85", b"K\x01\x85")) == [2, 3, 4]
    assert read(state(0, b"K\x02\x85", b"K\x00\x85")) == [1, 1]
    for offset, shape, stride, says in [
        (2, b"K\x03\x85", b"K\x01\x85", "reaches out"),
        (0, b"K\x02\x85", b"K\x04\x85", "reaches out"),
        (-1, b"K\x02\x85", b"K\x01\x85", "no numbers"),
        (0, b"K\x02\x85", b"J\xff\xff\xff\xff\x85", "no numbers"),
        (0, b"K\x02\x85", b")", "no numbers"),
        (0, b"J\x00\x00\x00\x40\x85", b"K\x00\x85", "too often"),
    ]:
        with pytest.raises(WeightsError, match=says):
            read(state(offset, shape, stride))
    with pytest.raises(WeightsError, match="16 bytes of 32"):
        read(state(0, b"K\x03\x85", b"K\x01\x85", num=8))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html>", "HTML"),
        (pickle.dumps({"w": 1}), "torch.save did not write"),
        (b"\x08" + bytes(7) + b'{"a', "neither|safetensors"),
        (os.urandom(0) + b"hello", "neither"),
    ],
    ids=["empty", "lfs", "html", "pickle", "cut safetensors", "text"],
)
def test_what_a_file_is_instead(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(WeightsError, match=says):
        read_file(tmp_path / "w.pt")


@pytest.mark.parametrize("save", SAVERS.values(), ids=SAVERS)
def test_any_cut_and_any_damage_gives_a_clear_error_or_tensors(
    save: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "w.pt"
    save({"state_dict": tensors(), "config": argparse.Namespace(a=1)}, path)
    data = path.read_bytes()
    rng = random.Random(0)
    errors = 0
    for i in range(300):
        changed = bytearray(data)
        if i % 3 == 0:
            del changed[rng.randrange(len(data)) :]
        else:
            for _ in range(rng.choice([1, 1, 8])):
                changed[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(changed)
        try:
            read_file(path)
        except WeightsError:
            errors += 1
    assert errors >= 100, "each cut must be refused"
