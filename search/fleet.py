"""Fleet: who can run the trials of a search — this machine, and the workers that the ledger knows."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from evaluators.capabilities import Capabilities
from evaluators.target import Target, default_target, probe_targets
from search.presence import Presence
from search.spec import SearchSpec
from workers.interpreters import Interpreters
from workers.ledger import Ledger
from workers.records import WorkerRecord

REPORT_SECONDS = 60.0
"""How often it is said again that a search waits."""


def targets_of(spec: SearchSpec) -> tuple[str, ...]:
    """Return the names of the targets that a search is about: as asked, else this machine's default."""
    return spec.targets or (default_target().name,)


def local_capabilities(targets: Sequence[str], interpreters: Interpreters | None = None) -> dict[str, Capabilities]:
    """Return what this machine can run on those of ``targets`` that it has, each backend in its interpreter."""
    chosen = interpreters or Interpreters()
    return {target.name: chosen.capabilities_of(target) for target in probe_targets() if target.name in targets}


def known_targets(names: Sequence[str], home: Path) -> tuple[Target, ...]:
    """Return the facts of targets as far as they are known: this machine's, and what workers of ``home`` told."""
    with closing(Ledger.at(home)) as ledger:
        known = Fleet(ledger, home, names, local_capabilities(names)).capabilities()
    return tuple(capabilities.target for capabilities in known.values())


class Fleet:
    """The workers of a search's targets, as the ledger knows them.

    Args:
        ledger: where workers register.
        home: the home that they must share.
        targets: the targets of the search.
        local: those of them that this machine serves itself.
        presence: knows who is there; one is shared by all searches of a process.
    """

    def __init__(
        self, ledger: Ledger, home: Path, targets: Sequence[str], local: Mapping[str, Capabilities],
        presence: Presence | None = None,
    ) -> None:  # fmt: skip
        self._ledger, self._home, self._targets, self._local = ledger, home, tuple(targets), dict(local)
        self._presence = presence or Presence(ledger)
        self._reported: dict[str, float] = {}
        self._fingerprints: dict[str, str] = {}

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The targets that other machines serve."""
        return tuple(target for target in self._targets if target not in self._local)

    def capabilities(self) -> dict[str, Capabilities]:
        """Return what is known of each target, in the order of the targets; those of which nothing is are left out.

        What a worker told before it left still holds: its trials wait for the next one.
        """
        told: dict[str, Capabilities] = {}
        for worker in self._workers():
            told.setdefault(worker.target, worker.capabilities)
        known = told | self._local
        found = {target: known[target] for target in self._targets if target in known}
        self._fingerprints = {target: each.target.fingerprint for target, each in found.items()}
        return found

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each target whose capabilities were asked for: workers of another one are not counted."""
        return dict(self._fingerprints)

    def present(self, max_age_s: float = 0.0) -> dict[str, int]:
        """Return how many workers are there for each target that has any, as it was up to ``max_age_s`` ago."""
        counts: dict[str, int] = {}
        for worker in self._presence.workers(max_age_s):
            if worker.target in self._targets and self._is_wanted(worker.target, worker.fingerprint):
                counts[worker.target] = counts.get(worker.target, 0) + 1
        return counts

    def idle(self) -> tuple[str, ...]:
        """Return the targets that have a worker with nothing to do."""
        running = self._ledger.running_on()
        return tuple(target for target, count in self.present().items() if count > running.get(target, 0))

    def report(self, targets: Sequence[str], say: Callable[[str], None], now: float | None = None) -> None:
        """Say that the search waits for workers of ``targets``: at once, and then every minute."""
        now = time.monotonic() if now is None else now
        for target in tuple(self._reported):
            if target not in targets:
                del self._reported[target]
        for target in targets:
            if now - self._reported.get(target, float("-inf")) >= REPORT_SECONDS:
                self._reported[target] = now
                say(self.waiting_for(target))

    def waiting_for(self, target: str) -> str:
        """Say that nobody is there for ``target``, since when, and how to start a worker there."""
        last = next((each for each in self._workers() if each.target == target and self._is_of_the_kind(each)), None)
        since = "yet" if last is None else f"since {time.strftime('%H:%M:%S', time.localtime(last.last_seen))}"
        start = f"paretune worker --home {shlex.quote(str(self._home))} --target {target}"
        return f"waiting for {target}: no worker {since}; start one on such a machine: {start}"

    def _is_of_the_kind(self, worker: WorkerRecord) -> bool:
        return self._is_wanted(worker.target, worker.capabilities.target.fingerprint)

    def _is_wanted(self, target: str, fingerprint: str) -> bool:
        return self._fingerprints.get(target) in (None, fingerprint)

    def _workers(self) -> tuple[WorkerRecord, ...]:
        return self._ledger.workers()
