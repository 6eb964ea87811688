"""Small videos made for the tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

# --import-mode=importlib leaves sys.path alone: a helper beside the tests is loaded by its path.
_spec = importlib.util.spec_from_file_location("counting", Path(__file__).with_name("counting.py"))
assert _spec is not None
assert _spec.loader is not None
counting = importlib.util.module_from_spec(_spec)
sys.modules["counting"] = counting
_spec.loader.exec_module(counting)


@pytest.fixture(scope="session")
def folder_of_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos in two classes, 40 to 62 frames at 25 a second, and one of 30 s with many key frames."""
    root = tmp_path_factory.mktemp("videos")
    for number in range(12):
        folder = root / ("odd" if number % 2 else "even")
        folder.mkdir(exist_ok=True)
        counting.write_counting(folder / f"clip {number}.mkv", [40 * t for t in range(40 + 2 * number)])
    counting.write_counting(root / "even" / "long.mkv", [100 * t for t in range(300)])
    return root
