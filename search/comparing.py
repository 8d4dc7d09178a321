"""Comparing: bundles timed in turn where their target is, by this process or by a worker that is asked to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from evaluators.errors import InfrastructureError
from evaluators.jobs import Comparison
from evaluators.outcome import Failure, FailureKind
from search.trial_loop import Session
from workers.comparisons import MAX_CLAIMS
from workers.lease import wait_for
from workers.records import ComparisonRecord

LOOK_SECONDS = 0.3
"""How often the ledger is asked whether a worker is done."""


def compare_in_turn(
    session: Session, bundles: Sequence[str], target: str, seconds: float
) -> Comparison | Failure | None:
    """Time bundles of ``target`` in turn, for at most ``seconds``; None where the search was over before it was done.

    Raises:
        InfrastructureError: sandbox or ledger failed.
    """
    if session.serves(target):
        return session.supervisor.compare(
            session.record.id, bundles, session.settings_on(target), seconds, target=target, cancel=(session.stop,)
        )
    return _Asked(session, session.ledger.ask_comparison(session.record.id, target, bundles, seconds)).wait()


class _Asked:
    """A comparison that waits for a worker of its target."""

    def __init__(self, session: Session, asked: ComparisonRecord) -> None:
        self._session, self._asked = session, asked
        self._rung = float("-inf")

    def wait(self) -> Comparison | Failure | None:
        """Return what a worker found, None where the search was over before that."""
        session, asked = self._session, self._asked
        while True:
            found = session.ledger.comparison(asked.id)
            if found.state == "DONE":
                return found.answer
            if self._lost(found):
                session.ledger.withdraw_comparison(asked.id)
                return Failure(kind=FailureKind.LOST, stage="compare",
                               reason=f"{found.attempt} workers that timed the finalists were lost")  # fmt: skip
            if session.over:
                return None  # its worker notices; a coordinator that goes on with the search asks for the same again
            if found.state == "QUEUED":
                self._ring()
                self._say_who_is_missing()
            wait_for((session.stop,), LOOK_SECONDS)

    def _lost(self, found: ComparisonRecord) -> bool:
        expired = found.lease_until is None or found.lease_until <= self._session.ledger.now()
        return found.attempt >= MAX_CLAIMS and expired

    def _ring(self) -> None:
        bell, now = self._session.bell, time.monotonic()
        if bell is not None and now - self._rung >= self._session.ring_again_s:
            self._rung = now
            with suppress(InfrastructureError):
                bell.ring(self._asked.target, self._asked.id)

    def _say_who_is_missing(self) -> None:
        fleet = self._session.fleet
        if fleet is not None:
            absent = [self._asked.target] if self._asked.target not in fleet.present() else []
            fleet.report(absent, self._session.remind)
