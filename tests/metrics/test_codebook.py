"""Codebook usage against brute force, however the data is split."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.metrics import CodebookUsage


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 40),
    books=st.integers(1, 3),
    splits=st.lists(st.integers(0, 4), min_size=1, max_size=5),
)
def test_any_split_gives_the_counts_of_brute_force(
    seed: int, size: int, books: int, splits: list[int]
) -> None:
    random = torch.Generator().manual_seed(seed)
    batches = [
        torch.randint(size, (n, books, 1 + n, 2, 3), generator=random)
        // torch.randint(1, 4, (1,), generator=random)
        for n in splits
    ]
    one = CodebookUsage(size, books)
    for batch in batches:
        one.update(batch)

    counts = [
        Counter(code for batch in batches for code in batch[:, book].flatten().tolist())
        for book in range(books)
    ]
    assert one.to_dict()["histogram"] == [[count[code] for code in range(size)] for count in counts]
    assert one.num_tokens == sum(count.total() for count in counts)
    entropies = [
        -sum(n / count.total() * math.log(n / count.total()) for n in count.values()) for count in counts
    ]
    assert one.used_share == pytest.approx(sum(len(count) for count in counts) / (size * books))
    assert one.perplexity == pytest.approx(sum(map(math.exp, entropies)) / books, rel=1e-12)
    assert one.entropy_bits == pytest.approx(sum(entropies) / books / math.log(2), rel=1e-9, abs=1e-12)


def test_perplexity_of_known_cases() -> None:
    usage = CodebookUsage(1024)
    usage.update(torch.zeros(1, 1, 2, 3, 3, dtype=torch.int64))
    assert usage.perplexity == 1
    assert usage.used_share == 1 / 1024
    usage = CodebookUsage(1024)
    usage.update(torch.arange(1024).view(1, 1, 4, 16, 16))
    assert usage.perplexity == pytest.approx(1024, rel=1e-12)
    assert usage.entropy_bits == pytest.approx(10, rel=1e-12)


def test_codes_outside_the_codebook_are_refused_before_anything_is_counted() -> None:
    usage = CodebookUsage(8)
    with pytest.raises(ZooError, match="from 0 to 8; the codebook has 0 to 7"):
        usage.update(torch.tensor([0, 8]).view(1, 1, 2, 1, 1))
    with pytest.raises(ZooError, match="shape"):
        usage.update(torch.zeros(1, 2, 1, 1, 1, dtype=torch.int64))
    assert usage.num_tokens == 0
    with pytest.raises(ZooError, match="continuous"):
        CodebookUsage(0, 0)
