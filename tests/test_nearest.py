"""The search of the nearest code against a search in double precision over all distances at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo import nearest
from zoo.codebook import look_up, sum_by_code
from zoo.nearest import nearest_codes, pieces


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    clips=st.integers(1, 5), dim=st.integers(1, 4), places=st.integers(1, 50), codes=st.integers(1, 200),
    piece=st.sampled_from([32, 64, 33, 1024]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_latent_gets_its_nearest_code(
    clips: int, dim: int, places: int, codes: int, piece: int, seed: int
) -> None:
    z, codebook = normal(seed, clips, dim, places), normal(seed + 1, codes, dim)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_PIECE", piece)
        indices = nearest_codes(z, codebook)
        most_alike = nearest_codes(z, codebook, torch.zeros(codes))
    rows = z.transpose(1, 2)
    distances = torch.cdist(rows.double(), codebook.double().expand(clips, -1, -1))
    chosen = distances.gather(2, indices[..., None])[..., 0]
    torch.testing.assert_close(chosen, distances.amin(dim=2), rtol=1e-4, atol=1e-4)
    products = rows.double() @ codebook.double().t()
    alike = products.gather(2, most_alike[..., None])[..., 0]
    torch.testing.assert_close(alike, products.amax(dim=2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("piece", [32, 64, 1024])
@pytest.mark.parametrize("codes", [64, 70])
def test_equal_codes_give_the_lowest_number(piece: int, codes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_PIECE", piece)
    z = normal(0, 1, 3, 40)
    assert nearest_codes(z, torch.ones(codes, 3)).eq(0).all()


@given(clips=st.integers(1, 9), places=st.integers(1, 40), size=st.integers(1, 50))
def test_pieces_cover_the_batch_once(clips: int, places: int, size: int) -> None:
    seen = torch.zeros(clips, 1, places)
    for some, where in pieces(seen, size):
        assert seen[some, :, where].numel() <= size
        seen[some, :, where] += 1
    assert seen.eq(1).all()


def test_codes_are_read_and_summed_piece_by_piece() -> None:
    codebook, z = normal(1, 7, 5), normal(2, 3, 5, 1500)
    indices = torch.randint(7, (3, 1500), generator=torch.Generator().manual_seed(3))
    assert torch.equal(look_up(codebook, indices), codebook[indices].transpose(1, 2))
    rows = z.transpose(1, 2).reshape(-1, 5)
    one_hot = torch.nn.functional.one_hot(indices.flatten(), 7).float()
    torch.testing.assert_close(sum_by_code(z, indices, 7), one_hot.t() @ rows, rtol=1e-4, atol=1e-4)
