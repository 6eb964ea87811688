"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data from outside the project: ZOO_TEST_DATA, or ../shared/data beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    named = os.environ.get("ZOO_TEST_DATA")
    folder = Path(named) if named else beside
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data: neither ZOO_TEST_DATA (now {named!r}) nor {beside} holds the test data")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests told with ``record_property("told", ...)``: counts that must not shrink unseen."""
    passed = terminalreporter.stats.get("passed", [])
    told = sorted(value for report in passed for name, value in report.user_properties if name == "told")
    if told:
        terminalreporter.section("counts")
    for line in told:
        terminalreporter.write_line(str(line))
