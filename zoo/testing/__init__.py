"""Conformance: the promises of the part contract, as checks that anyone runs on their own parts.

    from zoo.testing import check_plugin
    for result in check_plugin("fsq"):
        print(result.check, result.status, result.reason)

The same list is run by ``zoo check fsq`` and by ``pytest --pyargs zoo.testing.suite --zoo-plugin fsq``.
Importing this package imports no torch.
"""

from zoo.testing.results import Check, CheckFailure, CheckResult, CheckSkipped
from zoo.testing.runner import (
    EXPECTED,
    FAMILIES,
    Family,
    check_part,
    check_plugin,
    checks_for,
    family_of,
    find_parts,
    run_check,
)

__all__ = [
    "EXPECTED",
    "FAMILIES",
    "Check",
    "CheckFailure",
    "CheckResult",
    "CheckSkipped",
    "Family",
    "check_part",
    "check_plugin",
    "checks_for",
    "family_of",
    "find_parts",
    "run_check",
]
