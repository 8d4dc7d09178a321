"""Beat: rings for what is to be done again and again, by Celery's scheduler; when it was last done is in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from evaluators.errors import InfrastructureError
from workers.celery_app import KEY_PREFIX

LOOK_SECONDS = 5.0
"""How often it is looked into the ledger for what is due."""

AGAIN_SECONDS = 600.0
"""After so long what was rung for and is still not done is rung for again: the message was lost, or nobody heard it."""


@dataclass(frozen=True)
class Recurring:
    """What is due again some time after it was last done.

    Attributes:
        name: of it, as its message carries it.
        target: whose workers do it.
        done_at: when it was last done, in seconds since the epoch.
    """

    name: str
    target: str
    done_at: float


def beat(
    app: Any, task: str, every_s: float, known: Callable[[], Iterable[Recurring]], until: Callable[[float], bool],
    say: Callable[[str], None], *, again_s: float = AGAIN_SECONDS, look_s: float = LOOK_SECONDS,
) -> int:  # fmt: skip
    """Send the message ``task(name, done_at)`` for everything that was last done ``every_s`` ago or earlier.

    Any number of them may run, and each may be restarted at any time: the message says when it was last done as far as
    the sender knew, so that whoever hears it a second time finds it done.

    Args:
        app: as ``make_app`` returns it.
        known: reads from the ledger what there is.
        until: sleeps for at most so many seconds, and returns whether to stop.
        say: told what is rung for, and that the ledger or the broker cannot be reached.

    Returns:
        How many messages were sent.
    """
    scheduler = _scheduler(app, task, every_s, known, say, again_s, look_s)
    while True:
        try:
            pause = float(scheduler.tick())
        except InfrastructureError as error:
            say(f"{error}; trying again in {look_s:g} s")
            pause = look_s
        if until(min(pause, look_s)):
            return int(scheduler.sent)


def _scheduler(
    app: Any, task: str, every_s: float, known: Callable[[], Iterable[Recurring]], say: Callable[[str], None],
    again_s: float, look_s: float,
) -> Any:  # fmt: skip
    from celery.beat import ScheduleEntry, Scheduler
    from kombu import Queue

    class LedgerScheduler(Scheduler):  # type: ignore[misc]
        """Celery's scheduler, whose entries are what the ledger knows, read anew at every look."""

        producer = None
        """Celery's own would wait for the broker for as long as it is away; without one, each message has its own."""

        def __init__(self) -> None:
            self.sent = 0
            self._rung: dict[str, float] = {}
            super().__init__(app, max_interval=look_s)

        def setup_schedule(self) -> None:
            """Nothing is kept beside the ledger."""

        def tick(self, *arguments: Any, **named: Any) -> float:
            self.data = {each.name: self._entry(each) for each in known()}
            self._heap = None
            return float(super().tick(*arguments, **named))

        def _entry(self, each: Recurring) -> Any:
            if each.target not in app.amqp.queues:
                app.amqp.queues.add(Queue(each.target))
            rung = self._rung.get(each.name, 0.0)
            # Until it is done it is due again after ``again_s``, however often it is to be done.
            last = each.done_at if each.done_at >= rung else rung + again_s - every_s
            return ScheduleEntry(
                name=each.name, task=task, args=(each.name, each.done_at), schedule=timedelta(seconds=every_s),
                last_run_at=datetime.fromtimestamp(last, UTC), app=app,
                options={"queue": each.target, "retry": False, "ignore_result": True, "expires": again_s},
            )  # fmt: skip

        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            self._rung[entry.name] = time.time()
            try:
                self.apply_async(entry, producer=producer, advance=False)
            except Exception as error:  # Celery wraps whatever went wrong with the broker
                say(f"{entry.name} is due, and the broker cannot be reached: {error}; again in {again_s:g} s")
                return
            self.sent += 1
            say(f"{entry.name} is due: rung for on {KEY_PREFIX}{entry.options['queue']}")

    return LedgerScheduler()
