"""The search of the nearest code gives the same numbers with a first look in bfloat16 and without."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoo import nearest
from zoo.nearest import nearest_codes, pieces


def clustered(codes_KD: Tensor, rng: torch.Generator) -> Tensor:
    """Latents close to codes, as after training."""
    chosen = torch.randint(len(codes_KD), (700,), generator=rng)
    return codes_KD[chosen] + 0.1 * torch.randn(700, codes_KD.shape[1], generator=rng)


@pytest.mark.parametrize("kind", ["random", "clustered", "shifted", "equal codes", "large", "tiny"])
@pytest.mark.parametrize("dim", [32, 100])
def test_a_first_look_in_bfloat16_changes_no_number(
    kind: str, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(dim)
    codes_KD = torch.randn(4096, dim, generator=rng)
    z_ND = torch.randn(700, dim, generator=rng)
    if kind == "clustered":
        z_ND = clustered(codes_KD, rng)
    elif kind == "shifted":  # all nearly alike: bfloat16 cannot tell
        codes_KD, z_ND = 10 + 0.01 * codes_KD, 10 + 0.01 * z_ND
    elif kind == "equal codes":
        codes_KD[2048:] = codes_KD[:2048]
    elif kind in ("large", "tiny"):
        scale = 1e15 if kind == "large" else 1e-15
        codes_KD, z_ND = codes_KD * scale, z_ND * scale
    z_BDn = z_ND.T[None]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    plain = nearest_codes(z_BDn, codes_KD)
    looks = []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: looks.append(1) or True)
    screened = nearest_codes(z_BDn, codes_KD)
    assert looks
    differing = (plain != screened)[0].nonzero()[:, 0].tolist()
    if kind == "equal codes":
        assert int(screened.max()) < 2048
    # Two codes as near as rounding can tell may change places; there are few of them.
    assert len(differing) <= (0 if kind != "shifted" else 70)
    for n in differing:
        gaps = [(z_ND[n].double() - codes_KD[found[0, n]].double()).norm() for found in (plain, screened)]
        assert float(abs(gaps[0] - gaps[1]) / gaps[0]) < 1e-2


def test_what_is_no_number_gets_a_code_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_can_screen", lambda *_: True)
    codes_KD = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
    z_BDn = torch.stack([torch.full((32,), value) for value in (torch.nan, torch.inf, 0.0)], 1)[None]
    found = nearest_codes(z_BDn, codes_KD)
    assert bool(((found >= 0) & (found < 4096)).all())
    assert int(found[0, 2]) == int(codes_KD.norm(dim=1).argmin())


def test_shapes_alone_are_told_at_once() -> None:
    z_BDn, codes_KD = torch.empty(2, 4, 1 << 30, device="meta"), torch.empty(1 << 24, 4, device="meta")
    assert len(list(pieces(z_BDn))) == 1
    found_Bn = nearest_codes(z_BDn, codes_KD)
    assert (found_Bn.shape, found_Bn.dtype) == ((2, 1 << 30), torch.int64)
    with pytest.raises(RuntimeError):
        nearest_codes(z_BDn, codes_KD[:, :3])
