"""TrialLoop: the trials of one session — what is queued, then what is proposed — run, learnt from and projected."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from evaluators.candidate import Candidate
from evaluators.errors import IllegalCandidateError
from evaluators.frozen import digest
from evaluators.joint_space import JointSpace
from evaluators.outcome import Outcome
from evaluators.registry import backend as find_backend
from evaluators.registry import quantizers
from evaluators.target import environment_of
from evaluators.verdicts import judge_all
from search.finalists import comparison_seconds
from search.fleet import Fleet
from search.foresight import Foresight
from search.front import best_trial, nearest_trials, pareto_front
from search.known_trials import KnownTrials
from search.progress import Progress
from search.projection import Projection
from search.proposals import Proposal, Proposer
from search.result import TrialResult
from search.sampling import Sampler, Told
from search.spec import SearchSpec
from search.view import objective_of, trial_results
from workers.doorbell import AGAIN_SECONDS, Bell
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.records import SearchRecord, TrialRecord
from workers.settings import TrialSettings
from workers.supervisor import Supervisor

FAILED_VIOLATION = 1.0
FAILED = "failed"
"""The constraint that a failed trial violates, whatever its limits: it keeps the sampler away."""

NEAREST_IN_FULL = 3
RESERVE = 1.5


@dataclass(frozen=True)
class Session:
    """What a coordinator lends to its loop: the search, the means to run trials, and its clock."""

    record: SearchRecord
    spec: SearchSpec
    space: JointSpace
    settings: TrialSettings
    ledger: Ledger
    supervisor: Supervisor
    projection: Projection
    progress: Progress
    stop: Cancellation
    seconds_left: Callable[[], float]
    account: Callable[[], None]
    note: Callable[[str], None]
    remind: Callable[[str], None] = lambda text: None
    fleet: Fleet | None = None
    bell: Bell | None = None
    ring_again_s: float = AGAIN_SECONDS

    def settings_on(self, target: str) -> TrialSettings:
        """Return the settings of trials on the machine of ``target``."""
        return self.settings.on(self.space.of(target).target)

    def serves(self, target: str) -> bool:
        """Whether this machine serves ``target``."""
        return self.fleet is None or target not in self.fleet.elsewhere

    @property
    def over(self) -> bool:
        """Whether the time is up or somebody cancelled."""
        return self.stop.is_set or self.seconds_left() <= 0

    def trials(self) -> list[TrialResult]:
        """Return the trials of the search as users see them."""
        return trial_results(self.ledger.trials(self.record.id), self.spec)

    def front(self, trials: Sequence[TrialResult]) -> list[TrialResult]:
        """Return the front of these trials, best objective first."""
        return pareto_front(trials, self.spec.goal, self.spec.percentile)

    def best(self, trials: Sequence[TrialResult]) -> TrialResult | None:
        """Return the best feasible trial, if there is one."""
        return best_trial(self.front(trials))


class TrialLoop:
    """The trials of one session: whatever is queued, then what is proposed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._sampler = Sampler(session.space, session.spec.seed)
        self._foresight = Foresight()
        self._proposer = Proposer(
            session.space, session.spec, self._sampler, session.spec.seed, self._foresight.instead_of
        )
        self._told: dict[str, Told | None] = {}
        self._seconds: dict[tuple[str, str], tuple[int, float]] = {}
        self._known = KnownTrials(session.ledger, session.record.id, session.spec)
        self._standing = self._known.standing

    def run(self) -> None:
        """Run trials until their number, the time or the space is used up."""
        self._known.look()
        for trial in self._standing.trials:
            self._learn(trial)
        while not self._session.over and (record := self._queued() or self._propose()) is not None:
            self._run(record)

    def measure_nearest(self) -> None:
        """Where nothing is feasible, measure the nearest candidates in full: what would the limits have to be?"""
        trials = self._session.trials()
        if self._session.best(trials) is not None:
            return
        for trial in nearest_trials(trials, NEAREST_IN_FULL):
            if trial.outcome == "rejected" and not self._session.over:
                self._run(self._session.ledger.rerun(f"{self._session.record.id}/{trial.number}", gates=False))

    def complete_front(self) -> None:
        """Score the models of the front on all of validation where the verdict was certain before the end of it."""
        session = self._session
        while not session.over:
            self._known.look()
            partly = next((trial for trial in self._standing.front if trial.accuracy_complete is False), None)
            if partly is None:
                return
            self._run(session.ledger.rerun(f"{session.record.id}/{partly.number}", gates=False))

    def _queued(self) -> TrialRecord | None:
        self._known.look()
        return next((record for record in self._known.unfinished if record.state == "QUEUED"), None)

    def _propose(self, avoid: Collection[str] = ()) -> TrialRecord | None:
        """Queue the next candidate, of none of the targets to ``avoid``; None if there is none that can be afforded."""
        session, tried = self._session, len(self._standing)
        trials = self._standing.shortlist
        remaining = session.spec.trials - tried
        if remaining <= 0:
            return None
        missing = [item for item in self._proposer.references(trials) if item.candidate.hash not in self._told]
        if missing and self._seconds_left(trials) < self._seconds_for(missing):
            remaining = len(missing)
        proposal = self._proposer.next(trials, self._told, remaining, avoid)
        if proposal is None:
            if not avoid:
                session.note(f"every candidate of the space was tried ({tried})")
            return None
        if not self._affordable(proposal, remaining, trials):
            proposal = missing[0] if missing else self._proposer.beside_best(trials, self._told)
            if proposal is None or not self._affordable(proposal, remaining, trials):
                return None
        self._told[proposal.candidate.hash] = None
        key = self._evaluation_key(proposal.candidate)
        return session.ledger.add_trial(
            session.record.id, proposal.candidate, proposal.source, key, gates=proposal.gates
        )

    def _run(self, record: TrialRecord) -> None:
        """See a trial through to its end, and learn from it."""
        session, candidate = self._session, record.candidate
        session.progress.started(record.number, candidate.label())
        begun = time.monotonic()
        if not self._answer(record):
            settings = session.settings_on(candidate.target)
            session.supervisor.run(record.id, record.attempt, settings, cancel=(session.stop,))
            if session.ledger.trial(record.id).state != "DONE":
                session.ledger.withdraw(record.id)
                return
            self._took(candidate, time.monotonic() - begun)
        self._known.look()
        self._conclude(record.number)

    def _took(self, candidate: Candidate, seconds: float) -> None:
        if not seconds:  # it was refused without being run
            return
        key = (candidate.target, candidate.backend)
        count, total = self._seconds.get(key, (0, 0.0))
        self._seconds[key] = (count + 1, total + seconds)

    def _conclude(self, number: int) -> None:
        """Learn from a trial that has ended, show it, and deliver the news of it."""
        session, standing = self._session, self._standing
        done = standing.trial(number)
        self._learn(done)
        session.progress.finished(done, standing.counts, standing.best)
        session.projection.deliver(session.ledger, session.record.id, standing.trials)
        session.account()

    def _answer(self, record: TrialRecord) -> bool:
        """Answer a trial from an earlier search on the same target, if that one says enough about these limits.

        One that will not fit into memory, by what smaller batches took, is ended as well.
        """
        ledger, candidate = self._session.ledger, record.candidate
        settings, target = self._session.settings_on(candidate.target), self._session.space.of(candidate.target).target
        if record.gates and (refusal := self._foresight.refusal(candidate, target, settings.memory_limit_bytes)):
            again = f"paretune reproduce {self._session.record.id} {record.number}"
            return ledger.claim(record.id, record.attempt, "forecast", settings.lease_seconds) and ledger.finish(
                record.id, record.attempt, "forecast", refusal.model_copy(update={"reproduce": again})
            )
        if record.attempt > 1 or (known := ledger.find_evaluation(record.evaluation_key)) is None:
            return False
        answer = None if known.outcome is None else self._rejudged(known.outcome, record.gates)
        return answer is not None and ledger.answer_trial(record.id, record.attempt, answer, known.id)

    def _rejudged(self, outcome: Outcome, gates: bool) -> Outcome | None:
        """Return an earlier outcome under this search's limits, or None where it does not say enough about them."""
        if outcome.bundle is None or not self._session.supervisor.has_bundle(outcome.bundle):
            return None
        if any(timed is not None and not timed.clean for timed in (outcome.evidence.latency, outcome.evidence.server)):
            return None
        verdicts = judge_all(self._session.spec.constraints, outcome.evidence)
        if outcome.evidence.accuracy is not None:
            return outcome.model_copy(update={"verdicts": verdicts, "kind": "measured", "gate": None})
        failed = [verdict for verdict in verdicts if verdict.status == "fail"]
        if not failed or not gates:
            return None
        gate = failed[0].constraint.metric
        return outcome.model_copy(update={"verdicts": verdicts, "kind": "rejected", "gate": gate})

    def _learn(self, trial: TrialResult) -> None:
        """Tell the sampler how a trial ended: violations under every constraint's key, in the same order."""
        if trial.outcome in ("queued", "running"):
            self._told[trial.candidate.hash] = None
            return
        self._foresight.take(trial)
        failed = trial.outcome == "failed"
        judged = {verdict.constraint.metric: verdict.violation for verdict in trial.verdicts}
        unknown = FAILED_VIOLATION if failed else 0.0
        violations = {limit.metric: judged.get(limit.metric, unknown) for limit in self._session.spec.constraints}
        violations[FAILED] = FAILED_VIOLATION if failed else 0.0
        objective = objective_of(trial, self._session.spec)
        values = (objective, trial.accuracy) if objective is not None and trial.accuracy is not None else None
        told = Told(values, violations)
        self._told[trial.candidate.hash] = told
        if trial.failure_kind in ("lost", "disk_full"):  # it says nothing about the candidate
            return
        with suppress(IllegalCandidateError):  # its backend may be gone since an earlier session
            self._sampler.tell(trial.candidate, told)

    def _evaluation_key(self, candidate: Candidate) -> str:
        """Name what an evaluation depends on; equal keys of different searches have equal results."""
        session = self._session
        profile, spec = session.settings.profile, session.spec
        space = session.space.of(candidate.target)
        target = space.target_of(candidate.backend)
        # Beside an interpreter of its own, the model under trial and the original are still those of the first one.
        source = [environment_of(space.target, "torch-pruning")] if target is not space.target else []
        facts = [profile.fingerprint, target.fingerprint, spec.protocol.to_json(), spec.seed]
        quantizer = quantizers()[candidate.backend, candidate.quantization.scheme]
        libraries = (*find_backend(candidate.backend).requires, *quantizer.requires, "torch-pruning")
        return digest([candidate.to_json(), facts, environment_of(target, *libraries), *source])

    def _affordable(self, proposal: Proposal, remaining: int, trials: Sequence[TrialResult]) -> bool:
        """Whether there is enough left for a proposal and, if it became the best, for what it must be compared with."""
        wanted = [proposal]
        if proposal.gates:
            references = self._proposer.references_of(proposal.candidate)
            wanted += [item for item in references if item.candidate.hash not in self._told]
        return len(wanted) <= remaining and self._seconds_for(wanted) <= self._seconds_left(trials)

    def _seconds_left(self, trials: Sequence[TrialResult]) -> float:
        """Return the time that is left for trials: the final comparison needs the rest."""
        left = self._session.seconds_left()
        return left if left == float("inf") else left - comparison_seconds(trials, self._session.spec)

    def _seconds_for(self, proposals: Sequence[Proposal]) -> float:
        """Return what trials will take, with a reserve: as long as trials of their targets and backends took so far."""
        everywhere = _mean(self._seconds.values(), 0.0)
        keys = ((item.candidate.target, item.candidate.backend) for item in proposals)
        return RESERVE * sum(_mean([self._seconds.get(key, (0, 0.0))], everywhere) for key in keys)


def _mean(groups: Iterable[tuple[int, float]], otherwise: float) -> float:
    """Return the mean of what is counted and summed in ``groups``."""
    count, total = (sum(values) for values in zip((0, 0.0), *groups, strict=True))
    return total / count if count else otherwise
