"""Coordinator: one per search. Asks, has trials run, tells, and projects what happened; the ledger is its memory."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from evaluators.candidate import Candidate
from evaluators.capabilities import Capabilities
from evaluators.errors import InfrastructureError, UsageError
from evaluators.joint_space import JointSpace, derive_joint_space
from evaluators.outcome import Outcome
from evaluators.profile import WorkloadProfile
from evaluators.target import Target
from search.final_comparison import run_final_comparison
from search.fleet import Fleet, local_capabilities, targets_of
from search.fleet_loop import FleetLoop
from search.presence import Presence
from search.progress import Progress
from search.projection import Projection, ended_news
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec
from search.trial_loop import Session, TrialLoop
from search.view import count_trials, search_result, trial_results
from search.wording import exclusion_notes
from workers.doorbell import AGAIN_SECONDS, Bell
from workers.interpreters import Interpreters
from workers.keeping import Keeping
from workers.lease import Cancellation, SearchLease, owner_is_alive, wait_for
from workers.ledger import Ledger
from workers.meter import Meter
from workers.records import SearchRecord, SearchStatus
from workers.repeated import Repeated
from workers.sandbox import Sandbox
from workers.settings import TrialSettings, default_memory_limit
from workers.supervisor import Supervisor, run_profile
from workers.worker import Worker

WATCH_SECONDS = 1.0

ACCOUNT_SECONDS = 1.0
"""How often the time that a search has taken is written down while it runs."""


@dataclass(frozen=True)
class FleetMeans:
    """What a service lends to the coordinators of the searches that were left to a fleet.

    Attributes:
        sandbox: where workloads are read.
        leave: once it is set, each stops where it is: the next coordinator goes on.
        bell: carries the ids of queued trials to workers; None where these look into the ledger by themselves.
        ring_again_s: after so long a trial that waits beside an idle worker is rung for again.
        keeping: how large the cache of the home may be, and whether uploaded workloads are read.
        presence: knows who is there, for all searches of the service together.
        meter: told what is worth counting.
    """

    sandbox: Sandbox
    leave: Cancellation
    bell: Bell | None = None
    ring_again_s: float = AGAIN_SECONDS
    keeping: Keeping = field(default_factory=Keeping)
    presence: Presence | None = None
    meter: Meter | None = None


class Coordinator:
    """Runs one search to its end, or until it is interrupted; ``run`` may be called again in another process.

    Args:
        interpreters: the backends that live in an interpreter of their own on this machine.
        fleet: how a search is run that was left to a fleet; this process then runs none of its trials itself.
        keeping: how large the cache of the home may be, where this process runs trials.
    """

    def __init__(
        self, ledger: Ledger, home: Path, record: SearchRecord, progress: Progress,
        interpreters: Interpreters | None = None, fleet: FleetMeans | None = None, keeping: Keeping | None = None,
    ) -> None:  # fmt: skip
        self._means = fleet
        self._keeping = fleet.keeping if fleet else keeping or Keeping()
        self._ledger = ledger
        self._home = home
        self._record = record
        self._spec = SearchSpec.model_validate(record.spec)
        self._progress = progress
        self._targets = targets_of(self._spec)
        self._interpreters = interpreters or Interpreters()
        self._local = local_capabilities(self._targets, self._interpreters) if fleet is None else {}
        self._fleet = Fleet(ledger, home, self._targets, self._local, fleet.presence if fleet else None)
        self._known: dict[str, Capabilities] = {}
        self._stop = Cancellation()
        self._interrupted = False
        self._notes: list[str] = []
        self._accounted = time.monotonic()

    def run(self) -> SearchResult:
        """Go on with the search until its trials or its time are used up, and return its result.

        Raises:
            UsageError: the workload breaks its contract, a backend cannot be used, or another process runs this search.
            InfrastructureError: sandbox or ledger failed, or another process has taken the search meanwhile.
        """
        self._accounted = time.monotonic()
        with SearchLease(self._ledger, self._record.id) as lease, ExitStack() as stack:
            projection = stack.enter_context(Projection(self._home, self._note))
            self._record = self._ledger.update_search(self._record.id, status="running")
            sandbox = stack.enter_context(Sandbox()) if self._means is None else self._means.sandbox
            with self._watched(lease.lost):
                try:
                    self._search(sandbox, projection)
                except KeyboardInterrupt:
                    self._interrupted = True
                if lease.lost.is_set:
                    raise InfrastructureError(f"search {self._record.id} was taken by another coordinator")
                if self._means is not None and self._means.leave.is_set:
                    return self._result(self.trials())
                return self._conclude(projection)

    def give_up(self, problem: str) -> None:
        """Record that the search cannot be run, and why."""
        self._note(problem)
        result = self._result(self.trials())
        self._ledger.update_search(self._record.id, status="interrupted", result=result.to_json())

    def _search(self, sandbox: Sandbox, projection: Projection) -> None:
        self._unknown_targets()
        profile = self._profile(sandbox)
        if profile is None or not self._know_targets():
            return
        space = self._space(profile)
        projection.start(self._record, self._spec, profile, self._found_targets)
        self._ledger.requeue_lost(self._record.id, owner_is_alive)
        settings = TrialSettings(
            profile=profile, constraints=self._spec.constraints, protocol=self._spec.protocol, seed=self._spec.seed,
            trial_timeout_s=self._spec.trial_timeout_s, memory_limit_bytes=self._spec.memory_limit_bytes,
            fingerprints=self._fleet.fingerprints,
        )  # fmt: skip
        supervisor = Supervisor(self._ledger, sandbox, self._home, interpreters=self._interpreters,
                                keeping=self._keeping, say=self._note)  # fmt: skip
        session = Session(
            record=self._record, spec=self._spec, space=space, settings=settings, ledger=self._ledger,
            supervisor=supervisor, projection=projection, progress=self._progress, stop=self._stop,
            seconds_left=lambda: self.seconds_left, account=self._account_now_and_then, note=self._note,
            remind=self._remind, fleet=self._fleet, bell=self._means.bell if self._means else None,
            ring_again_s=self._means.ring_again_s if self._means else AGAIN_SECONDS,
        )  # fmt: skip
        with self._workers(sandbox, settings):
            loop = self._fleet_loop(session) if self._fleet.elsewhere else TrialLoop(session)
            loop.run()
            loop.complete_front()
            run_final_comparison(session)
            self._account()
            loop.measure_nearest()

    def _fleet_loop(self, session: Session) -> FleetLoop:
        if self._means is None:
            return FleetLoop(session, self._fleet)
        return FleetLoop(session, self._fleet, self._means.bell, ring_again_s=self._means.ring_again_s,
                         meter=self._means.meter)  # fmt: skip

    @contextmanager
    def _workers(self, sandbox: Sandbox, settings: TrialSettings) -> Iterator[None]:
        """Where a target is on another machine, tell workers about the search, and be one for each target of this one.

        Otherwise this process runs its trials itself, one after the other, and no worker hears of them.
        """
        if not self._fleet.elsewhere:
            yield
            return
        self._ledger.keep_settings(self._record.id, settings)
        stop = Cancellation()
        with ExitStack() as stack:
            for target, capabilities in self._local.items():
                worker = Worker(self._ledger, sandbox, self._home, capabilities, search_id=self._record.id,
                                name=f"{self._record.name}-{target}", keeping=self._keeping,
                                interpreters=self._interpreters)  # fmt: skip
                thread = threading.Thread(target=worker.run, args=(stop, stop), name=worker.name, daemon=True)
                thread.start()
                stack.callback(thread.join)
            stack.callback(stop.set)
            yield

    def _know_targets(self) -> bool:
        """Wait until somebody has told what every target is; False where the time was up before that."""
        while unknown := self._unknown_targets():
            if self._stop.is_set or self.seconds_left <= 0:
                break
            wait_for((self._stop,), WATCH_SECONDS)
        return not unknown

    def _unknown_targets(self) -> list[str]:
        """Return the targets of which nobody has told anything yet, and say that their workers are waited for."""
        self._known = self._fleet.capabilities()
        unknown = [target for target in self._targets if target not in self._known]
        self._fleet.report(unknown, self._remind)
        return unknown

    @property
    def _found_targets(self) -> tuple[Target, ...]:
        return tuple(capabilities.target for capabilities in self._known.values())

    def _profile(self, sandbox: Sandbox) -> WorkloadProfile | None:
        """Return the workload's profile; where reading it kills the process, that is the outcome of the first trial."""
        if self._record.profile is not None:
            return self._record.profile
        if self._ledger.trials(self._record.id):
            return None
        answer = run_profile(
            sandbox, self._home, self._record.workload, seed=self._spec.seed, timeout_s=self._spec.trial_timeout_s,
            memory_limit_bytes=self._spec.memory_limit_bytes or default_memory_limit(), cancel=(self._stop,),
            uploads=self._keeping.uploads,
        )  # fmt: skip
        if answer is None:
            return None
        if answer.problems and answer.profile is None:
            if self._means is None:
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
        candidate = Candidate(target=self._targets[0], backend="eager")
        trial = self._ledger.add_trial(self._record.id, candidate, "baseline", evaluation_key="", gates=False)
        again = f"paretune reproduce {self._record.id} {trial.number} --home {self._home}"
        self._ledger.claim(trial.id, trial.attempt, "profile", 60.0)
        self._ledger.finish(trial.id, trial.attempt, "profile", outcome.model_copy(update={"reproduce": again}))
        self._note("the original model itself fails, so there is nothing to search")
        self._progress.finished(self.trials()[0], count_trials(self.trials()), None)

    def _space(self, profile: WorkloadProfile) -> JointSpace:
        spec = self._spec
        space = derive_joint_space(profile, self._known, only_backends=spec.backend, batch_sizes=spec.batch_size,
                                   threads=spec.threads)  # fmt: skip
        for note in (*self._interpreters.notes(), *exclusion_notes(space.exclusions, self._targets)):
            self._note(note)
        return space

    def _conclude(self, projection: Projection) -> SearchResult:
        cancelled = self._ledger.search(self._record.id).cancel_requested
        status: SearchStatus = "cancelled" if cancelled else "interrupted" if self._interrupted else "finished"
        projection.ask_again()
        delivered = projection.deliver(self._ledger, self._record.id, self.trials(), float("inf"))
        self._account()
        trials = self.trials()
        finished = projection.finish(self._result(trials), trials, self._record.profile, self._found_targets)
        self._account()
        result = self._result(trials, report=projection.report)
        self._ledger.update_search(self._record.id, status=status, result=result.to_json())
        if delivered and finished:
            self._ledger.delivered([item.id for item in ended_news(self._ledger, self._record.id)])
        return result

    def _result(self, trials: list[TrialResult], report: str | None = None) -> SearchResult:
        return search_result(self._record, self._spec, trials, self._targets, self._home,
                             interrupted=self._interrupted, notes=self._notes, report=report)  # fmt: skip

    def trials(self) -> list[TrialResult]:
        """Return the search's trials as users see them."""
        return trial_results(self._ledger.trials(self._record.id), self._spec)

    @property
    def seconds_left(self) -> float:
        """What is left of the search's time, over all its sessions."""
        if self._spec.timeout_s is None:
            return float("inf")
        return self._spec.timeout_s - self._record.elapsed_s - (time.monotonic() - self._accounted)

    def _account_now_and_then(self) -> None:
        if time.monotonic() - self._accounted >= ACCOUNT_SECONDS:
            self._account()

    def _account(self) -> None:
        now = time.monotonic()
        self._record = self._ledger.update_search(self._record.id, add_elapsed_s=now - self._accounted)
        self._accounted = now

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._progress.note(text)

    def _remind(self, text: str) -> None:
        """Note a text, or say it again."""
        if text in self._notes:
            self._progress.note(text)
        self._note(text)

    @contextmanager
    def _watched(self, lost: Cancellation) -> Iterator[None]:
        """Stop the trial in progress when time is up or somebody cancels; SIGTERM is as good as Ctrl-C."""

        def watch() -> bool:
            leaving = lost.is_set or (self._means is not None and self._means.leave.is_set)
            if leaving or self.seconds_left <= 0 or self._ledger.search(self._record.id).cancel_requested:
                self._stop.set()
            return not self._stop.is_set

        def terminate(_: int, __: FrameType | None) -> None:
            raise KeyboardInterrupt

        main = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGTERM, terminate) if main else None
        try:
            with Repeated(watch, WATCH_SECONDS, "paretune-watch"):
                yield
        finally:
            if main:
                signal.signal(signal.SIGTERM, previous)
