"""The conformance suite for pytest: subclass, give the backend's name, and it is held to what ours are.

    class TestMine(BackendConformance):
        @pytest.fixture
        def backend(self):
            return "mine"

What cannot be tried on a machine is skipped with its reason; the plugin ``evaluators.testing.summary`` lists all of it
at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.testing.suite import run_checks
from evaluators.testing.summary import PROPERTY

Record = Callable[[str, object], None]


class BackendConformance:
    """One test for each check of the suite; a subclass has a fixture ``backend`` that returns a registered name."""

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Give the folder of bundles and caches."""
        return tmp_path_factory.mktemp("conformance")

    def test_declared_before_it_runs(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("declared", backend, home, record_property)

    def test_computes_what_the_model_computes(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("parity", backend, home, record_property)

    def test_repeatable(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("repeatable", backend, home, record_property)

    def test_batch_invariance(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("batch_invariance", backend, home, record_property)

    def test_batch_sizes_agree(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("batch_sizes", backend, home, record_property)

    def test_round_trip_in_a_fresh_process(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("round_trip", backend, home, record_property)

    def test_threads_are_honoured(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("threads", backend, home, record_property)

    def test_inputs_that_break_the_contract_are_refused(
        self, backend: str, home: Path, record_property: Record
    ) -> None:
        _hold("inputs", backend, home, record_property)

    def test_damaged_bundle_is_refused(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("integrity", backend, home, record_property)

    def test_model_that_cannot_be_built_is_refused(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("unsupported", backend, home, record_property)

    def test_time_limit_is_honoured(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("time_limit", backend, home, record_property)

    def test_every_declared_value_works(self, backend: str, home: Path, record_property: Record) -> None:
        _hold("knobs", backend, home, record_property)


def _hold(check: str, backend: str, home: Path, record_property: Record) -> None:
    """Put a check to every case of the backend, record each result, and fail or skip with the reasons."""
    found = list(run_checks(check, backend, home))
    for result in found:
        record_property(PROPERTY, result.to_json())
    if failed := [str(result) for result in found if result.status == "failed"]:
        pytest.fail("\n".join(failed), pytrace=False)
    if not any(result.status == "passed" for result in found):
        reasons = dict.fromkeys(result.reason for result in found)
        pytest.skip("; ".join(reasons) or f"{backend} has no case for {check!r}")
