"""How a number was measured, as data, and when two numbers may stand side by side."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError

CLIP_RULES = {
    False: "one from the middle of each video; shorter side fitted, bilinear and antialiased; centre crop; "
    "the last frame held where a video is short",
    True: "one from each video, drawn by chance; shorter side fitted, bilinear and antialiased; random crop; "
    "the last frame held where a video is short",
}
"""Which clip of a video is measured: by whether the data set draws clips by chance."""


class ProtocolError(ZooError):
    """Numbers that were measured in different ways, and so cannot be compared."""


class RealClips:
    """Fingerprint of the real clips of a measurement, whatever their order and their folder's name.

    Attributes:
        num: How many there were.
        size_CTHW: Size of the last ones.
    """

    def __init__(self) -> None:
        self.num = 0
        self.size_CTHW = (0, 0, 0, 0)
        self._sum = 0

    def update(self, x_BCTHW: Tensor) -> None:
        """Add clips in [-1, 1], as their 8-bit values."""
        bytes_BCTHW = ((x_BCTHW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
        for x_CTHW in bytes_BCTHW:
            digest = hashlib.sha256(f"{tuple(x_CTHW.shape)}".encode())
            digest.update(x_CTHW.contiguous().numpy().tobytes())
            self._sum = (self._sum + int.from_bytes(digest.digest())) % 2**256
        self.num += len(x_BCTHW)
        _, channels, frames, height, width = x_BCTHW.shape
        self.size_CTHW = (channels, frames, height, width)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.num} {self._sum:064x}".encode()).hexdigest()


def shared_protocol(
    dataset: Any, real: RealClips, *, size_CTHW: Sequence[int], num_fake: int, seed: int
) -> dict[str, Any]:
    """Return what every figure of one measurement has in common, as plain data.

    Args:
        dataset: Clips; `zoo.data.open_clips` tells their rate and how they are chosen.
        real: Fingerprint of those measured.
        size_CTHW: Size of a clip.
        num_fake: Generated or reconstructed clips.
        seed: Seed of all that is drawn by chance.
    """
    channels, frames, height, width = size_CTHW
    clip, random = getattr(dataset, "clip", None), getattr(dataset, "random", None)
    return {
        "real_sha256": real.sha256,
        "clip_rule": "as the data set gives them" if random is None else CLIP_RULES[bool(random)],
        "num_frames": frames,
        "fps": getattr(clip, "fps", None) or "each video's own",
        "height": height,
        "width": width,
        "channels": channels,
        "num_real": real.num,
        "num_fake": num_fake,
        "seed": seed,
    }


class Row(NamedTuple):
    """A figure of one document, and what goes with it."""

    document: str
    metric: str
    value: float | None
    interval: Mapping[str, Any] | None
    protocol: Mapping[str, Any]


def rows_of(name: str, document: Any) -> list[Row]:
    """Return the figures of what `zoo.metrics.evaluate` gave and a JSON file held.

    Raises:
        ZooError: It is no such document, or an old one without a protocol for every figure, or a figure, an
            interval or a protocol is not what it should be.
    """
    if not isinstance(document, dict) or not isinstance(document.get("values"), dict):
        raise ZooError(
            f"{name} is not what zoo eval writes: it has no values. Type: zoo eval MODEL --out {name}"
        )
    protocols = document.get("protocols")
    values: dict[str, float | None] = document["values"]
    if not isinstance(protocols, dict) or set(values) - set(protocols):
        lacking = ", ".join(sorted(set(values) - set(protocols if isinstance(protocols, dict) else ()))[:3])
        raise ZooError(
            f"{name} does not say how its figures were measured ({lacking}): it is from before "
            "they carried their protocols. Measure anew with zoo eval --out"
        )
    intervals = document.get("intervals") or {}
    rows = []
    for metric, value in values.items():
        interval = intervals.get(metric) if isinstance(intervals, dict) else intervals
        ends = (interval.get("low"), interval.get("high")) if isinstance(interval, dict) else (interval,)
        for what, well, found in (
            ("value", value is None or _is_figure(value), value),
            ("interval", interval is None or (len(ends) == 2 and all(map(_is_figure, ends))), interval),
            ("protocol", isinstance(protocols[metric], dict), protocols[metric]),
        ):
            if not well:
                raise ZooError(
                    f"{name}: the {what} of {metric} is {str(found)[:100]!r}, which zoo eval does not write. "
                    "Measure anew with zoo eval --out"
                )
        rows.append(Row(name, metric, value, interval, protocols[metric]))
    return rows


def _is_figure(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two protocols differ, each with both values; None where one lacks it."""
    names = dict.fromkeys([*a, *b])
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def compare(
    documents: Mapping[str, Any], *, metrics: Sequence[str] | None = None, apart: bool = False
) -> dict[str, list[list[Row]]]:
    """Put the figures of several measurements side by side.

    Args:
        documents: What `zoo.metrics.evaluate` gave, by name.
        metrics: Names of figures; all when left out.
        apart: Keep figures of different protocols in groups of their own, rather than refuse them.

    Returns:
        Groups of comparable figures by metric; one group each unless `apart`.

    Raises:
        ProtocolError: A figure was measured in different ways; the message names every field that differs.
        ZooError: A document holds no figures or no protocols, or nobody has a figure that was asked for.
    """
    rows = [row for name, document in documents.items() for row in rows_of(name, document)]
    known = dict.fromkeys(row.metric for row in rows)
    if unknown := [metric for metric in metrics or () if metric not in known]:
        raise ZooError(f"none of the files has {', '.join(map(repr, unknown))}; there is: {', '.join(known)}")
    groups: dict[str, list[list[Row]]] = {}
    complaints = []
    for metric in metrics or known:
        found: list[list[Row]] = []
        for row in (row for row in rows if row.metric == metric):
            same = next((group for group in found if group[0].protocol == row.protocol), None)
            if same is None:
                found.append([row])
            else:
                same.append(row)
        groups[metric] = found
        first = found[0][0]
        for group in found[1:]:
            fields = differences(first.protocol, group[0].protocol)
            told = "; ".join(f"{name}: {one!r} and {two!r}" for name, (one, two) in fields.items())
            complaints.append(f"{metric} of {first.document} and of {group[0].document} differ in {told}")
    if complaints and not apart:
        raise ProtocolError(
            "these figures were not measured in the same way and cannot be compared.\n  "
            + "\n  ".join(complaints)
            + "\nMeasure them alike, choose others with --metrics, or show them in groups with --apart"
        )
    return groups
