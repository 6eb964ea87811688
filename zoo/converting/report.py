"""The account of a conversion: as plain data, and as Markdown for the card of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.converting.conversion import Conversion


def document(done: Conversion) -> dict[str, Any]:
    """Return the account of every tensor in JSON's own types."""
    return {
        "recipe": done.recipe,
        "converter": done.converter,
        "provided_by": done.distribution,
        "source": done.source,
        "files": [
            {
                "name": file.path.name,
                "kind": file.kind,
                "bytes": file.num_bytes,
                "sha256": file.sha256,
                "tensors": len(file.tensors),
                "not_read": list(file.aside),
            }
            for file in done.files
        ],
        "mapped": [
            {"public": t.public, "name": t.name, "shape": list(t.shape), "dtype": t.dtype}
            for t in done.mapped
        ],
        "unused": [{"public": t.name, "shape": list(t.shape), "dtype": t.dtype} for t in done.unused],
        "missing": list(done.missing),
        "problems": list(done.problems),
        "without_discriminators": done.without_discriminators,
        "folder": None if done.folder is None else str(done.folder),
    }


def card(done: Conversion) -> str:
    """Return the section on where the weights of a converted model come from."""
    lines = ["## Converted weights", ""]
    lines += [
        f"- {file.path.name}: {file.kind}, {file.num_bytes:,} bytes, SHA-256 {file.sha256}"
        for file in done.files
    ]
    lines += [
        f"- as `{done.recipe}`, by the converter `{done.converter}` of {done.distribution}",
        f"- such weights are published at {done.source}",
        f"- {len(done.mapped)} tensors mapped, {len(done.unused)} of the file without a place here",
    ]
    if done.without_discriminators:
        lines.append("- without the recipe's discriminators, for which there were no weights")
    lines += ["", "| public name | name here | shape | dtype in the file |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(t.public) if t.public else '(made by the converter)'} | {_cell(t.name)} | "
        f"{list(t.shape)} | {t.dtype} |"
        for t in done.mapped
    ]
    lines += [f"| {_cell(t.name)} | (no place) | {list(t.shape)} | {t.dtype} |" for t in done.unused]
    return "\n".join(lines)


def _cell(name: str) -> str:
    """Return a name that comes from a foreign file as code that cannot leave its cell."""
    return f"`{printable(name, but='`|<>')}`"


def printable(name: str, *, but: str = "") -> str:
    """Return a name that comes from a foreign file with nothing in it that moves a terminal's cursor."""
    return "".join(c if c.isprintable() and c not in but else "?" for c in name[:200])
