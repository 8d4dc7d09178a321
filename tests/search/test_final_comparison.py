"""The final comparison: who takes part, and that the best of the search is one that was timed in turn."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluators.jobs import Comparison
from evaluators.outcome import Failure, FailureKind, LatencyEvidence, Outcome
from evaluators.verdicts import judge_all
from search.final_comparison import run_final_comparison
from search.finalists import MOST, comparison_seconds, finalists, references
from search.front import best_trial, pareto_front
from search.result import Finals, TrialResult
from search.spec import SearchSpec
from search.view import search_result, trial_results
from tests.search.factories import _evidence, a_candidate, a_spec, a_trial
from workers.ledger import Ledger
from workers.records import SearchRecord

SPEC = a_spec(objective="latency", trials=20)


def bundle(trial: TrialResult) -> TrialResult:
    return trial.model_copy(update={"bundle": f"bundles/{trial.number}"})


def the_trials() -> list[TrialResult]:
    """A baseline, a float model of another backend, and int8 models of which two are close."""
    return [
        bundle(a_trial(0, a_candidate(), p50=0.9, accuracy=0.923, gates=False)),
        bundle(a_trial(1, a_candidate("openvino"), p50=0.5, accuracy=0.923, gates=False)),
        bundle(a_trial(2, a_candidate("openvino", "static_int8"), p50=0.20, accuracy=0.921)),
        bundle(a_trial(3, a_candidate("onnxruntime", "static_int8"), p50=0.21, accuracy=0.922)),
        bundle(a_trial(4, a_candidate("onnxruntime", "dynamic_int8"), p50=0.4, accuracy=0.922)),
        bundle(a_trial(5, a_candidate("openvino", "static_int8", batch_size=2), p50=0.3, accuracy=0.921)),
    ]


def test_finalists_are_near_the_best_and_share_its_float_models() -> None:
    assert [trial.number for trial in finalists(the_trials(), SPEC)] == [2, 3]


def test_there_are_only_so_many_finalists() -> None:
    many = [bundle(a_trial(n, a_candidate("openvino", "static_int8", preset=n), p50=0.2 + n / 1e4)) for n in range(9)]
    assert len(finalists(many, SPEC)) == MOST


def test_a_trial_that_surely_misses_a_limit_is_no_finalist_and_an_undecided_one_may_be() -> None:
    wrong = bundle(a_trial(7, a_candidate("openvino", "bf16"), p50=0.1, accuracy=0.8))
    doubtful = bundle(a_trial(8, a_candidate("inductor", "static_int8"), p50=0.19, accuracy=0.92, spread=0.02))
    assert doubtful.undecided
    assert [trial.number for trial in finalists([*the_trials(), wrong, doubtful], SPEC)] == [8, 2, 3]


def test_the_best_is_compared_with_eager_and_the_fastest_float_model() -> None:
    trials = the_trials()
    assert [trial.number for trial in references(trials, trials[2], SPEC)] == [0, 1]


def test_the_time_of_a_comparison_grows_with_the_calls() -> None:
    slow = [trial.model_copy(update={"latency_ms": trial.latency_ms and trial.latency_ms.model_copy(
        update={"p50": trial.latency_ms.p50 * 1000})}) for trial in the_trials()]  # fmt: skip
    assert comparison_seconds([], SPEC) == 0
    assert comparison_seconds(slow, SPEC) > comparison_seconds(the_trials(), SPEC) > 0


class Search:
    """A ledger with these trials, and a supervisor that finds the latencies it is told."""

    def __init__(self, home: Path, trials: list[TrialResult], p50_ms: dict[int, float], spec: SearchSpec = SPEC):
        self.ledger, self.spec, self.asked, self.notes = Ledger.at(home), spec, list[list[int]](), list[str]()
        self.record: SearchRecord = self.ledger.create_search(spec.workload, spec.to_json())
        self.settings, self.stop, self.supervisor = None, None, self
        self._p50_ms, self._most = p50_ms, math.inf
        for trial in trials:
            self._record(trial)

    def _record(self, trial: TrialResult) -> None:
        added = self.ledger.add_trial(self.record.id, trial.candidate, "sampled", "", gates=False)
        assert added.number == trial.number
        outcome = OUTCOMES[trial.number]
        self.ledger.claim(added.id, 1, "me", 60)
        self.ledger.finish(added.id, 1, "me", outcome)

    def time_is_up_after(self, comparisons: int) -> None:
        self._most = comparisons

    @property
    def over(self) -> bool:
        return len(self.asked) >= self._most

    def trials(self) -> list[TrialResult]:
        return trial_results(self.ledger.trials(self.record.id), self.spec)

    def front(self, trials: list[TrialResult]) -> list[TrialResult]:
        return pareto_front(trials, self.spec.goal, self.spec.percentile)

    def best(self, trials: list[TrialResult]) -> TrialResult | None:
        return best_trial(self.front(trials))

    @property
    def result(self) -> Any:
        return search_result(self.ledger.search(self.record.id), self.spec, self.trials(), ("cpu",), Path("home"))

    def serves(self, _: str) -> bool:
        return True

    def settings_on(self, _: str) -> None:
        return None

    def seconds_left(self) -> float:
        return math.inf

    def note(self, text: str) -> None:
        self.notes.append(text)

    def compare(self, _: str, bundles: list[str], *__: Any, **___: Any) -> Comparison | Failure:
        numbers = [int(bundle.rpartition("/")[2]) for bundle in bundles]
        self.asked.append(numbers)
        p50s = [self._p50_ms[number] for number in numbers]
        return Comparison(
            latencies=tuple(_latency(p50) for p50 in p50s),
            log_medians=tuple(tuple(math.log(p50) + 0.01 * k for k in range(8)) for p50 in p50s),
            seconds=(1.0,) * len(p50s),
        )


def _latency(p50: float) -> LatencyEvidence:
    return LatencyEvidence(percentile="p95", p50=p50, p90=p50 * 1.1, p95=p50 * 1.2, p99=p50 * 1.3, mean=p50,
                           ci95=(p50 * 1.19, p50 * 1.21), samples=9000, warmup_calls=100, processes=8)  # fmt: skip


OUTCOMES: dict[int, Outcome] = {}


@pytest.fixture
def trials() -> list[TrialResult]:

    made = the_trials()
    for trial in made:
        assert trial.latency_ms is not None
        evidence = _evidence(trial.candidate, trial.latency_ms.p50, trial.accuracy, 100_000, 0.002)
        OUTCOMES[trial.number] = Outcome(kind="measured", evidence=evidence, bundle=trial.bundle,
                                         verdicts=judge_all(SPEC.constraints, evidence))  # fmt: skip
    return made


def test_a_lucky_first_look_does_not_make_the_best(tmp_path: Path, trials: list[TrialResult]) -> None:
    search = Search(tmp_path, trials, {0: 0.9, 1: 0.5, 2: 0.25, 3: 0.21})
    assert search.result.best.number == 2

    run_final_comparison(search)  # type: ignore[arg-type]

    result = search.result
    assert search.asked == [[2, 0, 1, 3]]
    assert result.best.number == 3
    assert result.best.latency_ms.processes == 8
    assert result.finals is not None and result.finals.best == 3
    assert result.speedup == pytest.approx(0.9 / 0.21, abs=1e-3)
    assert result.speedup_ci95 is not None and result.speedup_ci95[0] <= result.speedup <= result.speedup_ci95[1]
    assert result.best.speedup.value == pytest.approx(0.9 / 0.21, abs=1e-3)


def test_whoever_leads_after_a_comparison_is_compared_too(tmp_path: Path, trials: list[TrialResult]) -> None:
    everyone_slower = {0: 1.8, 1: 1.0, 2: 0.5, 3: 0.52, 4: 0.7, 5: 0.62}
    search = Search(tmp_path, trials, everyone_slower)

    run_final_comparison(search)  # type: ignore[arg-type]

    compared = {number for group in search.asked for number in group}
    assert search.result.best.number in compared
    assert len(search.asked) > 1


def test_whoever_leads_but_cannot_be_compared_does_not_take_the_place_of_the_best(
    tmp_path: Path, trials: list[TrialResult]
) -> None:
    everyone_slower = {0: 1.8, 1: 1.0, 2: 0.5, 3: 0.52}
    search = Search(tmp_path, trials, everyone_slower)
    search.time_is_up_after(1)

    run_final_comparison(search)  # type: ignore[arg-type]

    result = search.result
    assert result.front[0].number not in result.finals.trials
    assert (result.best.number, result.finals.best) == (2, 2)
    assert result.speedup == pytest.approx(1.8 / 0.5, abs=1e-3)
    assert f"trial {result.front[0].number} " in search.notes[-1] and "no time left" in search.notes[-1]


def test_a_comparison_that_was_made_is_not_made_again(tmp_path: Path, trials: list[TrialResult]) -> None:
    search = Search(tmp_path, trials, {0: 0.9, 1: 0.5, 2: 0.2, 3: 0.21})
    run_final_comparison(search)  # type: ignore[arg-type]
    run_final_comparison(search)  # type: ignore[arg-type]
    assert len(search.asked) == 1


def _answered_by(earlier: Search, trials: list[TrialResult], but: int | None = None) -> Search:
    """Return a search on the same ledger whose trials were answered by another one, but for one that was run."""
    later = Search.__new__(Search)
    later.__dict__ |= earlier.__dict__ | {"asked": [], "notes": [], "supervisor": later}
    later.record = later.ledger.create_search(SPEC.workload, SPEC.to_json(), name="later")
    for trial in trials:
        if trial.number == but:
            later._record(trial)
            continue
        added = later.ledger.add_trial(later.record.id, trial.candidate, "sampled", "", gates=False)
        known = earlier.ledger.trial(f"{earlier.record.id}/{trial.number}")
        assert known.outcome is not None and later.ledger.answer_trial(added.id, 1, known.outcome, known.id)
    return later


def test_a_comparison_of_the_search_that_answered_its_trials_is_not_made_again(
    tmp_path: Path, trials: list[TrialResult]
) -> None:
    first = Search(tmp_path, trials, {0: 0.9, 1: 0.5, 2: 0.25, 3: 0.21})
    run_final_comparison(first)  # type: ignore[arg-type]
    later = _answered_by(first, trials)

    run_final_comparison(later)  # type: ignore[arg-type]

    assert later.asked == []
    assert later.result.finals == first.result.finals.model_copy(update={"seconds": 0.0})
    assert (later.result.best.number, later.result.speedup_ci95) == (3, first.result.speedup_ci95)


def test_a_best_that_the_other_search_did_not_time_in_turn_is_compared(
    tmp_path: Path, trials: list[TrialResult]
) -> None:
    first = Search(tmp_path, trials, {0: 0.9, 1: 0.5, 2: 0.25, 3: 0.21})
    run_final_comparison(first)  # type: ignore[arg-type]
    later = _answered_by(first, trials, but=0)

    run_final_comparison(later)  # type: ignore[arg-type]

    assert later.asked


def test_a_failed_comparison_is_a_note_and_the_first_looks_stand(tmp_path: Path, trials: list[TrialResult]) -> None:
    search = Search(tmp_path, trials, {})
    failure = Failure(kind=FailureKind.TIMED_OUT, stage="compare", reason="too slow")
    search.supervisor = SimpleNamespace(compare=lambda *_, **__: failure)  # type: ignore[assignment]

    run_final_comparison(search)  # type: ignore[arg-type]

    assert "too slow" in search.notes[0]
    assert search.result.best.number == 2
    assert search.result.finals is None


def test_the_seconds_of_comparisons_are_no_overhead(tmp_path: Path, trials: list[TrialResult]) -> None:
    search = Search(tmp_path, trials, {0: 0.9, 1: 0.5, 2: 0.2, 3: 0.21})
    search.ledger.update_search(search.record.id, add_elapsed_s=100.0)
    before = search.result.overhead.seconds
    search.ledger.update_search(search.record.id, finals=Finals(best=2, rows=(), rounds=8, seconds=40.0).to_json())
    assert search.result.overhead.seconds == pytest.approx(before - 40.0)
