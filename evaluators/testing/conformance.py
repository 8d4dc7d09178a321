"""The conformance suite by its functions, for tests that put single questions to single bundles.

Whole backends are tested by ``pytest_backends.BackendConformance`` or, without pytest, by ``suite.run_suite``.
"""

from __future__ import annotations

from pathlib import Path

from evaluators.testing.cases import (
    Case,
    NonconformingError,
    UnavailableError,
    build,
    candidate_of,
    cases,
    inputs_of,
    profile_of,
    variations,
)
from evaluators.testing.computing import check_batch_invariance, check_parity, check_repeatable
from evaluators.testing.processes import modules_of, run_elsewhere

__all__ = [
    "Case",
    "NonconformingError",
    "UnavailableError",
    "build",
    "candidate_of",
    "cases",
    "check",
    "inputs_of",
    "modules_of",
    "profile_of",
    "run_elsewhere",
    "variations",
]


def check(case: Case, home: Path) -> None:
    """Build the case's bundle under ``home`` and check what it computes.

    Raises:
        UnavailableError: it cannot be tried on this machine.
        NonconformingError: it breaks the contract.
    """
    for checked in (check_parity, check_repeatable, check_batch_invariance):
        checked(case, home)
