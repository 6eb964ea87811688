"""Search of the nearest code, without ever holding all distances at once; for quantizers of any plugin.

Shapes: B batch, D channels, n positions of the latent grid, K codes; c columns and k codes of a piece,
r codes of a run.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor

_PIECE = 1024
"""Codes scored together on a processor, with twice as many latents: 8 MiB of scores in float32, small
enough to stay near the cores, large enough that waiting for the other threads costs little."""
_DEVICE_PIECE = 4096
"""The same on an accelerator (128 MiB), where a launch costs more than a trip to memory."""
_VECTORS = 4096
"""Vectors copied or summed together."""
_RUN = 8
"""Codes whose least score is taken first. A minimum without its place is vectorised: ten times as fast."""
_SCREENED = 4096
"""Codes from which on a first look in bfloat16 pays."""
_SCREEN = 1024
"""Latents looked at together in bfloat16."""
_CANDIDATES = 6
"""Runs a latent that a first look may leave on average; with more, the rest is done in float32 alone."""


def nearest_codes(z_BDn: Tensor, codes_KD: Tensor, offsets_K: Tensor | None = None) -> Tensor:
    """Find the code of least ``offset - z . code`` for every latent; the lowest number of several such.

    With the default offsets |code|^2 / 2 this is the nearest code, with zeros the one of greatest
    inner product. No gradient. Besides the result it allocates some 10 MiB on a processor.

    Args:
        z_BDn: Latents, in the type that the scores are computed in.
        codes_KD: Codes, in the same type.
        offsets_K: Added to the scores.

    Returns:
        int64 indices_Bn in [0, K), also where a latent is not a number.
    """
    z_BDn, codes_KD = z_BDn.detach(), codes_KD.detach()
    if z_BDn.is_meta:  # there are only shapes: one code is as good as all
        return (codes_KD[:1] @ z_BDn).argmax(dim=1)
    if offsets_K is None:
        offsets_K = 0.5 * codes_KD.square().sum(dim=1)
    if _can_screen(z_BDn, codes_KD):
        screen = _Screen(codes_KD, offsets_K.detach())
        found = [
            screen.nearest(rearrange(z_BDn[clips, :, places], "b d n -> (b n) d"))
            for clips, places in pieces(z_BDn, _SCREEN)
        ]
        return torch.cat(found).view(z_BDn.shape[0], z_BDn.shape[2])
    offsets_K1 = offsets_K.detach()[:, None]
    piece = _PIECE if z_BDn.device.type == "cpu" else _DEVICE_PIECE
    width = min(2 * piece, z_BDn.shape[0] * z_BDn.shape[2])
    # Fresh memory for every piece would cost a tenth of the product.
    scores_kc = z_BDn.new_empty(min(piece, codes_KD.shape[0]), width)
    found = [
        _nearest(rearrange(z_BDn[clips, :, places], "b d n -> d (b n)"), codes_KD, offsets_K1, scores_kc)
        for clips, places in pieces(z_BDn, 2 * piece)
    ]
    return torch.cat(found).view(z_BDn.shape[0], z_BDn.shape[2])


def pieces(z_BDn: Tensor, size: int = _VECTORS) -> Iterator[tuple[slice, slice]]:
    """Cut a batch into (clips, positions) of about `size` vectors each, in order of the vectors.

    What has no memory is left in one piece.
    """
    if z_BDn.is_meta:
        size = max(1, z_BDn.shape[0] * z_BDn.shape[2])
    clips = max(1, size // max(1, z_BDn.shape[2]))
    for clip in range(0, z_BDn.shape[0], clips):
        for position in range(0, z_BDn.shape[2], size):
            yield slice(clip, clip + clips), slice(position, position + size)


def _can_screen(z_BDn: Tensor, codes_KD: Tensor) -> bool:
    """Whether the processor multiplies bfloat16 faster, and there is enough to multiply."""
    known = z_BDn.device.type == "cpu" and z_BDn.dtype == codes_KD.dtype == torch.float32
    enough = len(codes_KD) >= _SCREENED and len(codes_KD) % _RUN == 0 and codes_KD.shape[1] >= 32
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return known and enough and not torch.compiler.is_compiling() and native()


class _Screen:
    """Finds nearest codes by a first look in bfloat16, and a second one in float32 where that cannot tell.

    A product of bfloat16 numbers is off by at most `_BOUND` of |z| |code| and of the score itself: what
    scores further than twice that from the best cannot be nearest. The others are scored anew, so that the
    result is that of float32.
    """

    _BOUND = 2**-8 + 2**-9 + 2**-14

    def __init__(self, codes_KD: Tensor, offsets_K: Tensor) -> None:
        self.codes_KD = codes_KD
        self.offsets_K = offsets_K
        # An offset is a sum of two numbers of bfloat16, times latents of 1.
        high_K = offsets_K.bfloat16()
        low_K = (offsets_K - high_K.float()).bfloat16()
        self.half_KD = torch.cat([codes_KD.bfloat16(), -high_K[:, None], -low_K[:, None]], dim=1)
        self.longest = codes_KD.norm(dim=1).max()
        self.largest = offsets_K.abs().max()
        self.tells_little = False

    def nearest(self, z_cD: Tensor) -> Tensor:
        """Return the numbers of the nearest codes."""
        if self.tells_little:
            return self._nearest_of_all(z_cD)
        half_cD = torch.cat([z_cD.bfloat16(), z_cD.new_ones(len(z_cD), 2, dtype=torch.bfloat16)], dim=1)
        scores_Kc = self.half_KD @ half_cD.T
        runs_krc = rearrange(scores_Kc, "(k r) c -> k r c", r=_RUN)
        bests_kc = runs_krc.amax(dim=1)
        best_c = bests_kc.amax(dim=0).float()
        slack_c = 2 * self._BOUND * (z_cD.norm(dim=1) * self.longest + self.largest)
        # Rounded down, so that bfloat16 leaves none out.
        least_c = torch.nextafter((best_c - slack_c).bfloat16(), best_c.new_tensor(-torch.inf).bfloat16())
        run_P, at_P = (bests_kc >= least_c).nonzero(as_tuple=True)
        if len(run_P) > _CANDIDATES * len(z_cD):
            self.tells_little = True
            return self._nearest_of_all(z_cD)
        inside_Pr = runs_krc[run_P, :, at_P] >= least_c[at_P, None]
        pair_Q, place_Q = inside_Pr.nonzero(as_tuple=True)
        code_Q, at_Q = run_P[pair_Q] * _RUN + place_Q, at_P[pair_Q]
        products_Q = torch.linalg.vecdot(z_cD[at_Q], self.codes_KD[code_Q])
        score_Q = self.offsets_K[code_Q] - products_Q
        best_c = torch.full_like(best_c, torch.inf).scatter_reduce_(0, at_Q, score_Q, "amin")
        last = len(self.codes_KD)
        code_Q = torch.where(score_Q == best_c[at_Q], code_Q, last)
        index_c = torch.full_like(best_c, last, dtype=torch.int64).scatter_reduce_(0, at_Q, code_Q, "amin")
        return torch.where(index_c < last, index_c, last - 1)

    def _nearest_of_all(self, z_cD: Tensor) -> Tensor:
        offsets_K1 = self.offsets_K[:, None]
        return _nearest(z_cD.T, self.codes_KD, offsets_K1, z_cD.new_empty(_PIECE, len(z_cD)))


def _nearest(z_Dc: Tensor, codes_KD: Tensor, offsets_K1: Tensor, scores_kc: Tensor) -> Tensor:
    """Return the nearest codes; overwrites scores_kc, which says how many are scored together."""
    best_c = index_c = None
    piece = scores_kc.shape[0]
    for first in range(0, codes_KD.shape[0], piece):
        some = slice(first, first + piece)
        out_kc = scores_kc[: codes_KD[some].shape[0], : z_Dc.shape[1]]
        torch.addmm(offsets_K1[some], codes_KD[some], z_Dc, alpha=-1, out=out_kc)
        least_c, at_c = _least(out_kc)
        if best_c is None or index_c is None:
            best_c, index_c = least_c, at_c
            continue
        nearer_c = least_c < best_c
        best_c = torch.where(nearer_c, least_c, best_c)
        index_c = torch.where(nearer_c, at_c + first, index_c)
    assert index_c is not None, "at least one code"
    return index_c


def _least(scores_kc: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least of every column and the first place where it is."""
    if scores_kc.device.type != "cpu" or scores_kc.shape[0] % _RUN:
        least_c, index_c = scores_kc.min(dim=0)
        return least_c, index_c
    scores_krc = rearrange(scores_kc, "(k r) c -> k r c", r=_RUN)
    leasts_kc = scores_krc.amin(dim=1)
    least_c = leasts_kc.amin(dim=0)
    run_c = _first(leasts_kc == least_c)
    run_rc = scores_krc.gather(0, run_c.expand(1, _RUN, -1))[0]
    return least_c, run_c * _RUN + _first(run_rc == least_c)


def _first(found_kc: Tensor) -> Tensor:
    """Return the first true place of every column, or the last place where there is none."""
    last = found_kc.shape[0] - 1
    # Whole columns of bytes again vectorise, where argmax goes one by one.
    from_end_k1 = torch.arange(last, -1, -1, dtype=torch.uint8, device=found_kc.device)[:, None]
    return last - (found_kc * from_end_k1).amax(dim=0).long()
