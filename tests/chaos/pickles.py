"""Pickles that would run something: our reader runs nothing, and reads good files as they are."""

from __future__ import annotations

import argparse
import functools
import io
import os
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from chaos.judging import Judges, Verdict, summary

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read(path: str) -> None:
    """Read the tensors of a file."""
    from zoo.converting import read_file

    read_file(path)


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


class _Asks:
    """Asks to be made by a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def canaries(ran: Path) -> dict[str, bytes]:
    """Pickles by the opcode that would leave `ran` behind, each with a name of a function and an argument."""
    touch, code = f"touch {ran}", f"open({str(ran)!r}, 'w').close()"
    call, args = b"cos\nsystem\n", _text(touch) + b"\x85"
    stack = b"\x8c\x02os\x8c\x06system\x93"
    key = _text("w")
    return {
        "GLOBAL REDUCE": b"\x80\x02" + call + args + b"R.",
        "STACK_GLOBAL REDUCE": b"\x80\x04" + stack + args + b"R.",
        "GLOBAL of builtins": b"\x80\x02cbuiltins\neval\n" + _text(code) + b"\x85R.",
        "GLOBAL of posix": b"\x80\x02cposix\nsystem\n" + args + b"R.",
        "GLOBAL of a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0dexec.__call__\x93"
        + _text(code) + b"\x85R.",
        "GLOBAL of an import": b"\x80\x02cantigravity\nfly\n)R.",
        "INST": b"(" + _text(touch) + b"ios\nsystem\n.",
        "OBJ": b"(" + call + _text(touch) + b"o.",
        "NEWOBJ": b"\x80\x02" + call + args + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04" + call + args + b"}\x92.",
        "BUILD": b"\x80\x02" + call + _text(touch) + b"b.",
        "BUILD by __setstate__": b"\x80\x02cbuiltins\nobject\n)\x81}" + _text("__setstate__") + call + b"sb"
        + _text(touch) + b"b.",
        "BUILD of __reduce__": b"\x80\x02cbuiltins\nobject\n)\x81}" + _text("__reduce__") + call + b"sb.",
        "EXT1": b"\x80\x02\x82\xf1" + args + b"R.",
        "EXT2": b"\x80\x02\x83\xf1\x00" + args + b"R.",
        "EXT4": b"\x80\x02\x84\xf1\x00\x00\x00" + args + b"R.",
        "PERSID": b"Pos.system\n.",
        "BINPERSID": b"\x80\x02(" + _text("storage") + call + _text("0") + _text("cpu") + b"K\x01tQ.",
        "BINPERSID of a module": b"\x80\x02(" + _text("module") + call + _text(code) + _text(code) + b"tQ.",
        "APPEND to a callable": b"\x80\x02" + call + _text(touch) + b"a.",
        "APPENDS to a callable": b"\x80\x02" + call + b"(" + _text(touch) + b"e.",
        "SETITEM of a callable": b"\x80\x02" + call + key + _text(touch) + b"s.",
        "SETITEMS of a callable": b"\x80\x02" + call + b"(" + key + _text(touch) + b"u.",
        "ADDITEMS to a callable": b"\x80\x04" + call + b"(" + _text(touch) + b"\x90.",
        "NEXT_BUFFER": b"\x80\x05\x97" + args + b"R.",
        "READONLY_BUFFER": b"\x80\x05\x97\x98.",
        "MEMOIZE and BINGET": b"\x80\x04" + stack + b"\x94h\x00" + args + b"R.",
        "PUT and GET": call + b"p0\ng0\n" + args + b"R.",
        "LONG_BINPUT and LONG_BINGET": b"\x80\x02" + call + b"r\x09\0\0\0j\x09\0\0\0" + args + b"R.",
        "DUP": b"\x80\x02" + call + b"2" + args + b"R.",
        "POP behind a call": b"\x80\x02" + call + args + b"R0}.",
        "POP_MARK behind a call": b"\x80\x02(" + call + args + b"R1}.",
        "FRAME around a call": b"\x80\x04\x95"
        + struct.pack("<Q", 2 + len(stack + args)) + stack + args + b"R.",
        "a call in a tuple": b"\x80\x02" + call + args + b"R\x85.",
        "a call for a key": b"\x80\x02}" + call + args + b"RK\x01s.",
        "a call in a set": b"\x80\x04(" + call + args + b"R\x91.",
        "a call in a tensor": b"\x80\x02ctorch._utils\n_rebuild_parameter\n" + call + args + b"R\x85R.",
        "a tensor by type": b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n("
        + call + call + args + b"}tR.",
        "an ordered dict of a call": b"\x80\x02ccollections\nOrderedDict\n" + call + args + b"R\x85R.",
        "torch's own loader": b"\x80\x02ctorch.storage\n_load_from_bytes\n" + _text(code) + b"\x85R.",
        "torch.load in a pickle": b"\x80\x02ctorch.serialization\nload\n" + _text(str(ran)) + b"\x85R.",
        "torch.hub in a pickle": b"\x80\x02ctorch.hub\nload\n" + _text("owner/name") + b"\x85R.",
        "TorchScript's hook": b"\x80\x02ctorch.jit._pickle\nbuild_intlist\n" + call + args + b"R\x85R.",
        "numpy's loader": b"\x80\x02cnumpy\nload\n(" + _text(str(ran)) + b"N\x88tR.",
        "by protocol 0": pickle.dumps({"w": _Asks(os.system, (touch,))}, protocol=0),
        "by protocol 5": pickle.dumps({"w": _Asks(os.system, (touch,))}, protocol=5),
        "by iteration": pickle.dumps(_Asks(map, (exec, [code])), protocol=4),
        "by protocol 2": pickle.dumps(_Asks(eval, (code,)), protocol=2),
        "by a partial": pickle.dumps(_Asks(functools.partial, (os.system, touch)), protocol=4),
    }  # fmt: skip


def files(data: bytes, folder: Path, name: str) -> Iterator[Path]:
    """Put a pickle into each kind of file that torch writes, alone and beside a good tensor."""

    def write(kind: str, content: bytes) -> Path:
        path = folder / f"{name.replace(' ', '_')}.{kind}"
        path.write_bytes(content)
        return path

    head = b"".join(pickle.dumps(value, protocol=2) for value in (_MAGIC, _PROTOCOL, {"little_endian": True}))
    yield write("bare.pt", data if data[:1] == b"\x80" else b"\x80\x02" + data)
    yield write("old.pth", head + data + pickle.dumps([], protocol=2))
    yield write("first.pth", data + head)
    for kind, more in (
        ("zip.ckpt", {}), ("jit.pt", {"constants.pkl": data, "code/__torch__.py": b"import os"}),
        ("extra.pt", {".format_version": data, "version": data, "byteorder": b"little"}),
    ):  # fmt: skip
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("w/data.pkl", data)
            for record, content in more.items():
                archive.writestr(f"w/{record}", content)
        yield write(kind, packed.getvalue())


def good_files(folder: Path) -> dict[Path, dict[str, torch.Tensor]]:
    """Good files of every kind, with what is in them."""
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state = {
        "w": torch.randn(3, 4, 2, 2, 2), "turned": base.t(), "part": base[2:5, ::3], "tied": base,
        "half": torch.randn(5).half(), "bf": torch.randn(5).bfloat16(), "long": torch.arange(7),
        "flag": torch.tensor([True, False]), "none": torch.empty(0, 3), "one": torch.tensor(3.5),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]), "double": torch.randn(2).double(),
    }  # fmt: skip
    lightning = {
        "state_dict": state, "epoch": 3, "pytorch-lightning_version": "1.9.0", "callbacks": {"a": {"b": 1}},
        "hyper_parameters": argparse.Namespace(lr=1e-3, model=argparse.Namespace(depth=3), seen={1, 2}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}], "lr_schedulers": [], "loops": None,
    }  # fmt: skip
    made = {}
    for name, value in (("state", state), ("lightning", lightning)):
        for kind, new in (("pt", True), ("ckpt", True), ("pth", False)):
            path = folder / f"good-{name}-{'new' if new else 'old'}.{kind}"
            torch.save(value, path, _use_new_zipfile_serialization=new)
            made[path] = state
    module = torch.nn.Sequential(torch.nn.Conv3d(3, 4, 3), torch.nn.BatchNorm3d(4)).eval()
    for name, script in (("script", torch.jit.script(module)), ("trace", _traced(module))):
        path = folder / f"good-{name}.jit"
        script.save(str(path))
        made[path] = dict(module.state_dict())
    return made


def _traced(module: torch.nn.Module) -> Any:
    return torch.jit.trace(module, torch.zeros(1, 3, 4, 8, 8))


def same_bits(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    """Whether two state dicts are equal to the bit."""

    def bits(tensor: torch.Tensor) -> bytes:
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return found.keys() == wanted.keys() and all(
        found[name].dtype == tensor.dtype
        and found[name].shape == tensor.shape
        and bits(found[name]) == bits(tensor)
        for name, tensor in wanted.items()
    )


def opcodes_in(pickles: dict[str, bytes]) -> set[str]:
    """Name the opcodes that stand in pickles, as far as they can be taken apart."""
    found: set[str] = set()
    for data in pickles.values():
        try:
            found.update(opcode.name for opcode, _, _ in pickletools.genops(data))
        except ValueError:
            continue
    return found


_LOADED = ["chaos.pickles", "chaos.weight_files", "zoo.converting"]


def judge_all(folder: Path, *, every: int = 1) -> tuple[str, list[str]]:
    """Hand all canaries and good files to the reader and to the command.

    Returns:
        The figures, and what is wrong.
    """
    ran = folder / "ran"
    kinds = dict([*canaries(ran).items()][::every])
    from zoo.converting import read_file

    verdicts: list[Verdict] = []
    wrong: list[str] = []
    good = good_files(folder)
    for path, state in good.items():
        if not same_bits(read_file(path).tensors, state):
            wrong.append(f"{path.name}: other bits")
    first = str(next(iter(good)))
    asks: tuple[tuple[str, Callable[[Path], list[str]]], ...] = (
        ("pickles:read", lambda path: [str(path)]),
        (
            "weight_files:command",
            lambda path: ["weights", "convert", str(path), "--as", "taming", "--dry-run"],
        ),
    )
    with Judges(_LOADED, [("chaos.pickles:read", [first])]) as court:
        for name, data in kinds.items():
            for path in files(data, folder, name):
                for ask, words in asks if path.suffix == ".ckpt" else asks[:1]:
                    one = court.judge(f"{ask} {path.name}", f"chaos.{ask}", *words(path), allowed=[str(path)])
                    verdicts.append(one)
                    if one.kind != "refused" or one.traceback:
                        wrong.append(f"{one.name}: {one.kind}: {one.told[-200:]}")
                    if ask == "pickles:read" and one.events:
                        wrong.append(f"{one.name}: {one.events[:3]}")
                    if ran.exists():
                        wrong.append(f"{one.name}: it ran")
                        ran.unlink()
    other = sum("other bits" in fault for fault in wrong)
    fired = sum("it ran" in fault for fault in wrong)
    return (
        f"{len(kinds)} canaries with {len(opcodes_in(kinds))} kinds of opcodes in 6 kinds of files: {fired} "
        f"fired; {summary(verdicts)}; {len(good) - other} of {len(good)} good files equal to the bit",
        wrong,
    )


def _pickles(folder: Path, quick: bool) -> Outcome:
    told, wrong = judge_all(folder, every=4 if quick else 1)
    return Outcome(told, not wrong, "; ".join(wrong[:4]))


EXPERIMENTS = [
    Experiment(
        19,
        "Pickles that would run something, in .pt, .pth, .ckpt, TorchScript and the old format",
        "Canaries of every kind of opcode: 0 fired, nothing imported or opened; good files equal to the bit, "
        "also of Lightning with a Namespace",
        _pickles,
    )
]
