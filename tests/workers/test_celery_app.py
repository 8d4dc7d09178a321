"""Celery as a doorbell, on a real broker: what is rung is heard once, by the right workers, and in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from jobs_for_tests import MEASURED, PROFILE, candidate, capabilities, until

from evaluators.errors import InfrastructureError, UsageError
from scripts.servers import Redis
from tests.faults.sleeping import SleepingSandbox
from workers.celery_app import KEY_PREFIX, CeleryBell, hear, make_app
from workers.lease import Cancellation, wait_for
from workers.ledger import Ledger
from workers.settings import TrialSettings
from workers.worker import Worker


@contextmanager
def hearing(broker: Redis, target: str, handle: Callable[[str], None]) -> Iterator[None]:
    """Hear a queue in a thread for the block."""
    stop, app = Cancellation(), make_app(broker.url, [target])
    thread = threading.Thread(target=hear, args=(app, target, handle, lambda seconds: wait_for((stop,), seconds)))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def bell(broker: Redis) -> CeleryBell:
    return CeleryBell(make_app(broker.url), lambda: {"cpu", "gpu"})


def test_what_is_rung_is_heard_by_the_workers_of_its_target(broker: Redis, bell: CeleryBell) -> None:
    heard: list[str] = []
    bell.ring("gpu", "s/9")
    with hearing(broker, "cpu", heard.append):
        for number in range(3):
            bell.ring("cpu", f"s/{number}")
        until(lambda: len(heard) == 3, 20)
    assert sorted(heard) == ["s/0", "s/1", "s/2"]
    (waiting,) = broker.client().lrange(f"{KEY_PREFIX}gpu", 0, -1)
    message = json.loads(waiting)
    assert message["content-type"] == "application/json"
    assert "s/9" in message["headers"]["argsrepr"]


def test_what_fails_while_it_is_handled_is_not_heard_again(broker: Redis, bell: CeleryBell) -> None:
    heard: list[str] = []

    def handle(trial_id: str) -> None:
        heard.append(trial_id)
        if trial_id == "s/0":
            raise RuntimeError("not this one")

    with hearing(broker, "cpu", handle):
        bell.ring("cpu", "s/0")
        bell.ring("cpu", "s/1")
        until(lambda: len(heard) == 2, 20)
    assert heard == ["s/0", "s/1"]
    assert broker.client().llen(f"{KEY_PREFIX}cpu") == 0


def test_a_target_that_never_had_a_worker_has_no_queue(broker: Redis, bell: CeleryBell) -> None:
    with pytest.raises(UsageError, match="no worker has ever served 'cuda-sm90', so it has no queue"):
        bell.ring("cuda-sm90", "s/0")
    assert not broker.client().keys(f"{KEY_PREFIX}cuda*")


def test_a_broker_that_is_gone_is_an_infrastructure_error(broker: Redis, bell: CeleryBell) -> None:
    bell.ring("cpu", "s/0")
    broker.kill()
    for _ in range(2):
        with pytest.raises(InfrastructureError, match="the broker cannot be reached"):
            bell.ring("cpu", "s/1")
    broker.start()
    bell.ring("cpu", "s/2")
    assert broker.client().llen(f"{KEY_PREFIX}cpu") == 1


@pytest.mark.parametrize("url", ["filesystem://", "memory://", "amqp://host", "nonsense"])
def test_a_broker_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        make_app(url)


def test_a_worker_hears_each_trial_once_although_it_is_rung_for_twice_and_of_strange_ones(
    broker: Redis, bell: CeleryBell, ledger: Ledger, tmp_path: Path
) -> None:
    search = ledger.create_search("w.py:workload", {}).id
    ledger.keep_settings(search, TrialSettings(profile=PROFILE, memory_limit_bytes=2**30))
    trials = [ledger.add_trial(search, candidate(number), "sampled", "key") for number in range(2)]
    done = ledger.add_trial(search, candidate(2), "sampled", "key")
    assert ledger.claim(done.id, 1, "earlier", 60) and ledger.finish(done.id, 1, "earlier", MEASURED)
    elsewhere = ledger.add_trial(search, candidate(3).model_copy(update={"target": "gpu"}), "sampled", "key")
    sandbox, drain = SleepingSandbox(0.02), Cancellation()
    worker = Worker(ledger, sandbox, tmp_path, capabilities(), locks=tmp_path)
    app, finished = make_app(broker.url, ["cpu"]), list[int]()
    for trial_id in ("no such trial", done.id, elsewhere.id, *(trial.id for trial in trials for _ in range(2))):
        bell.ring("cpu", trial_id)

    work = threading.Thread(target=lambda: finished.append(worker.run(drain, Cancellation(), partial(hear, app))))
    work.start()
    until(lambda: all(ledger.trial(trial.id).state == "DONE" for trial in trials), 30)
    until(lambda: broker.client().llen(f"{KEY_PREFIX}cpu") == 0, 10)
    drain.set()
    work.join(20)

    assert finished == [2]
    assert [len(ledger.attempts(trial.id)) for trial in (*trials, done, elsewhere)] == [1, 1, 1, 0]


def test_celery_is_loaded_only_where_there_is_a_broker() -> None:
    script = "import sys, search.cli.app, workers.worker, search.machines; print('celery' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
