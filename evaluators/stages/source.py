"""StagedSource: the model under trial after pruning and recovery, its conversions made once and kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from evaluators.batching import collated, example_batches
from evaluators.cache import Entry, StageCache
from evaluators.frozen import digest
from evaluators.profile import WorkloadProfile
from evaluators.sensitivity import LayerSensitivity
from evaluators.source import SourceModel
from evaluators.stages.restore import restore_module
from evaluators.stages.sensitivity import BATCH, MOST_EXAMPLES, measured_once
from evaluators.target import Target, environment
from evaluators.workload import Workload

EXPORTED, ONNX = "exported.pt2", "model.onnx"


class StagedSource(SourceModel):
    """A stored model (plan and weights, by content) with its workload."""

    def __init__(
        self, workload: Workload, profile: WorkloadProfile, weights: Entry, cache: StageCache, batch_size: int,
        target: Target,
    ) -> None:  # fmt: skip
        self.profile = profile
        self.batch_size = None if profile.dynamic_batch else batch_size
        self.target = target
        self.digest = weights.digest
        self._workload = workload
        self._folder = weights.folder
        self._cache = cache

    def module(self) -> Any:
        return restore_module(self._workload, self._folder)

    def weights(self) -> Path:
        return self._folder

    def example(self, batch_size: int) -> Any:
        examples = [self._calibration[i % len(self._calibration)] for i in range(batch_size)]
        return collated(examples, self._workload.collate)[0]

    def calibration(self, batch_size: int = 16, limit: int = 256) -> Iterator[Any]:
        size = self.batch_size or batch_size
        for inputs, _, _ in example_batches(self._calibration, self._workload.collate, size, limit):
            yield inputs

    def sensitivity(self) -> tuple[LayerSensitivity, ...]:
        facts = [self.digest, self.profile.model_digest, self.profile.data_digests["calibration"]]
        return measured_once(self._cache, facts, self.module, self._batches)

    def exported(self) -> Path:
        return self._export().folder / EXPORTED

    def onnx(self) -> Path:
        def make(folder: Path) -> None:
            import torch

            from evaluators.stages.export import export_onnx

            export_onnx(torch.export.load(self.exported()), self.profile, folder / ONNX)

        key = self._key("onnx", environment("onnx", "onnxscript"))
        return self._cache.get_or_make(key, make, "onnx").folder / ONNX

    @cached_property
    def _calibration(self) -> Any:
        return self._workload.calibration()

    def _batches(self) -> Iterator[Any]:
        """Yield the batches that sensitivity is measured on: the same ones whatever batch size is exported."""
        for inputs, _, _ in example_batches(self._calibration, self._workload.collate, BATCH, MOST_EXAMPLES):
            yield inputs

    def _export(self) -> Entry:
        def make(folder: Path) -> None:
            import torch

            from evaluators.stages.export import export_program

            example = self.example(self.batch_size or 2)
            program = export_program(self.module(), example, self.profile, self.batch_size)
            torch.export.save(program, folder / EXPORTED)

        return self._cache.get_or_make(self._key("export", environment()), make, "export")

    def _key(self, stage: str, versions: dict[str, str]) -> str:
        facts = [self.profile.inputs.to_json(), self.profile.outputs.to_json(), self.batch_size]
        return digest([stage, self.digest, self.profile.model_digest, facts, versions])
