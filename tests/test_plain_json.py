"""JSON from strangers: read or refused at once, whatever its size."""

from __future__ import annotations

import time

import pytest

from zoo import plain_json


def test_a_key_that_stands_twice_is_named_at_once_however_many_there_are() -> None:
    data = "{" + ",".join(f'"k{i}":0' for i in range(50_000)) + ',"twice":1,"twice":2}'
    begun = time.process_time()
    with pytest.raises(ValueError, match="the key 'twice' stands twice"):
        plain_json.loads(data.encode())
    assert time.process_time() - begun < 3
