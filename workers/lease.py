"""Leases: who runs a trial, whether that process still lives, and the heartbeat that keeps the lease."""

from __future__ import annotations

import os
import secrets
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from evaluators.errors import InfrastructureError, UsageError
from workers.holds import held_alone
from workers.ledger import Ledger
from workers.repeated import Repeated


@cache
def _host() -> str:
    return socket.gethostname()


def owner_name(part: str = "") -> str:
    """Name this process so that nobody else ever has the name: ``host:pid:start of the process``.

    ``part`` tells those apart who share a process: ``host:pid:start/part``.
    """
    name = f"{_host()}:{os.getpid()}:{_started(os.getpid())}"
    return f"{name}/{part}" if part else name


def owner_is_alive(owner: str) -> bool:
    """Whether the process named by ``owner`` may still live; only a process of this host can be known to be dead."""
    host, pid, started = owner.partition("/")[0].rsplit(":", 2)
    return host != _host() or _started(int(pid)) == started


def _started(pid: int) -> str | None:
    """Tell when a process was started, in a clock that nobody adjusts where there is one; None if it is dead."""
    try:
        if not Path("/proc/self/stat").exists():
            return f"{psutil.Process(pid).create_time():.0f}"
        # proc(5): after the name in brackets come the state and, 19 fields on, the start in ticks since boot.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


class Cancellation:
    """A one-way switch that can be waited on together with file descriptors: set once, it stays set."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._set = False

    def set(self) -> None:
        """Ask whoever waits to stop. Safe in any thread and in a signal handler, and twice."""
        if not self._set:
            self._set = True
            self._writer.send(b"!")

    @property
    def is_set(self) -> bool:
        """Whether somebody has asked to stop."""
        return self._set

    def fileno(self) -> int:
        """Return a descriptor that is readable once the switch is set."""
        return self._reader.fileno()

    def __del__(self) -> None:
        self._reader.close()
        self._writer.close()


def wait_for(switches: Sequence[Cancellation], seconds: float) -> bool:
    """Block until a switch is set or ``seconds`` have passed; return whether one is set."""
    poller = select.poll()
    for switch in switches:
        poller.register(switch, select.POLLIN)
    poller.poll(seconds * 1000)
    return any(switch.is_set for switch in switches)


class Heartbeat(Repeated):
    """Renews a lease from a thread while its block runs; ``lost`` is set if the lease goes to someone else.

    Where the ledger cannot be reached the beat is tried again: the lease outlives two missed beats.
    """

    def __init__(self, ledger: Ledger, trial_id: str, attempt: int, owner: str, lease_seconds: float) -> None:
        self.lost = Cancellation()
        self._ledger = ledger
        self._lease = (trial_id, attempt, owner, lease_seconds)
        super().__init__(self._beat, lease_seconds / 3, f"heartbeat {trial_id}")

    def _beat(self) -> bool:
        renewed = self._ledger.heartbeat(*self._lease)
        if not renewed:
            self.lost.set()
        return renewed


@contextmanager
def registry_lock(ledger: Ledger, model: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Be the only one of all who share the ledger who moves aliases of a registered model; others wait for it.

    Args:
        ledger: which all of them share.
        model: whose aliases.
        waiting: called once where somebody else is at it.

    Raises:
        InfrastructureError: the ledger cannot be reached, or somebody else took it: this process was silent for long.
    """
    with held_alone(ledger, f"registry {model}", owner=owner_name(), is_alive=owner_is_alive, waiting=waiting):
        yield


SEARCH_LEASE_SECONDS = 30.0
"""After so long without a word from its coordinator another one may take a search."""


class SearchTakenError(UsageError):
    """Another process runs the search."""


class SearchLease(Repeated):
    """Makes this process the only coordinator of a search while its block runs, wherever others may be.

    ``lost`` is set if somebody else takes the search: this process was silent for too long.
    """

    def __init__(self, ledger: Ledger, search_id: str) -> None:
        self.lost = Cancellation()
        self._ledger, self._search_id = ledger, search_id
        self._owner = owner_name(secrets.token_hex(4))
        super().__init__(self._keep, SEARCH_LEASE_SECONDS / 3, f"coordinator {search_id}")

    def __enter__(self) -> Self:
        """Take the search.

        Raises:
            SearchTakenError: another process has it; the message names it.
        """
        if not self._ledger.take_search(self._search_id, self._owner, SEARCH_LEASE_SECONDS, owner_is_alive):
            raise SearchTakenError(
                f"search {self._search_id} is being run by {self._holder()}; wait for it, or cancel it first"
            )
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        try:
            self._ledger.leave_search(self._search_id, self._owner)
        except InfrastructureError:
            if error is None:
                raise

    def _keep(self) -> bool:
        kept = self._ledger.keep_search(self._search_id, self._owner, SEARCH_LEASE_SECONDS)
        if not kept:
            self.lost.set()
        return kept

    def _holder(self) -> str:
        found = self._ledger.coordinated(self._search_id)
        if found is None or found.owner is None or found.held_since is None:
            return "another process"
        host, pid, _ = found.owner.partition("/")[0].rsplit(":", 2)
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.held_since))
        return f"process {pid} since {since}" if host == _host() else f"process {pid} on {host} since {since}"
