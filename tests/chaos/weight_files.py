"""Hostile weights: `zoo weights check`, `zoo.load` and `load_weights` refuse them and do nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from chaos.judging import Judges, Verdict, canaries, faults, summary
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tiny import TINY

import zoo
from zoo.errors import ZooError
from zoo.weights import load_weights

SECONDS, PEAK_MB, BENT = 2.0, 300.0, 10_000

Header = dict[str, Any]


@cache
def _model() -> Any:
    return zoo.build(TINY, seed=5)


def load(folder: str) -> None:
    """Load a folder as a model, after having tried to load it into one that exists."""
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load_weights(model, folder)
    except ZooError as error:
        if any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()):
            raise AssertionError("the model was changed by weights that were refused") from error
    zoo.load(folder)


def command(*words: str) -> None:
    """Run a command as from a shell."""
    from zoo.cli.group import cli

    cli.main([*words], prog_name="zoo")


def pack(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    """Make a safetensors file of a header (bytes, or what becomes JSON) and the bytes behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def unpack(content: bytes) -> tuple[Header, bytes]:
    """Return the header of a safetensors file, and the bytes behind it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _changed(header: Header, name: str, **fields: Any) -> Header:
    return {**header, name: {**header[name], **fields}}


def hostile_files(content: bytes, other: Path) -> dict[str, bytes]:
    """Every kind of hostile file, made out of a good one.

    Args:
        content: The good file.
        other: A file that pickles would write to.
    """
    header, data = unpack(content)
    text = json.dumps(header).encode()
    names = [name for name in header if name != "__metadata__" and header[name]["shape"]]
    first, second = sorted(names, key=lambda name: header[name]["data_offsets"])[:2]
    entry, size = header[first], len(data)
    (a, b), shape = entry["data_offsets"], entry["shape"]
    nested = b'{"a":' * 5000 + b"1" + b"}" * 5000
    pickle = (
        b"\x80\x02cos\nsystem\nX"
        + struct.pack("<I", len(f"touch {other}"))
        + f"touch {other}".encode()
        + b"\x85R."
    )
    return {
        "no bytes": b"",
        "seven bytes": content[:7],
        "header length 0": pack(b"", data),
        "header length beyond the file": pack(text, data, length=len(content)),
        "header length 2^63": pack(text, data, length=2**63),
        "header length 2^64-1": pack(text, data, length=2**64 - 1),
        "header one byte too short": pack(text, data, length=len(text) - 1),
        "header one byte too long": pack(text, data, length=len(text) + 1),
        "header of 100 MB of blanks": pack(text + b" " * 100_000_000, data),
        "header of 20 MB of brackets": pack(b'{"a":' + b"[" * 20_000_000, data),
        "header of 7 MB of entries": pack(
            {f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(110_000)}, b"x"
        ),
        "header of 7 MB of one number": pack(b'{"a": ' + b"9" * 7_000_000 + b"}", data),
        "header not JSON": pack(b"{not json at all" + b" " * 64, data),
        "header a list": pack([header], data),
        "header a text": pack(b'"{}"', data),
        "header with a blank before it": pack(b" " + text, data),
        "header in UTF-16": pack(json.dumps(header).encode("utf-16"), data),
        "header with a byte order mark": pack(b"\xef\xbb\xbf" + text, data),
        "header of broken UTF-8": pack(text.replace(first.encode(), first.encode()[:-1] + b"\xff", 1), data),
        "header with half a surrogate": pack(text.replace(b'"', rb'"\ud800', 1), data),
        "header cut within": content[: 8 + len(text) // 2],
        "header deeply nested": pack(nested, data),
        "metadata deeply nested": pack(b'{"__metadata__":' + nested + b"," + text[1:], data),
        "header with a comment": pack(text[:-1] + b"/* */}", data),
        "header with a second document": pack(text + b"{}", data),
        "metadata of numbers": pack({**header, "__metadata__": {"a": 1}}, data),
        "metadata twice": pack(b'{"__metadata__":{},"__metadata__":{},' + text[1:], data),
        "a name twice": pack(text[:-1] + b"," + json.dumps({first: entry}).encode()[1:], data),
        "a field twice": pack(text.replace(b'"dtype"', b'"dtype": "I8", "dtype"', 1), data),
        "a NaN for an offset": pack(text.replace(str([a, b]).encode(), b"[0, NaN]", 1), data),
        "an infinite offset": pack(text.replace(str([a, b]).encode(), b"[0, Infinity]", 1), data),
        "an offset of -0": pack(text.replace(str([a, b]).encode(), f"[-0, {b}]".encode(), 1), data),
        "an offset of 1e3": pack(text.replace(str([a, b]).encode(), b"[0, 1e3]", 1), data),
        "an offset as text": pack(_changed(header, first, data_offsets=[str(a), str(b)]), data),
        "an offset that is true": pack(_changed(header, first, data_offsets=[False, b]), data),
        "three offsets": pack(_changed(header, first, data_offsets=[a, b, b]), data),
        "offsets the wrong way round": pack(_changed(header, first, data_offsets=[b, a]), data),
        "a negative offset": pack(_changed(header, first, data_offsets=[-b, b]), data),
        "offsets beyond the end": pack(_changed(header, first, data_offsets=[size, size + b - a]), data),
        "offsets of 2^64": pack(_changed(header, first, data_offsets=[2**64, 2**64 + b - a]), data),
        "offsets that wrap around": pack(_changed(header, first, data_offsets=[2**64 - 4, 4]), data),
        "tensors that overlap": pack(_changed(header, second, data_offsets=entry["data_offsets"]), data),
        "a hole between tensors": pack({n: e for n, e in header.items() if n != second}, data),
        "bytes behind the last tensor": content + b"more",
        "a program behind the last tensor": content + b"PK\x03\x04" + pickle,
        "cut by one byte": content[:-1],
        "cut in half": content[: len(content) // 2],
        "a shape of negative numbers": pack(_changed(header, first, shape=[-1]), data),
        "a shape that overflows": pack(_changed(header, first, shape=[2**32, 2**32, 4]), data),
        "a shape that overflows to its size": pack(_changed(header, first, shape=[2**62, 4, *shape]), data),
        "a shape of zero times 2^62": pack(
            {**header, "w": {"dtype": "F32", "shape": [0, 2**62, 8], "data_offsets": [size, size]}}, data
        ),
        "a shape of 100,000 axes": pack(_changed(header, first, shape=[1] * 100_000), data),
        "a shape of floats": pack(_changed(header, first, shape=[float(n) for n in entry["shape"]]), data),
        "a shape of booleans": pack(_changed(header, first, shape=[True, *entry["shape"]]), data),
        "a shape that is a number": pack(_changed(header, first, shape=7), data),
        "a shape larger than its bytes": pack(_changed(header, first, shape=[*entry["shape"], 2]), data),
        "a dtype that does not exist": pack(_changed(header, first, dtype="F128"), data),
        "a dtype in lower case": pack(_changed(header, first, dtype="f32"), data),
        "a dtype that is a number": pack(_changed(header, first, dtype=32), data),
        "a dtype that is a name of torch": pack(_changed(header, first, dtype="float32"), data),
        "a dtype that is a list": pack(_changed(header, first, dtype=["F32"]), data),
        "a dtype of less than a byte": pack(_changed(header, first, dtype="F4"), data),
        "an entry that is a list": pack({**header, first: [entry]}, data),
        "an entry without a dtype": pack({**header, first: {"shape": [], "data_offsets": [0, 4]}}, data),
        "an entry with a field more": pack(_changed(header, first, module="os"), data),
        "truth values of 7": pack(
            {**header, "w": {"dtype": "BOOL", "shape": [1], "data_offsets": [size, size + 1]}}, data + b"\x07"
        ),
        "a pickle": pickle,
        "a zip archive": b"PK\x03\x04" + bytes(64),
        "an HTML page": b"<!DOCTYPE html><html><body>404: not found</body></html>",
        "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
        "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(512),
        "a GGUF file": b"GGUF\x03\x00\x00\x00" + bytes(512),
        "a gzip": b"\x1f\x8b\x08" + bytes(64),
        "text": b"these are not the weights\n" * 10,
        "zeros": bytes(1 << 16),
    }  # fmt: skip


def misfits(content: bytes) -> dict[str, bytes]:
    """Sound files whose tensors are not those of the model."""
    header, data = unpack(content)
    names = [name for name in header if name != "__metadata__"]
    vector = next(n for n in names if len(header[n]["shape"]) == 1 and header[n]["dtype"] == "F32")
    matrix = next(n for n in names if len(header[n]["shape"]) == 5)
    shape, axes = header[vector]["shape"], header[matrix]["shape"]
    size = len(data)
    one = {"dtype": "F32", "shape": [1], "data_offsets": [size, size + 4]}

    def renamed(old: str, new: str) -> bytes:
        return pack({(new if name == old else name): entry for name, entry in header.items()}, data)

    def smaller(name: str, to: list[int]) -> bytes:
        start, end = header[name]["data_offsets"]
        cut = end - start - 4
        moved = {
            n: e if n in ("__metadata__", name) or e["data_offsets"][0] < end
            else {**e, "data_offsets": [e["data_offsets"][0] - cut, e["data_offsets"][1] - cut]}
            for n, e in header.items()
        }  # fmt: skip
        moved[name] = {"dtype": "F32", "shape": to, "data_offsets": [start, start + 4]}
        return pack(moved, data[: start + 4] + data[end:])

    return {
        "fit: another dtype": pack(_changed(header, vector, dtype="I32"), data),
        "fit: twice as many of half the size": pack(
            _changed(header, vector, dtype="F16", shape=[2 * shape[0]]), data
        ),
        "fit: the shape with an axis more": pack(_changed(header, vector, shape=[1, *shape]), data),
        "fit: the shape turned round": pack(_changed(header, matrix, shape=axes[::-1]), data),
        "fit: a number that would be spread": smaller(vector, []),
        "fit: one number for all": smaller(vector, [1]),
        "fit: a tensor more": pack({**header, "extra.weight": one}, data + bytes(4)),
        "fit: a tensor called __class__": pack({**header, "__class__": one}, data + bytes(4)),
        "fit: a name in capitals": renamed(matrix, matrix.upper()),
        "fit: a name with a Cyrillic letter": renamed(matrix, matrix.replace("e", "е", 1)),
        "fit: a name with an invisible letter": renamed(matrix, matrix + "\u200b"),
        "fit: a name with a blank": renamed(matrix, matrix + " "),
        "fit: a name that clears the screen": renamed(matrix, "\x1b[2J\x1b[H" + matrix),
        "fit: a name with .module": renamed(matrix, "module." + matrix),
        "fit: a name that climbs": renamed(matrix, "../" + matrix),
        "fit: no tensors": pack({}, b""),
    }  # fmt: skip


def _folder(base: Path, into: Path, content: bytes | None = None) -> Path:
    """Copy a model folder; with other weights, whose hash is made to fit."""
    shutil.copytree(base, into)
    if content is not None:
        (into / "model.safetensors").write_bytes(content)
        _config(into, lambda config: config["weights"].update({"model.safetensors": _sha(content)}))
    return into


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    path = folder / "config.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    return folder


def hostile_folders(base: Path, into: Path, secret: Path) -> list[Path]:
    """Model folders that lie about what is in them, or lead out.

    Args:
        base: A good one.
        into: Where they are made.
        secret: A file outside that nothing may open; it holds sound weights.
    """
    made = []

    def one(name: str) -> Path:
        made.append(_folder(base, into / name))
        return made[-1]

    def renamed(to: str) -> Callable[[dict[str, Any]], Any]:
        return lambda config: config.update(weights={to: next(iter(config["weights"].values()))})

    for name, to in {
        "index climbs": "../secret.safetensors",
        "index climbs far": "../" * 12 + "etc/passwd.safetensors",
        "index is absolute": str(secret),
        "index is a URL": "https://example.com/model.safetensors",
        "index is a URL of files": f"file://{secret}",
        "index names a pickle": "model.bin",
        "index with a NUL": "model\0.safetensors",
        "index with a backslash": "..\\secret.safetensors",
        "index names nothing": "",
        "index names a long name": "a" * 300 + ".safetensors",
        "index names a missing file": "model-00001-of-00002.safetensors",
    }.items():
        _config(one(name), renamed(to))
    _config(one("index of none"), lambda config: config.update(weights={}))
    _config(one("index a list"), lambda config: config.update(weights=["model.safetensors"]))
    _config(one("index without hashes"), lambda config: config.update(weights={"model.safetensors": None}))
    _config(one("index with a hash that lies"), lambda c: c.update(weights={"model.safetensors": "0" * 64}))
    shards = one("index of one file twice")
    shutil.copy(shards / "model.safetensors", shards / "copy.safetensors")
    _config(shards, lambda c: c["weights"].update({"copy.safetensors": c["weights"]["model.safetensors"]}))
    _config(
        one("index of 50,000 files"),
        lambda c: c["weights"].update({f"{i}.safetensors": "" for i in range(50_000)}),
    )

    def swapped(name: str, file: str) -> Path:
        folder = one(name)
        (folder / file).unlink()
        return folder / file

    swapped("weights linked out", "model.safetensors").symlink_to(secret)
    swapped("weights linked out by climbing", "model.safetensors").symlink_to("../../secret.safetensors")
    swapped("weights linked in a circle", "model.safetensors").symlink_to("model.safetensors")
    swapped("weights linked to a device", "model.safetensors").symlink_to("/dev/zero")
    swapped("config linked out", "config.json").symlink_to(base / "config.json")
    swapped("config linked to a device", "config.json").symlink_to("/dev/zero")
    os.mkfifo(swapped("weights a pipe", "model.safetensors"))
    os.mkfifo(swapped("config a pipe", "config.json"))
    swapped("weights a folder", "model.safetensors").mkdir()
    chain = one("weights linked out through a folder")
    (chain / "in").symlink_to(secret.parent)
    (chain / "model.safetensors").unlink()
    (chain / "model.safetensors").symlink_to("in/secret.safetensors")

    def rewritten(name: str, text: str | bytes) -> None:
        path = one(name) / "config.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    good = (base / "config.json").read_text(encoding="utf-8")
    rewritten("config not JSON", "{")
    rewritten("config a pickle", b"\x80\x02}.")
    rewritten("config a list", f"[{good}]")
    rewritten("config of 5 MB", good + " " * 5_000_000)
    rewritten("config deeply nested", good[:-2] + ', "more": ' + "[" * 900 + "]" * 900 + "}")
    rewritten("config nested beyond a parser", good[:-2] + ', "more": ' + "[" * 100_000 + "]" * 100_000 + "}")
    rewritten("config with a key twice", good.replace('"format": 1', '"format": 1, "format": 1'))
    rewritten("config with NaN", good[:-2] + ', "more": NaN}')
    rewritten("config with a number of 10^6 digits", good[:-2] + ', "more": ' + "9" * 1_000_000 + "}")
    rewritten("config in UTF-16", good.encode("utf-16"))
    for field in ("format", "name", "recipe", "weights", "provided_by"):
        _config(one(f"config without {field}"), lambda config, field=field: config.pop(field))  # type: ignore[misc]
    for value in (99, "1", True, 1.0, -1, None, [1]):
        _config(one(f"config of format {value!r}"), lambda config, value=value: config.update(format=value))  # type: ignore[misc]

    def recipe(name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        _config(one(f"recipe {name}"), lambda config: change(config["recipe"]))

    recipe("with a part that is code", lambda r: r.update(encoder={"use": "os:system"}))
    recipe("with a target", lambda r: r.update(_target_="os.system"))
    recipe("with 10^9 channels", lambda r: r["encoder"].update(hidden_dim=10**9))
    recipe("with 10^9 codes", lambda r: r["quantizer"].update(codebook_size=10**9))
    recipe("with 10^9 blocks", lambda r: r["encoder"].update(num_residual_blocks=10**9))
    recipe("with clips of 10^9", lambda r: r["clip"].update(height=10**9))
    recipe("with an infinite option", lambda r: r["quantizer"].update(decay=1e999))
    recipe("nested deeply", lambda r: r.update(encoder=_nested(200)))
    recipe("of another model", lambda r: r["quantizer"].update(codebook_size=17))
    recipe("that extends", lambda r: r.update(extends="../../recipe"))
    (into / "empty folder").mkdir()
    (into / "folder of code").mkdir()
    (into / "folder of code" / "modeling.py").write_text("raise SystemExit('ran')")
    return [*made, into / "empty folder", into / "folder of code"]


def _nested(depth: int) -> Any:
    value: Any = {"use": "videogpt"}
    for _ in range(depth):
        value = {"use": "videogpt", "more": value}
    return value


def good_folders(base: Path, into: Path, content: bytes) -> list[Path]:
    """Model folders that look odd and are right."""
    header, data = unpack(content)
    text = json.dumps(header).encode()
    bent = bytearray(data)
    at = next(e["data_offsets"][0] for n, e in header.items() if n != "__metadata__" and e["dtype"] == "F32")
    bent[at : at + 4] = struct.pack("<f", float("nan"))
    made = [
        _folder(base, into / name, file)
        for name, file in {
            "as saved": content,
            "padded": pack(text + b" " * 4096, data),
            "in another order": pack(dict(reversed(header.items())), data),
            "with metadata": pack({**header, "__metadata__": {"a": "b"}}, data),
            "with NaN in it": pack(text, bytes(bent)),
        }.items()
    ]
    linked = _folder(base, into / "linked within")
    (linked / "model.safetensors").rename(linked / "real.safetensors")
    (linked / "model.safetensors").symlink_to("real.safetensors")
    cache = into / "models--owner--name"
    snapshot = _folder(base, cache / "snapshots" / ("0" * 40))
    (cache / "blobs").mkdir()
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).rename(cache / "blobs" / name)
        (snapshot / name).symlink_to(f"../../blobs/{name}")
    return [*made, linked, snapshot]


def judges(good: Path | None = None) -> Judges:
    """Judges who have loaded a good model and used the command before."""
    known = [] if good is None else [("chaos.weight_files:load", [str(good)])]
    known += [] if good is None else [("chaos.weight_files:command", ["weights", "check", str(good)])]
    return Judges(["chaos.weight_files"], known)


def judge_all(folder: Path, *, every: int = 1) -> list[str]:
    """Hand all hostile and odd weights to the command and to `zoo.load`, and return what is wrong.

    Args:
        folder: An empty one.
        every: Take only one kind in so many.

    Returns:
        The summary first, then the faults.
    """
    base = zoo.save(_model(), folder / "base")
    content = (base / "model.safetensors").read_bytes()
    secret = folder / "secret.safetensors"
    secret.write_bytes(content)
    ran = folder / "ran"
    bad = folder / "bad"
    bad.mkdir()
    files = {**hostile_files(content, ran), **misfits(content)}
    hostile = [_folder(base, bad / f"file, {n}".replace("/", "_"), files[n]) for n in sorted(files)[::every]]
    hostile += hostile_folders(base, bad / "folders", secret)[::every]
    good = good_folders(base, folder / "good", content)
    verdicts: list[Verdict] = []
    with judges(base) as court, canaries(secret) as opened:
        for path in [*hostile, *good]:
            label, fine = str(path.relative_to(folder)), [str(path)]
            asks = [("load", "load", [str(path)]), ("check", "command", ["weights", "check", str(path)])]
            if path.name.startswith("file, ") and not path.name.startswith("file, fit"):
                asks.append(("check file", "command", ["weights", "check", str(path / "model.safetensors")]))
            for what, ask, words in asks:
                one = court.judge(f"{what} {label}", f"chaos.weight_files:{ask}", *words, allowed=fine)
                verdicts.append(one)
    taken = [v.name for v in verdicts if " good/" in v.name]
    wrong = faults(verdicts, seconds=SECONDS, peak_mb=PEAK_MB, taken=taken)
    wrong += [
        f"{v.name}: no warning" for v in verdicts if "check good/with NaN" in v.name and "odd " not in v.told
    ]
    wrong += [f"{v.name}: an escape" for v in verdicts if "\x1b" in v.told]
    wrong += [f"opened: {path}" for path in opened] + (["a canary was written"] if ran.exists() else [])
    return [summary(verdicts), *wrong]


def bend(content: bytes, rng: random.Random) -> bytes:
    """Damage a file: bytes, its header's JSON, its length, its end."""
    bent = bytearray(content)
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        where = rng.randrange(min(len(bent), 8 + length)) if rng.random() < 0.8 else rng.randrange(len(bent))
        match rng.randrange(8):
            case 0:
                bent[where] ^= 1 << rng.randrange(8)
            case 1:
                bent[where] = rng.choice(b'0123456789-+eE.,:[]{}" \\\x00\xff')
            case 2:
                del bent[where : where + rng.choice([1, 2, 8, 64])]
            case 3:
                bent[where:where] = bytes(
                    rng.choice(b'0123456789-,[]{}" ') for _ in range(rng.choice([1, 3, 20]))
                )
            case 4:
                bent[:8] = struct.pack("<Q", max(0, length + rng.choice([-2, -1, 1, 2, 1 << 20, 1 << 40])))
            case 5:
                at = rng.randrange(8, 8 + length)
                end = min(len(bent), at + rng.randrange(1, 120))
                bent[where:where] = bent[at:end]
            case 6:
                text = bytes(bent[8 : 8 + length])
                words = [b'"F32"', b'"I64"', b'"shape"', b'"dtype"', b"0", b"1"]
                old = rng.choice(words)
                new = rng.choice(
                    [*words, b'"BF16"', b'"__metadata__"', b"null", b"-0", b"1.0", b"true", b"[]", b"NaN"]
                )
                text = text.replace(old, new, rng.choice([1, -1]))
                bent = bytearray(struct.pack("<Q", len(text)) + text + bytes(bent[8 + length :]))
                length = len(text)
            case 7:
                bent += bytes(rng.choice([1, 4, 4096]))
        if len(bent) < 16:
            break
        length = min(length, len(bent) - 8)
    return bytes(bent)


def fuzz(folder: str, num: int, seed: int) -> None:
    """Compare the zoo's reader with the reference on bent files; for a child of the judges.

    Raises:
        AssertionError: A bent file is read here and refused by the reference, or is read as other numbers.
    """
    from zoo.errors import WeightsError
    from zoo.safetensors_files import SafetensorsFile

    content = (Path(folder) / "small.safetensors").read_bytes()
    path, rng = Path(folder) / f"bent-{seed}.safetensors", random.Random(seed)
    counts = {"both refuse": 0, "both take": 0, "stricter": 0}
    for number in range(num):
        path.write_bytes(bend(content, rng))
        try:
            with SafetensorsFile(path) as file:
                ours, _ = file.read()
        except WeightsError:
            ours = None  # type: ignore[assignment]
        try:
            with safe_open(path, framework="pt") as reference:
                theirs = {name: reference.get_tensor(name) for name in reference.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError):
            theirs = None
        if ours is not None and theirs is None:
            raise AssertionError(f"file {number} of seed {seed} is read, and the reference refuses it")
        if ours is not None and theirs is not None:
            same = ours.keys() == theirs.keys() and all(
                a.dtype == b.dtype
                and a.shape == b.shape
                and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))
                for a, b in ((ours[name], theirs[name]) for name in ours)
            )
            assert same, f"file {number} of seed {seed} is read as other numbers than by the reference"
        counts["both take" if ours is not None else "both refuse" if theirs is None else "stricter"] += 1
    (Path(folder) / f"counts-{seed}.json").write_text(json.dumps(counts))


def fuzz_many(folder: Path, num: int, *, each: int = 500) -> tuple[list[str], dict[str, int]]:
    """Bend `num` files; return the faults, and how often which reader took one."""
    small = {
        "a.weight": torch.randn(3, 4),
        "a.bias": torch.zeros(4),
        "n": torch.tensor(7),
        "e": torch.empty(0, 2),
    }
    save_file(small, folder / "small.safetensors", metadata={"format": "pt"})
    wrong: list[str] = []
    counts: dict[str, int] = {}
    with judges() as court:
        for seed in range((num + each - 1) // each):
            one = court.judge(
                f"bent files {seed}", "chaos.weight_files:fuzz", str(folder), each, seed, limit_s=300
            )
            if one.kind != "taken":
                wrong.append(f"{one.name}: {one.kind}: {one.told[-300:]}")
                continue
            found = json.loads((folder / f"counts-{seed}.json").read_text())
            counts = {key: counts.get(key, 0) + value for key, value in found.items()}
    return wrong, counts


def _weights(folder: Path, quick: bool) -> Outcome:
    told, *wrong = judge_all(folder, every=5 if quick else 1)
    num = BENT // 10 if quick else BENT
    (folder / "fuzz").mkdir()
    found, counts = fuzz_many(folder / "fuzz", num)
    both, stricter = counts.get("both take", 0), counts.get("stricter", 0)
    return Outcome(
        f"{told}; {num:,} bent files: {len(found)} crashes or laxer readings, {both:,} taken by both, "
        f"{stricter:,} by the reference alone",
        not wrong and not found,
        "; ".join((wrong + found)[:4]),
    )


EXPERIMENTS = [
    Experiment(
        15,
        "Hostile weights, for `zoo weights check` and `zoo.load`",
        f"Each refused in {SECONDS:g} s and {PEAK_MB:g} MB (torch's own 230 MB in it), without a traceback, "
        "the model untouched, nothing opened outside; good ones taken; of 10,000 bent files none crashes, or "
        "is taken where the reference refuses",
        _weights,
    )
]
