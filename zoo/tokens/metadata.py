"""What a folder of tokens says of itself: ``tokens.json``, and the card that Hugging Face reads.

The settings are written before the first shard and decide what is in every row. So a run that goes on must
have the same ones, and a shard that carries another id of them is not of this run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zoo.errors import DataError
from zoo.files import new_file

FILE = "tokens.json"
SHARDS = "data"

_STREAM = "One stream for each clip: no seam in time, whatever its length."
_WINDOWS = (
    "The tokenizer looks ahead in time, or its streams end: each clip went in as windows of {window} frames "
    "that share none, so every {latent} latent frames know nothing of those before and after. Windows that "
    "cross such a seam hold a break which the tokenizer put there."
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TokenizerFacts(_Strict):
    """The model whose codes these are."""

    name: str
    """Name of its recipe."""
    fingerprint: str
    """`zoo.fingerprint` of it: no other model's codes are these."""
    codebook_size: int = Field(ge=2, lt=1 << 62)
    """Codes in a codebook."""
    num_codebooks: int = Field(ge=1, lt=1 << 20)
    """Codes in a cell of the grid."""
    stride: list[Annotated[int, Field(ge=1)]] = Field(min_length=3, max_length=3)
    """Frames, rows and columns that a latent cell stands for."""
    lead_frame: bool
    """Whether the first latent frame of a stream, or of each window, stands for one frame alone."""
    window: int | None = Field(ge=1)
    """Frames of the windows that a clip went in as; null for one stream."""


class ClipFacts(_Strict):
    """What videos were brought to before they were encoded."""

    height: int = Field(ge=1)
    """Pixels from top to bottom, after scaling and the centre crop."""
    width: int = Field(ge=1)
    """Pixels from left to right."""
    fps: float | None
    """Frames a second; null where each video keeps its own rate."""
    channels: int
    """3 RGB, 1 grey."""
    min_frames: int = Field(ge=1)
    """Frames that a shorter video is filled up to by holding its last one."""
    max_frames: int | None
    """Frames after which a longer video is cut off; null for whole videos."""


class SplitFacts(_Strict):
    """The clips that a split is made of."""

    clips: int = Field(ge=1)
    """How many, those that cannot be read included."""
    shards: int = Field(ge=1)
    """Files of the split."""
    sources_sha256: str
    """SHA-256 of the names of the clips, in order."""


class Settings(_Strict):
    """All that the rows depend on, apart from what is in the videos."""

    format: Literal[1]
    """Version of the layout."""
    tokenizer: TokenizerFacts
    clip: ClipFacts
    grid: list[int] = Field(min_length=2, max_length=2)
    """Rows and columns of a latent frame."""
    data: str
    """The source of videos, as it was given."""
    class_names: list[str]
    """Names of the labels, by number."""
    splits: dict[str, SplitFacts]

    def id(self) -> str:
        """Return what tells these settings from others in the footer of a shard."""
        text = json.dumps(self.model_dump(include=set(Settings.model_fields)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


class SplitResult(_Strict):
    """What became of a split."""

    rows: int
    """Clips that were tokenised."""
    frames: int
    """Frames of all of them."""
    tokens: int
    """Codes of all of them."""
    skipped: list[list[str]]
    """Clips that cannot be read: [source, reason]."""


class Metadata(Settings):
    """What ``tokens.json`` holds."""

    zoo_version: str
    note: str
    """In words, how clips were cut in time."""
    result: dict[str, SplitResult] | None = None
    """By split; null until all shards are there."""


def describe(settings: Settings, result: dict[str, SplitResult] | None = None) -> Metadata:
    """Put settings and results together with what is said about them."""
    import importlib.metadata

    tokenizer = settings.tokenizer
    note = _STREAM
    if tokenizer.window is not None:
        note = _WINDOWS.format(window=tokenizer.window, latent=latent_frames(tokenizer, tokenizer.window))
    facts = settings.model_dump(include=set(Settings.model_fields))
    version = importlib.metadata.version("zoo-video")
    return Metadata.model_validate(
        facts
        | {"zoo_version": version, "note": note}
        | {"result": None if result is None else {name: r.model_dump() for name, r in result.items()}}
    )


def latent_frames(tokenizer: TokenizerFacts, num_frames: int) -> int:
    """Return how many latent frames a window or stream of so many frames fills, the last one in part too."""
    lead = int(tokenizer.lead_frame)
    return lead + math.ceil((num_frames - lead) / tokenizer.stride[0]) if num_frames else 0


def read_metadata(folder: Path) -> Metadata | None:
    """Read ``tokens.json``, or return None where there is none.

    Raises:
        DataError: It is damaged or of another version.
    """
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error})") from None
    try:
        return Metadata.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is damaged or of another version: {where}: {first['msg']}") from None


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Write ``tokens.json``; the one that is there stays whole until then."""
    with new_file(folder / FILE, force=True) as temporary:
        temporary.write_text(metadata.model_dump_json(indent=2) + "\n", encoding="utf-8")


def differences(found: Settings, wanted: Settings) -> list[str]:
    """Say of each setting that differs what it was and what is asked for."""
    there, asked = (
        dict(_flat(settings.model_dump(include=set(Settings.model_fields)))) for settings in (found, wanted)
    )
    return [
        f"{name} was {there.get(name)!r}, now {asked.get(name)!r}"
        for name in [*there, *(name for name in asked if name not in there)]
        if there.get(name) != asked.get(name)
    ]


def _flat(fields: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def write_card(folder: Path, metadata: Metadata) -> None:
    """Write the card: what Hugging Face loads as which split, and the same facts in words."""
    assert metadata.result is not None
    tokenizer, clip = metadata.tokenizer, metadata.clip
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split in metadata.splits:
        lines += [f"  - split: {split}", f"    path: {SHARDS}/{split}-*.parquet"]
    rate = "their own rate" if clip.fps is None else f"{clip.fps:g} frames a second"
    s_t, s_h, s_w = tokenizer.stride
    lead = " The first latent frame stands for one frame alone." if tokenizer.lead_frame else ""
    lines += [
        "---",
        "",
        f"# Tokens of {tokenizer.name}",
        "",
        f"Videos as code numbers: {tokenizer.num_codebooks} x {tokenizer.codebook_size} codes, a grid of "
        f"{metadata.grid[0]}x{metadata.grid[1]} for each {s_t}x{s_h}x{s_w} frames, rows and columns.{lead} "
        f"Frames of {clip.height}x{clip.width} at {rate}. {metadata.note}",
        "",
        f"Only the tokenizer with the fingerprint `{tokenizer.fingerprint}` decodes them.",
        "",
        "| split | clips | frames | tokens | not readable |",
        "|---|---|---|---|---|",
    ]
    for split, r in metadata.result.items():
        lines.append(f"| {split} | {r.rows} | {r.frames} | {r.tokens} | {len(r.skipped)} |")
    lines += ["", f"Made by zoo {metadata.zoo_version}; `{FILE}` holds all settings.", ""]
    with new_file(folder / "README.md", force=True) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8")
