"""Coordinator: one per search. Asks, has trials run, tells, and projects what happened; the ledger is its memory."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.outcome import Outcome
from evaluators.profile import WorkloadProfile
from evaluators.space import Space, derive_space
from evaluators.target import probe_target
from search.final_comparison import run_final_comparison
from search.progress import Progress
from search.projection import Projection
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec, memory_limit
from search.trial_loop import Session, TrialLoop
from search.view import count_trials, search_result, trial_results
from workers.lease import Cancellation, owner_is_alive
from workers.ledger import Ledger
from workers.locks import search_lock
from workers.records import SearchRecord, SearchStatus
from workers.sandbox import Sandbox
from workers.supervisor import Supervisor, TrialSettings, run_profile

WATCH_SECONDS = 1.0


class Coordinator:
    """Runs one search to its end, or until it is interrupted; ``run`` may be called again in another process."""

    def __init__(self, ledger: Ledger, home: Path, record: SearchRecord, progress: Progress) -> None:
        self._ledger = ledger
        self._home = home
        self._record = record
        self._spec = SearchSpec.model_validate(record.spec)
        self._progress = progress
        self._target = probe_target()
        self._stop = Cancellation()
        self._interrupted = False
        self._notes: list[str] = []
        self._accounted = time.monotonic()

    def run(self) -> SearchResult:
        """Go on with the search until its trials or its time are used up, and return its result.

        Raises:
            UsageError: the workload breaks its contract, a backend cannot be used, or another process runs this search.
            InfrastructureError: sandbox or ledger failed.
        """
        self._accounted = time.monotonic()
        with search_lock(self._home, self._record.id), Projection(self._home, self._note) as projection:
            self._record = self._ledger.update_search(self._record.id, status="running")
            with Sandbox() as sandbox, self._watched():
                try:
                    self._search(sandbox, projection)
                except KeyboardInterrupt:
                    self._interrupted = True
                return self._conclude(projection)

    def _search(self, sandbox: Sandbox, projection: Projection) -> None:
        profile = self._profile(sandbox)
        if profile is None:
            return
        space = self._space(profile)
        projection.start(self._record, self._spec, profile, self._target)
        self._ledger.requeue_lost(self._record.id, owner_is_alive)
        settings = TrialSettings(
            profile=profile, constraints=self._spec.constraints, protocol=self._spec.protocol, seed=self._spec.seed,
            trial_timeout_s=self._spec.trial_timeout_s, memory_limit_bytes=self.memory_limit_bytes,
        )  # fmt: skip
        session = Session(
            record=self._record, spec=self._spec, space=space, settings=settings, ledger=self._ledger,
            supervisor=Supervisor(self._ledger, sandbox, self._home), projection=projection, progress=self._progress,
            stop=self._stop, seconds_left=lambda: self.seconds_left, account=self._account, note=self._note,
        )  # fmt: skip
        loop = TrialLoop(session)
        loop.run()
        loop.complete_front()
        run_final_comparison(session)
        self._account()
        loop.measure_nearest()

    def _profile(self, sandbox: Sandbox) -> WorkloadProfile | None:
        """Return the workload's profile; where reading it kills the process, that is the outcome of the first trial."""
        if self._record.profile is not None:
            return self._record.profile
        if self._ledger.trials(self._record.id):
            return None
        answer = run_profile(
            sandbox, self._home, self._record.workload, seed=self._spec.seed, timeout_s=self._spec.trial_timeout_s,
            memory_limit_bytes=self.memory_limit_bytes, cancel=(self._stop,),
        )  # fmt: skip
        if answer is None:
            return None
        if answer.problems and answer.profile is None:
            self._ledger.drop_search(self._record.id)
            raise UsageError("; ".join(f"{problem.what} ({problem.advice})" if problem.advice else problem.what
                                       for problem in answer.problems))  # fmt: skip
        if answer.profile is not None:
            for problem in answer.profile.problems:
                self._note(f"{problem.what}: {problem.advice}")
            self._record = self._ledger.update_search(self._record.id, profile=answer.profile)
            return answer.profile
        if answer.outcome is not None:
            self._record_unreadable(answer.outcome)
        return None

    def _record_unreadable(self, outcome: Outcome) -> None:
        """Record the float baseline as failed: the original model itself crashes, hangs or returns NaN."""
        candidate = Candidate(target=self._target.name, backend="eager")
        trial = self._ledger.add_trial(self._record.id, candidate, "baseline", evaluation_key="", gates=False)
        again = f"paretune reproduce {self._record.id} {trial.number} --home {self._home}"
        self._ledger.claim(trial.id, trial.attempt, "profile", 60.0)
        self._ledger.finish(trial.id, trial.attempt, "profile", outcome.model_copy(update={"reproduce": again}))
        self._note("the original model itself fails, so there is nothing to search")
        self._progress.finished(self.trials()[0], count_trials(self.trials()), None)

    def _space(self, profile: WorkloadProfile) -> Space:
        spec = self._spec
        if spec.target and self._target.name not in spec.target:
            raise UsageError(f"no worker for {', '.join(spec.target)}: this machine is {self._target.name}")
        space = derive_space(profile, self._target, only_backends=spec.backend, batch_sizes=spec.batch_size,
                             threads=spec.threads)  # fmt: skip
        for exclusion in space.exclusions:
            self._note(f"left out: {exclusion.what}: {exclusion.why}")
        return space

    def _conclude(self, projection: Projection) -> SearchResult:
        cancelled = self._ledger.search(self._record.id).cancel_requested
        status: SearchStatus = "cancelled" if cancelled else "interrupted" if self._interrupted else "finished"
        projection.deliver(self._ledger, self._record.id, self.trials())
        self._account()
        trials = self.trials()
        projection.finish(self._result(trials), trials, self._record.profile, self._target)
        self._account()
        result = self._result(trials, report=projection.report)
        self._ledger.update_search(self._record.id, status=status, result=result.to_json())
        return result

    def _result(self, trials: list[TrialResult], report: str | None = None) -> SearchResult:
        return search_result(self._record, self._spec, trials, self._target.name, self._home,
                             interrupted=self._interrupted, notes=self._notes, report=report)  # fmt: skip

    def trials(self) -> list[TrialResult]:
        """Return the search's trials as users see them."""
        return trial_results(self._ledger.trials(self._record.id), self._spec)

    @property
    def memory_limit_bytes(self) -> int:
        """The private memory that one trial may map."""
        return memory_limit(self._spec, self._target)

    @property
    def seconds_left(self) -> float:
        """What is left of the search's time, over all its sessions."""
        if self._spec.timeout_s is None:
            return float("inf")
        return self._spec.timeout_s - self._record.elapsed_s - (time.monotonic() - self._accounted)

    def _account(self) -> None:
        now = time.monotonic()
        self._record = self._ledger.update_search(self._record.id, add_elapsed_s=now - self._accounted)
        self._accounted = now

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._progress.note(text)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Stop the trial in progress when time is up or somebody cancels; SIGTERM is as good as Ctrl-C."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(WATCH_SECONDS):
                if self.seconds_left <= 0 or self._ledger.search(self._record.id).cancel_requested:
                    self._stop.set()
                    return

        def terminate(_: int, __: FrameType | None) -> None:
            raise KeyboardInterrupt

        watcher = threading.Thread(target=watch, name="paretune-watch", daemon=True)
        watcher.start()
        main = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGTERM, terminate) if main else None
        try:
            yield
        finally:
            done.set()
            watcher.join()
            if main:
                signal.signal(signal.SIGTERM, previous)
