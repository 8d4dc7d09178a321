"""Every registered backend and quantizer passes the conformance suite that third parties run too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.bundle import read_manifest
from evaluators.testing import conformance
from evaluators.testing.conformance import Case, UnavailableError

COMPILED = "inductor"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.mark.parametrize("case", conformance.cases(), ids=str)
def test_conforms(case: Case, home: Path) -> None:
    try:
        conformance.check(case, home)
    except UnavailableError as reason:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{case} must be usable in CI: {reason}")
        pytest.skip(str(reason))


@pytest.mark.parametrize("case", conformance.variations(), ids=str)
def test_every_value_of_a_knob_works(case: Case, home: Path) -> None:
    try:
        conformance.check_knob(case, home)
    except UnavailableError as reason:
        pytest.skip(str(reason))
