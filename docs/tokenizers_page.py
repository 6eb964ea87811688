"""The tables of docs/tokenizers.md: one for each family, from recipes, plugins and what was measured."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import zoo
from zoo.assemblies import Autoencoder
from zoo.cli.common import count
from zoo.costs import LATE, Costs, Kept, costs, parts_key
from zoo.discovery import Catalogue, catalogue

MEASURED = Path(__file__).resolve().parent / "tokenizers-measured.json"
HEAD = (
    "recipe",
    "stride",
    "codes",
    "bits a pixel",
    "parameters",
    "causal",
    "a stream keeps",
    "GFLOP a frame",
    "frames a second",
    "peak MiB",
    "published",
)
TITLES = {
    "psnr_db": ("PSNR", " dB"),
    "ssim": ("SSIM", ""),
    "lpips": ("LPIPS", ""),
    "fid": ("FID", ""),
    "fvd": ("FVD", ""),
    "rfid": ("rFID", ""),
    "rfid_train": ("rFID against the training set", ""),
    "rfid_val": ("rFID against the validation set", ""),
    "rfvd": ("rFVD", ""),
    "psim": ("PSIM", ""),
    "decode_seconds": ("time", " s"),
    "peak_memory_gb_below": ("memory below", " GB"),
}
"""How figures of others are shown: words before and after the number."""


def tokenizer_tables(facts_of: Any) -> str:
    """Return a heading, how to convert weights and a table for every family.

    Args:
        facts_of: `zoo.cli.facts.model_facts`, or the like with a memory.
    """
    known = catalogue()
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    families: dict[str, list[str]] = defaultdict(list)
    rows: dict[str, str] = {}
    for name in known.bundled_recipes():
        facts = facts_of(name)
        if facts["assembly"] != "autoencoder":
            continue
        families[_family(facts, known)].append(name)
        rows[name] = _row(facts, measured["recipes"].get(name))
    lines = [_machine(measured)]
    for family, names in sorted(families.items()):
        lines += ["", f"### {family}", "", *_conversion(names, known), "", _line(HEAD)]
        lines.append("|---|---|---|---:|---:|---|---|---:|---:|---:|---|")
        lines += [rows[name] for name in names]
    return "\n".join(lines)


def _machine(measured: dict[str, Any]) -> str:
    on = measured["machine"]
    return (
        f"Measured by `{measured['command']}` on {on['processor']}, one core by its "
        f"processor time, torch {on['torch']}, fp32."
    )


def _family(facts: dict[str, Any], known: Catalogue) -> str:
    """Return the module that the encoder lives in, written like a part's name."""
    use = next(part["use"] for part in facts["parts"] if part["field"] == "encoder")
    target = next(
        part for part in known.parts if part.kind == "encoder" and part.full_name == use
    ).spec.target
    path = target.partition(":")[0].split(".")
    family = path[1] if path[0] == "zoo_tokenizers" or path[-1] != "encoder" else use.partition(":")[2]
    return family.replace("_", "-")


def _conversion(names: list[str], known: Catalogue) -> list[str]:
    lines = []
    for converter in sorted(known.converters, key=lambda offered: offered.name):
        if converter.among(names):
            lines.append(
                f"- {converter.spec.summary} From {converter.spec.source}, then "
                f"`zoo weights convert FILE --as {converter.name} --out DIR`, or `--as` the recipe."
            )
    return lines or ["No weights of this family are published elsewhere."]


def _row(facts: dict[str, Any], kept: dict[str, Any] | None) -> str:
    if kept is None or kept["fingerprint"] != parts_key(facts):
        model = zoo.build(facts["name"], device="meta").eval()
        assert isinstance(model, Autoencoder)
        found, measured = costs(model), None
    else:
        found, measured = _read(kept["costs"]), kept["measured"]
    small, clip = facts["compression"], facts["clip"]
    pixels = clip["num_frames"] * clip["height"] * clip["width"]
    per_frame = [flops / found.num_frames / 1e9 for flops in (found.encode_flops, found.decode_flops)]
    return _line(
        (
            f"`{facts['name']}`",
            "×".join(map(str, small["stride"])),
            _codes(small),
            f"{small['bits'] / pixels:.4f}",
            count(facts["parameters"]),
            _causal(small["causal"]),
            _keeps(found),
            " + ".join(_number(value) for value in per_frame),
            "not measured" if measured is None else _number(measured["frames_per_second"]),
            "" if measured is None else f"{measured['peak_mib']:,.0f}",
            "<br>".join(_published(one) for one in facts["published"]),
        )
    )


def _read(stored: dict[str, Any]) -> Costs:
    streams = {key: Kept(**stored[key]) if stored[key] else None for key in ("encoder", "decoder")}
    return Costs(**{**stored, **streams})


def _codes(small: dict[str, Any]) -> str:
    if small["continuous"]:
        return f"{small['numbers']} numbers"
    times = f"{small['num_codebooks']} × " if small["num_codebooks"] > 1 else ""
    return f"{times}{small['codebook_size']:,}"


def _causal(by_part: dict[str, bool]) -> str:
    if len(set(by_part.values())) == 1:
        return "yes" if by_part["encoder"] else "no"
    return "encoder only" if by_part["encoder"] else "decoder only"


def _keeps(found: Costs) -> str:
    """Say what a stream in and out keeps between two pieces, and whether that grows."""
    streams = [kept for kept in (found.encoder, found.decoder) if kept is not None]
    if not streams:
        return "no streams: windows"
    one_way = "" if len(streams) == 2 else f" ({'encoder' if found.encoder else 'decoder'})"
    late, growth = sum(kept.late for kept in streams), sum(kept.growth for kept in streams)
    if growth == 0:
        return f"constant, {_bytes(late)}{one_way}"
    return f"grows, {_bytes(late)} at {LATE} latent frames, {_bytes(growth)} more with each{one_way}"


def _bytes(num: float) -> str:
    if num < 2**10:
        return f"{num:.0f} bytes"
    return f"{num / 2**20:,.1f} MiB" if num >= 2**20 else f"{num / 2**10:,.1f} KiB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _published(one: dict[str, Any]) -> str:
    words = [
        f"{before} {value:g}{after}"
        for name, value in one["figures"].items()
        for before, after in (TITLES.get(name, (name, "")),)
    ]
    return f"{', '.join(words)} ([{one['data']}]({one['source']}))"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
