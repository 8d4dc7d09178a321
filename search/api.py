"""The Python API: everything that the command line can do, as functions that return values."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

from evaluators import registry
from evaluators.errors import InfrastructureError, UsageError
from evaluators.frozen import Frozen
from evaluators.joint_space import JointSpace, derive_joint_space
from evaluators.legality import Pair, explain_legality
from evaluators.parameters import Number
from evaluators.profile import Problem, WorkloadProfile
from evaluators.space import Exclusion
from evaluators.target import probe_target
from evaluators.workload import Workload, absolute_reference, archive_of, reference_of
from search.bundles import NO_PYTHONS, Pythons
from search.deployments import diff as diff
from search.deployments import history as history
from search.deployments import promote as promote
from search.deployments import reconcile as reconcile
from search.deployments import revalidate as revalidate
from search.deployments import rollback as rollback
from search.exports.exporting import ExportReport as ExportReport
from search.exports.exporting import export as export
from search.fleet import Fleet, known_targets, local_capabilities, targets_of
from search.home import home_folder
from search.load_testing import loadtest as loadtest
from search.machines import BackendReport as BackendReport
from search.machines import DoctorReport as DoctorReport
from search.machines import TargetReport as TargetReport
from search.machines import WorkerReport as WorkerReport
from search.machines import doctor as doctor
from search.machines import work as run_worker
from search.progress import Progress, Silent
from search.result import SearchResult, TrialResult
from search.sensitivity import sensitivity as sensitivity
from search.spec import SearchSpec, load_spec
from search.view import search_result, trial_results
from workers.interpreters import Interpreters, open_interpreters
from workers.keeping import Keeping
from workers.lease import Cancellation, SearchTakenError
from workers.ledger import Ledger
from workers.meter import Meter
from workers.records import SearchRecord
from workers.sandbox import Sandbox
from workers.supervisor import run_profile


class CheckReport(Frozen):
    """What a check of a workload found; ``ok`` means that a search can start."""

    ok: bool
    profile: WorkloadProfile | None
    problems: tuple[Problem, ...]
    seconds: float


class DimensionReport(Frozen):
    """One choice of the space."""

    name: str
    values: tuple[Any, ...]
    default: Any
    description: str


class SpaceReport(Frozen):
    """The size of the space, its choices, and what was left out and why.

    ``pairs`` are every technique on every backend, legal or refused, where that was asked for.
    """

    workload: str
    target: str
    targets: tuple[str, ...] = ()
    size: int
    dimensions: tuple[DimensionReport, ...]
    exclusions: tuple[Exclusion, ...]
    pairs: tuple[Pair, ...] = ()


class StatusReport(Frozen):
    """A search in the ledger: how far it has come."""

    search: str
    name: str
    workload: str
    spec: SearchSpec
    status: str
    created_at: float
    elapsed_s: float
    trials_wanted: int
    result: SearchResult


def run(
    workload: Workload | str, *, home: Path | str | None = None, progress: Progress | None = None, **settings: Any
) -> SearchResult:
    """Search for the models that nothing else beats, within the limits given as ``settings``.

    ``settings`` are the fields of ``SearchSpec``: ``latency_budget_ms=5, max_accuracy_drop=0.01, trials=40``, ….
    A ``Workload`` object must be defined at the top level of a file or a module; each trial loads it by name.

    Raises:
        UsageError: a setting or the workload cannot be used.
        InfrastructureError: the home cannot be written, or no process can be started.
    """
    reference = workload if isinstance(workload, str) else reference_of(workload)
    spec = load_spec({**settings, "workload": reference}, environment={})
    return run_spec(spec, home_folder(home), progress)


def run_spec(
    spec: SearchSpec, home: Path, progress: Progress | None = None, keeping: Keeping | None = None
) -> SearchResult:
    """Run a new search on this machine; ``keeping`` says how large the cache of the home may be."""
    spec = checked(spec)
    interpreters = _interpreters(spec, home)
    with open_ledger(home) as ledger:
        record = ledger.create_search(spec.workload, spec.to_json(), name=spec.name)
        return _coordinate(ledger, home, record, progress, interpreters, keeping)


def checked(spec: SearchSpec) -> SearchSpec:
    """Return a spec whose backends and workload were found, the workload named so that it is found from everywhere.

    Raises:
        UsageError: a backend or the workload does not exist.
    """
    for name in spec.backend:
        registry.backend(name)
    spec = spec.model_copy(update={"workload": absolute_reference(spec.workload)})
    _check_exists(spec.workload)
    return spec


def resume(
    reference: str, home: Path, progress: Progress | None = None, backend_python: Pythons = NO_PYTHONS,
    keeping: Keeping | None = None,
) -> SearchResult:  # fmt: skip
    """Go on with a search that was interrupted; one that is complete is returned as it is.

    What MLflow has missed is delivered. One that was left to a fleet is left to it again, and followed.
    ``backend_python`` names interpreters that have moved since; the others are those of the search.
    """
    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        ledger.request_cancel(record.id, wanted=False)
        share = ledger.coordinated(record.id)
        if share is not None and share.submitted_at is not None:
            from search.fleet_api import follow

            if record.status == "finished":
                _deliver(ledger, home, record, progress or Silent())
                return _status(ledger, record, home).result
            ledger.update_search(record.id, status="running")
            return follow(record.id, home, progress).result
        interpreters = _interpreters(SearchSpec.model_validate(record.spec), home, backend_python)
        return _coordinate(ledger, home, ledger.search(record.id), progress, interpreters, keeping)


def check(workload: str, home: Path, sandbox: Sandbox | None = None) -> CheckReport:
    """Validate a workload in a process of its own: model, splits, metric, export, and a float score."""
    begun = time.monotonic()
    _check_exists(workload)
    with Sandbox() if sandbox is None else nullcontext(sandbox) as running:
        answer = run_profile(running, writable(home), absolute_reference(workload))
    if answer is None:
        raise InfrastructureError("the check was cancelled")
    problems = list(answer.problems) + list(answer.profile.problems if answer.profile else ())
    if answer.outcome is not None and answer.outcome.failure is not None:
        failure = answer.outcome.failure
        what = f"reading the workload failed in stage {failure.stage}: {failure.kind}: {failure.reason}"
        problems.append(Problem(level="error", what=what, advice="the original model must run on its own data"))
    ok = answer.profile is not None and not any(problem.level == "error" for problem in problems)
    return CheckReport(
        ok=ok, profile=answer.profile, problems=tuple(problems), seconds=round(time.monotonic() - begun, 3)
    )


def space(workload: str, home: Path, spec: SearchSpec | None = None, *, explain: bool = False) -> SpaceReport:
    """Describe the space of a workload on this machine; ``explain`` every pair of technique and backend."""
    found = check(workload, home)
    if found.profile is None:
        raise UsageError("; ".join(problem.what for problem in found.problems))
    legal = space_of(found.profile, spec, home)
    return SpaceReport(
        workload=found.profile.name, target=",".join(legal.targets), targets=legal.targets, size=legal.size,
        dimensions=_dimensions(legal), exclusions=legal.exclusions, pairs=explain_legality(legal) if explain else (),
    )  # fmt: skip


def space_of(profile: WorkloadProfile, spec: SearchSpec | None, home: Path) -> JointSpace:
    """Derive the space of a profile under a spec's restrictions; other machines' workers have told what they can.

    Raises:
        UsageError: no worker of a target has ever been there.
    """
    spec = spec or SearchSpec(workload=profile.reference)
    targets = targets_of(spec)
    with open_ledger(home) as ledger:
        local = local_capabilities(targets, _interpreters(spec, home))
        fleet = Fleet(ledger, home, targets, local)
        known = fleet.capabilities()
        for target in targets:
            if target not in known:
                raise UsageError(f"nobody has told yet what {target} can run; {fleet.waiting_for(target)}")
    return derive_joint_space(profile, known, only_backends=spec.backend, batch_sizes=spec.batch_size,
                              threads=spec.threads)  # fmt: skip


def work(
    home: Path, *, target: str | None = None, device: str | None = None, name: str | None = None,
    broker: str | None = None, say: Callable[[str], None] = lambda text: None, drain: Cancellation | None = None,
    abort: Cancellation | None = None, backend_python: Pythons = NO_PYTHONS, keeping: Keeping | None = None,
    alive: Path | None = None, meter: Meter | None = None,
) -> WorkerReport:  # fmt: skip
    """Run the trials that searches of ``home`` queue for one target of this machine, until ``drain`` or ``abort``.

    With a ``broker`` they are rung for; without, the ledger is looked at again and again. The file ``alive`` is touched
    all the while. ``meter`` is told what is worth counting.

    Raises:
        UsageError: this machine has no such target, no such device, or the target can run nothing; an interpreter of
            ``backend_python`` cannot be used.
    """
    probe_target(target)  # before a home is made for nothing
    interpreters = _opened(backend_python, home)
    with open_ledger(home) as ledger:
        return run_worker(ledger, writable(home), target=target, device=device, name=name, broker=broker, say=say,
                          drain=drain or Cancellation(), abort=abort or Cancellation(),
                          interpreters=interpreters, keeping=keeping, alive=alive, meter=meter)  # fmt: skip


def searches(home: Path) -> list[StatusReport]:
    """Return every search of a home, the oldest first."""
    with open_ledger(home) as ledger:
        return [_status(ledger, record, home) for record in ledger.searches()]


def status(reference: str, home: Path) -> StatusReport:
    """Return how far a search has come."""
    with open_ledger(home) as ledger:
        return _status(ledger, ledger.search(reference), home)


def result(reference: str, home: Path) -> SearchResult:
    """Return the result of a search: as it was concluded, or as it stands now."""
    return status(reference, home).result


def trials(reference: str, home: Path) -> list[TrialResult]:
    """Return the trials of a search."""
    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        return _trials(ledger, record)


def cancel(reference: str, home: Path) -> StatusReport:
    """Ask a search, in whatever process it runs, to stop."""
    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        if record.status != "running":
            raise UsageError(f"search {record.name} is {record.status}; only a running one can be cancelled")
        ledger.request_cancel(record.id)
        return _status(ledger, ledger.search(record.id), home)


def report(reference: str, home: Path, output: Path | None = None) -> Path:
    """Write a search's HTML report and return where it is."""
    from search.report import write_report

    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        view, found = _status(ledger, record, home).result, _trials(ledger, record)
    path = output or home / "reports" / record.id / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_report(view, found, record.profile, known_targets(view.targets, home), path)
    except OSError as error:
        raise UsageError(f"report {path} cannot be written: {error.strerror}") from error
    return path


def reproduce(
    reference: str, number: int, home: Path, show: Callable[[str], None] = lambda text: None,
    backend_python: Pythons = NO_PYTHONS,
) -> TrialResult:  # fmt: skip
    """Run one trial of a search again in the foreground and ``show`` its log; the search's records are not changed."""
    from search.reproduce import reproduce_trial

    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        known = {trial.number: trial for trial in ledger.trials(record.id)}
        if number not in known:
            raise UsageError(f"search {record.name} has no trial {number}; it has 0 to {len(known) - 1}")
        interpreters = _interpreters(SearchSpec.model_validate(record.spec), home, backend_python)
        return reproduce_trial(record, known[number], home, show, interpreters)


def ui_command(
    reference: str | None, home: Path, port: int = 5000, host: str = "127.0.0.1", view: str | None = None
) -> tuple[list[str], str]:
    """Return the command that serves the MLflow UI on ``home``, and the address that shows a search in it.

    Where a server keeps the home's runs, nothing needs to be started: the command is empty.

    Raises:
        UsageError: there is no such search, or it has nothing to show in that view.
    """
    from search import browse

    if reference is None:
        return browse.ui_command(home, None, None, port, host, view)
    with open_ledger(home) as ledger:
        record = ledger.search(reference)
    experiment, spec = record.profile.name if record.profile else None, SearchSpec.model_validate(record.spec)
    return browse.ui_command(home, experiment, record.id, port, host, view, spec)


def _coordinate(
    ledger: Ledger, home: Path, record: SearchRecord, progress: Progress | None, interpreters: Interpreters,
    keeping: Keeping | None,
) -> SearchResult:  # fmt: skip
    from search.coordinator import Coordinator

    return Coordinator(ledger, home, record, progress or Silent(), interpreters, keeping=keeping).run()


def _deliver(ledger: Ledger, home: Path, record: SearchRecord, progress: Progress) -> None:
    """Tell MLflow what it has missed of an ended search, unless a coordinator does so at this moment."""
    if not ledger.pending(record.id):
        return
    from search.delivery import deliver_ended

    with suppress(SearchTakenError):
        deliver_ended(ledger, home, record.id, progress.note)


def _interpreters(spec: SearchSpec, home: Path, moved: Pythons = NO_PYTHONS) -> Interpreters:
    """Ask the interpreters of the backends that a search is about, before anything else is done.

    ``moved`` are those that are elsewhere now than when the search began.
    """
    named = spec.backend_python | dict(moved)
    for backend in named:
        registry.backend(backend)
    if named and not local_capabilities(targets := targets_of(spec)):
        raise UsageError(
            f"the interpreters of {', '.join(named)} are those of this machine, which serves none of "
            f"{', '.join(targets)}: name them where the workers are started, paretune worker --backend-python …"
        )
    return _opened({name: python for name, python in named.items() if name in (spec.backend or named)}, home)


def _opened(backend_python: Pythons, home: Path) -> Interpreters:
    found = open_interpreters(backend_python, home / "cache" / "code")
    found.refuse_empty()
    return found


def _status(ledger: Ledger, record: SearchRecord, home: Path) -> StatusReport:
    spec = SearchSpec.model_validate(record.spec)
    found = _trials(ledger, record)
    if record.result is not None and record.status != "running":
        view = SearchResult.model_validate(record.result)
    else:
        targets = targets_of(spec)
        view = search_result(record, spec, found, targets, home, interrupted=record.status == "interrupted")
    return StatusReport(
        search=record.id, name=record.name, workload=record.workload, spec=spec, status=record.status,
        created_at=record.created_at, elapsed_s=record.elapsed_s, trials_wanted=spec.trials, result=view,
    )  # fmt: skip


def _trials(ledger: Ledger, record: SearchRecord) -> list[TrialResult]:
    return trial_results(ledger.trials(record.id), SearchSpec.model_validate(record.spec))


def _dimensions(legal: JointSpace) -> tuple[DimensionReport, ...]:
    return tuple(
        DimensionReport(
            name=name, values=parameter.values, default=parameter.default,
            description=parameter.description or ("a number" if isinstance(parameter, Number) else ""),
        )
        for name, parameter in legal.dimensions()
    )  # fmt: skip


def _check_exists(reference: str) -> None:
    """Refuse a reference that cannot be found, before any process is started for it."""
    if archive_of(reference) is not None:
        return
    location, separator, attribute = reference.rpartition(":")
    if not separator or not location or not attribute:
        raise UsageError(
            f"workload {reference!r} is not of the form path/to/file.py:attribute or package.module:attribute"
        )
    if location.endswith(".py") and not Path(location).is_file():
        raise UsageError(f"workload file {location!r} does not exist (looked in {Path.cwd()})")


def open_ledger(home: Path) -> closing[Ledger]:
    """Open the ledger of a home for a block: its own, or that of the fleet that it has joined."""
    return closing(Ledger.at(writable(home)))


def writable(home: Path) -> Path:
    """Return a home that can be written to, making it where it is missing."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InfrastructureError(f"home {home} cannot be written: {error.strerror}; choose another --home") from error
    return home.resolve()
