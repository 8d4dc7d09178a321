"""The second half of a trial: parity → latency → accuracy of a built bundle, run by its own runtime."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.backends.base import Runner
from evaluators.batching import as_arrays, example_batches
from evaluators.bundle import Manifest, read_manifest, size_bytes
from evaluators.cache import StageCache
from evaluators.jobs import MeasureJob
from evaluators.outcome import AccuracyEvidence, Evidence, LatencyEvidence, Outcome
from evaluators.registry import backend as find_backend
from evaluators.scoring import metric_name, score
from evaluators.stages.clock import StageClock
from evaluators.stages.latency import measure_latency
from evaluators.stages.parity import check_float, compare
from evaluators.stages.reference import parity_batches, reference_outputs, stored_scores
from evaluators.statistics import mean_interval
from evaluators.verdicts import judge_all
from evaluators.workload import Workload, load_workload

LATENCY_BATCHES = 16


def measure(job: MeasureJob, clock: StageClock) -> Outcome:
    """Measure a bundle. With gates, the first constraint that is surely violated ends the trial.

    Raises:
        IntegrityError: the bundle is not what was built.
        ParityError: it does not compute what its model computes.
        NotFiniteError: it returns NaN or infinity.
    """
    folder = Path(job.bundle)
    manifest = read_manifest(folder)
    candidate, profile = manifest.candidate, job.profile
    with clock.stage("read"):
        workload = load_workload(profile.reference)
    evidence = Evidence(size_bytes=size_bytes(folder), parameters=manifest.parameters, flops=manifest.flops)
    begun = time.perf_counter()
    with clock.stage("load"):
        runner = find_backend(candidate.backend).load(folder, manifest)
    load_seconds = time.perf_counter() - begun
    with clock.stage("parity"):
        evidence = evidence.model_copy(update={"parity": _parity(runner, manifest, job, workload)})
    if (stopped := _gate(job, evidence, clock, folder)) is not None:
        return stopped
    with clock.stage("latency"):
        latency = _latency(runner, workload, job, candidate.batch_size, load_seconds)
        throughput = candidate.batch_size / (latency.mean / 1e3)
        evidence = evidence.model_copy(
            update={"latency": latency, "throughput_per_s": throughput, "peak_memory_bytes": peak_memory_bytes()}
        )
    if (stopped := _gate(job, evidence, clock, folder)) is not None:
        return stopped
    with clock.stage("accuracy"):
        evidence = evidence.model_copy(update={"accuracy": _accuracy(runner, workload, job, candidate.batch_size)})
    return Outcome(kind="measured", evidence=evidence, verdicts=judge_all(job.constraints, evidence),
                   stage_seconds=clock.seconds, bundle=str(folder))  # fmt: skip


def _gate(job: MeasureJob, evidence: Evidence, clock: StageClock, folder: Path) -> Outcome | None:
    if not job.gates:
        return None
    verdicts = judge_all(job.constraints, evidence)
    failed = [verdict for verdict in verdicts if verdict.status == "fail"]
    if not failed:
        return None
    return Outcome(kind="rejected", gate=failed[0].constraint.metric, evidence=evidence, verdicts=verdicts,
                   stage_seconds=clock.seconds, bundle=str(folder))  # fmt: skip


def _outputs(runner: Runner, inputs: Any) -> list[np.ndarray]:
    return runner.outputs(runner.run(runner.prepare(as_arrays(inputs))))


def _parity(runner: Runner, manifest: Manifest, job: MeasureJob, workload: Workload) -> Any:
    size = manifest.candidate.batch_size
    cache = StageCache(Path(job.home) / "cache" / "stages")
    wanted = reference_outputs(workload, job.profile, size, cache)[: parity_batches(size)]
    limit = parity_batches(size) * size
    found, reals = [], []
    for inputs, _, real in example_batches(workload.validation(), workload.collate, size, limit):
        found.append([array[:real] for array in _outputs(runner, inputs)])
        reals.append(real)
    wanted = [[array[:real] for array in batch] for batch, real in zip(wanted, reals, strict=True)]
    parity = compare(found, wanted, sum(reals))
    if manifest.candidate.is_unmodified_float:
        check_float(parity)
    return parity


def _latency(
    runner: Runner, workload: Workload, job: MeasureJob, batch_size: int, load_seconds: float
) -> LatencyEvidence:
    source = example_batches(workload.validation(), workload.collate, batch_size)
    batches = [runner.prepare(as_arrays(inputs)) for inputs, _, _ in itertools.islice(source, LATENCY_BATCHES)]
    budgets = [limit.limit for limit in job.constraints if limit.metric.startswith("latency_")]
    budget = budgets[0] if budgets and job.gates else None
    return measure_latency(runner.run, batches, job.protocol, budget, load_seconds)


def _accuracy(runner: Runner, workload: Workload, job: MeasureJob, batch_size: int) -> AccuracyEvidence:
    """Score all of validation through the bundle, against the original model on the same examples."""
    profile = job.profile
    reference = None
    if workload.metric is None:
        stored = reference_outputs(workload, profile, batch_size, StageCache(Path(job.home) / "cache" / "stages"))
        reference = stored.__getitem__

    def batches() -> Iterator[tuple[list[np.ndarray], Any, int]]:
        for inputs, targets, real in example_batches(workload.validation(), workload.collate, batch_size):
            yield _outputs(runner, inputs), targets, real

    scores = score(workload, profile.outputs, batches(), reference)
    drop_interval = None
    original = stored_scores(Path(job.home), profile)
    if original is not None and scores.per_example is not None and len(original) == len(scores.per_example):
        drop_interval = mean_interval(original - scores.per_example)
    return AccuracyEvidence(
        accuracy=scores.mean,
        ci95=None if scores.per_example is None else mean_interval(scores.per_example),
        drop=profile.accuracy - scores.mean,
        drop_ci95=drop_interval,
        examples=scores.examples,
        metric=metric_name(workload),
    )


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
