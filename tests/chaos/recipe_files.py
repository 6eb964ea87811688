"""Hostile recipe files: `zoo recipe check` and `zoo.build` refuse them with the line, and nothing runs."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from chaos.experiment import Experiment, Outcome
from chaos.judging import Judges, Verdict, canaries, faults, summary
from tiny import TINY

import zoo
from zoo.errors import ZooError

SECONDS, PEAK_MB, NUM_PATHS = 2.0, 300.0, 2000

GOOD = "recipes:\n  mine:\n" + "".join(
    f"    {line}\n" for line in yaml.safe_dump(TINY, sort_keys=False).splitlines()
)


def build(path: str) -> None:
    """Build a file's one recipe."""
    zoo.build(Path(path), seed=0)


def added(text: str) -> str:
    """Return the good file with lines more in its recipe."""
    return GOOD + "".join(f"    {line}\n" for line in text.splitlines())


def changed(old: str, new: str) -> str:
    """Return the good file with one thing else."""
    assert old in GOOD, old
    return GOOD.replace(old, new, 1)


def hostile_texts(outside: Path) -> dict[str, str | bytes]:
    """Every kind of hostile recipe file.

    Args:
        outside: A file that nothing may open.
    """
    laughs = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    merges = "k0: &k0 {a: 1}\n" + "".join(
        f"k{i}: &k{i} {{<<: [*k{i - 1}, *k{i - 1}]}}\n" for i in range(1, 40)
    )
    deep = "{a: " * 2000 + "1" + "}" * 2000
    texts: dict[str, str | bytes] = {
        "tag of Python": changed("vq-ema", "!!python/object/apply:os.system ['touch ran']"),
        "tag of a name": changed("vq-ema", "!!python/name:os.system"),
        "tag of a module": added("more: !!python/module:antigravity"),
        "tag of its own": changed("use: vq-ema", "use: !zoo vq-ema"),
        "tag of text": changed("use: vq-ema", "use: !!str vq-ema"),
        "tag of a set": added("more: !!set {a, b}"),
        "tag of binary": added("more: !!binary aGVsbG8="),
        "tag that is declared": "%TAG !e! tag:yaml.org,2002:python/\n---\n"
        + changed("vq-ema", "!e!name:os.system"),
        "_target_ of a recipe": added("_target_: os.system"),
        "_target_ of a part": changed("use: vq-ema", "use: vq-ema\n      _target_: os.system"),
        "_target_ for use": changed("use: vq-ema", "_target_: os.system"),
        "class_path of a part": changed("use: vq-ema", "use: vq-ema\n      class_path: os.system"),
        "an import path": changed("vq-ema", "os.system"),
        "an import path with a colon": changed("vq-ema", "os:system"),
        "an import path of ours": changed("vq-ema", "zoo_vqvae.vq_ema:VQEMA"),
        "an assembly that is a path": changed("assembly: autoencoder", "assembly: os.system"),
        "a part that is a file": changed("vq-ema", str(outside)),
        "a part that is a URL": changed("vq-ema", "https://example.com/part.py"),
        "a part on the Hub": changed("vq-ema", "hf://owner/name"),
        "extends a file": added(f"extends: {outside}"),
        "extends by climbing": added("extends: ../../../etc/passwd"),
        "extends a URL": added("extends: https://example.com/recipe.yaml"),
        "extends itself": added("extends: mine"),
        "a tokenizer that is a file": added(f"tokenizer: {outside}"),
        "weights by climbing": added("weights: ../../secret.safetensors"),
        "weights at a URL": added("weights: https://example.com/model.safetensors"),
        "init by climbing": added("init: {encoder: ../../secret}"),
        "a backbone on the Hub": changed("use: videogpt", "use: timm\n      backbone: hf-hub:owner/name"),
        "a backbone in a folder": changed(
            "use: videogpt", f"use: timm\n      backbone: local-dir:{outside.parent}"
        ),
        "a backbone that is a file": changed("use: videogpt", f"use: timm\n      backbone: {outside}"),
        "an environment variable": changed("vq-ema", "${oc.env:HOME}"),
        "a template": changed("vq-ema", "{{ ''.__class__.__mro__ }}"),
        "an include": added(f"more: !include {outside}"),
        "aliases": "x: &x 1\n" + GOOD + "y: *x\n",
        "an anchor": changed("assembly: autoencoder", "assembly: &a autoencoder"),
        "an alias to itself": added("more: &a [*a]"),
        "a merge key": added("<<: {summary: other}"),
        "a bomb of aliases": laughs + GOOD,
        "a bomb of merges": merges + GOOD,
        "a key twice": added("summary: again"),
        "a key twice, quoted": added('"summary": again'),
        "a key twice in a part": changed("use: vq-ema", "use: vq-ema\n      use: fsq"),
        "a recipe twice": GOOD + GOOD.partition("\n")[2],
        "a key that is a list": added("[a, b]: 1"),
        "a key that is a mapping": added("{a: 1}: 1"),
        "depth of mappings": added(f"more: {deep}"),
        "depth of lists": added("more: " + "[" * 100_000),
        "depth of blocks": added("\n".join(" " * i + "a:" for i in range(900))),
        "size of 2 MB": GOOD + "#" * 2_000_000,
        "size of 1 MB in one text": added("more: '" + "x" * 1_000_000 + "'"),
        "size of 1 MB in one key": added("y" * 1_000_000 + ": 1"),
        "70,000 keys": added("\n".join(f"k{i}: 1" for i in range(70_000))),
        "60,000 options": changed(
            "use: vq-ema", "use: vq-ema\n" + "\n".join(f"      k{i}: 1" for i in range(60_000))
        ),
        "300,000 numbers": changed("codebook_size: 16", "codebook_size: [" + "1," * 300_000 + "]"),
        "100,000 discriminators": added("discriminator: [" + "patch3d," * 100_000 + "]"),
        "40,000 recipes": "recipes:\n" + "".join(f"  r{i}: {{summary: s}}\n" for i in range(40_000)),
        "no recipes": "recipes: {}\n",
        "nothing": "",
        "blanks": " " * 10_000,
        "a list": "- recipes\n",
        "a number": "7\n",
        "JSON of something else": json.dumps({"weights": {}}),
        "several documents": GOOD + "---\n" + GOOD,
        "a second document behind the end": GOOD + "...\n---\n!!python/name:os.system\n",
        "tabs": GOOD.replace("    ", "\t"),
        "a directive": "%YAML 9.9\n---\n" + GOOD,
        "not YAML": "recipes: [\n",
        "in UTF-16": GOOD.encode("utf-16"),
        "in UTF-16 without a mark": GOOD.encode("utf-16-le"),
        "in UTF-32": GOOD.encode("utf-32"),
        "in UTF-7": changed("For tests.", "é").encode("utf-7").replace(b"assembly", b"+AGE-ssembly"),
        "in Latin-1": changed("For tests.", "für").encode("latin-1"),
        "in EBCDIC": GOOD.encode("cp500"),
        "with a NUL": GOOD.encode() + b"\0",
        "a pickle": b"\x80\x04cos\nsystem\n.",
        "a zip": b"PK\x03\x04" + bytes(100),
        "an executable": b"\x7fELF" + bytes(5000),
        "random bytes": random.Random(1).randbytes(4096),
        "HTML": "<!DOCTYPE html><html></html>",
        "a summary that clears the screen": changed("For tests.", r'"\e[2J\e[H hello"'),
        "a summary that sets the title": changed("For tests.", r'"\e]0;owned\a"'),
        "a summary turned round": changed("For tests.", r'"\u202Egnirts"'),
        "a key that clears the screen": added(r'"\e[2Jsummary": x'),
        "a part that clears the screen": changed("vq-ema", r'"vq-ema\e[2J"'),
        "an option that clears the screen": changed("codebook_size", r'"codebook\e[2Jsize"'),
        "a name that clears the screen": changed("mine:", r'"mine\e[2J":'),
        "a name in Cyrillic": changed("mine:", "mіne:"),
        "a key in Cyrillic": changed("summary:", "summаry:"),
        "a part in Cyrillic": changed("vq-ema", "vq-еma"),
        "a part of full width": changed("vq-ema", "ｖｑ-ema"),
        "an invisible letter": changed("vq-ema", r'"vq-\u200Bema"'),
        "a name that is a path": changed("mine:", "../mine:"),
        "a name that is an option": changed("mine:", "--force:"),
        "a name in capitals": changed("mine:", "MINE:"),
        "a name of 100,000 letters": changed("mine:", "? " + "m" * 100_000 + "\n  :"),
    }  # fmt: skip
    return {**texts, **{f"number: {name}": text for name, text in _absurd_numbers()}}


def _absurd_numbers() -> Iterator[tuple[str, str]]:
    values = (
        "1000000000",
        "-1",
        "0",
        "true",
        ".nan",
        ".inf",
        "1e999",
        "9" * 19,
        "9" * 400,
        "'16'",
        "16.5",
        "null",
    )
    values += ("0x10", "1_000", "10:10", "[16]", "{a: 1}", "2001-01-01")
    for field, good in (
        ("codebook_size", "16"), ("latent_dim", "4"), ("num_residual_blocks", "1"), ("hidden_dim", "8"),
        ("height", "16"),
    ):  # fmt: skip
        for value in values:
            if (field, value) != ("num_residual_blocks", "0"):  # a model without them is one
                yield f"{field} {value[:24]}", changed(f"{field}: {good}", f"{field}: {value}")
    for value in ("1e9", "-1", "true", ".nan", "-.inf", "1e999", "'3e-4'", "[1]"):
        yield f"lr {value}", added(f"train: {{optimizer: {{lr: {value}}}}}")
        yield f"decay {value}", changed("codebook_size: 16", f"codebook_size: 16\n      decay: {value}")
    for value in ("1e3", "-5", "true", "2.5", "9" * 30):
        yield f"steps {value[:8]}", added(f"train: {{steps: {value}}}")
        yield f"batch_size {value[:8]}", added(f"train: {{batch_size: {value}}}")
        yield (
            f"seed {value[:8]}",
            added(f"train: {{seed: {value}}}") if value != "9" * 30 else added("train: {seed: .inf}"),
        )
        yield f"channels {value[:8]}", changed("num_frames: 4", f"num_frames: 4\n      channels: {value}")
    for blocks in ("1500", "9999"):
        yield f"blocks {blocks}", changed("num_residual_blocks: 1", f"num_residual_blocks: {blocks}")
    largest = "{num_frames: 4096, height: 4096, width: 4096}"
    yield (
        "the largest clips of a prior",
        f"recipes:\n  mine: {{extends: maskgit-video-tiny, clip: {largest}}}\n",
    )
    for stride in (
        "[1000000000, 4, 4]",
        "[0, 4, 4]",
        "[-2, 4, 4]",
        "[true, 4, 4]",
        "[2, 4]",
        "[2.0, 4, 4]",
        "[]",
    ):
        yield (
            f"stride {stride}",
            re.sub(r"stride:\n      - 2\n      - 4\n      - 4", f"stride: {stride}", GOOD),
        )


def good_texts() -> dict[str, str | bytes]:
    """Files that look odd and are right."""
    return {
        "as written": GOOD,
        "with a comment and a mark of its end": "# hello\n---\n" + GOOD + "...\n",
        "with the letters of the world": changed("For tests.", "'Für Übung: 視頻, видео'"),
        "with Windows' ends of line": GOOD.replace("\n", "\r\n").encode(),
        "as JSON": json.dumps({"recipes": {"mine": TINY}}),
    }


def judge_all(folder: Path, *, every: int = 1) -> list[str]:
    """Hand all hostile and odd recipe files to the command and to `zoo.build`.

    Returns:
        The summary first, then what is wrong.
    """
    outside = folder / "outside.yaml"
    outside.write_text(GOOD)
    kinds = [*hostile_texts(outside).items()][::every]
    everything: list[Verdict] = []
    wrong: list[str] = []
    good = folder / "good.yaml"
    good.write_text(GOOD)
    asks = (("check", "weight_files:command", ("recipe", "check")), ("build", "recipe_files:build", ()))
    warm = [(f"chaos.{ask}", [*words, str(good)]) for _, ask, words in asks]
    odd = {f"good: {name}": text for name, text in good_texts().items()}
    files = [(folder / f"file{i}.yaml", *item) for i, item in enumerate([*kinds, *odd.items()])]
    for path, _, text in files:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with canaries(outside) as opened:
        for backbone in (False, True):  # what names one has to import timm, which takes 3 s and 100 MB
            verdicts: list[Verdict] = []
            with Judges(["chaos.recipe_files", *(["zoo_timm.encoder"] if backbone else [])], warm) as court:
                for path, name, _ in files:
                    for what, ask, words in asks if ("backbone" in name) == backbone else ():
                        fine = [str(path), *sys.path[1:]]
                        one = court.judge(f"{what} {name}", f"chaos.{ask}", *words, str(path), allowed=fine)
                        verdicts.append(one)
                        wrong += _mistold(one, path)
            taken = [v.name for v in verdicts if " good: " in v.name]
            most = PEAK_MB if not backbone else PEAK_MB + court.baseline_mb - 233
            wrong += faults(verdicts, seconds=SECONDS, peak_mb=most, taken=taken)
            everything += verdicts
    wrong += [f"opened: {path}" for path in opened] + (["ran"] if Path("ran").exists() else [])
    return [summary(everything), *wrong]


def _mistold(one: Verdict, path: Path) -> Iterator[str]:
    if one.kind == "refused" and path.name not in one.told:
        yield f"{one.name}: refused without the file and line: {one.told[:200]!r}"
    if len(one.told) > 20_000 or re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", one.told):
        yield f"{one.name}: what is told is long, or moves the cursor"


def dotted_paths(num: int) -> list[str]:
    """Return paths to things of the standard library and of torch, the dangerous ones first."""
    first = [
        "os.system",
        "os:system",
        "subprocess.Popen",
        "subprocess:run",
        "builtins.eval",
        "builtins.exec",
        "pty.spawn",
        "this.s",
        "importlib.import_module",
        "runpy.run_path",
        "shutil.rmtree",
        "socket.create_connection",
        "antigravity.fly",
        "webbrowser.open",
        "torch.hub.load",
        "torch.load",
        "torch.jit.load",
        "torch.ops.load_library",
        "ctypes.CDLL",
        "urllib.request.urlopen",
        "code.interact",
        "pickle.loads",
        "torch.utils.cpp_extension.load",
        "timm.create_model",
        "hf-hub:owner/name",
        "local-dir:/etc",
        "torch.nn.Linear",
        "torch.nn.modules.conv:Conv3d",
    ]
    names = sorted(
        f"{module}.{name}"
        for module, value in list(sys.modules.items())
        if module.partition(".")[0] in ({*sys.stdlib_module_names, "torch"} - {"__main__"})
        and value is not None
        for name in vars(value)
        if name.isidentifier()
    )
    random.Random(3).shuffle(names)
    modules = sorted(sys.stdlib_module_names)
    return [*first, *(f"{name}.main" for name in modules), *names][:num]


_PART = ("encoder", "quantizer", "decoder", "generator")
_WORDS: tuple[tuple[str, ...], ...] = (
    ("assembly",), ("extends",), ("pre_quant",), ("post_quant",), ("tokenizer",), ("tokenizer", "use"),
    ("train", "optimizer", "use"), ("train", "schedule", "use"), ("train", "health"), ("train", "augment"),
    ("train", "objective", "reconstruction", "loss"), ("train", "objective", "adversarial", "loss"),
    ("train", "objective", "adversarial", "augment", "use"), *((part,) for part in _PART),
    *((part, "use") for part in _PART), ("discriminator",), ("encoder", "backbone"), ("encoder", "stride"),
    ("quantizer", "codebook_size"), ("_target_",), ("name",), ("weights",),
)  # fmt: skip
"""Text fields in which a name means something, or might."""
_WORDS_BUT_BACKBONE = tuple(field for field in _WORDS if field != ("encoder", "backbone"))
"""Those that take no tenth of a second: timm looks for names that are close among its 1,500."""


def _with(path: tuple[str, ...], value: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(json.dumps(TINY))
    at = recipe
    for key in path[:-1]:
        at = at.setdefault(key, {})
        if path[0] == "encoder" and path[-1] == "backbone":
            at["use"] = "timm"
    at[path[-1]] = value
    return recipe


def walk_paths(folder: str, paths: list[str]) -> None:
    """Put each path into each text field of a file and build it; for a child of the judges.

    Raises:
        AssertionError: A path was taken in a field where it means something.
    """
    from zoo.building import resolve_recipe
    from zoo.training.optimizers import make_optimizer

    file = Path(folder) / "one.yaml"
    for walked, path in enumerate(paths):
        free = {
            **json.loads(json.dumps(TINY)), "summary": path, "paper": path,
            "results": [
                {"command": path, "data": path, "hardware": path, "hours": 1.0, "figures": {path: 1.0}}
            ],
            "published": [{"data": path, "figures": {path: 1.0}, "source": f"https://{path}"}],
        }  # fmt: skip
        file.write_text(json.dumps({"recipes": {"mine": free}}))
        zoo.build(file, device="meta")
        for field in _WORDS if walked % 10 == 0 else _WORDS_BUT_BACKBONE:
            file.write_text(json.dumps({"recipes": {"mine": _with(field, path)}}))
            try:
                zoo.build(file, device="meta")
                if field == ("train", "optimizer", "use"):
                    optimizer = resolve_recipe(file).recipe.train.optimizer
                    make_optimizer(optimizer, [torch.nn.Parameter(torch.zeros(1))])
            except ZooError:
                continue
            raise AssertionError(f"{path!r} was taken for {'.'.join(field)}")
        file.write_text(json.dumps({"recipes": {path: TINY}}))
        try:
            zoo.build(file, device="meta")
        except ZooError:
            continue
        if not re.fullmatch(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*", path):
            raise AssertionError(f"{path!r} was taken for the name of a recipe")


def walk_all(folder: Path, num: int, *, each: int = 100) -> tuple[list[str], int]:
    """Try `num` paths; return what they made happen, and in how many fields each stood."""
    good = folder / "good.yaml"
    good.write_text(GOOD)
    paths = dotted_paths(num)
    wrong = [] if len(paths) == num else [f"only {len(paths)} paths"]
    warm = [("chaos.recipe_files:walk_paths", [str(folder), ["no.such.path"]])]
    with Judges(["chaos.recipe_files", "zoo_timm.encoder", "zoo.training.optimizers"], warm) as court:
        for start in range(0, num, each):
            some = paths[start : start + each]
            one = court.judge(
                f"paths from {start}", "chaos.recipe_files:walk_paths", str(folder), some,
                limit_s=600, allowed=[str(folder)],
            )  # fmt: skip
            if one.kind != "taken" or one.events:
                wrong.append(f"{one.name}: {one.kind} {one.events[:5]} {one.told[-300:]}")
    return wrong, len(_WORDS) + 8


def _recipes(folder: Path, quick: bool) -> Outcome:
    told, *wrong = judge_all(folder, every=5 if quick else 1)
    num = NUM_PATHS // 10 if quick else NUM_PATHS
    (folder / "paths").mkdir()
    found, fields = walk_all(folder / "paths", num)
    return Outcome(
        f"{told}; {num:,} dotted paths in {fields} fields: {len(found)} imports, opens, sockets or processes",
        not wrong and not found,
        "; ".join((wrong + found)[:4]),
    )


EXPERIMENTS = [
    Experiment(
        16,
        "Hostile recipe files, for `zoo recipe check` and `zoo.build`",
        f"Each refused in {SECONDS:g} s and {PEAK_MB:g} MB (230 of them torch's), with the file and line, "
        "nothing opened; good ones taken; names of the standard library and torch in every text field: "
        "0 imports, opens, sockets, processes",
        _recipes,
    )
]
