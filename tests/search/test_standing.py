"""What is decided from the shortlist is what would be decided from all trials, however they came and changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from evaluators.outcome import Outcome
from evaluators.verdicts import judge_all
from search.finalists import comparison_seconds, finalists, references
from search.front import best_trial, nearest_trials, pareto_front
from search.known_trials import KnownTrials
from search.result import TrialResult
from search.spec import SearchSpec
from search.standing import Standing
from search.view import count_trials, find_baseline, find_best_float, trial_results
from tests.search.factories import _evidence, a_candidate, a_search, a_spec
from workers.ledger import Ledger

GOALS = ("latency", "throughput", "size")


def of(trials: list[TrialResult], spec: SearchSpec) -> Standing:
    standing = Standing(spec)
    for trial in trials:
        standing.update(trial)
    return standing


def the_same_is_decided(standing: Standing, trials: list[TrialResult], spec: SearchSpec) -> None:
    front = pareto_front(trials, spec.goal, spec.percentile)
    assert [trial.number for trial in standing.front] == [trial.number for trial in front]
    assert {trial.number for trial in standing.trials if trial.pareto} == {trial.number for trial in front}
    assert standing.counts == count_trials(trials)
    short, best = standing.shortlist, best_trial(front)
    assert (standing.best and standing.best.number) == (best and best.number)

    def numbers(found: list[TrialResult]) -> list[int]:
        return [trial.number for trial in found]

    assert numbers(pareto_front(short, spec.goal, spec.percentile)) == numbers(front)
    assert numbers(nearest_trials(short)) == numbers(nearest_trials(trials))
    assert numbers(finalists(short, spec)) == numbers(finalists(trials, spec))
    assert comparison_seconds(short, spec) == comparison_seconds(trials, spec)
    for trial in front[:3]:
        assert numbers(references(short, trial, spec)) == numbers(references(trials, trial, spec))
        assert find_baseline(short, trial) == find_baseline(trials, trial) or find_baseline(short, trial) is not None
        found, wanted = find_best_float(short, trial, spec), find_best_float(trials, trial, spec)
        assert (found and found.number) == (wanted and wanted.number)


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("budget_ms", [0.01, 1.0, 3.0])
def test_the_shortlist_decides_as_all_trials_do(goal: str, budget_ms: float) -> None:
    spec = a_spec(objective=goal, latency_budget_ms=budget_ms, trials=300)
    _, trials = a_search(300, spec=spec, seed=3)
    trials = [trial.model_copy(update={"bundle": f"b/{trial.number}", "pareto": False}) for trial in trials]
    shuffled = random.Random(1).sample(trials, len(trials))  # noqa: S311
    standing = of(shuffled, spec)
    the_same_is_decided(standing, trials, spec)
    assert len(standing.shortlist) < len(trials) / 2


def test_a_trial_that_is_judged_anew_leaves_the_front_to_what_it_kept_off() -> None:
    spec = a_spec(objective="latency", latency_budget_ms=3.0)
    _, trials = a_search(120, spec=spec, seed=5)
    trials = [trial.model_copy(update={"bundle": f"b/{trial.number}", "pareto": False}) for trial in trials]
    standing = of(trials, spec)
    for _ in range(6):
        best = standing.best
        assert best is not None
        worse = best.model_copy(update={"feasible": False, "undecided": True, "pareto": False})
        standing.update(worse)
        trials[[trial.number for trial in trials].index(best.number)] = worse
        the_same_is_decided(standing, trials, spec)


def test_only_what_has_changed_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, ledger = a_spec(), Ledger.at(tmp_path)
    search = ledger.create_search(spec.workload, spec.to_json())
    known, read = KnownTrials(ledger, search.id, spec), list[int]()
    original = ledger.trials

    def counted(search_id: str, numbers: object = None) -> object:
        records = original(search_id, numbers)  # type: ignore[arg-type]
        read.extend(record.number for record in records)
        return records

    monkeypatch.setattr(ledger, "trials", counted)
    added = [ledger.add_trial(search.id, a_candidate(batch_size=size), "sampled", "key") for size in (1, 2, 4, 8)]
    assert [record.number for record in known.look()] == [0, 1, 2, 3]
    assert known.look() == ()

    _finish(ledger, added[1].id, 1, spec)
    ledger.claim(added[2].id, 1, "me", 60)
    assert [(record.number, record.state) for record in known.look()] == [(1, "DONE"), (2, "RUNNING")]
    assert [record.number for record in known.unfinished] == [0, 2, 3]

    ledger.rerun(added[1].id)
    assert [(record.number, record.state) for record in known.look()] == [(1, "QUEUED")]
    assert ledger.withdraw(added[1].id)
    assert [(record.number, record.state) for record in known.look()] == [(1, "DONE")]
    assert known.look() == ()
    assert read == [0, 1, 2, 3, 1, 2, 1, 1]
    assert known.standing.trials == trial_results(original(search.id), spec)


def _finish(ledger: Ledger, trial_id: str, attempt: int, spec: SearchSpec) -> None:
    evidence = _evidence(ledger.trial(trial_id).candidate, 0.5, 0.922, 100_000, 0.002)
    outcome = Outcome(kind="measured", evidence=evidence, verdicts=judge_all(spec.constraints, evidence), bundle="b")
    assert ledger.claim(trial_id, attempt, "me", 60)
    assert ledger.finish(trial_id, attempt, "me", outcome)
