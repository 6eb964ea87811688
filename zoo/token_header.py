"""What a file of tokens says of itself: the header, checked before anything that it says is used.

A header is JSON, deflated; in files of version 1 it is JSON as it is.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import Limits
from zoo.entropy import CODERS, LARGEST_TABLE, check_prior, factors_of
from zoo.errors import DataError, WeightsError, ZooError
from zoo.fingerprint import fingerprint, prior_fingerprint

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder, TokenPrior

VERSION = 2
"""Of the files that are written."""

LONGEST_HEADER = 1 << 20
"""Bytes of JSON at most."""

_VERSIONS = (1, 2)
_MOST_ODDS = 1 << 24
# What headers have in common, so that deflate leaves little of one but what is its own. It is part of the
# format: with other words no file that was written before can be read.
_WORDS = (
    b'{"version": 2, "model": "vqvae-video-tiny", "fingerprint": "", "height": 64, "width": 64, "fps": 25.0, '
    b'"overlap": null, "stride": [4, 8, 8], "lead_frame": true, "channels": 1, "codebook_size": 64000, '
    b'"coder": "packed", "factors": [512, 125], "prior": null, "prior_name": null, '
    b'"coder": "prior", "overlap": 0, "lead_frame": false, "coder": "static", '
    b'"factors": [512], "prior": null, "prior_name": null}'
)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file of tokens says of itself.

    Attributes:
        model: Name of the model that made it.
        fingerprint: `zoo.fingerprint` of that model; no other can decode it.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        fps: Frames a second.
        overlap: Frames that neighbouring windows share; None for one stream.
        stride: (s_t, s_h, s_w) of the model.
        lead_frame: Whether the first frame of a stream, or of each window, is a latent frame of its own.
        channels: Codebooks; for a continuous latent its width.
        codebook_size: Codes in a codebook; 0 for a continuous latent.
        coder: How codes became bytes, one of `zoo.entropy.CODERS`.
        factors: Of the static coder: the digits of a code, see `zoo.entropy.factors_of`.
        prior: Of the prior's coder: `zoo.fingerprint.prior_fingerprint`; no other prior reads it.
        prior_name: Name of that prior.
    """

    model: str
    fingerprint: str
    height: int
    width: int
    fps: float
    overlap: int | None
    stride: tuple[int, int, int]
    lead_frame: bool
    channels: int
    codebook_size: int
    coder: str = "packed"
    factors: tuple[int, ...] = ()
    prior: str | None = None
    prior_name: str | None = None

    @property
    def bits(self) -> int:
        """Bits of a stored code or number."""
        return (self.codebook_size - 1).bit_length() if self.codebook_size else 16


def header_for(
    model: Autoencoder,
    *,
    size_HW: tuple[int, int],
    fps: float,
    overlap: int | None = None,
    coder: str | None = None,
    prior: TokenPrior | None = None,
) -> Header:
    """Describe the tokens that a model makes of a video.

    Args:
        model: What makes them.
        size_HW: Height and width of the frames.
        fps: Frames a second.
        overlap: Frames that neighbouring windows share; None for one stream.
        coder: One of `zoo.entropy.CODERS`. When left out it is static, or prior where one is given, and
            packed for a continuous latent, which has no other.
        prior: A prior for this model's codes and frames of this size.

    Raises:
        ZooError: There is no such coder for the model, or the prior is of another tokenizer or size.
    """
    quantizer = model.quantizer
    if coder is None:
        coder = "prior" if prior is not None else "packed" if quantizer.continuous else "static"
    if coder not in CODERS:
        raise ZooError(f"there is no coder {coder!r}; choose from {', '.join(CODERS)}")
    if quantizer.continuous and coder != "packed":
        raise ZooError(
            f"{model.name} has a continuous latent, whose numbers are stored in half precision as they are: "
            f"there are no codes for the coder {coder}. Leave it out"
        )
    if (coder == "prior") != (prior is not None):
        raise ZooError("the coder prior needs a prior (--prior MODEL), and no other coder takes one")
    if prior is not None:
        _check_prior(model, prior, size_HW)
    is_static = coder == "static"
    return Header(
        model=model.name,
        fingerprint=fingerprint(model),
        height=size_HW[0],
        width=size_HW[1],
        fps=fps,
        overlap=overlap,
        stride=model.stride,
        lead_frame=model.lead_frame,
        channels=quantizer.latent_dim if quantizer.continuous else quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
        coder=coder,
        factors=factors_of(quantizer.codebook_size, _levels(quantizer)) if is_static else (),
        prior=None if prior is None else prior_fingerprint(prior),
        prior_name=None if prior is None else prior.name,
    )


def _levels(quantizer: Any) -> tuple[int, ...]:
    levels = getattr(quantizer, "levels", ())
    return tuple(levels) if all(isinstance(level, int) for level in levels) else ()


def _check_prior(model: Autoencoder, prior: TokenPrior, size_HW: tuple[int, int]) -> None:
    if not hasattr(prior, "generator") or not hasattr(prior, "tokenizer"):
        raise ZooError(f"{prior.name} is no prior: it gives no odds of codes. A token prior does")
    check_prior(prior)
    made, this = fingerprint(prior.tokenizer), fingerprint(model)
    if made != this:
        raise WeightsError(
            f"{prior.name} is a prior of the codes of a tokenizer with the parts and weights {made[:12]}...; "
            f"{model.name} has {this[:12]}.... Train the prior on this one: "
            "zoo train ... --init tokenizer=FOLDER"
        )
    _, *grid_hw = model.latent_size((1, *size_HW))
    if tuple(grid_hw) != tuple(prior.generator.grid_thw[1:]):
        raise ZooError(
            f"{prior.name} was trained on frames of {prior.recipe.clip.height}x{prior.recipe.clip.width}, "
            f"which are {prior.generator.grid_thw[1:]} codes; the video has {size_HW[0]}x{size_HW[1]}, which "
            f"are {tuple(grid_hw)} (height x width). Scale the video, or use --coder static"
        )


def pack_header(header: Header) -> bytes:
    """Return the bytes of a header."""
    deflate = zlib.compressobj(9, zdict=_WORDS)
    text = json.dumps({"version": VERSION, **dataclasses.asdict(header)}).encode()
    return deflate.compress(text) + deflate.flush()


def unpack_header(path: Path, data: bytes) -> tuple[int, Header]:
    """Return the version and the header of a file.

    Raises:
        DataError: It is damaged, makes no sense or is of a later version.
    """
    try:
        fields: Any = json.loads(data if data.startswith(b"{") else _inflated(data))
        version = fields.pop("version")
        # Fields of a later version are not known here: it is told by its number, not as damage.
        if type(version) is not int or version not in _VERSIONS:
            raise DataError(
                f"{path} is of version {version}; this zoo reads versions {' and '.join(map(str, _VERSIONS))}"
            )
        for name in {"stride", "factors"} & set(fields):
            fields[name] = tuple(fields[name])
        header = Header(**fields)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        raise DataError(f"{path} is damaged: its header cannot be read ({error})") from None
    _check(path, header)
    return version, header


def _check(path: Path, header: Header) -> None:
    counts = (header.height, header.width, header.channels, *header.stride)
    good = all(type(n) is int and 0 < n < 1 << 20 for n in counts) and len(header.stride) == 3
    good &= isinstance(header.codebook_size, int) and 0 <= header.codebook_size < 1 << 62
    good &= header.codebook_size != 1 and isinstance(header.lead_frame, bool)
    good &= isinstance(header.fps, int | float) and header.fps > 0 and isinstance(header.fingerprint, str)
    good &= header.overlap is None or (type(header.overlap) is int and header.overlap >= 0)
    good &= header.coder in (CODERS if header.codebook_size else ("packed",))
    good &= all(text is None or isinstance(text, str) for text in (header.prior, header.prior_name))
    good &= all(type(n) is int and 2 <= n <= LARGEST_TABLE for n in header.factors)
    if good and header.coder == "static":
        # As many as there are codes and not many more, for all codes to be there and none to be too large.
        good &= header.codebook_size <= math.prod(header.factors) < 1 << 63
        good &= header.channels * sum(header.factors) <= _MOST_ODDS
    good &= header.height * header.width <= Limits().max_pixels
    if not good:
        raise DataError(f"{path} is damaged: its header makes no sense ({header})")


def _inflated(text: bytes) -> bytes:
    inflate = zlib.decompressobj(zdict=_WORDS)
    found = inflate.decompress(text, LONGEST_HEADER)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("it does not end")
    return found
