"""Load tests as users ask for them: of a bundle, by folder, trial or alias, or of a URL."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from evaluators.bundle import Manifest, open_bundle
from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.interpreter import Interpreter
from evaluators.jobs import LoadJob
from evaluators.traffic.values import Endpoint, Examples, LoadReport, LoadTest, ServedBundle, Serving
from search.bundles import NO_PYTHONS, Pythons
from search.promotion.registry import Registry
from workers.interpreters import open_interpreters
from workers.ledger import Ledger
from workers.loading import run_load
from workers.sandbox import Sandbox

if TYPE_CHECKING:
    from search.promotion.diffing import Side


class LoadTestReport(LoadReport):
    """What a load test of a subject found; ``bundle`` and what follows are null for a URL."""

    subject: str
    bundle: str | None = None
    digest: str | None = None
    label: str | None = None
    target: str | None = None
    workload: str | None = None

    @property
    def exit_code(self) -> int:
        """0 where the percentile surely keeps the budget, else 4."""
        return 0 if self.passed else 4


@dataclass(frozen=True)
class Source:
    """Where requests come from, and who vouches for what is served; as for ``paretune bundle run``."""

    workload: str | None = None
    file: Path | None = None
    trust: str | None = None
    other_target: bool = False
    backend_python: Pythons = field(default_factory=lambda: NO_PYTHONS)


def loadtest(
    subject: str, home: Path, test: LoadTest, *, rate_per_s: float | None = None, find_rate: bool = False,
    serving: Serving | None = None, source: Source | None = None, endpoint: Endpoint | None = None,
    sandbox: Sandbox | None = None,
) -> LoadTestReport:  # fmt: skip
    """Put a bundle (a folder, ``SEARCH/TRIAL`` or ``NAME@ALIAS``) or the URL of a served model under load.

    Args:
        subject: what is tested.
        home: where searches, aliases and the test's log are.
        test: budget, percentile, duration.
        rate_per_s: of the requests; where to begin if ``find_rate``.
        find_rate: look for the highest rate that keeps the budget.
        serving: how a bundle is served; not for a URL.
        source: where requests come from: of a bundle its own workload unless told.
        endpoint: how a URL is spoken to.
        sandbox: where it runs, one of its own unless told.

    Raises:
        UsageError: there is no such bundle, nobody told the rate, or something of it cannot be used.
        IntegrityError: the bundle is refused.
        UnsupportedError: the bundle does not load or run.
        InfrastructureError: the URL does not answer, or a process could not be run.
    """
    if rate_per_s is None and not find_rate:
        raise UsageError("say how many requests come: --rate 50/s, or look for the highest rate with --find-rate")
    source = source or Source()
    home.mkdir(parents=True, exist_ok=True)
    if subject.startswith(("http://", "https://")):
        served: Endpoint | ServedBundle = _endpoint(subject, source, endpoint, serving)
        about: dict[str, str] = {}
        candidate: Candidate | None = None
        examples = _examples(source, None)
    else:
        if endpoint is not None:
            raise UsageError(f"{subject} is a bundle; --protocol and --connections are for a URL")
        side, manifest = _opened(subject, home, source)
        served = ServedBundle(
            bundle=str(side.bundle), trusted=_vouched(side, source), other_target=source.other_target,
            interpreter=_interpreter(manifest, source.backend_python, home),
        )  # fmt: skip
        candidate = manifest.candidate
        if serving is not None and (serving.max_batch or 1) > candidate.batch_size:
            raise UsageError(f"--max-batch {serving.max_batch} is more than the batch size {candidate.batch_size} of "
                             f"{subject}")  # fmt: skip
        examples = _examples(source, side)
        about = {"bundle": str(side.bundle), "digest": manifest.digest, "label": candidate.label(),
                 "target": candidate.target}  # fmt: skip
    job = LoadJob(subject=served, examples=examples, test=test, serving=serving or Serving(), rate_per_s=rate_per_s,
                  find_rate=find_rate)  # fmt: skip
    if sandbox is not None:
        found = run_load(sandbox, home, job, candidate)
    else:
        with Sandbox() as own:
            found = run_load(own, home, job, candidate)
    return LoadTestReport(**found.model_dump(), subject=subject, workload=examples.workload, **about)


def _endpoint(subject: str, source: Source, endpoint: Endpoint | None, serving: Serving | None) -> Endpoint:
    if serving is not None:
        raise UsageError(
            f"{subject} is served by somebody else; --window, --max-batch and --instances are for a bundle"
        )
    if source.trust is not None or source.other_target:
        raise UsageError(f"{subject} is served by somebody else; --trust and --allow-other-target are for a bundle")
    return endpoint or Endpoint(url=subject)


def _opened(subject: str, home: Path, source: Source) -> tuple[Side, Manifest]:
    """Find a bundle and check every file of it; nothing of it is run."""
    from search.promotion.diffing import find_side

    with closing(Ledger.at(home)) as ledger:
        side = find_side(subject, ledger, Registry(home), home)
    manifest = open_bundle(side.bundle, trusted=_vouched(side, source), other_target=source.other_target)
    return side, manifest


def _vouched(side: Side, source: Source) -> str | bool:
    return side.manifest.digest if side.ours else source.trust or False


def _interpreter(manifest: Manifest, backend_python: Pythons, home: Path) -> Interpreter | None:
    backend = manifest.candidate.backend
    chosen = {backend: backend_python[backend]} if backend in backend_python else {}
    return open_interpreters(chosen, home / "cache" / "code").of(backend)


def _examples(source: Source, side: Side | None) -> Examples:
    if source.file is not None and source.workload is not None:
        raise UsageError("--input and --workload both say where requests come from; give one of them")
    if source.file is not None:
        return Examples(file=str(source.file.resolve()))
    workload = source.workload
    if workload is None and side is not None:
        profile = side.record.profile if side.record else None
        workload = profile.reference if profile else side.manifest.workload
    try:
        return Examples(workload=workload)
    except ValidationError:
        raise UsageError("say what to send to a URL: --workload WORKLOAD or --input FILE.npz") from None
