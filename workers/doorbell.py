"""Doorbell: tells workers that a trial waits. It may be heard late, twice or never: what is true is in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from evaluators.errors import InfrastructureError
from workers.meter import Meter, NoMeter
from workers.records import TrialRecord

AGAIN_SECONDS = 10.0
"""After so long a trial that still waits beside an idle worker is rung for again: the message was lost."""

PAUSE_SECONDS = 2.0
"""How long the bell is left alone after it failed."""


class Bell(Protocol):
    """Whatever carries a trial's id to the workers of a target."""

    def ring(self, target: str, trial_id: str) -> None:
        """Send one message.

        Raises:
            InfrastructureError: it cannot be sent now.
        """


class Doorbell:
    """Decides which trials are rung for, and when: each attempt at once, and again while it waits in vain.

    Args:
        bell: what carries the messages; None where workers look into the ledger by themselves.
        idle: returns the targets of which a worker has nothing to do.
        say: told that the bell fails, and that it works again.
        again_s: after so long a waiting trial is rung for again.
        meter: told of trials that are rung for again.
    """

    def __init__(
        self, bell: Bell | None, idle: Callable[[], Collection[str]], say: Callable[[str], None], *,
        again_s: float = AGAIN_SECONDS, clock: Callable[[], float] = time.monotonic, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self._meter = meter or NoMeter()
        self._bell, self._idle, self._say, self._again_s, self._clock = bell, idle, say, again_s, clock
        self._rung: dict[tuple[str, int], float] = {}
        self._pause_until = float("-inf")
        self._fails = False

    def ring(self, unfinished: Sequence[TrialRecord]) -> None:
        """Ring for the trials among ``unfinished`` that wait: the new ones, and those that nobody seems to hear."""
        now = self._clock()
        if self._bell is None or now < self._pause_until:
            return
        waiting = {(trial.id, trial.attempt): trial for trial in unfinished if trial.state == "QUEUED"}
        self._rung = {key: when for key, when in self._rung.items() if key in waiting}
        new = [key for key in waiting if key not in self._rung]
        late = [key for key, when in self._rung.items() if now - when >= self._again_s]
        idle = self._idle() if late else ()
        for key in (*new, *(key for key in late if waiting[key].candidate.target in idle)):
            try:
                self._bell.ring(waiting[key].candidate.target, waiting[key].id)
            except InfrastructureError as error:
                self._pause_until = now + PAUSE_SECONDS
                if not self._fails:
                    self._say(f"{error}; trials wait in the ledger meanwhile")
                self._fails = True
                return
            if key in self._rung:
                self._meter.rung_again(waiting[key].candidate.target)
            self._rung[key] = now
        if new and self._fails:
            self._fails = False
            self._say("the broker can be reached again")
