"""The command ``explain``: what it tells of a trial, as text and as JSON, and how it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import search
from evaluators.outcome import Diagnosis, Failure, FailureKind
from search.api import StatusReport
from search.cli import main
from search.result import TrialResult
from tests.search.factories import a_candidate, a_result, a_spec, a_trial
from tests.search.twins_for_tests import fp32, int8, ran


class FakeApi:
    """Answers for a search of these trials as ``search.api`` does."""

    def __init__(self, trials: list[TrialResult]) -> None:
        self.found, spec = trials, a_spec()
        result = a_result(trials, spec)
        self.state = StatusReport(
            search=result.search, name=result.name, workload=spec.workload, spec=spec, status="finished",
            created_at=1.8e9, elapsed_s=75.0, trials_wanted=spec.trials, result=result,
        )  # fmt: skip

    def status(self, reference: str, home: Path) -> StatusReport:
        return self.state

    def trials(self, reference: str, home: Path) -> list[TrialResult]:
        return self.found


Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Say:
    """Explain a trial of a search in this process; return exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(trials: list[TrialResult], *arguments: str) -> tuple[int, str, str]:
        fake = FakeApi(trials)
        monkeypatch.setitem(sys.modules, "search.api", fake)  # type: ignore[arg-type]
        monkeypatch.setattr(search, "api", fake, raising=False)
        code = main(["explain", "latest", *arguments, "--home", str(tmp_path)])
        return code, *capfd.readouterr()

    return command


def test_the_command_tells_the_comparison_and_why(say: Say) -> None:
    operators = (ran("convolution", "fp32", 12), ran("convolution", "int8", 9))
    diagnosis = Diagnosis(
        operators=operators,
        quantized_share=0.43,
        fallbacks=12,
        reorders=5,
        instruction_set="avx512_vnni",
        notes=("so",),
    )
    trial = int8(1, p50=0.8).model_copy(update={"diagnosis": diagnosis})

    code, out, _ = say([fp32(0), trial], "1")

    assert code == 0
    assert "43% of the operators that compute" in out
    assert "avx512_vnni" in out
    assert "Slower: 0.5× (" in out and "its float twin, trial 0" in out
    assert "Why: 12 of 21 convolutions stayed in float because openvino" in out


def test_the_command_tells_what_zeros_save_once_compressed(say: Say) -> None:
    sizes = {"size_compressed_bytes": 100_000}
    whole, pruned = fp32(0), fp32(1, structure="unstructured")

    code, out, _ = say(
        [whole.model_copy(update={"size_compressed_bytes": 200_000}), pruned.model_copy(update=sizes)], "1"
    )

    assert code == 0
    assert "0.50× of its unpruned twin's" in out


def test_the_command_as_json_is_one_object(say: Say) -> None:
    code, out, err = say([fp32(0), int8(1, p50=0.2)], "1", "--json")

    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told["schema_version"] == 1
    assert (told["trial"]["number"], told["twin"]["number"], told["compared"]) == (1, 0, "faster")
    assert told["speedup_over_twin"]["value"] == 2.0
    assert {"search", "diagnosis", "batch_utilization", "verdicts", "why", "reproduce"} <= told.keys()


def test_the_command_shows_a_failure_and_how_to_run_it_again(say: Say) -> None:
    failure = Failure(kind=FailureKind.CRASHED, stage="latency", reason="segmentation fault (SIGSEGV)")

    code, out, _ = say([a_trial(0, a_candidate(), failure=failure)], "0")

    assert code == 0
    assert "segmentation fault (SIGSEGV)" in out
    assert "paretune reproduce" in out


def test_the_command_says_that_the_float_model_has_no_twin(say: Say) -> None:
    assert "there is no twin to compare it with" in say([fp32(0)], "0")[1]
    assert "No float trial of openvino at batch size 1 was timed" in say([int8(0)], "0")[1]


def test_an_unknown_trial_ends_the_command_as_bad_usage(say: Say) -> None:
    code, out, err = say([fp32(0)], "9")

    assert (code, out) == (2, "")
    assert err == "error: search fashion-cpu has no trial 9; it has 0 to 0\n"


def test_an_unknown_search_ends_the_command_as_its_siblings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    codes = [main([command, "nobody", *more, "--home", str(tmp_path)]) for command, more in
             (("explain", ["1"]), ("front", []))]  # fmt: skip

    first, second = capfd.readouterr().err.splitlines()
    assert codes == [2, 2]
    assert first == second
