"""What an autoencoder costs: operations a frame, and what its streams keep between two pieces.

On the meta device nothing is computed and nothing is allocated, so that the largest model takes seconds, and
the operations are those of the plain network, but for what a part folds everywhere, as VidTok its upsampling.
Elsewhere fast paths do less, and torch's counter misses attention where a processor fuses it:

    from zoo.costs import costs

    found = costs(zoo.build("cosmos-video-dv4x8x8", device="meta").eval())
    print(found.encode_flops / found.num_frames)

Shape legend: B batch (1 here), C colour channels, T H W frames and pixels; D latent channels, t h w the
latent grid.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from zoo.assemblies import Autoencoder, StreamDecoder, StreamEncoder
from zoo.outputs import Tokens

EARLY, LATE = 3, 6
"""Latent frames after which a stream is looked at."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """Bytes of a stream's state.

    Attributes:
        early: After `EARLY` latent frames.
        late: After `LATE`.
    """

    early: int
    late: int

    @property
    def growth(self) -> float:
        """Bytes that a latent frame adds; 0 when the state stays as it is."""
        return (self.late - self.early) / (LATE - EARLY)


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one clip of a recipe's size costs.

    Attributes:
        num_frames: Frames of the clip.
        encode_flops: Floating-point operations of matrix products, convolutions and attention, with a
            multiplication and an addition as two; all else is not counted.
        decode_flops: The same for the way back.
        encoder: What a stream of the encoder keeps; None when it looks ahead and cannot stream.
        decoder: The same for the decoder.
    """

    num_frames: int
    encode_flops: int
    decode_flops: int
    encoder: Kept | None
    decoder: Kept | None


def costs(model: Autoencoder) -> Costs:
    """Count what a model does with one clip of its recipe's size, and what its streams keep.

    Args:
        model: In evaluation mode, on the meta device.
    """
    clip, device = model.recipe.clip, model.last_layer.device
    x_BCTHW = torch.zeros(1, clip.channels, clip.num_frames, clip.height, clip.width, device=device)
    tokens, encode_flops = _count(lambda: model.encode(x_BCTHW))
    _, decode_flops = _count(lambda: model.decode(tokens))
    return Costs(
        num_frames=clip.num_frames,
        encode_flops=encode_flops,
        decode_flops=decode_flops,
        encoder=_encoder_keeps(model, device) if model.encoder.causal else None,
        decoder=_decoder_keeps(model, device) if model.decoder.causal else None,
    )


def _count(run: Callable[[], Any]) -> tuple[Any, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = run()
    return result, counter.get_total_flops()


def _encoder_keeps(model: Autoencoder, device: torch.device) -> Kept:
    clip, stream = model.recipe.clip, model.stream_encoder()

    def push(num: int) -> None:
        stream.push(torch.zeros(1, clip.channels, num, clip.height, clip.width, device=device))

    return _keeps(model, stream, push)


def _decoder_keeps(model: Autoencoder, device: torch.device) -> Kept:
    clip, stream = model.recipe.clip, model.stream_decoder()
    _, h, w = model.latent_size((1, clip.height, clip.width))

    def push(num: int) -> None:
        z_BDthw = torch.zeros(1, model.quantizer.latent_dim, 1, h, w, device=device)
        stream.push(Tokens(z_BDthw, None, (num, clip.height, clip.width)))

    return _keeps(model, stream, push)


def _keeps(model: Autoencoder, stream: StreamEncoder | StreamDecoder, push: Callable[[int], None]) -> Kept:
    """Push one latent frame after the other, and count the bytes of the state on the way."""
    sizes = []
    for index in range(LATE):
        push(1 if model.lead_frame and index == 0 else model.stride[0])
        sizes.append(sum(value.nbytes for value in stream.state().values()))
    return Kept(early=sizes[EARLY - 1], late=sizes[LATE - 1])


def parts_key(facts: dict[str, Any]) -> str:
    """Return a mark that recipes share whose parts, sizes and clips are the same, by their `model_facts`."""
    parts = [(part["field"], part["use"], part["options"]) for part in facts["parts"]]
    made_of = [
        facts["clip"],
        facts["parameters"],
        facts["pre_quant"],
        facts["post_quant"],
        [part for part in parts if part[0] in ("encoder", "quantizer", "decoder")],
    ]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
