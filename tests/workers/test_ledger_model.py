"""Whatever is done to the ledger, in whatever order, it agrees with a model of a few lines."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from jobs_for_tests import MEASURED, REJECTED, candidate

from evaluators.outcome import FailureKind
from scripts.servers import PostgreSql
from workers.ledger import Ledger

OWNERS = ("a", "b")
LEASE = 10.0
MAX_LOSSES = 2


@dataclass
class Expected:
    """What the model knows of one trial."""

    state: str = "QUEUED"
    attempt: int = 1
    owner: str | None = None
    lease_until: float = 0.0
    outcome: str | None = None
    news: int = 0
    ended: list[str | None] = field(default_factory=list)

    def holds(self, attempt: int, owner: str) -> bool:
        return (self.state, self.attempt, self.owner) == ("RUNNING", attempt, owner)

    def leave(self, how: str, state: str) -> None:
        self.ended[-1] = how
        self.state, self.owner = state, None


class LedgerModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 0.0
        self.ledger = Ledger(self.url(), clock=lambda: self.now)
        self.search = self.ledger.create_search("w.py:workload", {}).id
        self.trials: list[Expected] = []

    def url(self) -> str:
        return f"sqlite:///{Path(self.folder.name) / 'ledger.db'}"

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()

    def some(self, number: int) -> tuple[str, Expected]:
        index = number % len(self.trials)
        return f"{self.search}/{index}", self.trials[index]

    @rule(number=st.integers(0, 3))
    def add(self, number: int) -> None:
        # Candidates are added in order, so candidate i is trial i.
        index = min(number, len(self.trials))
        trial = self.ledger.add_trial(self.search, candidate(index), "sampled", "key")
        assert trial.number == index
        if index == len(self.trials):
            self.trials.append(Expected())

    @precondition(lambda self: self.trials)
    @rule(number=st.integers(0, 3), stale=st.sampled_from((0, 0, 0, 1)), owner=st.sampled_from(OWNERS))
    def claim(self, number: int, stale: int, owner: str) -> None:
        trial_id, trial = self.some(number)
        wins = trial.state == "QUEUED" and not stale
        assert self.ledger.claim(trial_id, trial.attempt - stale, owner, LEASE) == wins
        if wins:
            trial.state, trial.owner, trial.lease_until = "RUNNING", owner, self.now + LEASE
            trial.ended.append(None)

    @precondition(lambda self: self.trials)
    @rule(number=st.integers(0, 3), stale=st.sampled_from((0, 0, 0, 1)), owner=st.sampled_from(OWNERS))
    def heartbeat(self, number: int, stale: int, owner: str) -> None:
        trial_id, trial = self.some(number)
        holds = trial.holds(trial.attempt - stale, owner) and not stale
        assert self.ledger.heartbeat(trial_id, trial.attempt - stale, owner, LEASE) == holds
        if holds:
            trial.lease_until = self.now + LEASE

    @precondition(lambda self: self.trials)
    @rule(
        number=st.integers(0, 3),
        stale=st.sampled_from((0, 0, 0, 1)),
        owner=st.sampled_from(OWNERS),
        outcome=st.sampled_from((MEASURED, REJECTED)),
    )
    def finish(self, number: int, stale: int, owner: str, outcome: object) -> None:
        trial_id, trial = self.some(number)
        holds = trial.holds(trial.attempt - stale, owner) and not stale
        assert self.ledger.finish(trial_id, trial.attempt - stale, owner, outcome) == holds
        if holds:
            trial.leave("finished", "DONE")
            trial.outcome = outcome.kind
            trial.news += 1

    @precondition(lambda self: self.trials)
    @rule(number=st.integers(0, 3), owner=st.sampled_from(OWNERS))
    def release(self, number: int, owner: str) -> None:
        trial_id, trial = self.some(number)
        holds = trial.holds(trial.attempt, owner)
        assert self.ledger.release(trial_id, trial.attempt, owner) == holds
        if holds:
            trial.leave("released", "QUEUED")
            trial.attempt += 1

    @precondition(lambda self: any(trial.state == "DONE" for trial in self.trials))
    @rule(number=st.integers(0, 3))
    def rerun(self, number: int) -> None:
        done = [index for index, trial in enumerate(self.trials) if trial.state == "DONE"]
        trial_id, trial = self.some(done[number % len(done)])
        trial.attempt += 1
        trial.state = "QUEUED"
        assert self.ledger.rerun(trial_id).attempt == trial.attempt

    @precondition(lambda self: self.trials)
    @rule(number=st.integers(0, 3))
    def withdraw(self, number: int) -> None:
        trial_id, trial = self.some(number)
        can = trial.state == "QUEUED" and trial.outcome is not None
        assert self.ledger.withdraw(trial_id) == can
        if can:
            trial.state = "DONE"

    @rule(seconds=st.sampled_from((3.0, 11.0)))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(dead=st.sampled_from((None, *OWNERS)))
    def requeue_lost(self, dead: str | None) -> None:
        taken = {trial.number for trial in self.take_back(dead)}
        for number, trial in enumerate(self.trials):
            lost = trial.state == "RUNNING" and (trial.lease_until <= self.now or trial.owner == dead)
            assert (number in taken) == lost
            if lost and trial.ended.count("lost") + 1 >= MAX_LOSSES:
                trial.leave("lost", "DONE")
                trial.outcome = trial.outcome or "failed"
                trial.news += 1
            elif lost:
                trial.leave("lost", "QUEUED")
                trial.attempt += 1

    def take_back(self, dead: str | None) -> tuple[object, ...]:
        return self.ledger.requeue_lost(self.search, lambda owner: owner != dead, max_losses=MAX_LOSSES)

    @invariant()
    def agrees(self) -> None:
        seen = self.ledger.trials(self.search)
        assert [(t.state, t.attempt, t.owner, t.outcome and t.outcome.kind) for t in seen] == [
            (t.state, t.attempt, t.owner, t.outcome) for t in self.trials
        ]
        posted = [news.trial_number for news in self.ledger.pending(self.search)]
        for trial, expected in zip(seen, self.trials, strict=True):
            assert posted.count(trial.number) == expected.news
            assert [attempt.ended_how for attempt in self.ledger.attempts(trial.id)] == expected.ended
            if trial.outcome is not None and trial.outcome.failure is not None:
                assert trial.outcome.failure.kind == FailureKind.LOST


class PostgreSqlModel(LedgerModel):
    server: PostgreSql

    def url(self) -> str:
        return self.server.new_ledger()


TestLedgerModel = LedgerModel.TestCase
TestLedgerModel.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_it_agrees_on_postgresql_too(postgresql: PostgreSql) -> None:
    PostgreSqlModel.server = postgresql
    run_state_machine_as_test(
        PostgreSqlModel,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
