"""Worker: claims the queued trials of one target, one after the other, and sees each through to its outcome."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from structlog.contextvars import bound_contextvars

from evaluators.capabilities import Capabilities
from evaluators.errors import InfrastructureError, IntegrityError, UsageError
from evaluators.jobs import Comparison
from evaluators.outcome import Failure, FailureKind
from evaluators.target import devices_of
from workers.comparisons import names_comparison
from workers.interpreters import Interpreters
from workers.keeping import Keeping
from workers.lease import Cancellation, owner_name, wait_for
from workers.ledger import Ledger
from workers.meter import Meter, NoMeter
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

FIRST_LOOK = 8
"""So many of the trials that wait are read at first; all of them only where none of these is for such a machine."""

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
        home: folder for bundles, caches and job logs; the workers of a ledger see it under the same path, or have homes
            of their own that share a store.
        capabilities: the target that it serves, and what this machine can run on it.
        name: what people call it, unless told the name of the host and the target.
        device: which of the machine's devices, ``cuda:1``; the first one of the target unless told.
        search_id: the one search that it works for; every running search unless told.
        locks: folder of the device locks, the user's own unless told.
        interpreters: the backends that live in an interpreter of their own.
        keeping: how large the cache of the home may be, and whether uploaded workloads are run.
        say: told what it does, in words; ``structlog``'s context says of which search, trial and attempt.
        alive: called every few seconds, after the ledger was told that it is there.
        meter: told what is worth counting.
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
        keeping: Keeping | None = None,
        say: Callable[[str], None] = lambda text: None,
        alive: Callable[[], None] = lambda: None,
        meter: Meter | None = None,
    ) -> None:
        self._alive = alive
        self._ledger, self._capabilities, self._search_id, self._say = ledger, capabilities, search_id, say
        self.target = capabilities.target
        self.device = device or (devices_of(self.target.name) or ("cpu",))[0]
        self.id = owner_name(f"{self.target.name}@{self.device}")
        self.name = name or f"{socket.gethostname()}-{self.target.name}"
        self._finished = 0
        self._meter = meter or NoMeter()
        self._supervisor = Supervisor(ledger, sandbox, home, owner=self.id, device=self.device, locks=locks,
                                      interpreters=interpreters, keeping=keeping, say=say,
                                      meter=self._meter)  # fmt: skip

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
        self._meter.busy(self.target.name, self.device, False)
        try:
            with Repeated(self._beat, BEAT_SECONDS, f"beat {self.name}"):
                if hear is None:
                    self._look(drain, abort)
                else:
                    hear(self.target.name, partial(self._answer, drain, abort), partial(wait_for, (drain, abort)))
        finally:
            # Where the ledger cannot be told, it notices the silence.
            with suppress(InfrastructureError):
                self._ledger.end_worker(self.id)
        return self._finished

    def _beat(self) -> bool:
        known = self._ledger.worker_seen(self.id)
        if known:
            self._alive()
        return known

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
            # Meanwhile another worker may take it, whose disk is not full.
            self._say(f"{error}; trying again in {RETRY_SECONDS:g} s, if nobody else does")
            wait_for((drain, abort), RETRY_SECONDS)

    def _work(self, abort: Cancellation, only: str | None = None) -> bool:
        """Do the oldest work that is for such a machine, or the ``only`` one; False if there is none.

        Comparisons come first: each is the end of a search.
        """
        asked = only is None or names_comparison(only)
        for comparison in self._ledger.waiting_comparisons(self.target.name, self._search_id) if asked else ():
            settings = self._settings(comparison.search_id) if only in (None, comparison.id) else None
            if settings is not None:
                self._compare(comparison, settings, abort)
                return True
        for most in (FIRST_LOOK, None):
            waiting = self._ledger.queued(self.target.name, self._search_id, only=only, most=most)
            for trial in waiting:
                settings = self._settings(trial.search_id)
                if settings is not None:
                    self._finished += self._see_through(trial, settings, abort)
                    return True
            if len(waiting) < FIRST_LOOK:
                break
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
            with self._busy(), Repeated(keep, WATCH_SECONDS, f"keep {comparison.id}"):
                answer: Comparison | Failure | None = self._supervisor.compare(
                    comparison.search_id, comparison.bundles, settings.on(self.target), comparison.seconds,
                    target=self.target.name, cancel=(abort, lost),
                )  # fmt: skip
        except (UsageError, IntegrityError) as error:  # a bundle that another home built cannot be had
            answer = Failure(kind=FailureKind.ERROR, stage="compare", reason=str(error))
        except (InfrastructureError, KeyboardInterrupt):
            with suppress(InfrastructureError):
                self._ledger.release_comparison(comparison.id, attempt)
            raise
        except Exception as error:  # a fault of ours: whoever tries again meets it again
            answer = Failure(kind=FailureKind.ERROR, stage="compare", reason=f"{type(error).__name__}: {error}")
            self._say(f"comparison {comparison.id}: {traceback.format_exc()}")
        if answer is None:
            self._ledger.release_comparison(comparison.id, attempt)
        else:
            self._ledger.finish_comparison(comparison.id, attempt, answer)
        self._say(f"comparison {comparison.id}: {'given back' if answer is None else 'done'}")

    def _see_through(self, trial: TrialRecord, settings: TrialSettings, abort: Cancellation) -> bool:
        stopped = Cancellation()
        with (
            bound_contextvars(worker=self.name, search=trial.search_id, trial=trial.number, attempt=trial.attempt),
            self._busy(),
            Repeated(lambda: self._watch(trial.search_id, stopped), WATCH_SECONDS, f"watch {trial.id}"),
        ):
            self._say(f"trial {trial.id}: {trial.candidate.label()}")
            outcome = self._supervisor.run(trial.id, trial.attempt, settings.on(self.target), cancel=(abort, stopped))
            self._say(f"trial {trial.id}: {outcome.kind if outcome else 'not ours, or stopped; it is queued again'}")
        return outcome is not None

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._meter.busy(self.target.name, self.device, True)
        try:
            yield
        finally:
            self._meter.busy(self.target.name, self.device, False)

    def _watch(self, search_id: str, stopped: Cancellation) -> bool:
        """Stop the work for a search that has ended or is being cancelled."""
        search = self._ledger.search(search_id)
        if search.status == "running" and not search.cancel_requested:
            return True
        stopped.set()
        return False
