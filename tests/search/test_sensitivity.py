"""The layers of a workload are ranked in a process of their own, and a model that has none is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import InfrastructureError, UnsupportedError, UsageError
from evaluators.jobs import JobResult, SensitivityJob
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.profile import Problem
from search import api
from tests.search.factories import a_profile
from workers.sandbox import Sandbox, SandboxResult
from workers.sensitivities import run_sensitivity

TINY = str(Path(__file__).resolve().parents[1] / "tiny.py") + ":workload"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("home")


def test_every_layer_of_a_workload_is_ranked_and_the_home_keeps_it(home: Path) -> None:
    report = api.sensitivity(TINY, home)

    ratios = [layer.sqnr_db for layer in report.layers]
    assert report.workload == "tiny"
    assert {(layer.name, layer.kind) for layer in report.layers} == {
        ("features.0", "Conv2d"), ("features.3", "Conv2d"), ("head", "Linear")
    }  # fmt: skip
    assert ratios == sorted(ratios)
    assert all(10 < ratio < 80 for ratio in ratios)
    assert sum(layer.noise_share for layer in report.layers) == pytest.approx(1.0)
    assert len(list((home / "cache" / "stages").rglob("sensitivity.json"))) == 1


def failed(kind: FailureKind) -> JobResult:
    failure = Failure(kind=kind, stage="sensitivity", reason="it would not", details="")
    return JobResult(outcome=Outcome(kind="failed", failure=failure, stage_seconds={}))


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (JobResult(problems=(Problem(level="error", what="it has no layer"),)), UsageError, "it has no layer"),
        (failed(FailureKind.UNSUPPORTED), UnsupportedError, "it would not"),
        (failed(FailureKind.ERROR), InfrastructureError, "ended as error: it would not; its log is "),
    ],
)
def test_what_went_wrong_has_its_exit_code(
    answer: JobResult, error: type[Exception], told: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ran(self: Sandbox, job: Any, folder: Path, **settings: Any) -> SandboxResult:
        assert isinstance(job, SensitivityJob)
        return SandboxResult(
            result=answer, exit_code=0, signal=None, timed_out=False, cancelled=False, stage="sensitivity", seconds=1.0,
            log_tail="", peak_rss_bytes=1, timeout_s=1.0, memory_limit_bytes=None,
        )  # fmt: skip

    monkeypatch.setattr(Sandbox, "run", ran)

    with pytest.raises(error, match=told):
        run_sensitivity(Sandbox(), home, a_profile())
