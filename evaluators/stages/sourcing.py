"""What of a trial needs torch and the user's model alone: the weights under trial, pruned and recovered, by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluators.batching import collated
from evaluators.cache import Entry, StageCache
from evaluators.candidate import Candidate
from evaluators.frozen import digest
from evaluators.jobs import Sourced, SourceJob
from evaluators.profile import WorkloadProfile
from evaluators.pruners.data import PruningData
from evaluators.registry import pruners
from evaluators.stages.clock import StageClock
from evaluators.stages.reference import original_scores, reference_outputs
from evaluators.stages.restore import build_model, layer_sizes, restore_module, save_model
from evaluators.target import environment, probe_processor
from evaluators.workload import Workload, load_workload


def source(job: SourceJob, clock: StageClock) -> Sourced:
    """Make the weights under trial, and the original's answers that they will be compared with, for another job.

    Raises:
        UnsupportedError: this model cannot be pruned so.
    """
    import torch

    home, profile = Path(job.home), job.profile
    cache = StageCache(home / "cache" / "stages")
    with clock.stage("read"):
        workload = load_workload(profile.reference)
    torch.set_num_threads(probe_processor().cores)
    torch.manual_seed(job.seed)
    weights = source_weights(workload, job.candidate, profile, cache, clock, job.seed)
    with clock.stage("reference"):
        reference_outputs(workload, profile, job.candidate.batch_size, cache)
        validation_digest = profile.data_digests["validation"]
        original_scores(workload, profile.outputs, profile.fingerprint, validation_digest, home)
    return Sourced(weights=weights.key, versions=environment(), stage_seconds=clock.seconds,
                   cached_stages=tuple(clock.cached), entries=cache.used)  # fmt: skip


def source_weights(
    workload: Workload, candidate: Candidate, profile: WorkloadProfile, cache: StageCache, clock: StageClock, seed: int
) -> Entry:
    """Return the plan and weights of the candidate's model; its stages are ``prune`` and ``recover``."""
    with clock.stage("prune"):
        pruned = _pruned(workload, profile, candidate, cache, clock)
    with clock.stage("recover"):
        return _recovered(workload, profile, candidate, pruned, cache, clock, seed)


def versions_with(*distributions: str) -> dict[str, str]:
    """Return the versions that stored weights, and what is made of them with ``distributions``, depend on."""
    return environment("safetensors", *distributions)


def _pruned(
    workload: Workload, profile: WorkloadProfile, candidate: Candidate, cache: StageCache, clock: StageClock
) -> Entry:
    pruning = candidate.pruning

    def make(folder: Path) -> None:
        module = build_model(workload)
        sizes = layer_sizes(module)
        plan: dict[str, Any] = {"structure": "none"}
        if pruning.structure != "none":
            examples = workload.calibration()
            example = collated([examples[i % len(examples)] for i in range(2)], workload.collate)[0]
            learnt: dict[str, Any] = {"data": PruningData(workload)} if reads_data else {}
            plan = pruners()[pruning.structure].prune(module, example, pruning.amount, pruning.knobs, **learnt)
        save_model(module, sizes, plan, folder)

    reads_data = pruning.structure != "none" and pruners()[pruning.structure].reads_data(pruning.knobs)
    recipe: list[Any] = [pruning.structure, pruning.amount, pruning.knobs]
    if reads_data:
        recipe += [profile.data_digests.get("train"), profile.metric_digest]
    data = profile.data_digests["calibration"]
    key = digest(["prune", profile.model_digest, data, recipe, versions_with("torch-pruning")])
    return clock.noted(cache.get_or_make(key, make, "prune"), "prune")


def _recovered(
    workload: Workload, profile: WorkloadProfile, candidate: Candidate, pruned: Entry, cache: StageCache,
    clock: StageClock, seed: int,
) -> Entry:  # fmt: skip
    steps = candidate.pruning.recovery_steps
    if not steps:
        return pruned

    def make(folder: Path) -> None:
        from evaluators.stages.recover import distil

        teacher = build_model(workload)
        student = restore_module(workload, pruned.folder)
        distil(student, teacher, workload, steps, seed)
        plan = json.loads((pruned.folder / "plan.json").read_text())
        save_model(student, layer_sizes(teacher), plan, folder)

    data = profile.data_digests.get("train", profile.data_digests["calibration"])
    teacher_and_loss = [profile.model_digest, profile.metric_digest]
    key = digest(["recover", pruned.digest, teacher_and_loss, data, steps, seed, versions_with()])
    return clock.noted(cache.get_or_make(key, make, "recover"), "recover")
