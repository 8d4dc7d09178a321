"""The loop over trials: whenever time or trials run out, the best has been compared with what it must be."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluators.candidate import Candidate
from evaluators.joint_space import JointSpace
from evaluators.outcome import Outcome
from evaluators.space import derive_space
from evaluators.verdicts import judge_all
from search import trial_loop
from search.front import best_trial, pareto_front
from search.progress import Silent
from search.spec import SearchSpec
from search.trial_loop import Session, TrialLoop
from search.view import find_baseline, find_best_float, trial_results
from tests.search.factories import _evidence, a_profile, a_spec, a_target
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.settings import TrialSettings

SPEED = {"eager": 1.0, "inductor": 0.6, "onnxruntime": 0.35, "openvino": 0.3}
SECONDS = {"eager": 3.0, "inductor": 15.0, "onnxruntime": 4.0, "openvino": 4.0}


class Machine:
    """A supervisor whose trials take simulated time and find simulated figures, and the clock of it all."""

    def __init__(self, ledger: Ledger, spec: SearchSpec, seed: int) -> None:
        self.now, self._ledger, self._spec, self._random = 0.0, ledger, spec, random.Random(seed)  # noqa: S311

    def monotonic(self) -> float:
        return self.now

    def run(self, trial_id: str, attempt: int, *_: Any, cancel: Any = ()) -> None:
        candidate = self._ledger.trial(trial_id).candidate
        self.now += SECONDS[candidate.backend] * self._random.uniform(0.7, 1.4)
        self._ledger.claim(trial_id, attempt, "me", 60)
        self._ledger.finish(trial_id, attempt, "me", self._outcome(candidate))

    def _outcome(self, candidate: Candidate) -> Outcome:
        faster = 0.5 if "int8" in candidate.quantization.scheme else 1.0
        size, threads = candidate.batch_size, candidate.runtime.threads
        p50 = 0.8 * SPEED[candidate.backend] * faster * size**0.9 / math.sqrt(threads) * self._random.uniform(0.9, 1.1)
        lost = 0.05 * candidate.pruning.amount + (0.002 if faster < 1 else 0.0)
        evidence = _evidence(candidate, p50, 0.923 - lost, 100_000, 0.002)
        verdicts = judge_all(self._spec.constraints, evidence)
        return Outcome(kind="measured", evidence=evidence, verdicts=verdicts, bundle=f"bundles/{candidate.hash}")


@pytest.mark.parametrize("clean", [True, False])
def test_an_evaluation_answers_a_later_search_only_where_it_was_clean(tmp_path: Path, clean: bool) -> None:
    spec = a_spec()
    candidate = Candidate(target="cpu", backend="eager")
    evidence = _evidence(candidate, 0.5, 0.923, 100_000, 0.002)
    assert evidence.latency is not None
    evidence = evidence.model_copy(update={"latency": evidence.latency.model_copy(update={"clean": clean})})
    verdicts = judge_all(spec.constraints, evidence)
    earlier = Outcome(kind="measured", evidence=evidence, verdicts=verdicts, bundle=str(tmp_path))

    loop = TrialLoop.__new__(TrialLoop)
    here = SimpleNamespace(has_bundle=lambda reference: reference == str(tmp_path))
    loop._session = SimpleNamespace(spec=spec, supervisor=here)  # type: ignore[assignment]

    assert (loop._rejudged(earlier, gates=True) is not None) == clean


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("trials", "seconds"), [(60, 120.0), (60, 250.0), (22, math.inf), (40, math.inf)])
def test_a_best_has_its_baseline_and_float_references_when_time_or_trials_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, seconds: float, seed: int
) -> None:
    spec = a_spec(trials=trials, latency_budget_ms=5.0, seed=seed)
    ledger = Ledger.at(tmp_path)
    record = ledger.create_search(spec.workload, spec.to_json())
    machine = Machine(ledger, spec, seed)
    monkeypatch.setattr(trial_loop, "time", machine)
    space = derive_space(a_profile(), a_target())
    joint = JointSpace({space.target.name: space})
    session = Session(
        record=record, spec=spec, space=joint, settings=TrialSettings(profile=a_profile()),
        ledger=ledger,
        supervisor=machine, projection=SimpleNamespace(deliver=lambda *_: None), progress=Silent(),
        stop=Cancellation(), seconds_left=lambda: seconds - machine.now, account=lambda: None, note=lambda _: None,
    )  # type: ignore[arg-type]  # fmt: skip

    TrialLoop(session).run()

    found = trial_results(ledger.trials(record.id), spec)
    ledger.close()
    best = best_trial(pareto_front(found, spec.goal, spec.percentile))
    assert best is not None
    baseline, best_float = find_baseline(found, best), find_best_float(found, best, spec)
    assert baseline is not None
    assert best_float is not None
    assert baseline.candidate.runtime.threads == best.candidate.runtime.threads
    measured = {
        (trial.candidate.backend, trial.candidate.runtime.threads)
        for trial in found
        if trial.candidate.is_unmodified_float and trial.candidate.batch_size == best.candidate.batch_size
    }
    assert measured >= {(backend, best.candidate.runtime.threads) for backend in space.schemes}
    assert len(found) <= trials
