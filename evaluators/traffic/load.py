"""A load test from beginning to end: start what serves, send requests, judge; perhaps look for the highest rate."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from evaluators.bundle import read_manifest
from evaluators.errors import UnsupportedError, UsageError
from evaluators.jobs import LoadJob
from evaluators.outcome import Evidence, ServerEvidence
from evaluators.run_bundle import rows_of
from evaluators.traffic.arrivals import poisson_arrivals
from evaluators.traffic.endpoint import EndpointServer
from evaluators.traffic.highest import Status, highest_rate
from evaluators.traffic.instance import InstanceDiedError, InstanceRequest
from evaluators.traffic.observed import (
    LEAST_SECONDS,
    QUANTILES,
    Server,
    batching_of,
    least_rate,
    seconds_for,
    summarize,
)
from evaluators.traffic.predicting import predicted_rate
from evaluators.traffic.requests import read_rows, write_rows
from evaluators.traffic.server import BundleServer, started
from evaluators.traffic.values import Endpoint, LoadReport, LoadTest, RateStep, ServedBundle
from evaluators.verdicts import judge_all

STEP_SECONDS = 3.0
"""How long requests arrive at least at each rate while the highest is looked for; the second look takes longer."""
OTHER_ARRIVALS = 1
START_RATE = 50.0


def load_test(job: LoadJob) -> LoadReport:
    """Put a bundle or a URL under load.

    Raises:
        UsageError: the subject or the requests cannot be used.
        InfrastructureError: a URL does not answer.
        IntegrityError: the bundle is refused.
        UnsupportedError: the bundle cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory(prefix="paretune-load-") as scratch:
        if isinstance(job.subject, Endpoint):
            return _test_endpoint(job, job.subject, Path(scratch))
        try:
            return _test_bundle(job, job.subject, Path(scratch))
        except InstanceDiedError as error:
            raise UnsupportedError(f"serving {job.subject.bundle} failed: {error}") from error


def run_test(
    server: Server, rate_per_s: float, test: LoadTest, *, seconds: float, seed: int | None = None
) -> ServerEvidence:
    """Send requests at a rate and return what they showed, again where other programs used the processor meanwhile."""
    begun = time.monotonic()
    whole = seconds + test.lead_in_seconds
    arrivals = poisson_arrivals(rate_per_s, whole, test.seed if seed is None else seed).tolist()
    if not arrivals or arrivals[-1] < test.lead_in_seconds:
        raise UsageError(f"at {rate_per_s:g} requests per second none arrives within {seconds:g} s; test for longer")
    for number in range(test.tries):
        seen = server.run(arrivals, test.timeout_s)
        found = summarize(seen, arrivals, rate_per_s, test, polluted=number, seconds=time.monotonic() - begun)
        if found.clean:
            break
    return found


def find_highest(
    server: Server, start: float, test: LoadTest, *, step_seconds: float = STEP_SECONDS,
    second_look_seconds: float = LEAST_SECONDS,
) -> tuple[float | None, ServerEvidence, tuple[RateStep, ...]]:  # fmt: skip
    """Look for the highest rate that surely keeps the budget; return it, the evidence, and every rate that was tried.

    The evidence is that of the second look at the rate that was found or, where none was, of the lowest that was tried.
    Requests arrive for at least ``step_seconds`` at each rate, and ``second_look_seconds`` at a second look, unless the
    test says for how long.
    """
    begun = time.monotonic()
    steps: list[RateStep] = []
    found: dict[float, ServerEvidence] = {}

    def trial(rate: float, again: bool) -> Status:
        seconds = seconds_for(rate, test, second_look_seconds if again else step_seconds)
        evidence = run_test(server, rate, test, seconds=seconds, seed=test.seed + OTHER_ARRIVALS * again)
        [verdict] = judge_all((test.constraint,), Evidence(server=evidence))
        found[rate] = evidence
        steps.append(RateStep(rate_per_s=rate, value_ms=evidence.value, status=verdict.status, confirming=again))
        return verdict.status

    highest = highest_rate(trial, start, least=least_rate(test))
    chosen = found[min(found) if highest.passed is None else highest.passed]
    chosen = chosen.model_copy(update={"sustained_per_s": highest.passed, "seconds": time.monotonic() - begun})
    return highest.passed, chosen, tuple(steps)


def _test_bundle(job: LoadJob, subject: ServedBundle, scratch: Path) -> LoadReport:
    with started(job.serving.instances, subject.interpreter) as instances:
        folder = Path(subject.bundle)
        manifest = read_manifest(folder, verify=False)  # each instance checks every file before it loads one
        size = manifest.candidate.batch_size
        if job.serving.max_batch is not None and job.serving.max_batch > size:
            raise UsageError(f"--max-batch {job.serving.max_batch} is more than the batch size {size} of the bundle")
        rows = scratch / "rows.npz"
        if job.examples.file is not None:
            np.savez(rows, **rows_of(Path(job.examples.file), manifest))  # type: ignore[arg-type]
        else:
            write_rows(job.examples, rows)
        request = InstanceRequest(bundle=str(folder), rows=str(rows), queue=str(scratch / "queue"),
                                  trusted=subject.trusted, other_target=subject.other_target)  # fmt: skip
        server = BundleServer(instances, request, batching_of(job.serving, size, job.test))
        server.load(job.serving.instances)

        def guess() -> float:
            quantile = QUANTILES[job.test.percentile]
            predicted = predicted_rate(server.service_seconds(), server.batching, server.instances,
                                       job.test.budget_ms / 1e3, quantile)  # fmt: skip
            return predicted or START_RATE

        return _report(job, server, guess).model_copy(update={"batch_size": size})


def _test_endpoint(job: LoadJob, subject: Endpoint, scratch: Path) -> LoadReport:
    if job.examples.file is not None:
        rows = read_rows(Path(job.examples.file))
    else:
        write_rows(job.examples, scratch / "rows.npz")
        rows = read_rows(scratch / "rows.npz")
    server = EndpointServer(subject, rows)
    protocol = server.probe()
    return _report(job, server, lambda: START_RATE).model_copy(update={"protocol": protocol})


def _report(job: LoadJob, server: Server, guess: Callable[[], float]) -> LoadReport:
    test, highest, steps = job.test, None, tuple[RateStep, ...]()
    if job.find_rate:
        highest, evidence, steps = find_highest(server, job.rate_per_s or guess(), test)
    else:
        rate = job.rate_per_s or guess()
        evidence = run_test(server, rate, test, seconds=seconds_for(rate, test))
    [verdict] = judge_all((test.constraint,), Evidence(server=evidence))
    return LoadReport(budget_ms=test.budget_ms, confidence=test.confidence, test=evidence, verdict=verdict, steps=steps,
                      highest_rate_per_s=highest)  # fmt: skip
