"""Workers share a ledger: each claims trials of its target, none runs twice, and each can be asked to leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jobs_for_tests import MEASURED, PROFILE, candidate, capabilities, until, wait_for_file

from evaluators.capabilities import Capabilities
from workers.lease import Cancellation, owner_is_alive, owner_name
from workers.ledger import Ledger
from workers.records import TrialRecord
from workers.registered import SILENT_SECONDS
from workers.sandbox import Sandbox
from workers.settings import TrialSettings
from workers.supervisor import device_environment
from workers.worker import Worker

SETTINGS = TrialSettings(profile=PROFILE, trial_timeout_s=20.0, lease_seconds=30.0, memory_limit_bytes=2**30)


@pytest.fixture
def search(ledger: Ledger) -> str:
    search = ledger.create_search("w.py:workload", {}).id
    ledger.keep_settings(search, SETTINGS)
    return search


class Working:
    """A worker in a thread, until it is asked to leave."""

    def __init__(self, worker: Worker) -> None:
        self.worker, self.drain, self.abort, self.finished = worker, Cancellation(), Cancellation(), -1
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.finished = self.worker.run(self.drain, self.abort)

    def __enter__(self) -> Working:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def working(ledger: Ledger, sandbox: Sandbox, tmp_path: Path) -> Callable[..., Working]:
    def working(told: Capabilities | None = None, **more: Any) -> Working:
        return Working(Worker(ledger, sandbox, tmp_path, told or capabilities(), locks=tmp_path, **more))

    return working


def queue(ledger: Ledger, search: str, number: int = 0, target: str = "cpu", **knobs: Any) -> TrialRecord:
    wanted = candidate(number, **knobs).model_copy(update={"target": target})
    return ledger.add_trial(search, wanted, "sampled", "key")


def done(ledger: Ledger, *trials: TrialRecord) -> bool:
    return all(ledger.trial(trial.id).state == "DONE" for trial in trials)


def test_a_worker_runs_the_trials_of_its_target_and_leaves_the_others(
    ledger: Ledger, search: str, working: Callable[..., Working]
) -> None:
    mine = [queue(ledger, search, number) for number in range(2)]
    other = queue(ledger, search, 5, target="cpu-arm64")

    with working() as worker:
        until(lambda: done(ledger, *mine), 20)

    assert ledger.trial(other.id).state == "QUEUED"
    assert worker.finished == 2
    assert {ledger.attempts(trial.id)[0].owner for trial in mine} == {worker.worker.id}


def test_a_worker_is_registered_while_it_works_and_what_it_told_is_kept(
    ledger: Ledger, search: str, working: Callable[..., Working]
) -> None:
    with working(name="left", device="cpu") as worker:
        until(lambda: bool(ledger.workers()), 20)
        (there,) = ledger.workers()
        assert ledger.present(there, owner_is_alive)
    (gone,) = ledger.workers()

    assert (there.name, there.target, there.pid, there.id) == ("left", "cpu", os.getpid(), worker.worker.id)
    assert there.capabilities == gone.capabilities == capabilities()
    assert not ledger.present(gone, owner_is_alive)


def test_a_worker_that_is_silent_or_dead_is_not_there(tmp_path: Path) -> None:
    now = [1000.0]
    with closing(Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", clock=lambda: now[0])) as ledger:
        ledger.register_worker(owner_name("a"), "a", "here", 1, capabilities(), "cpu")
        ledger.register_worker("somewhere:1:2/b", "b", "somewhere", 1, capabilities(), "cpu")
        present = [ledger.present(worker, owner_is_alive) for worker in ledger.workers()]
        dead = [ledger.present(worker, lambda owner: not owner.startswith("somewhere")) for worker in ledger.workers()]
        now[0] += SILENT_SECONDS + 1
        assert ledger.worker_seen(owner_name("a")) and not ledger.worker_seen("nobody")
        silent = {worker.name: ledger.present(worker, owner_is_alive) for worker in ledger.workers()}
    assert (present, sorted(dead), silent) == ([True, True], [False, True], {"a": True, "b": False})


@pytest.mark.parametrize("change", [{"status": "finished"}, {"cancel_requested": True}])
def test_nobody_works_for_a_search_that_does_not_run(ledger: Ledger, search: str, change: dict[str, Any]) -> None:
    queue(ledger, search)
    assert len(ledger.queued("cpu")) == 1
    if "status" in change:
        ledger.update_search(search, status="finished")
    else:
        ledger.request_cancel(search)
    assert ledger.queued("cpu") == ()


def test_a_search_that_told_nothing_is_left_to_itself(ledger: Ledger) -> None:
    queue(ledger, ledger.create_search("w.py:workload", {}).id)
    assert ledger.queued("cpu") == ()


def test_a_machine_of_another_kind_under_the_same_name_is_no_match(
    ledger: Ledger, search: str, working: Callable[..., Working]
) -> None:
    wanted = capabilities(cores=64).target.fingerprint
    ledger.keep_settings(search, SETTINGS.model_copy(update={"fingerprints": {"cpu": wanted}}))
    trial = queue(ledger, search)

    with working(capabilities(cores=2)), working(capabilities(cores=64), device="cpu") as fitting:
        until(lambda: done(ledger, trial), 20)

    assert ledger.attempts(trial.id)[0].owner == fitting.worker.id


def test_a_worker_that_is_drained_finishes_its_trial_and_takes_no_other(
    ledger: Ledger, search: str, working: Callable[..., Working], tmp_path: Path
) -> None:
    first, second = queue(ledger, search, 0, measure="sleep1.5"), queue(ledger, search, 1)

    with working() as worker:
        until(lambda: ledger.trial(first.id).state == "RUNNING", 20)
        worker.drain.set()

    assert (ledger.trial(first.id).state, ledger.trial(second.id).state, worker.finished) == ("DONE", "QUEUED", 1)


def test_a_worker_that_is_aborted_gives_its_trial_back(
    ledger: Ledger, search: str, working: Callable[..., Working], tmp_path: Path
) -> None:
    trial = queue(ledger, search, measure="hang")

    with working() as worker:
        wait_for_file(tmp_path / "pid")
        worker.abort.set()

    found = ledger.trial(trial.id)
    assert (found.state, found.attempt, worker.finished) == ("QUEUED", 2, 0)


@pytest.mark.parametrize("how", ["finished", "cancelled"])
def test_a_trial_is_given_back_when_its_search_ends(
    ledger: Ledger, search: str, working: Callable[..., Working], tmp_path: Path, how: str
) -> None:
    trial = queue(ledger, search, measure="hang")

    with working():
        wait_for_file(tmp_path / "pid")
        ledger.update_search(search, status="finished") if how == "finished" else ledger.request_cancel(search)
        until(lambda: ledger.trial(trial.id).state == "QUEUED", 10)

    assert ledger.attempts(trial.id)[0].ended_how == "released"


def test_a_rerun_that_is_taken_back_ends_with_its_earlier_outcome_and_its_worker_stops(
    ledger: Ledger, search: str, working: Callable[..., Working], tmp_path: Path
) -> None:
    ledger.keep_settings(search, SETTINGS.model_copy(update={"lease_seconds": 1.5}))
    trial = queue(ledger, search, measure="hang")
    ledger.claim(trial.id, 1, "earlier", 60)
    ledger.finish(trial.id, 1, "earlier", MEASURED)
    ledger.rerun(trial.id)

    with working() as worker:
        wait_for_file(tmp_path / "pid")
        assert ledger.withdraw(trial.id)
        until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists(), 10)

    found = ledger.trial(trial.id)
    assert (found.state, found.outcome, worker.finished) == ("DONE", MEASURED, 0)
    assert ledger.attempts(trial.id)[1].ended_how == "released"


def test_workers_of_one_target_share_the_trials_and_none_runs_twice(
    ledger: Ledger, search: str, tmp_path: Path
) -> None:
    trials = [queue(ledger, search, number) for number in range(4)]
    script = f"""
        import signal
        from pathlib import Path
        from jobs_for_tests import RUNNER, capabilities
        from workers.lease import Cancellation
        from workers.ledger import Ledger
        from workers.sandbox import Sandbox
        from workers.worker import Worker
        home, drain = Path({str(tmp_path)!r}), Cancellation()
        signal.signal(signal.SIGTERM, lambda *_: drain.set())
        with Sandbox(runner=RUNNER, mode="spawn") as sandbox:
            print(Worker(Ledger.at(home), sandbox, home, capabilities()).run(drain, Cancellation()))
    """
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{Path(folder).parent.parent}"}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: done(ledger, *trials), 60)
    for process in started:
        process.send_signal(signal.SIGTERM)
    counts = [int(process.communicate(timeout=30)[0]) for process in started]

    assert sum(counts) == 4
    assert [len(ledger.attempts(trial.id)) for trial in trials] == [1] * 4


@pytest.mark.parametrize(
    ("device", "left", "seen"),
    [("cpu", None, None), ("mps", None, None), ("cuda:0", None, "0"), ("cuda:1", None, "1"), ("cuda:1", "2,5", "5"),
     ("cuda:0", "GPU-4f6d", "GPU-4f6d")],
)  # fmt: skip
def test_a_job_sees_its_own_gpu_only(device: str, left: str | None, seen: str | None) -> None:
    environment = {} if left is None else {"CUDA_VISIBLE_DEVICES": left}
    assert device_environment(device, environment).get("CUDA_VISIBLE_DEVICES") == seen


def test_memory_is_a_share_of_the_workers_machine_unless_asked_for() -> None:
    unasked = SETTINGS.model_copy(update={"memory_limit_bytes": None})
    assert SETTINGS.on(capabilities().target).memory_limit_bytes == 2**30
    assert unasked.on(capabilities().target).memory_limit_bytes == int(0.8 * 2**33)
