"""What of a trial needs torch and the user's model alone: the weights under trial, pruned and recovered, by content."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.batching import collated
from evaluators.cache import Entry, StageCache
from evaluators.candidate import Candidate, Pruning
from evaluators.frozen import digest
from evaluators.jobs import Sourced, SourceJob
from evaluators.profile import WorkloadProfile
from evaluators.pruners.data import PruningData
from evaluators.registry import pruners
from evaluators.stages.clock import StageClock
from evaluators.stages.reference import original_scores, reference_outputs
from evaluators.stages.restore import PLAN, build_model, layer_sizes, restore_module, save_model
from evaluators.target import environment, probe_processor
from evaluators.workload import Workload, load_workload

TRAINING_SHARE = 0.8
"""The part of a trial's time that its training may take; the rest is for building and measuring."""


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
    weights = Sourcing(workload, profile, cache, clock, job.seed, job.time_limit_s).weights(job.candidate)
    with clock.stage("reference"):
        reference_outputs(workload, profile, job.candidate.batch_size, cache)
        validation_digest = profile.data_digests["validation"]
        original_scores(workload, profile.outputs, profile.fingerprint, validation_digest, home)
    return Sourced(weights=weights.key, versions=environment(), stage_seconds=clock.seconds,
                   cached_stages=tuple(clock.cached), entries=cache.used,
                   training_seconds=clock.training)  # fmt: skip


@dataclass(frozen=True)
class Sourcing:
    """How one job comes to the weights under trial, each step of it once for all trials that share it.

    Attributes:
        seed: of everything that is drawn.
        time_limit_s: the time of the whole trial, None for no limit.
    """

    workload: Workload
    profile: WorkloadProfile
    cache: StageCache
    clock: StageClock
    seed: int
    time_limit_s: float | None = None

    def weights(self, candidate: Candidate) -> Entry:
        """Return the plan and weights of the candidate's model; its stages are ``prune`` and ``recover``."""
        with self.clock.stage("prune"):
            pruned = self._pruned(candidate.pruning)
        with self.clock.stage("recover"):
            return self._recovered(candidate.pruning, pruned)

    def trained_for_int8(self, weights: Entry, steps: int) -> Entry:
        """Return these weights after quantization-aware training; its stage is ``qat``, one for all backends."""

        def make(folder: Path) -> None:
            from evaluators.stages.qat import train_for_int8

            teacher, student = build_model(self.workload), restore_module(self.workload, weights.folder)
            train_for_int8(student, teacher, self.workload, steps, self.seed, self._limit_s)
            self._save(student, teacher, weights, folder)

        key = digest(["qat", weights.digest, self._teacher_and_loss, self._data, steps, self.seed, versions_with()])
        with self.clock.stage("qat"):
            return self.clock.priced(self.cache.get_or_make(key, make, "qat"), "qat")

    def _pruned(self, pruning: Pruning) -> Entry:
        workload, profile, structure = self.workload, self.profile, pruning.structure
        pruner = None if structure == "none" else pruners()[structure]
        reads_data = pruner is not None and pruner.reads_data(pruning.knobs)
        rounds = 1 if pruner is None else pruner.steps(pruning.knobs)
        recovers_between = rounds > 1 and pruning.recovery != "none"

        def make(folder: Path) -> None:
            module = build_model(workload)
            sizes = layer_sizes(module)
            plan: dict[str, Any] = {"structure": "none"}
            if pruner is not None:
                examples = workload.calibration()
                example = collated([examples[i % len(examples)] for i in range(2)], workload.collate)[0]
                learnt: dict[str, Any] = {"data": PruningData(workload)} if reads_data else {}
                learnt |= {"between": self._between(pruning, rounds)} if recovers_between else {}
                plan = pruner.prune(module, example, pruning.amount, pruning.knobs, **learnt)
            save_model(module, sizes, plan, folder)

        recipe: list[Any] = [structure, pruning.amount, pruning.knobs]
        if reads_data:
            recipe += [profile.data_digests.get("train"), profile.metric_digest]
        if recovers_between:
            recipe += [self._data, profile.metric_digest, pruning.recovery, pruning.recovery_steps, self.seed]
        data = profile.data_digests["calibration"]
        key = digest(["prune", profile.model_digest, data, recipe, versions_with("torch-pruning")])
        entry = self.cache.get_or_make(key, make, "prune")
        return self.clock.priced(entry, "prune") if recovers_between else self.clock.noted(entry, "prune")

    def _between(self, pruning: Pruning, rounds: int) -> Callable[[Any], None]:
        """Return what lets a model recover between the rounds of pruning: as at the end, its share of the steps."""
        from evaluators.stages.recover import recover

        teacher = build_model(self.workload)
        limit_s = None if self._limit_s is None else self._limit_s / rounds
        steps = max(1, pruning.recovery_steps // rounds) if pruning.recovery_steps else 0

        def between(module: Any) -> None:
            recover(module, teacher, self.workload, pruning.recovery, steps, self.seed, limit_s)

        return between

    def _recovered(self, pruning: Pruning, pruned: Entry) -> Entry:
        how, steps = pruning.recovery, pruning.recovery_steps
        if how == "none":
            return pruned

        def make(folder: Path) -> None:
            from evaluators.stages.recover import recover

            teacher, student = build_model(self.workload), restore_module(self.workload, pruned.folder)
            recover(student, teacher, self.workload, how, steps, self.seed, self._limit_s)
            self._save(student, teacher, pruned, folder)

        recipe = [steps, self.seed] if how == "distil" else [how, steps, self.seed]
        key = digest(["recover", pruned.digest, self._teacher_and_loss, self._data, *recipe, versions_with()])
        return self.clock.priced(self.cache.get_or_make(key, make, "recover"), "recover")

    @property
    def _teacher_and_loss(self) -> list[str]:
        return [self.profile.model_digest, self.profile.metric_digest]

    @property
    def _data(self) -> str:
        """The digest of what is trained on."""
        return self.profile.data_digests.get("train", self.profile.data_digests["calibration"])

    @property
    def _limit_s(self) -> float | None:
        return None if self.time_limit_s is None else TRAINING_SHARE * self.time_limit_s

    @staticmethod
    def _save(student: Any, teacher: Any, pruned: Entry, folder: Path) -> None:
        plan = json.loads((pruned.folder / PLAN).read_text())
        save_model(student, layer_sizes(teacher), plan, folder)


def versions_with(*distributions: str) -> dict[str, str]:
    """Return the versions that stored weights, and what is made of them with ``distributions``, depend on."""
    return environment("safetensors", *distributions)
