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
    if offsets_K is None:
        offsets_K = 0.5 * codes_KD.square().sum(dim=1)
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
    """Cut a batch into (clips, positions) of about `size` vectors each, in order of the vectors."""
    clips = max(1, size // max(1, z_BDn.shape[2]))
    for clip in range(0, z_BDn.shape[0], clips):
        for position in range(0, z_BDn.shape[2], size):
            yield slice(clip, clip + clips), slice(position, position + size)


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
