"""Beat, on a real broker: what is due is rung for once, on the queue of its target, and again where nobody did it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from jobs_for_tests import until

from evaluators.errors import InfrastructureError
from scripts.servers import Redis
from workers.beat import Recurring, beat
from workers.celery_app import KEY_PREFIX, REVALIDATE, hear, make_app
from workers.lease import Cancellation, wait_for

EVERY = 3600.0
LOOK = 0.02


def rung(
    broker: Redis, known: Callable[[], Iterable[Recurring]], *, looks: int = 5, again_s: float = 600.0, enough: int = 99
) -> tuple[int, list[str]]:
    """Run a beat for so many looks, or until it said ``enough``; return how many it sent, and what it said."""
    left, said = iter(range(looks)), list[str]()

    def over(pause: float) -> bool:
        time.sleep(min(pause, LOOK))
        return next(left, None) is None or len(said) >= enough

    sent = beat(make_app(broker.url), REVALIDATE, EVERY, known, over, said.append, again_s=again_s, look_s=LOOK)
    return sent, said


def messages(broker: Redis, target: str) -> list[list[Any]]:
    """Return the arguments of the messages that wait for a target, the oldest first."""
    waiting = broker.client().lrange(f"{KEY_PREFIX}{target}", 0, -1)
    return [json.loads(json.loads(each)["headers"]["argsrepr"].replace("(", "[").replace(")", "]").replace("'", '"'))
            for each in reversed(waiting)]  # fmt: skip


def test_only_what_is_due_is_rung_for_and_once(broker: Redis) -> None:
    now = time.time()
    old, new = Recurring("shop@champion", "cpu", now - EVERY - 1), Recurring("shop@canary", "cpu", now - EVERY + 60)
    elsewhere = Recurring("shop@gpu", "cuda-sm90", 0.0)
    sent, said = rung(broker, lambda: [old, new, elsewhere])
    assert sent == 2 and len(said) == 2
    assert messages(broker, "cpu") == [["shop@champion", old.done_at]]
    assert messages(broker, "cuda-sm90") == [["shop@gpu", 0.0]]


def test_what_nobody_does_is_rung_for_again_and_what_was_done_is_not(broker: Redis) -> None:
    done_at = 0.0

    def known() -> list[Recurring]:
        return [Recurring("shop@champion", "cpu", done_at)]

    assert rung(broker, known, looks=2000, again_s=2 * LOOK, enough=3)[0] == 3
    done_at = time.time()
    assert rung(broker, known, looks=8, again_s=2 * LOOK)[0] == 0


def test_an_outage_of_the_ledger_or_of_the_broker_is_said_and_outlasted(broker: Redis) -> None:
    looks = iter(range(100))

    def known() -> list[Recurring]:
        if next(looks) < 2:
            raise InfrastructureError("the ledger cannot be reached")
        return [Recurring("shop@champion", "cpu", 0.0)]

    broker.kill()
    sent, said = rung(broker, known, looks=4)
    assert sent == 0 and "the ledger cannot be reached" in said[0] and "the broker cannot be reached" in said[-1]
    broker.start()
    assert rung(broker, known)[0] == 1


def test_a_worker_hears_its_errands_beside_its_trials(broker: Redis) -> None:
    heard, trials, stop = list[tuple[str, float]](), list[str](), Cancellation()
    rung(broker, lambda: [Recurring("shop@champion", "cpu", 12.5)])

    def listen() -> None:
        hear(make_app(broker.url, ["cpu"]), "cpu", trials.append, lambda pause: wait_for((stop,), pause),
             revalidate=lambda name, done_at: heard.append((name, done_at)))  # fmt: skip

    thread = threading.Thread(target=listen)
    thread.start()
    make_app(broker.url, ["cpu"]).send_task("paretune.trial", args=["s/0"], queue="cpu")
    until(lambda: bool(heard) and bool(trials), 20)
    stop.set()
    thread.join(20)
    assert (heard, trials) == ([("shop@champion", 12.5)], ["s/0"])
