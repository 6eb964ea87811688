"""What a process finds out about its place among several, without starting any."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from zoo.ranks import name_together, own_device


def test_ranks_that_start_again_do_not_take_the_name_of_those_that_are_gone() -> None:
    store = dist.HashStore()
    store.set_timeout(datetime.timedelta(seconds=20))
    store.set("zoo asks 1", "of a rank that was killed before it had an answer")
    names = set()
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda number: name_together(store, number, 3, 20), (2, 0, 1)))
        assert len(set(found)) == 1
        names.add(found[0])
    assert len(names) == 3
    with pytest.raises(RuntimeError, match="nothing was heard of rank 1, 2"):
        name_together(store, 0, 3, 0.2)


@pytest.mark.parametrize(
    ("asked", "local_rank", "given"),
    [
        (None, None, None),
        (None, "1", "cuda:1"),
        ("cuda", "1", "cuda:1"),
        ("cuda", "3", "cuda:1"),
        ("cuda", None, "cuda"),
        ("cuda:0", "1", "cuda:0"),
        ("cpu", "1", "cpu"),
    ],
)
def test_each_process_of_torchrun_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, local_rank: str | None, given: str | None
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert own_device(asked) == given
    if asked is not None:
        assert str(own_device(torch.device(asked))) == given
