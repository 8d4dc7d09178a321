"""The sandbox answers whatever its job does, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from jobs_for_tests import PROFILE, RUNNER, until, wait_for_file

from evaluators.errors import InfrastructureError
from evaluators.jobs import ProfileJob
from evaluators.outcome import FailureKind
from workers.child import NO_SPACE_CODE
from workers.deaths import outcome_of_death
from workers.lease import Cancellation
from workers.sandbox import Sandbox, SandboxResult

LIMIT = 2**30
MODES = ["fork", "spawn"] if sys.platform == "linux" else ["spawn"]


@pytest.fixture(scope="module", params=MODES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(runner=RUNNER, mode=request.param) as sandbox:
        yield sandbox
    assert not [child for child in psutil.Process().children(recursive=True) if _is_ours(child)]


@pytest.fixture
def do(sandbox: Sandbox, tmp_path: Path) -> Callable[..., SandboxResult]:
    def do(what: str, timeout_s: float = 20.0, **options: object) -> SandboxResult:
        job = ProfileJob(workload=what, home=str(tmp_path))
        return sandbox.run(job, tmp_path / "job", timeout_s=timeout_s, memory_limit_bytes=LIMIT, **options)

    return do


Do = Callable[..., SandboxResult]


def test_a_job_answers(do: Do, tmp_path: Path) -> None:
    ended = do("", env={"GREETING": "hello"})

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert ended.result is not None and ended.result.profile == PROFILE
    assert (ended.exit_code, ended.signal, ended.timed_out, ended.stage) == (0, None, False, "act")
    assert facts["env"]["GREETING"] == "hello"
    assert facts["pid"] != os.getpid()
    assert "GREETING" not in os.environ
    assert ended.peak_rss_bytes > 2**20


@pytest.mark.parametrize("sandbox", MODES[:1], indirect=True)
@pytest.mark.parametrize(
    ("what", "kind", "says"),
    [
        ("segfault", FailureKind.CRASHED, "segmentation fault (SIGSEGV) in stage act"),
        ("abort", FailureKind.CRASHED, "SIGABRT"),
        ("bad_alloc", FailureKind.OUT_OF_MEMORY, "of limit 1024 MiB"),
        ("killed", FailureKind.KILLED, "ended from outside (SIGKILL)"),
        ("terminated", FailureKind.KILLED, "ended from outside (SIGTERM)"),
        ("exit0", FailureKind.CRASHED, "exited with code 0 and no answer"),
        ("exit3", FailureKind.CRASHED, "exited with code 3 and no answer"),
    ],
)
def test_a_death_is_an_outcome(do: Do, what: str, kind: FailureKind, says: str) -> None:
    ended = do(what)

    outcome = outcome_of_death(ended)
    assert ended.result is None
    assert outcome.failure is not None and outcome.failure.kind == kind
    assert says in outcome.failure.reason
    assert outcome.failure.stage == "act"


@pytest.mark.parametrize(
    ("kernel_killed", "kind"),
    [(True, FailureKind.OUT_OF_MEMORY), (None, FailureKind.OUT_OF_MEMORY), (False, FailureKind.KILLED)],
)
def test_the_kernels_count_tells_a_lack_of_memory_from_a_kill(kernel_killed: bool | None, kind: FailureKind) -> None:
    death = SandboxResult(
        result=None, exit_code=None, signal=9, timed_out=False, cancelled=False, stage="build", seconds=1.0,
        log_tail="", peak_rss_bytes=2**20, timeout_s=60.0, memory_limit_bytes=None, kernel_killed=kernel_killed,
    )  # fmt: skip

    failure = outcome_of_death(death).failure
    assert failure is not None and failure.kind == kind


def test_a_job_that_cannot_write_its_answer_down_has_no_disk() -> None:
    death = SandboxResult(
        result=None, exit_code=NO_SPACE_CODE, signal=None, timed_out=False, cancelled=False, stage="build", seconds=1.0,
        log_tail="", peak_rss_bytes=2**20, timeout_s=60.0, memory_limit_bytes=None,
    )  # fmt: skip

    failure = outcome_of_death(death).failure
    assert failure is not None and failure.kind == FailureKind.DISK_FULL


def test_the_log_of_a_crash_shows_where(do: Do) -> None:
    ended = do("segfault")

    outcome = outcome_of_death(ended)
    assert outcome.failure is not None and "in act" in outcome.failure.details


@pytest.mark.parametrize("sandbox", MODES[:1], indirect=True)
@pytest.mark.parametrize(
    ("what", "kind"),
    [("raise", FailureKind.ERROR), ("hog", FailureKind.OUT_OF_MEMORY), ("torch_hog", FailureKind.OUT_OF_MEMORY)],
)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
def test_an_exception_is_an_answer(do: Do, what: str, kind: FailureKind) -> None:
    ended = do(what)

    assert ended.result is not None and ended.result.outcome is not None
    failure = ended.result.outcome.failure
    assert failure is not None and (failure.kind, failure.stage) == (kind, "act")
    assert "Traceback" in failure.details
    assert ended.peak_rss_bytes < 1.1 * LIMIT


def test_a_hang_is_killed_in_time_and_says_where_it_hung(do: Do, tmp_path: Path) -> None:
    started = time.monotonic()
    ended = do("hang", timeout_s=1.0)

    outcome = outcome_of_death(ended)
    assert time.monotonic() - started < 6.0
    assert outcome.failure is not None and outcome.failure.kind == FailureKind.TIMED_OUT
    assert outcome.failure.reason == "no answer within 1 s, in stage act"
    assert "in hang_in_here" in outcome.failure.details
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(("what", "timed_out"), [("family", True), ("orphans", False)])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the warden")
def test_nothing_that_a_job_started_outlives_it(do: Do, tmp_path: Path, what: str, timed_out: bool) -> None:
    ended = do(what, timeout_s=2.0)

    family = json.loads((tmp_path / "family.json").read_text())
    assert ended.timed_out == timed_out
    assert [pid for pid in family if psutil.pid_exists(pid)] == []


def test_a_switch_ends_a_job(do: Do, tmp_path: Path) -> None:
    switch = Cancellation()
    threading.Thread(target=lambda: (wait_for_file(tmp_path / "pid"), switch.set())).start()

    ended = do("hang", cancel=[Cancellation(), switch])

    assert ended.cancelled and not ended.timed_out and ended.result is None
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_jobs_run_side_by_side(sandbox: Sandbox, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    job = ProfileJob(workload="meet3", home=str(place))
    ended: list[SandboxResult] = []

    def run(number: int) -> None:
        ended.append(sandbox.run(job, tmp_path / str(number), timeout_s=30))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [result.exit_code for result in ended] == [0] * 3, "each waits until all three are there"


def test_an_earlier_answer_is_not_taken_for_a_new_one(do: Do) -> None:
    assert do("").result is not None
    assert do("segfault").result is None


def test_no_zombie_is_left(do: Do) -> None:
    for what in ("", "segfault"):
        do(what)

    until(lambda: not _zombies())


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")
def test_a_forked_job_starts_at_once_and_alone(tmp_path: Path) -> None:
    job = ProfileJob(workload="", home=str(tmp_path))
    with Sandbox(runner=RUNNER, mode="fork") as sandbox:
        sandbox.run(job, tmp_path / "job", timeout_s=20)
        waits = []
        for _ in range(5):
            asked = time.monotonic()
            sandbox.run(job, tmp_path / "job", timeout_s=20)
            waits.append(json.loads((tmp_path / "facts.json").read_text())["clock"] - asked)

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert min(waits) < 0.2
    assert "torch" in facts["modules"]
    assert facts["threads"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux only")
def test_a_killed_fork_server_is_replaced_and_its_jobs_go_on(tmp_path: Path) -> None:
    with Sandbox(runner=RUNNER, mode="fork") as sandbox:
        ended: list[SandboxResult] = []
        job = ProfileJob(workload="sleep1", home=str(tmp_path))
        running = threading.Thread(target=lambda: ended.append(sandbox.run(job, tmp_path / "a", timeout_s=20)))
        running.start()
        wait_for_file(tmp_path / "a" / "stage")
        first = sandbox.server_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)

        again = sandbox.run(ProfileJob(workload="", home=str(tmp_path)), tmp_path / "b", timeout_s=20)
        running.join()

        assert again.exit_code == 0 and ended[0].exit_code == 0
        assert sandbox.server_pid not in (None, first)


@pytest.mark.parametrize("sandbox", MODES[:1], indirect=True)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a job with its warden")
def test_a_killed_warden_takes_its_job_along_and_is_an_infrastructure_error(do: Do, tmp_path: Path) -> None:
    def kill_the_warden() -> None:
        wait_for_file(tmp_path / "pid")
        psutil.Process(int((tmp_path / "pid").read_text())).parent().kill()

    threading.Thread(target=kill_the_warden).start()
    with pytest.raises(InfrastructureError, match="its warden is gone"):
        do("hang")

    job = int((tmp_path / "pid").read_text())
    until(lambda: not psutil.pid_exists(job) or psutil.Process(job).status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_start_is_an_infrastructure_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Sandbox(mode=mode) as sandbox, pytest.raises(InfrastructureError, match="process"):  # type: ignore[arg-type]
        sandbox.run(ProfileJob(workload="", home=str(tmp_path)), tmp_path / "job", timeout_s=5)


def _is_ours(process: psutil.Process) -> bool:
    try:
        return "workers" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _zombies() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
