"""The second half of a trial: parity → latency → accuracy of a built bundle, then its memory and a diagnosis."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluators.backends.base import Runner
from evaluators.batching import answered_batches, as_arrays, example_batches
from evaluators.bundle import Manifest, compressed_bytes, open_bundle, size_bytes
from evaluators.cache import StageCache
from evaluators.candidate import Candidate
from evaluators.diagnosis import diagnose
from evaluators.errors import InfrastructureError
from evaluators.footprint import measure_footprint
from evaluators.jobs import MeasureJob
from evaluators.lengths import Buckets
from evaluators.outcome import AccuracyEvidence, Bucketing, Evidence, LatencyEvidence, Outcome
from evaluators.registry import backend as find_backend
from evaluators.stages.accuracy import score_bundle
from evaluators.stages.clock import StageClock
from evaluators.stages.parity import check_float, compare
from evaluators.stages.reference import example_file, parity_batches, reference_outputs
from evaluators.target import device_of
from evaluators.timing.blocks import LocalCalls
from evaluators.timing.gain import measure_bucketing
from evaluators.timing.sequence import time_bundle
from evaluators.timing.stand import Stand, StandRequest, real_batches, served_batches
from evaluators.traffic.instance import Instance
from evaluators.traffic.scenario import instances_for, measure_server
from evaluators.verdicts import judge_all
from evaluators.workload import Workload, load_workload

FOOTPRINT_TIMEOUT_S = 120.0


def measure(job: MeasureJob, clock: StageClock) -> Outcome:
    """Measure a bundle. With gates, the first constraint that is surely violated ends the trial.

    Raises:
        IntegrityError: the bundle is not what was built, or was built for another target.
        ParityError: it does not compute what its model computes.
        NotFiniteError: it returns NaN or infinity.
    """
    folder = Path(job.bundle)
    manifest = open_bundle(folder, trusted=True)  # the job before this one made it
    candidate = manifest.candidate
    with _original(job, candidate) as original, instances_for(job.protocol, candidate) as instances:
        return _measure(job, manifest, folder, clock, original, instances)


def _measure(
    job: MeasureJob, manifest: Manifest, folder: Path, clock: StageClock, original: Stand | None,
    instances: Sequence[Instance],
) -> Outcome:  # fmt: skip
    candidate, backend = manifest.candidate, find_backend(manifest.candidate.backend)
    with clock.stage("read"):
        workload = load_workload(job.profile.reference)
    evidence = Evidence(size_bytes=size_bytes(folder), parameters=manifest.parameters, flops=manifest.flops)
    begun = time.perf_counter()
    with clock.stage("load"):
        runner = backend.load(folder, manifest)
    load_seconds = time.perf_counter() - begun
    with clock.stage("parity"):
        evidence = evidence.model_copy(update={"parity": _parity(runner, manifest, job, workload)})
    if (stopped := _gate(job, evidence, clock, folder)) is not None:
        return stopped
    with clock.stage("latency"):
        latency = _latency(runner, workload, job, manifest, load_seconds, original)
        throughput = candidate.batch_size / (latency.mean / 1e3)
        evidence = evidence.model_copy(update={"latency": latency, "throughput_per_s": throughput})

    def diagnosed() -> Evidence:
        with clock.stage("diagnose"):
            batch = served_batches(workload, manifest, 1)[0]
            return evidence.model_copy(update={"diagnosis": diagnose(backend, runner, folder, manifest, batch)})

    if (stopped := _gate(job, evidence, clock, folder)) is not None:
        return stopped.model_copy(update={"evidence": diagnosed(), "stage_seconds": clock.seconds})
    if manifest.buckets is not None:
        with clock.stage("bucketing"):
            gained = _bucketing(runner, workload, manifest, manifest.buckets)
            evidence = evidence.model_copy(update={"bucketing": gained})
    if job.protocol.server is not None:
        with clock.stage("server"):
            under_load = measure_server(job.protocol, job.protocol.server, candidate, folder, job.profile.reference,
                                        instances, gates=job.gates, seed=job.seed)  # fmt: skip
            evidence = evidence.model_copy(update={"server": under_load})
        if (stopped := _gate(job, evidence, clock, folder)) is not None:
            return stopped.model_copy(update={"evidence": diagnosed(), "stage_seconds": clock.seconds})
    with clock.stage("accuracy"):
        accuracy = _accuracy(runner, workload, job, manifest)
        evidence = evidence.model_copy(update={"accuracy": accuracy})
    if not accuracy.complete and (stopped := _gate(job, evidence, clock, folder)) is not None:
        return stopped
    with clock.stage("memory"):
        sizes = {"size_compressed_bytes": compressed_bytes(folder)}
        evidence = evidence.model_copy(update=sizes | _footprint(folder, job))
    evidence = diagnosed()
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


def _parity(runner: Runner, manifest: Manifest, job: MeasureJob, workload: Workload) -> Any:
    size = manifest.candidate.batch_size
    cache = StageCache(Path(job.home) / "cache" / "stages")
    made_with = job.yardstick.versions if job.yardstick else None
    wanted = reference_outputs(workload, job.profile, size, cache, made_with)[: parity_batches(size)]
    limit = parity_batches(size) * size
    found, reals = [], []
    batches = example_batches(workload.validation(), workload.collate, size, limit)
    for _, outputs, _, real in answered_batches(runner, batches, size, manifest.buckets):
        found.append([array[:real] for array in outputs])
        reals.append(real)
    wanted = [[array[:real] for array in batch] for batch, real in zip(wanted, reals, strict=True)]
    parity = compare(found, wanted, sum(reals))
    if manifest.candidate.is_unmodified_float:
        check_float(parity)
    return parity


def _latency(
    runner: Runner, workload: Workload, job: MeasureJob, manifest: Manifest, load_seconds: float, beside: Stand | None
) -> LatencyEvidence:
    batches = [runner.prepare(batch) for batch in served_batches(workload, manifest)]
    budgets = [limit.limit for limit in job.constraints if limit.metric.startswith("latency_")]
    budget = budgets[0] if budgets and job.gates else None
    return time_bundle(LocalCalls(runner.run, batches), beside, job.protocol, budget, load_seconds)


def _bucketing(runner: Runner, workload: Workload, manifest: Manifest, buckets: Buckets) -> Bucketing:
    plain = [as_arrays(inputs) for inputs in real_batches(workload, manifest.candidate.batch_size)]
    return measure_bucketing(runner, plain, served_batches(workload, manifest), buckets)


@contextmanager
def _original(job: MeasureJob, candidate: Candidate) -> Iterator[Stand | None]:
    """Start the process of the original model at the candidate's batch size and threads, unless it is the candidate.

    It forks here, before any runtime has started threads, and loads when it is first timed. Beside an accelerator there
    is none: the original would be timed on the processor, and the ratio would compare two kinds of hardware. Where this
    job runs in the interpreter of its backend, the original runs in its own, as in all other trials.
    """
    if candidate.is_original or device_of(candidate.target) != "cpu":
        yield None
        return
    request = StandRequest(
        workload=job.profile.reference, batch_size=candidate.batch_size, threads=candidate.runtime.threads
    )
    with Stand(request, interpreter=job.yardstick.interpreter if job.yardstick else None) as stand:
        yield stand


def _accuracy(runner: Runner, workload: Workload, job: MeasureJob, manifest: Manifest) -> AccuracyEvidence:
    """Score the bundle. Where it is the original itself, it loses nothing by definition, however few the examples."""
    candidate = manifest.candidate
    found = score_bundle(runner, workload, job, candidate.batch_size, manifest.buckets)
    if not candidate.is_original or found.drop != 0:
        return found
    return found.model_copy(
        update={"drop_ci95": (0.0, 0.0), "drop_bounds": (0.0, 0.0), "method": "the original itself"}
    )


def _footprint(folder: Path, job: MeasureJob) -> dict[str, Any]:
    """Measure memory and energy in a program of its own; one that fails is told in the log and costs no trial."""
    example = example_file(Path(job.home), job.profile.fingerprint)
    if not example.exists():
        return {}
    try:
        found = measure_footprint(folder, example, FOOTPRINT_TIMEOUT_S)
    except InfrastructureError as error:
        print(error, file=sys.stderr)
        return {}
    names = ("peak_memory_bytes", "device_memory_bytes", "energy_j")
    return {name: getattr(found, name) for name in names}
