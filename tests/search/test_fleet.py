"""Searches over several targets: who is there, what is proposed for whom, what it costs, and what comes back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.errors import UsageError
from evaluators.joint_space import JointSpace, derive_joint_space
from evaluators.outcome import Outcome
from evaluators.target import probe_processor
from evaluators.verdicts import judge_all
from search import fleet_loop
from search.api import doctor, space_of
from search.finalists import finalists, references
from search.fleet import Fleet
from search.fleet_loop import FleetLoop
from search.front import best_trial, pareto_front
from search.progress import Silent
from search.proposals import Proposer, neighbours
from search.reproduce import reproduce_trial
from search.result import TrialResult
from search.sampling import Sampler, Told
from search.spec import SearchSpec
from search.tables import front_table, trials_table
from search.trial_loop import Session
from search.view import find_baseline, find_best_float, trial_results
from search.wording import headline
from tests.search.factories import _evidence, a_candidate, a_profile, a_result, a_spec, a_trial
from workers.lease import Cancellation, owner_name
from workers.ledger import Ledger
from workers.settings import TrialSettings

QUICK, CHEAP = "cpu-avx512_vnni", "cpu-arm64"
PRICED = a_spec(target=f"{QUICK}=0.3,{CHEAP}=0.1", trials=12)


def told(name: str, cores: int = 2) -> Capabilities:
    found = capabilities_of(probe_processor())
    return found.model_copy(update={"target": found.target.model_copy(update={"name": name, "cores": cores})})


@pytest.fixture(scope="module")
def joint() -> JointSpace:
    offered = {name: told(name, cores) for name, cores in ((QUICK, 4), (CHEAP, 2))}
    return derive_joint_space(a_profile(), offered, only_backends=["eager", "onnxruntime"], batch_sizes=[1, 8])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(tmp_path)) as ledger:
        yield ledger


def register(ledger: Ledger, name: str, capabilities: Capabilities) -> str:
    ledger.register_worker(owner_name(name), name, "here", 1, capabilities, "cpu")
    return owner_name(name)


def on(target: str, number: int, p50: float, backend: str = "onnxruntime", scheme: str = "fp32", **more: Any) -> Any:
    candidate = a_candidate(backend, scheme).model_copy(update={"target": target})
    return a_trial(number, candidate, p50=p50, constraints=PRICED.constraints, **more)


def priced(trials: list[TrialResult]) -> list[TrialResult]:
    """Return the trials with what they cost, as a search has them."""
    return [trial.model_copy(update={"cost_per_million": PRICED.prices[trial.candidate.target]
                                     / trial.throughput_per_s / 3600 * 1e6}) for trial in trials]  # fmt: skip


def test_the_lowest_cost_wins_and_is_compared_on_its_own_target() -> None:
    trials = priced([
        on(QUICK, 0, 1.0, "eager"), on(CHEAP, 1, 1.6, "eager"), on(QUICK, 2, 0.5), on(CHEAP, 3, 1.2),
        on(QUICK, 4, 0.25, scheme="static_int8"), on(CHEAP, 5, 0.6, scheme="static_int8"),
    ])  # fmt: skip
    best = best_trial(pareto_front(trials, "cost", "p95"))
    assert best is not None and best.number == 5, "a third of the price, and not half as fast"
    baseline, best_float = find_baseline(trials, best), find_best_float(trials, best, PRICED)
    assert (baseline and baseline.number, best_float and best_float.number) == (1, 3)
    bundled = [trial.model_copy(update={"bundle": f"b/{trial.number}"}) for trial in trials]
    assert {trial.candidate.target for trial in finalists(bundled, PRICED)} == {CHEAP}
    assert [trial.number for trial in references(bundled, bundled[5], PRICED)] == [1, 3]


def test_what_a_million_inferences_cost_is_shown_with_its_target(ledger: Ledger) -> None:
    search = ledger.create_search(PRICED.workload, PRICED.to_json())
    for target, p50 in ((QUICK, 0.5), (CHEAP, 1.0)):
        candidate = a_candidate("onnxruntime").model_copy(update={"target": target})
        _finish(ledger, ledger.add_trial(search.id, candidate, "recipe", "key").id, 1, p50, PRICED)
    trials = trial_results(ledger.trials(search.id), PRICED)

    assert [trial.cost_per_million for trial in trials] == [
        pytest.approx(PRICED.prices[trial.candidate.target] / (trial.throughput_per_s or 0) / 3600 * 1e6)
        for trial in trials
    ]
    assert trials[0].label == f"onnxruntime fp32 b1 t1 on {QUICK}"
    result = a_result(trials, PRICED)
    assert (result.objective, result.targets) == ("cost", (QUICK, CHEAP))
    assert f"for a million inferences on {CHEAP}" in headline(result)
    assert [column.header for column in trials_table(trials).columns].count("per million") == 1  # type: ignore[union-attr]
    assert [column.header for column in front_table(trials).columns].count("per million") == 1  # type: ignore[union-attr]
    unpriced = trial_results(ledger.trials(search.id), a_spec(target=f"{QUICK},{CHEAP}"))
    assert [trial.cost_per_million for trial in unpriced] == [None, None]


def test_the_opening_takes_the_targets_in_turn(joint: JointSpace) -> None:
    proposer = Proposer(joint, PRICED, Sampler(joint, 0), 0)
    opening = list(proposer._opening([]))
    assert [proposal.candidate.target for proposal in opening[:4]] == [QUICK, CHEAP, QUICK, CHEAP]
    assert {proposal.candidate.target for proposal in opening if proposal.source == "baseline"} == {QUICK, CHEAP}


def test_nothing_is_proposed_for_a_target_that_nobody_serves(joint: JointSpace) -> None:
    proposer, known = Proposer(joint, PRICED, Sampler(joint, 0), 0), dict[str, Told | None]()
    trials: list[TrialResult] = []
    for number in range(40):
        proposal = proposer.next(trials, known, 100, [QUICK])
        assert proposal is not None and proposal.candidate.target == CHEAP
        assert proposal.candidate.hash not in known
        known[proposal.candidate.hash] = Told((1.0, 0.9), {"failed": 0.0})
        trials.append(a_trial(number, proposal.candidate, constraints=PRICED.constraints))
    assert {proposal.source for proposal in [proposer.next(trials, known, 100, [QUICK, CHEAP])] if proposal} == set()


def test_a_neighbour_on_another_target_is_the_same_candidate_as_far_as_that_goes(joint: JointSpace) -> None:
    start = joint.of(QUICK).recipe("onnxruntime", "static_int8", 8, 4)
    (there,) = neighbours(joint, start)["target"]
    assert (there.target, there.backend, there.quantization, there.batch_size) == (
        CHEAP, start.backend, start.quantization, 8,
    )  # fmt: skip
    assert there.runtime.threads in joint.of(CHEAP).threads
    assert {each.target for name, found in neighbours(joint, start).items() if name != "target" for each in found} == {
        QUICK
    }


def test_a_target_elsewhere_is_known_from_its_workers_also_when_they_have_left(ledger: Ledger, tmp_path: Path) -> None:
    fleet = Fleet(ledger, tmp_path, (QUICK, CHEAP), {QUICK: told(QUICK)})
    assert (fleet.elsewhere, list(fleet.capabilities())) == ((CHEAP,), [QUICK])
    worker = register(ledger, "w", told(CHEAP, cores=64))
    assert fleet.present() == {CHEAP: 1}
    assert fleet.capabilities()[CHEAP] == told(CHEAP, cores=64)
    register(ledger, "another kind", told(CHEAP, cores=2))
    assert fleet.present() == {CHEAP: 1}, "another machine under the same name does not count"
    ledger.end_worker(worker)
    assert fleet.present() == {}
    assert fleet.capabilities()[CHEAP].target.name == CHEAP


def test_who_is_waited_for_is_said_at_once_and_every_minute(ledger: Ledger, tmp_path: Path) -> None:
    fleet, said = Fleet(ledger, tmp_path, (CHEAP,), {}), list[str]()
    for now in (0.0, 1.0, 59.0, 61.0):
        fleet.report([CHEAP], said.append, now)
    fleet.report([], said.append, 62.0)
    fleet.report([CHEAP], said.append, 63.0)
    assert len(said) == 3
    start = f"paretune worker --home {tmp_path} --target {CHEAP}"
    assert said[0] == f"waiting for {CHEAP}: no worker yet; start one on such a machine: {start}"
    ledger.end_worker(register(ledger, "w", told(CHEAP)))
    assert f"waiting for {CHEAP}: no worker since " in fleet.waiting_for(CHEAP)


def test_the_space_of_a_target_that_nobody_has_told_of_is_refused(tmp_path: Path) -> None:
    spec = SearchSpec(workload="w.py:w", target=("cuda-sm90",))
    with pytest.raises(UsageError, match="nobody has told yet what cuda-sm90 can run; waiting for cuda-sm90"):
        space_of(a_profile(), spec, tmp_path)


def test_a_trial_of_another_machine_is_not_reproduced_here(ledger: Ledger, tmp_path: Path) -> None:
    search = ledger.create_search(PRICED.workload, PRICED.to_json())
    candidate = a_candidate().model_copy(update={"target": "cuda-sm00"})
    trial = ledger.add_trial(search.id, candidate, "recipe", "key")
    with pytest.raises(UsageError, match="this machine has no target 'cuda-sm00'"):
        reproduce_trial(search, trial, tmp_path, lambda text: None)


def test_doctor_tells_every_target_and_why_one_is_the_default() -> None:
    report = doctor()
    assert [each.target for each in report.targets if each.default] == [report.target]
    assert report.why
    (processor,) = (each for each in report.targets if each.target == probe_processor())
    assert processor.devices == ("cpu",)
    assert processor.backends == capabilities_of(probe_processor()).backends
    assert {"python", "torch", "paretune"} <= set(report.versions)


def _finish(ledger: Ledger, trial_id: str, attempt: int, p50: float, spec: SearchSpec) -> None:
    candidate = ledger.trial(trial_id).candidate
    evidence = _evidence(candidate, p50, 0.922, 100_000, 0.002)
    outcome = Outcome(kind="measured", evidence=evidence, verdicts=judge_all(spec.constraints, evidence),
                      bundle=f"bundles/{candidate.hash}", stage_seconds={"latency": 0.1})  # fmt: skip
    assert ledger.claim(trial_id, attempt, owner_name("w"), 60)
    assert ledger.finish(trial_id, attempt, owner_name("w"), outcome)


class Machines:
    """Workers of both targets in one thread: they finish what is queued for the targets that are ``served``."""

    def __init__(self, ledger: Ledger, search: str, served: set[str]) -> None:
        self._ledger, self._search, self.served, self.most = ledger, search, served, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Machines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(0.01):
            waiting = [trial for trial in self._ledger.trials(self._search) if trial.state == "QUEUED"]
            self.most = max(self.most, len(waiting))
            for trial in waiting:
                if trial.candidate.target in self.served:
                    _finish(self._ledger, trial.id, trial.attempt, 0.5, PRICED)


@pytest.fixture
def loop(
    ledger: Ledger, joint: JointSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[FleetLoop, str, list[str]]]:
    """A loop over two targets elsewhere, with workers of ``there`` and so many seconds."""
    monkeypatch.setattr(fleet_loop, "LOOK_SECONDS", 0.02)

    def make(there: tuple[str, ...], looks: int = 2000) -> tuple[FleetLoop, str, list[str]]:
        for target in there:
            register(ledger, target, told(target, joint.of(target).target.cores))
        record = ledger.create_search(PRICED.workload, PRICED.to_json())
        fleet, notes, left = Fleet(ledger, tmp_path, (QUICK, CHEAP), {}), list[str](), [looks]

        def seconds_left() -> float:
            left[0] -= 1
            return left[0]

        session = Session(
            record=record, spec=PRICED, space=joint, settings=TrialSettings(profile=a_profile()), ledger=ledger,
            supervisor=None, projection=SimpleNamespace(deliver=lambda *_: None), progress=Silent(),
            stop=Cancellation(), seconds_left=seconds_left, account=lambda: None, note=notes.append,
            remind=notes.append, fleet=fleet,
        )  # type: ignore[arg-type]  # fmt: skip
        return FleetLoop(session, fleet), record.id, notes

    return make


def test_trials_of_all_targets_are_queued_for_the_workers_that_are_there(
    ledger: Ledger, loop: Callable[..., tuple[FleetLoop, str, list[str]]]
) -> None:
    running, search, notes = loop((QUICK, CHEAP))
    with Machines(ledger, search, {QUICK, CHEAP}) as machines:
        running.run()
    trials = trial_results(ledger.trials(search), PRICED)
    assert len(trials) == 12 and all(trial.outcome == "measured" for trial in trials)
    assert {trial.candidate.target for trial in trials} == {QUICK, CHEAP}
    assert machines.most <= 4, "one more is queued on each target than workers are there"
    assert notes == []


def test_a_target_without_a_worker_is_left_out_and_said(
    ledger: Ledger, loop: Callable[..., tuple[FleetLoop, str, list[str]]]
) -> None:
    running, search, notes = loop((CHEAP,))
    with Machines(ledger, search, {CHEAP}):
        running.run()
    assert {trial.candidate.target for trial in ledger.trials(search)} == {CHEAP}
    assert notes == [f"nothing was tried on {QUICK}"]


def test_a_search_whose_workers_are_gone_says_so_and_ends_when_its_time_is_up(
    ledger: Ledger, loop: Callable[..., tuple[FleetLoop, str, list[str]]]
) -> None:
    running, search, notes = loop((), looks=20)
    running.run()
    assert ledger.trials(search) == ()
    assert [note.partition(";")[0] for note in notes[:2]] == [
        f"waiting for {QUICK}: no worker yet", f"waiting for {CHEAP}: no worker yet",
    ]  # fmt: skip


def test_a_trial_whose_worker_dies_is_queued_again(
    ledger: Ledger, loop: Callable[..., tuple[FleetLoop, str, list[str]]], joint: JointSpace
) -> None:
    running, search, _ = loop((QUICK, CHEAP))
    lost = ledger.add_trial(search, joint.of(QUICK).as_written("eager", 1), "baseline", "key", gates=False)
    dead = owner_name().rpartition(":")[0] + ":1"
    assert ledger.claim(lost.id, 1, dead, 60)
    with Machines(ledger, search, {QUICK, CHEAP}):
        running.run()
    assert [attempt.ended_how for attempt in ledger.attempts(lost.id)] == ["lost", "finished"]


def test_a_front_is_completed_by_the_workers_and_taken_back_when_time_is_up(
    ledger: Ledger, loop: Callable[..., tuple[FleetLoop, str, list[str]]], joint: JointSpace
) -> None:
    running, search, _ = loop((QUICK,), looks=6)
    trial = ledger.add_trial(search, joint.of(QUICK).as_written("eager", 1), "baseline", "key", gates=False)
    _finish(ledger, trial.id, 1, 0.5, PRICED)
    running._run(ledger.rerun(trial.id))
    found = ledger.trial(trial.id)
    assert (found.state, found.outcome is not None) == ("DONE", True)
