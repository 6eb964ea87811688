"""Codes of the GPT prior in the making, symbol after symbol.

Shape legend: B batch, R rows (B, or twice that with guidance), q codebooks, f digits of a code, g codebooks
at once, V values of a digit, S steps of a frame, t h w the latent grid, D width, H heads, d width of a head.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError
from zoo.precision import full_precision
from zoo.sampling import guided
from zoo_priors.gpt.cache import Window
from zoo_priors.gpt.fast_linear import Linear, fast_linear
from zoo_priors.gpt.network import Block
from zoo_priors.gpt.positions import rotate

if TYPE_CHECKING:
    from zoo_priors.gpt.prior import GPTPrior


@dataclasses.dataclass(frozen=True)
class Symbol:
    """Which part of which code a symbol is: the digit `factor` (the first is the most significant) of it."""

    frame: int
    row: int
    column: int
    codebook: int
    factor: int


@dataclasses.dataclass(frozen=True)
class _Layer:
    attention_norm: tuple[Tensor, Tensor]
    qkv: Linear
    out: Linear
    mlp_norm: tuple[Tensor, Tensor]
    up: Linear
    down: Linear


class Stream:
    """A batch of clips in the making: reads symbols one after the other and tells the odds of the next.

    Symbols come in the order of steps: within a frame place by place (with pattern "delay" the codes of one
    step belong to different places), of a place digit by digit, and of each digit codebook by codebook.
    `upcoming` says which one is next. The same symbols give bit for bit the same logits, on the same machine
    with as many threads.

    Args:
        prior: The prior, whose weights are copied as they are now.
        num: Clips, B.
        label_B: Their classes; None is no class.
        guidance: Of `zoo.sampling.guided`; other than 1 and 0 it takes twice the work.
        dtype: Of weights and cache; None is that of the weights.
    """

    @torch.inference_mode()
    def __init__(
        self,
        prior: GPTPrior,
        num: int,
        label_B: Tensor | None,
        guidance: float,
        dtype: torch.dtype | None,
    ) -> None:
        self._digits = prior.digits
        self._pattern = prior.pattern
        self._num = num
        self._guidance = guidance
        self._is_double = guidance not in (0, 1)
        num_rows = 2 * num if self._is_double else num
        start_D = prior.start.detach()
        self._dtype = dtype or start_D.dtype
        start_D = start_D.to(self._dtype)
        self._wide = torch.promote_types(self._dtype, torch.float32)
        # A CPU multiplies half precision only after copying, which would cost more than it saves.
        self._kept = self._wide if start_D.device.type == "cpu" else self._dtype
        self._grid_thw = prior.grid_thw
        self._num_heads = prior.num_heads

        # All weights as tensors of their own: no step of the many asks a module for anything.
        self._layers = [_layer(cast(Block, block), num_rows, self._dtype) for block in prior.blocks]
        self._eps = prior.heads.norm.eps
        heads = prior.heads
        self._norm = _norm(heads.norm, self._dtype)
        first = nn.Linear(start_D.shape[0], heads.num_codebooks * heads.base, bias=False, device="meta")
        first.weight = nn.Parameter(heads.weight_fqVD[0].flatten(0, 1).detach(), requires_grad=False)
        self._first = fast_linear(first, num_rows, self._dtype)
        self._heads = heads
        self._embed_KD = prior.embed.weight.detach().to(self._dtype)
        self._rows_qf = prior.embed_rows(device=start_D.device)
        self._fill = prior.embed_fill
        self._label_RD = prior.label_vectors(self._row_labels(label_B, prior), num_rows)
        if self._label_RD is not None:
            self._label_RD = self._label_RD.to(self._dtype)
        self._rotation = prior.rotation
        self._learned_ND = None
        if prior.positions is not None:
            self._learned_ND = prior.positions(prior.grid_thw[0]).detach().to(self._dtype)

        self.window = Window(
            len(self._layers),
            num_rows,
            prior.num_heads,
            start_D.shape[0] // prior.num_heads,
            num_frames=prior.grid_thw[0],
            num_steps=prior.pattern.num_steps,
            like=start_D.to(self._kept),
        )
        self._frame = 0
        self._step = 0
        self._factor = 0
        self._input_RD = start_D.expand(num_rows, -1)
        self._hidden_RD: Tensor | None = None
        self._logits_BgV: Tensor | None = None
        self._held: list[Tensor] = []
        shape = (num, prior.pattern.num_steps, prior.num_codebooks, prior.digits.num)
        self._codes_BSqf = torch.full(shape, -1, device=start_D.device)
        self._start_frame()

    @property
    def upcoming(self) -> Symbol:
        """Which symbol `logits` is of."""
        codebook = self.group[len(self._held)]
        place = self._step - self._pattern.delays[codebook]
        row, column = divmod(place, self._grid_thw[2])
        return Symbol(self._frame, row, column, codebook, self._factor)

    @property
    def group(self) -> range:
        """The codebooks whose symbols come next and do not depend on each other, g of them."""
        return self._pattern.codebooks(self._step)

    def logits(self) -> Tensor:
        """Return logits_BV of the next symbol, float32; minus infinity where no code has it."""
        return self.group_logits()[:, len(self._held)]

    def push(self, symbol_B: Tensor) -> None:
        """Take in the next symbol, int64 in [0, V).

        Raises:
            PortError: There are not as many as clips, or a value is outside the range.
        """
        if symbol_B.shape != (self._num,) or symbol_B.is_floating_point():
            raise PortError(f"the stream is of {self._num} clips and got symbols {tuple(symbol_B.shape)}")
        if self._num and not 0 <= int(symbol_B.min()) <= int(symbol_B.max()) < self._digits.base:
            raise PortError(f"the stream got symbols outside [0, {self._digits.base})")
        if len(self._held) + 1 < len(self.group):
            self._held.append(symbol_B)
            return
        symbols_Bg = torch.stack([*self._held, symbol_B], dim=1)
        self._held = []
        self.push_group(symbols_Bg)

    @torch.inference_mode()
    def group_logits(self) -> Tensor:
        """Return logits_BgV of the next symbols, one of each codebook of `group`."""
        if self._logits_BgV is None:
            with full_precision(self._embed_KD):
                self._logits_BgV = self._make_logits()
        return self._logits_BgV

    @torch.inference_mode()
    def push_group(self, symbols_Bg: Tensor) -> None:
        """Take in the next symbols, one of each codebook of `group`."""
        group = self.group
        self._codes_BSqf[:, self._step, group.start : group.stop, self._factor] = symbols_Bg
        self._logits_BgV = None
        self._factor += 1
        if self._factor == self._digits.num:
            with full_precision(self._embed_KD):
                self._end_step()

    @torch.inference_mode()
    def take_frames(self, indices_Bqthw: Tensor) -> None:
        """Take in whole frames at once; the stream must be between frames."""
        digits_BtSqf = self._pattern.delay(
            rearrange(self._digits.split(indices_Bqthw), "b q t h w f -> b t (h w) q f"), -1
        )
        with full_precision(self._embed_KD):
            num_at_once = self._grid_thw[0] if self._frame == 0 else 1
            while digits_BtSqf.shape[1]:
                self._take(digits_BtSqf[:, :num_at_once])
                digits_BtSqf, num_at_once = digits_BtSqf[:, num_at_once:], 1

    @torch.inference_mode()
    def last_frame(self) -> Tensor:
        """Return indices_Bqhw of the frame that was just made whole."""
        digits_BqPf = self._pattern.undo(self._codes_BSqf[:, None])[:, 0].transpose(1, 2)
        codes_BqP = self._digits.join(digits_BqPf)
        return rearrange(codes_BqP, "b q (h w) -> b q h w", h=self._grid_thw[1])

    def _row_labels(self, label_B: Tensor | None, prior: GPTPrior) -> Tensor | None:
        if not prior.num_classes:
            return None
        null_B = torch.full((self._num,), prior.num_classes, device=prior.start.device)
        if label_B is None or self._guidance == 0:
            return null_B if not self._is_double else torch.cat([null_B, null_B])
        return torch.cat([label_B, null_B]) if self._is_double else label_B

    def _embed(self, digits_Rqf: Tensor) -> Tensor:
        rows = digits_Rqf + self._rows_qf
        if self._fill is not None:
            rows = rows.masked_fill(digits_Rqf < 0, self._fill)
        rows = rows.flatten(-2)
        x_RD = F.embedding(rows, self._embed_KD)
        return x_RD[..., 0, :] if rows.shape[-1] == 1 else x_RD.sum(-2)

    def _doubled(self, x_B: Tensor) -> Tensor:
        return torch.cat([x_B, x_B]) if self._is_double else x_B

    def _start_frame(self) -> None:
        self.window.slide(self._frame)
        if self._rotation is None:
            return
        # Scale and the values' place among the three are part of the table, so that one rotation does all.
        cos, sin = self._rotation.tables(self._frame, 1, device=self._embed_KD.device, dtype=self._wide)
        head_dim = cos.shape[-1]
        cos = torch.cat([cos, torch.ones_like(cos[:1])])
        sin = torch.cat([sin, torch.zeros_like(sin[:1])])
        cos[0] *= head_dim**-0.5
        sin[0] *= head_dim**-0.5
        self._cos_S31d = cos.transpose(0, 1)[:, :, None].contiguous()
        self._sin_S31d = sin.transpose(0, 1)[:, :, None].contiguous()

    def _end_step(self) -> None:
        self._hidden()
        self._input_RD = self._embed(self._doubled(self._codes_BSqf[:, self._step]))
        self._hidden_RD = None
        self._factor = 0
        self._step += 1
        if self._step == self._pattern.num_steps:
            self._step = 0
            self._frame += 1
            self._start_frame()

    def _make_logits(self) -> Tensor:
        hidden_RD = self._hidden()
        group = self.group
        digits_Bgf = self._codes_BSqf[:, self._step, group.start : group.stop]
        before_Bgn = digits_Bgf[..., : self._factor]
        if self._factor == 0:
            logits_RqV = self._first(hidden_RD).view(len(hidden_RD), len(self._rows_qf), self._digits.base)
            logits_RgV = logits_RqV[:, group.start : group.stop]
        else:
            before_Rgn = self._doubled(before_Bgn)
            logits_RgV = torch.stack(
                [self._later(hidden_RD, before_Rgn[:, n], codebook) for n, codebook in enumerate(group)], 1
            )
        logits_BgV = logits_RgV.float()
        if self._is_double:
            with_label, without = logits_BgV.chunk(2)
            logits_BgV = guided(with_label, without, self._guidance)
        return self._digits.allow(logits_BgV, before_Bgn)

    def _later(self, hidden_RD: Tensor, before_Rn: Tensor, codebook: int) -> Tensor:
        weights = self._heads.weight_fqVD.dtype
        return self._heads.later(hidden_RD.to(weights), before_Rn, codebook)

    def _hidden(self) -> Tensor:
        if self._hidden_RD is None:
            frame, step = self._frame, self._step
            base = self.window.base(frame) + step
            at = base if step else self.window.first_place(frame)
            self._hidden_RD = self._run(self._positioned(self._input_RD, frame, step), at, base + 1)
        return self._hidden_RD

    def _positioned(self, x_RD: Tensor, frame: int, step: int) -> Tensor:
        if self._label_RD is not None:
            x_RD = x_RD + self._label_RD
        if self._learned_ND is not None:
            x_RD = x_RD + self._learned_ND[frame * self._pattern.num_steps + step]
        return x_RD

    def _run(self, x_RD: Tensor, at: int, num_seen: int) -> Tensor:
        """Apply the layers to one place, which is written to `at` and sees the first `num_seen` entries."""
        num_rows, dim = x_RD.shape
        heads, head_dim = self._num_heads, dim // self._num_heads
        shape_norm = (dim,)
        eps, dtype, wide, kept = self._eps, self._dtype, self._wide, self._kept
        is_half = dtype != wide
        rotates = self._rotation is not None
        if rotates:
            cos, sin = self._cos_S31d[self._step], self._sin_S31d[self._step]
        for layer, (k_Mdn, v_Mdn, both_R2HdN) in zip(self._layers, self.window.layers, strict=True):
            h_RD = F.layer_norm(x_RD, shape_norm, *layer.attention_norm, eps)
            qkv_R3Hd = layer.qkv(h_RD).view(num_rows, 3, heads, head_dim)
            if rotates:
                qkv_R3Hd = torch.addcmul(qkv_R3Hd * cos, qkv_R3Hd.roll(head_dim // 2, -1), sin)
                q_R1Hd = qkv_R3Hd[:, 0]
            else:
                q_R1Hd = qkv_R3Hd[:, 0] * head_dim**-0.5
            if is_half:
                q_R1Hd = q_R1Hd.to(kept)
            both_R2HdN[..., at] = qkv_R3Hd[:, 1:]
            q_M1d = q_R1Hd.reshape(num_rows * heads, 1, head_dim)
            odds_M1n = torch.bmm(q_M1d, k_Mdn[:, :, :num_seen]).softmax(-1, dtype=wide)
            if is_half:
                odds_M1n = odds_M1n.to(kept)
            y_M1d = torch.bmm(odds_M1n, v_Mdn[:, :, :num_seen].transpose(1, 2))
            x_RD = x_RD + layer.out(y_M1d.view(num_rows, dim).to(dtype))
            h_RD = F.layer_norm(x_RD, shape_norm, *layer.mlp_norm, eps)
            x_RD = x_RD + layer.down(F.gelu(layer.up(h_RD)))
        return F.layer_norm(x_RD, shape_norm, *self._norm, eps)

    def _take(self, digits_BtSqf: Tensor) -> None:
        """Take in frames at once: the first ones that the window holds, or one."""
        frame, num_frames = self._frame, digits_BtSqf.shape[1]
        x_RnD = self._embed(self._doubled(digits_BtSqf.flatten(1, 2)))
        last_RD = x_RnD[:, -1]
        x_RnD = torch.cat([self._input_RD[:, None], x_RnD[:, :-1]], dim=1)
        if self._label_RD is not None:
            x_RnD = x_RnD + self._label_RD[:, None]
        num_rows, num, dim = x_RnD.shape
        if self._learned_ND is not None:
            x_RnD = x_RnD + self._learned_ND[frame * self._pattern.num_steps :][:num]
        tables = None
        if self._rotation is not None:
            tables = self._rotation.tables(frame, num_frames, device=x_RnD.device, dtype=self._wide)
        base, first = self.window.base(frame), self.window.first_place(frame)
        place = torch.arange(base + num, device=x_RnD.device)
        mask = None if frame == 0 else place <= place[base:, None]
        for n, layer in enumerate(self._layers):
            h = F.layer_norm(x_RnD, (dim,), *layer.attention_norm, self._eps).flatten(0, 1)
            qkv = layer.qkv(h).view(num_rows, num, 3, self._num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k, v = qkv
            if tables is not None:
                q, k = rotate(qkv[:2], *(table[:, None, None] for table in tables)).type_as(v)
            kept_2RHdN = self.window.memory_L2RHdN[n]
            for kept_RHdN, new_RHnd in ((kept_2RHdN[0], k), (kept_2RHdN[1], v)):
                kept_RHdN[..., first] = new_RHnd[:, :, 0]
                kept_RHdN[..., base + 1 : base + num] = new_RHnd[:, :, 1:].transpose(-1, -2)
            if mask is not None:
                q = q.type_as(kept_2RHdN)
                k, v = (kept[..., : base + num].transpose(-1, -2) for kept in kept_2RHdN)
            y_RHnd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            x_RnD = x_RnD + layer.out(y_RHnd.transpose(1, 2).reshape(-1, dim).to(self._dtype)).view_as(x_RnD)
            h = F.layer_norm(x_RnD, (dim,), *layer.mlp_norm, self._eps).flatten(0, 1)
            x_RnD = x_RnD + layer.down(F.gelu(layer.up(h))).view_as(x_RnD)
        self._input_RD = last_RD
        self._frame += num_frames
        self._start_frame()


def _norm(norm: nn.LayerNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return norm.weight.detach().to(dtype), norm.bias.detach().to(dtype)


def _layer(block: Block, num_rows: int, dtype: torch.dtype) -> _Layer:
    return _Layer(
        _norm(block.attention_norm, dtype),
        fast_linear(block.attention.qkv, num_rows, dtype),
        fast_linear(block.attention.out, num_rows, dtype),
        _norm(block.mlp_norm, dtype),
        fast_linear(block.up, num_rows, dtype),
        fast_linear(block.down, num_rows, dtype),
    )
