"""Worker: claims the queued trials of one target, one after the other, and sees each through to its outcome."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from evaluators.capabilities import Capabilities
from evaluators.errors import InfrastructureError
from evaluators.target import devices_of
from workers.interpreters import Interpreters
from workers.lease import Cancellation, owner_name, wait_for
from workers.ledger import Ledger
from workers.records import ComparisonRecord, TrialRecord
from workers.registered import BEAT_SECONDS
from workers.repeated import Repeated
from workers.sandbox import Sandbox
from workers.settings import TrialSettings
from workers.supervisor import Supervisor

LOOK_SECONDS = 0.3
"""How often an idle worker looks for work."""

WATCH_SECONDS = 1.0
"""How often a worker asks whether the search of its trial still runs."""

RETRY_SECONDS = 5.0
"""How long a worker waits after the ledger or the sandbox failed."""


Hear = Callable[[str, Callable[[str], None], Callable[[float], bool]], None]
"""Hears what is rung for a target, hands the ids of trials to a function, and ends when ``until(seconds)`` says so."""


class Worker:
    """Works off the queue of one target on one device: claim, sandbox, finish, through the same ``Supervisor``.

    Any number of workers may share a ledger: a trial is claimed by one of them, and what a worker that lost its lease
    writes is refused.

    Args:
        ledger: where it registers, and where trials are claimed and finished.
        sandbox: where their jobs run.
        home: folder for bundles, caches and job logs; all workers of a ledger see it under the same path.
        capabilities: the target that it serves, and what this machine can run on it.
        name: what people call it, unless told the name of the host and the target.
        device: which of the machine's devices, ``cuda:1``; the first one of the target unless told.
        search_id: the one search that it works for; every running search unless told.
        locks: folder of the device locks, the user's own unless told.
        interpreters: the backends that live in an interpreter of their own.
        say: told what it does, in words.
    """

    def __init__(
        self,
        ledger: Ledger,
        sandbox: Sandbox,
        home: Path,
        capabilities: Capabilities,
        *,
        name: str | None = None,
        device: str | None = None,
        search_id: str | None = None,
        locks: Path | None = None,
        interpreters: Interpreters | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._ledger, self._capabilities, self._search_id, self._say = ledger, capabilities, search_id, say
        self.target = capabilities.target
        self.device = device or (devices_of(self.target.name) or ("cpu",))[0]
        self.id = owner_name(f"{self.target.name}@{self.device}")
        self.name = name or f"{socket.gethostname()}-{self.target.name}"
        self._finished = 0
        self._supervisor = Supervisor(ledger, sandbox, home, owner=self.id, device=self.device, locks=locks,
                                      interpreters=interpreters)  # fmt: skip

    def run(self, drain: Cancellation, abort: Cancellation, hear: Hear | None = None) -> int:
        """Work until ``drain`` is set, and the trial in progress has ended; ``abort`` gives that back at once.

        Args:
            hear: brings the ids of trials that wait; the ledger is looked at again and again unless told.

        Returns:
            The number of trials that it finished.
        """
        self._ledger.register_worker(
            self.id, self.name, socket.gethostname(), os.getpid(), self._capabilities, self.device
        )
        self._finished = 0
        try:
            with Repeated(lambda: self._ledger.worker_seen(self.id), BEAT_SECONDS, f"beat {self.name}"):
                if hear is None:
                    self._look(drain, abort)
                else:
                    hear(self.target.name, partial(self._answer, drain, abort), partial(wait_for, (drain, abort)))
        finally:
            # Where the ledger cannot be told, it notices the silence.
            with suppress(InfrastructureError):
                self._ledger.end_worker(self.id)
        return self._finished

    def _look(self, drain: Cancellation, abort: Cancellation) -> None:
        """Look into the ledger for trials, again and again."""
        while not (drain.is_set or abort.is_set):
            try:
                worked = self._work(abort)
            except InfrastructureError as error:
                self._say(f"{error}; trying again in {RETRY_SECONDS:g} s")
                wait_for((drain, abort), RETRY_SECONDS)
                continue
            if not worked:
                wait_for((drain, abort), LOOK_SECONDS)

    def _answer(self, drain: Cancellation, abort: Cancellation, trial_id: str) -> None:
        """Run the trial that somebody rang for, if it still waits for such a machine."""
        if drain.is_set or abort.is_set:
            return
        try:
            self._work(abort, trial_id)
        except InfrastructureError as error:
            self._say(f"{error}; whoever rang will ring again")

    def _work(self, abort: Cancellation, only: str | None = None) -> bool:
        """Do the oldest work that is for such a machine, or the ``only`` one; False if there is none.

        Comparisons come first: each is the end of a search.
        """
        for comparison in self._ledger.waiting_comparisons(self.target.name, self._search_id):
            settings = self._settings(comparison.search_id) if only in (None, comparison.id) else None
            if settings is not None:
                self._compare(comparison, settings, abort)
                return True
        for trial in self._ledger.queued(self.target.name, self._search_id):
            settings = self._settings(trial.search_id) if only in (None, trial.id) else None
            if settings is not None:
                self._finished += self._see_through(trial, settings, abort)
                return True
        return False

    def _settings(self, search_id: str) -> TrialSettings | None:
        """Return how a search has its bundles measured; None where it means other machines than this one."""
        settings = self._ledger.settings_of(search_id)
        return settings if settings is not None and settings.suits(self.target) else None

    def _compare(self, comparison: ComparisonRecord, settings: TrialSettings, abort: Cancellation) -> None:
        """Time bundles in turn, while it is asked for."""
        attempt = self._ledger.claim_comparison(comparison.id, self.id, settings.lease_seconds)
        if attempt is None:
            return
        self._say(f"comparison {comparison.id}: {len(comparison.bundles)} bundles in turn")
        lost = Cancellation()

        def keep() -> bool:
            if not self._ledger.keep_comparison(comparison.id, attempt, settings.lease_seconds):
                lost.set()
            return self._watch(comparison.search_id, lost) and not lost.is_set

        try:
            with Repeated(keep, WATCH_SECONDS, f"keep {comparison.id}"):
                answer = self._supervisor.compare(
                    comparison.search_id, comparison.bundles, settings.on(self.target), comparison.seconds,
                    target=self.target.name, cancel=(abort, lost),
                )  # fmt: skip
        except BaseException:
            with suppress(InfrastructureError):
                self._ledger.release_comparison(comparison.id, attempt)
            raise
        if answer is None:
            self._ledger.release_comparison(comparison.id, attempt)
        else:
            self._ledger.finish_comparison(comparison.id, attempt, answer)
        self._say(f"comparison {comparison.id}: {'given back' if answer is None else 'done'}")

    def _see_through(self, trial: TrialRecord, settings: TrialSettings, abort: Cancellation) -> bool:
        self._say(f"trial {trial.id}: {trial.candidate.label()}")
        stopped = Cancellation()
        with Repeated(lambda: self._watch(trial.search_id, stopped), WATCH_SECONDS, f"watch {trial.id}"):
            outcome = self._supervisor.run(trial.id, trial.attempt, settings.on(self.target), cancel=(abort, stopped))
        self._say(f"trial {trial.id}: {outcome.kind if outcome else 'not ours, or stopped; it is queued again'}")
        return outcome is not None

    def _watch(self, search_id: str, stopped: Cancellation) -> bool:
        """Stop the work for a search that has ended or is being cancelled."""
        search = self._ledger.search(search_id)
        if search.status == "running" and not search.cancel_requested:
            return True
        stopped.set()
        return False
