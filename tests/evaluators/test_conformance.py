"""Every registered backend is held to the suite that third parties run too, and the suite can fail."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from evaluators import registry
from evaluators.errors import WorkloadError
from evaluators.structure import Structure, TensorSpec
from evaluators.target import probe_target
from evaluators.testing import computing
from evaluators.testing.cases import Case, UnavailableError, cases, representatives, variations
from evaluators.testing.fresh import run_fresh
from evaluators.testing.probes import count_working
from evaluators.testing.pytest_backends import BackendConformance
from evaluators.testing.suite import CHECKS, promised, run_check
from evaluators.testing.summary import summarize


class TestBackends(BackendConformance):
    @pytest.fixture(params=sorted(registry.backends()))
    def backend(self, request: pytest.FixtureRequest) -> str:
        name: str = request.param
        return name


@pytest.mark.parametrize("backend", sorted(promised()))
def test_what_the_extra_all_promises_is_there_in_ci(backend: str) -> None:
    reason = registry.backend(backend).unusable(probe_target())

    if reason and os.environ.get("CI") != "true":
        pytest.skip(f"{backend} cannot be used on this laptop: {reason}")
    assert reason is None


def test_no_plugin_is_broken() -> None:
    assert registry.broken() == {}


def test_every_backend_and_scheme_has_a_case() -> None:
    assert {(case.backend, case.scheme) for case in cases()} == set(registry.quantizers())
    assert {case.backend for case in representatives()} == set(registry.backends())


def test_every_value_of_a_knob_has_a_case() -> None:
    declared = {
        (backend, scheme, knob.name)
        for (backend, scheme), quantizer in registry.quantizers().items()
        for knob in quantizer.parameters
    }

    tried = {(case.backend, case.scheme, case.knob[0]) for case in variations() if case.knob}

    assert declared <= tried


def test_a_value_is_tried_on_the_first_workload_that_it_is_a_choice_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[tuple[str, int]] = []

    def parity(case: Case, home: Path) -> None:
        tried.append((case.workload, case.batch_size))
        if case.workload not in offering:
            raise UnavailableError(f"it is no choice for {case.workload}")

    monkeypatch.setattr(computing, "check_parity", parity)
    case = Case("inductor", "fp32", "images", 4, knob=("max_autotune", True))

    offering = {"texts", "series"}
    assert run_check("knobs", case, tmp_path).status == "passed"
    assert tried == [("images", 4), ("series", 2)]

    offering = set()
    nowhere = run_check("knobs", case, tmp_path)
    assert (nowhere.status, nowhere.reason) == ("unavailable", "it is no choice for images")


def test_a_case_of_a_target_that_this_machine_lacks_says_so(tmp_path: Path) -> None:
    result = run_check("parity", Case("eager", "fp32", "images", 4, target="cuda-sm999"), tmp_path)

    assert result.status == "failed"
    assert "cuda-sm999" in result.reason


def test_a_case_without_its_runtime_is_unavailable_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(registry.backend("eager")), "requires", ("a-runtime-that-nobody-has",))

    result = run_check("parity", Case("eager", "fp32", "series", 2), tmp_path)

    assert result.status == "unavailable"
    assert "a-runtime-that-nobody-has is not installed" in result.reason


def test_every_check_says_what_it_checks() -> None:
    assert all(asked.what.endswith(".") for asked in CHECKS.values())


@pytest.mark.parametrize(
    ("gained", "working"),
    [
        ({1: 0.6}, 1),
        ({1: 0.6, 2: 0.55}, 2),
        ({1: 0.03, 2: 0.6}, 1),  # the first one only hands over
        ({1: 0.6, 2: 0.0}, 1),
        ({1: 0.0}, 0),
    ],
)
def test_threads_that_work_are_those_that_gain_a_real_share(gained: dict[int, float], working: int) -> None:
    assert count_working(gained) == working


def test_a_program_over_its_time_limit_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "never_ending.py").write_text(
        "import subprocess, sys, time\nsubprocess.Popen(['sleep', '60'])\ntime.sleep(60)\n"
    )

    ended = run_fresh("never_ending", [], timeout_s=1.0)

    assert ended.killed
    assert ended.survivors == ()


def test_what_leaves_the_session_of_its_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "leaving.py").write_text(
        "import subprocess, time\nsubprocess.Popen(['sleep', '61'], start_new_session=True)\ntime.sleep(60)\n"
    )

    ended = run_fresh("leaving", [], timeout_s=1.0)

    assert ended.survivors == ("sleep 61",)


def test_summary_lists_each_scheme_and_why_the_rest_was_not_run() -> None:
    known = {"check": "parity", "backend": "mine", "seconds": 0.1}
    found = [
        {**known, "case": "mine-fp32", "scheme": "fp32", "status": "passed", "reason": ""},
        {**known, "case": "mine-int8", "scheme": "int8", "status": "failed", "reason": "it is wrong"},
        {**known, "case": "mine-bf16", "scheme": "bf16", "status": "unavailable", "reason": "no bf16 here"},
    ]

    lines = [" ".join("".join(row).split()) for row in summarize(found)]

    assert lines == [
        "mine bf16 not run",
        "not run, 1 times: no bf16 here",
        "mine fp32 1 passed",
        "mine int8 1 FAILED",
        "FAILED mine-int8 parity: it is wrong",
    ]


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        ({"other": np.zeros((2, 3), np.float32)}, "has no 'x'"),
        ({"x": np.zeros((3, 3), np.float32)}, "shape"),
        ({"x": np.zeros((2, 4), np.float32)}, "shape"),
        ({"x": np.zeros((2, 3, 1), np.float32)}, "shape"),
        ({"x": np.array([["a", "b", "c"]] * 2)}, "cannot be taken for float32"),
    ],
)
def test_batch_that_breaks_the_contract_is_refused(batch: dict[str, np.ndarray], told: str) -> None:
    declared = Structure(style="tensor", tensors=(TensorSpec(name="x", dtype="float32", shape=(None, 3)),))

    with pytest.raises(WorkloadError, match=told):
        declared.check(batch, 2)


def test_batch_of_another_precision_or_length_is_taken() -> None:
    ids = TensorSpec(name="ids", dtype="int64", shape=(None, None))
    scores = TensorSpec(name="scores", dtype="float32", shape=(None, 3))
    declared = Structure(style="dict", tensors=(ids, scores))

    declared.check({"ids": np.zeros((2, 9), np.int32), "scores": np.zeros((2, 3))}, 2)
