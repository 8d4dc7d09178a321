"""Sandboxes that are killed, crash, hang, eat all memory or fill the disk, under workers of a fleet."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from scripts.servers import PostgreSql, Redis, wait_until
from tests.conftest import present
from tests.faults.coordinating import coordinating, submit_sizes
from tests.faults.fleet import Fleet, outcome_of
from tests.faults.sandboxed import BUNDLE_BYTES
from tests.faults.sleeping import GPU

TRIALS = 9
WORKERS = {name: {"target": GPU, "device": f"sleep:{name}", "retry_s": 0.5} for name in ("a", "b")}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_sandbox_is_killed_while_it_writes_and_its_trial_is_tried_again(fleet: Fleet, number: signal.Signals) -> None:
    fleet.order(seconds=0.5)
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, TRIALS)
        trial_id, name = fleet.busy(search)
        wait_until(lambda: fleet.jobs_of(name) != [])
        fleet.jobs_of(name)[0].send_signal(number)
        fleet.order()
        ended = outcome_of(fleet, search)
    assert ended.in_vain == ["disturbed"]
    assert set(ended.kinds.values()) == {"measured"}
    assert [attempt.ended_how for attempt in fleet.ledger.attempts(trial_id)] == ["disturbed", "finished"]


@pytest.mark.parametrize("whose", ["warden", "fork server"])
def test_what_guards_a_sandbox_is_killed(fleet: Fleet, whose: str) -> None:
    fleet.order(seconds=0.5)
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, TRIALS)
        _, name = fleet.busy(search)
        wait_until(lambda: fleet.jobs_of(name) != [])
        job = fleet.jobs_of(name)[0]
        warden = job.parent()
        assert warden is not None
        killed = warden if whose == "warden" else warden.parent()
        assert killed is not None
        killed.kill()
        fleet.order()
        ended = outcome_of(fleet, search)
    assert ended.in_vain == (["released"] if whose == "warden" else [])
    assert set(ended.kinds.values()) == {"measured"}
    with suppress(psutil.NoSuchProcess):
        job.wait(10)
    assert not job.is_running(), "nothing of it is left"


def test_jobs_that_crash_hang_and_eat_all_memory_fail_and_the_others_are_measured(fleet: Fleet) -> None:
    fleet.order(seconds=0.05, **{"2": "segfault", "3": "hang", "5": "hog"})
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, 5, trial_timeout_s=4.0, memory_limit_bytes=2**28)
        ended = outcome_of(fleet, search)
    kinds = {trial.candidate.batch_size: ended.kinds[trial.candidate_hash] for trial in ended.trials}
    assert kinds == {1: "measured", 2: "crashed", 3: "timed_out", 4: "measured", 5: "out_of_memory"}
    assert ended.in_vain == []


def small_disk(home: Path) -> list[str]:
    """Return a command that starts a program to which the folder of bundles is a disk with room for one of them."""
    size = BUNDLE_BYTES * 3 // 2
    script = 'mount -t tmpfs -o size="$0" none "$1" && shift && exec "$@"'
    return ["unshare", "-Urm", "sh", "-c", script, str(size), str(home / "bundles")]


@pytest.fixture
def cramped(postgresql: PostgreSql, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of two workers, the first of which has a full disk."""
    (tmp_path / "bundles").mkdir()
    try_it = [*small_disk(tmp_path), "true"]
    if shutil.which("unshare") is None or subprocess.run(try_it, capture_output=True, check=False).returncode:
        pytest.skip("the kernel lets this user mount no file system of a given size")
    with present(Redis) as broker:
        workers = {name: {"target": GPU, "device": f"sleep:{name}", "retry_s": 2.0} for name in ("full", "roomy")}
        fleet = Fleet(postgresql, broker, tmp_path, workers, within={"full": small_disk(tmp_path)})
        try:
            fleet.order()
            fleet.complete()
            yield fleet
        finally:
            fleet.end()


def test_a_worker_whose_disk_is_full_lets_the_others_go_first_and_then_says_so(cramped: Fleet) -> None:
    fleet = cramped
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, TRIALS)
        ended = outcome_of(fleet, search)
    assert "disturbed" in ended.in_vain and set(ended.in_vain) == {"disturbed"}
    assert set(ended.kinds.values()) == {"measured"}
    seen_by_it = Path(f"/proc/{fleet.processes['full'].pid}/root{fleet.home}/bundles")
    left = [path.name for path in seen_by_it.glob("*/*")]
    assert len(left) == 1 and not left[0].startswith("."), "the one that fitted is whole, and nothing else is left"
    log = (fleet.home / "worker-full.log").read_text()
    assert "No space left on device" in log and "free some space" in log

    fleet.processes["roomy"].send_signal(signal.SIGTERM)
    fleet.processes["roomy"].wait(20)
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, 1)
        ended = outcome_of(fleet, search)
    assert set(ended.kinds.values()) == {"disk_full"}, "where no disk has room, the second time is the last"
    assert ended.in_vain == ["disturbed"]
