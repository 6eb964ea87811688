"""What a process finds out about its place among several, without starting any."""

from __future__ import annotations

import pytest
import torch

from zoo.ranks import own_device


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
