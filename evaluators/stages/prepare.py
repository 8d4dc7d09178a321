"""The first half of a trial: prune → recover → quantize → build. Its result is a bundle."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from evaluators.bucketing import buckets_of
from evaluators.bundle import MANIFEST, Manifest, Preprocessing, bundle_name, read_manifest, write_manifest
from evaluators.cache import ENTRY, Entry, StageCache, copy_file
from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError, UnsupportedError, WorkloadError
from evaluators.frozen import digest
from evaluators.jobs import Prepared, PrepareJob
from evaluators.lengths import BUCKETS
from evaluators.quantizers.base import Quantizer
from evaluators.registry import backend as find_backend
from evaluators.registry import quantizers
from evaluators.stages.build_target import build_target
from evaluators.stages.clock import StageClock
from evaluators.stages.reference import reference_outputs
from evaluators.stages.source import StagedSource
from evaluators.stages.sourcing import Sourcing, versions_with
from evaluators.target import probe_processor
from evaluators.workload import Workload, load_workload


def prepare(job: PrepareJob, clock: StageClock) -> Prepared:
    """Make the bundle of ``job.candidate``; every stage is answered from the cache where its content was made before.

    Raises:
        UnsupportedError: the candidate cannot be made of this model.
    """
    import torch

    home = Path(job.home)
    cache = StageCache(home / "cache" / "stages")
    candidate, profile = job.candidate, job.profile
    with clock.stage("read"):
        workload = load_workload(profile.reference)
    torch.set_num_threads(probe_processor().cores)
    torch.manual_seed(job.seed)
    sourcing = Sourcing(workload, profile, cache, clock, job.seed, job.time_limit_s)
    known = job.sourced
    weights = sourcing.weights(candidate) if known is None else cache.get(known.weights, "the pruned model")
    quantizer = _quantizer(candidate)
    if steps := quantizer.training_steps(candidate.quantization.knobs):
        weights = sourcing.trained_for_int8(weights, steps)
    target = build_target(candidate.target, find_backend(candidate.backend))
    source = StagedSource(workload, profile, weights, cache, candidate.batch_size, target)
    with clock.stage("quantize"):
        quantized = _quantized(quantizer, source, candidate, cache, clock)
    with clock.stage("build"):
        bundle = _built(source, workload, quantized, candidate, cache, clock, home)
    if job.sourced is None:
        with clock.stage("reference"):
            reference_outputs(workload, profile, candidate.batch_size, cache)
    return Prepared(bundle=str(bundle), stage_seconds=clock.seconds, cached_stages=tuple(clock.cached),
                    entries=cache.used, training_seconds=clock.training)  # fmt: skip


def _quantizer(candidate: Candidate) -> Quantizer:
    scheme = candidate.quantization.scheme
    quantizer = quantizers().get((candidate.backend, scheme))
    if quantizer is None:
        raise UnsupportedError(f"{candidate.backend} has no scheme {scheme!r}")
    return quantizer


def _quantized(
    quantizer: Quantizer, source: StagedSource, candidate: Candidate, cache: StageCache, clock: StageClock
) -> Entry:
    quantization = candidate.quantization

    def make(folder: Path) -> None:
        quantizer.quantize(source, quantization.knobs, folder)

    facts = [type(quantizer).__name__, quantization.to_json(), source.batch_size, list(source.target.features)]
    data = [source.profile.data_digests["calibration"], source.profile.inputs.to_json()]
    versions = versions_with(*quantizer.requires, *find_backend(candidate.backend).requires)
    key = digest(["quantize", source.digest, source.profile.model_digest, facts, data, versions])
    return clock.noted(cache.get_or_make(key, make, "quantize"), "quantize")


def _built(
    source: StagedSource, workload: Workload, quantized: Entry, candidate: Candidate, cache: StageCache,
    clock: StageClock, home: Path,
) -> Path:  # fmt: skip
    import torch

    backend = find_backend(candidate.backend)

    def make(folder: Path) -> None:
        if backend.threads_at_build:
            torch.set_num_threads(candidate.runtime.threads)
        backend.build(quantized.folder, folder, source, candidate)

    threads = candidate.runtime.threads if backend.threads_at_build else None
    facts = [backend.name, candidate.quantization.to_json(), candidate.batch_size, threads]
    knobs = candidate.runtime.knobs
    baked = {name: knobs[name] for name in backend.options_at_build if name in knobs}
    facts += [baked] if baked else []
    versions = versions_with(*backend.requires)
    key = digest(["build", quantized.digest, source.digest, source.profile.model_digest, facts, versions,
                  source.target.fingerprint])  # fmt: skip
    entry = clock.noted(cache.get_or_make(key, make, "build"), "build")
    counts = _counted(source, cache)
    bundles = home / "bundles" / candidate.backend
    return _assembled(entry, workload, source, candidate, bundles, versions, counts)


def _counted(source: StagedSource, cache: StageCache) -> dict[str, int | None]:
    """Return the parameters and floating-point operations of the model under trial, counted once per model."""

    def make(folder: Path) -> None:
        module = source.module()
        counts = {"parameters": _parameters(module), "flops": count_flops(module, source.example(1))}
        (folder / "counts.json").write_text(json.dumps(counts))

    key = digest(["counts", source.digest, source.profile.model_digest, versions_with()])
    entry = cache.get_or_make(key, make, "counts")
    counts: dict[str, int | None] = json.loads((entry.folder / "counts.json").read_text())
    return counts


def _assembled(
    entry: Entry, workload: Workload, source: StagedSource, candidate: Candidate, bundles: Path,
    versions: dict[str, str], counts: dict[str, int | None],
) -> Path:  # fmt: skip
    """Make the bundle's folder: the built files and the manifest. One that is the same already is left as it is.

    Its name ends in its digest, so that whoever is given it under this name elsewhere can tell that it is the one.
    """
    profile = source.profile
    bundles.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=bundles))
    try:
        for path in entry.folder.rglob("*"):
            name = path.relative_to(entry.folder)
            if path.is_file() and name.as_posix() != ENTRY:
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                copy_file(path, temporary / name)
        preprocessing = _preprocessing(workload, temporary)
        buckets = buckets_of(profile.lengths, int(candidate.runtime.knobs.get(BUCKETS.name, 0)))
        made = write_manifest(
            temporary, candidate=candidate, workload=profile.reference, inputs=profile.inputs, outputs=profile.outputs,
            environment=versions, target_fingerprint=source.target.fingerprint, licences=dict(workload.licences),
            preprocessing=preprocessing, buckets=buckets, schema_version=2 if buckets is None else 3, **counts,
        )  # fmt: skip
        bundle = bundles / bundle_name(candidate.hash, made.digest)
        if bundle.exists():
            if _is_already(bundle, made):
                os.utime(bundle / MANIFEST)  # in use, for those who evict what is not
                return bundle
            shutil.rmtree(bundle)
        temporary.rename(bundle)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle


def _is_already(bundle: Path, manifest: Manifest) -> bool:
    try:
        return read_manifest(bundle).digest == manifest.digest
    except IntegrityError:
        return False


def _preprocessing(workload: Workload, bundle: Path) -> Preprocessing | None:
    """Return what a workload says of its preprocessing, after copying the file that it names into the bundle."""
    declared = workload.preprocessing
    if not isinstance(declared, Path):
        return Preprocessing(description=declared) if declared else None
    if not declared.is_file():
        raise WorkloadError(f"preprocessing of {workload.name} names the file {declared}, which does not exist")
    file = bundle / "preprocessing" / declared.name
    file.parent.mkdir()
    shutil.copyfile(declared, file)
    return Preprocessing(file=file.relative_to(bundle).as_posix())


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(module: Any, example: Any) -> int | None:
    """Return the floating-point operations of one example (a multiply-add counts as two), or None if not countable."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from evaluators.structure import call

    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            call(module, example)
        return int(counter.get_total_flops())
    except (RuntimeError, NotImplementedError, AssertionError):
        return None
