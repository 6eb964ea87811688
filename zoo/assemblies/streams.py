"""Streams through a causal autoencoder: frames in, tokens out, and back, piece by piece.

What is kept from piece to piece is constant for convolutions, and grows with attention to all the past.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent grid,
q codebooks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.assemblies.base import check_clips
from zoo.errors import WeightsError, ZooError
from zoo.files import new_file
from zoo.fingerprint import fingerprint
from zoo.outputs import Tokens
from zoo.streaming import Memory, streaming

if TYPE_CHECKING:
    from zoo.assemblies.autoencoder import Autoencoder


class _Stream:
    """What both directions share: the memory, and how it is saved and taken up again."""

    part: ClassVar[str]

    def __init__(self, model: Autoencoder) -> None:
        part = getattr(model, self.part)
        if not part.causal:
            raise ZooError(
                f"{self.part} {model.recipe_part(self.part)!r} looks ahead in time and cannot stream; take "
                f"the video in windows that overlap (zoo.windows.reconstruct_video), or a causal model"
            )
        if model.training:
            raise ZooError("a model in training mode cannot stream; call model.eval() first")
        self.model = model
        self.num_frames = 0
        self._memory: Memory = {}
        self._shape: tuple[int, ...] | None = None

    def state(self) -> dict[str, Tensor]:
        """Return all that the stream carries, as tensors; a copy that later pieces do not change."""
        return {f"memory.{name}": value.clone() for name, value in self._memory.items()} | {
            "num_frames": torch.tensor(self.num_frames),
            "shape": torch.tensor(self._shape or ()),
        }

    def _resume(self, state: dict[str, Tensor]) -> None:
        self._memory = {
            name.removeprefix("memory."): value.clone()
            for name, value in state.items()
            if name.startswith("memory.")
        }
        self.num_frames = int(state["num_frames"])
        self._shape = tuple(state["shape"].tolist()) or None

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the stream's state as safetensors, to be taken up by `load`, in another process too.

        Raises:
            OutputExistsError: The path exists and `force` is off.
        """
        path = Path(path)
        tensors = {name: value.contiguous() for name, value in self.state().items()}
        with new_file(path, force=force) as temporary:
            save_file(tensors, temporary, metadata=self._label())
        return path

    @classmethod
    def load(cls, model: Autoencoder, path: str | Path) -> Self:
        """Take up a stream that `save` wrote, with a model of the same parts and weights.

        Raises:
            WeightsError: The file is no such stream, is broken, or is of another model.
        """
        stream = cls(model)
        wanted = stream._label()
        try:
            with safe_open(path, framework="pt", device=str(model.last_layer.device)) as file:
                found = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a saved stream: {error}") from error
        if found != wanted or not stream.state().keys() <= state.keys():
            raise WeightsError(f"{path} holds a stream of {found or 'nothing'}; this is one of {wanted}")
        stream._resume(state)
        return stream

    def _label(self) -> dict[str, str]:
        return {"stream": self.part, "model": self.model.name, "fingerprint": fingerprint(self.model)}

    def _check_shape(self, shape: tuple[int, ...], what: str) -> None:
        if self._shape not in (None, shape):
            raise ZooError(f"this stream takes {what} {self._shape}; this piece has {shape}")


class StreamEncoder(_Stream):
    """Turns frames into tokens as they come; made by `Autoencoder.stream_encoder`.

    Frames that do not fill a latent frame yet wait inside. The tokens of all pieces, one after the other,
    are those of the whole clip; each says how many frames it stands for.

    Attributes:
        num_frames: Frames taken in so far.
    """

    part = "encoder"

    def __init__(self, model: Autoencoder) -> None:
        super().__init__(model)
        self._waiting: Tensor | None = None
        self._ended = False

    @torch.no_grad()
    def push(self, x_BCTHW: Tensor) -> Tokens | None:
        """Take the next frames in and give the tokens that are complete, or None when there are none yet.

        Args:
            x_BCTHW: Any number of frames in [-1, 1], of the size and batch of the first ones.

        Raises:
            ZooError: The frames do not fit the stream, or it was flushed.
        """
        self._check_open()
        check_clips(x_BCTHW, self.model.encoder.in_channels)
        b, _, t, h, w = x_BCTHW.shape
        self._check_shape((b, h, w), "clips of (batch, height, width)")
        waiting = x_BCTHW if self._waiting is None else torch.cat([self._waiting, x_BCTHW], 2)
        whole = self._whole(waiting.shape[2])
        tokens = self._encode(waiting[:, :, :whole], whole) if whole else None
        self._waiting = waiting[:, :, whole:].clone()
        self._shape = (b, h, w)
        self.num_frames += t
        return tokens

    @torch.no_grad()
    def flush(self) -> Tokens | None:
        """End the stream: fill the last latent frame by repeating the last frame; None if it is full."""
        self._check_open()
        waiting = self._waiting
        tokens = None
        if waiting is not None and waiting.shape[2]:
            num = waiting.shape[2]
            missing = -(num - self._lead()) % self.model.stride[0]
            filled = torch.cat([waiting, waiting[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
            tokens = self._encode(filled, num)
        self._waiting, self._ended = None, True
        return tokens

    def _check_open(self) -> None:
        if self._ended:
            raise ZooError("this stream was flushed; open a new one with model.stream_encoder()")

    def _lead(self) -> int:
        """Frames of the next piece that are a latent frame on their own."""
        return int(self.model.lead_frame and not self._memory)

    def _whole(self, num: int) -> int:
        """How many of the waiting frames fill latent frames."""
        lead, s_t = self._lead(), self.model.stride[0]
        return 0 if num < lead else lead + (num - lead) // s_t * s_t

    def _encode(self, x_BCTHW: Tensor, num: int) -> Tokens:
        with streaming(self.model.encoder, self._memory):
            tokens = self.model.encode(x_BCTHW)
        return tokens._replace(size_THW=(num, *tokens.size_THW[1:]))

    def state(self) -> dict[str, Tensor]:
        waiting = {} if self._waiting is None else {"waiting": self._waiting.clone()}
        return super().state() | waiting | {"ended": torch.tensor(self._ended)}

    def _resume(self, state: dict[str, Tensor]) -> None:
        super()._resume(state)
        self._waiting = state["waiting"].clone() if "waiting" in state else None
        self._ended = bool(state["ended"])


class StreamDecoder(_Stream):
    """Turns tokens into frames as they come; made by `Autoencoder.stream_decoder`.

    Attributes:
        num_frames: Frames given out so far.
    """

    part = "decoder"

    @torch.no_grad()
    def push(self, tokens: Tokens) -> Tensor:
        """Decode the next tokens to x_BCTHW, as many frames as they say, not clamped.

        Args:
            tokens: Any number of latent frames. Only the last piece of a clip may stand for fewer frames than
                fill it.

        Raises:
            ZooError: The tokens do not fit the stream, or the piece before was the last.
        """
        s_t = self.model.stride[0]
        lead = int(self.model.lead_frame)
        if self.num_frames and (self.num_frames - lead) % s_t:
            raise ZooError("the piece before did not fill its last latent frame: this stream is at its end")
        held = tokens.indices_Bqthw if tokens.z_BDthw is None else tokens.z_BDthw
        if held is None:
            raise ZooError("the tokens hold neither z_BDthw nor indices_Bqthw; one is needed to decode")
        shape = (len(held), *tokens.size_THW[1:])
        self._check_shape(shape, "tokens of (batch, height, width)")
        with streaming(self.model.decoder, self._memory):
            x_BCTHW = self.model.decode(tokens)
        self._shape = shape
        self.num_frames += x_BCTHW.shape[2]
        return x_BCTHW
