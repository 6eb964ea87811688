"""A link that is cut between two machines; docs/reliability.md has more."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.links import TIMEOUT_S, can_make_namespaces, cut_link


@pytest.mark.slow
@pytest.mark.skipif(not can_make_namespaces(), reason="network namespaces need root, and Linux")
def test_both_sides_of_a_cut_link_give_up_and_go_on_once_it_is_back(tmp_path: Path) -> None:
    found = cut_link(tmp_path)
    assert found.seconds < 1.5 * TIMEOUT_S
    assert all("lost the others" in said and "--auto-resume" in said for said in found.said)
    assert found.step >= 6
    assert found.ends_alike
