"""Owners are known to be dead only when they are; heartbeats keep a lease, and notice when it is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from jobs_for_tests import candidate

from workers.lease import Cancellation, Heartbeat, owner_is_alive, owner_name, wait_for
from workers.ledger import Ledger


def test_this_process_is_alive_and_has_one_name() -> None:
    assert owner_name() == owner_name()
    assert f":{os.getpid()}:" in owner_name()
    assert owner_is_alive(owner_name())


def test_a_dead_process_is_dead_before_and_after_it_is_reaped() -> None:
    script = "from workers.lease import owner_name; print(owner_name(), flush=True); input()"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    owner = process.stdout.readline().strip()
    assert owner_is_alive(owner)

    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not owner_is_alive(owner)
    process.wait()
    assert not owner_is_alive(owner)


def test_a_reused_process_id_is_another_owner() -> None:
    host, pid, _ = owner_name().rsplit(":", 2)

    assert not owner_is_alive(f"{host}:{pid}:1")


def test_nothing_is_known_of_other_hosts() -> None:
    assert owner_is_alive("another-host:1:1")


def test_a_switch_stays_set() -> None:
    switch, other = Cancellation(), Cancellation()

    started = time.monotonic()
    assert not wait_for([switch, other], 0.05)
    assert time.monotonic() - started >= 0.04
    threading.Timer(0.05, switch.set).start()
    assert wait_for([switch, other], 10)
    switch.set()
    assert wait_for([other, switch], 10) and wait_for([switch], 10)
    assert time.monotonic() - started < 5


def test_a_heartbeat_keeps_a_lease_until_it_is_lost(tmp_path: Path) -> None:
    ledger = Ledger.at(tmp_path)
    search = ledger.create_search("w.py:workload", {})
    trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
    ledger.claim(trial.id, 1, "me", 0.6)

    with Heartbeat(ledger, trial.id, 1, "me", 0.6) as heartbeat:
        assert not wait_for([heartbeat.lost], 1.0)
        assert ledger.requeue_lost(search.id, lambda owner: True) == ()
        assert ledger.requeue_lost(search.id, lambda owner: False) != ()
        assert wait_for([heartbeat.lost], 5.0)
