"""Every registered backend and quantizer passes the conformance suite that third parties run too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evaluators.testing import conformance
from evaluators.testing.conformance import Case, UnavailableError


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
