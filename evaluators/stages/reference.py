"""What the original model answers on real validation inputs: the yardstick of parity, drop and agreement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.batching import example_batches, fair_order
from evaluators.cache import Entry, StageCache
from evaluators.frozen import digest
from evaluators.profile import WorkloadProfile
from evaluators.scoring import AGREEMENT, output_arrays, score
from evaluators.stages.restore import build_model
from evaluators.structure import Structure, call
from evaluators.target import environment, probe_processor
from evaluators.workload import Workload

Versions = Mapping[str, str] | None

PARITY_EXAMPLES = 64
SCORING_BATCH = 32


@dataclass(frozen=True)
class Original:
    """The original model's scores on validation, in the order in which candidates are scored.

    Attributes:
        mean: its score, higher is better.
        per_example: the score of each example, shape (N,), or None where the metric has none.
        rows: its outputs, axis 0 the examples, for a metric without scores of examples.
        without_groups: its score without each group of examples, shape (G,), where the outputs are too large to keep.
    """

    mean: float
    per_example: np.ndarray | None = None
    rows: list[np.ndarray] | None = None
    without_groups: np.ndarray | None = None


def parity_batches(batch_size: int) -> int:
    """Return how many batches are compared: at least 64 examples, at most 64 batches."""
    return -(-PARITY_EXAMPLES // batch_size)


def reference_outputs(
    workload: Workload, profile: WorkloadProfile, batch_size: int, cache: StageCache, versions: Versions = None
) -> list[list[np.ndarray]]:
    """Return the original model's outputs on the parity examples, batch by batch of ``batch_size``, made once.

    Where the score is the agreement with the original, its outputs on all of validation are made along with them.
    ``versions`` are of the interpreter that made them, where that is another one: they are not made here then.
    """
    return _stored_batches(workload, profile, batch_size, cache, "parity", versions)


def agreement_outputs(
    workload: Workload, profile: WorkloadProfile, batch_size: int, cache: StageCache, versions: Versions = None
) -> list[list[np.ndarray]]:
    """Return the original model's outputs on all of validation, batch by batch, in the order of scoring."""
    return _stored_batches(workload, profile, batch_size, cache, "scored", versions)


def _kept(cache: StageCache, facts: list[Any], make: Callable[[Path], None], versions: Versions) -> Entry:
    """Return the entry of these facts: made here, or by the interpreter that has these ``versions``."""
    if versions is None:
        return cache.get_or_make(digest([*facts, environment(), probe_processor().name]), make, str(facts[0]))
    key = digest([*facts, dict(versions), probe_processor().name])
    return cache.get(key, f"what the original model answers ({facts[0]})")


def _stored_batches(
    workload: Workload, profile: WorkloadProfile, batch_size: int, cache: StageCache, part: str, versions: Versions
) -> list[list[np.ndarray]]:
    import torch

    agreement = profile.scored_by == AGREEMENT
    validation_digest = profile.data_digests["validation"]

    def make(folder: Path) -> None:
        model, dataset = build_model(workload), workload.validation()
        limit = parity_batches(batch_size) * batch_size
        parts: dict[str, Any] = {"parity": example_batches(dataset, workload.collate, batch_size, limit)}
        if agreement:
            order = fair_order(len(dataset), validation_digest)
            parts["scored"] = example_batches(dataset, workload.collate, batch_size, order=order)
        for name, batches in parts.items():
            arrays: dict[str, np.ndarray] = {}
            with torch.inference_mode():
                for i, (inputs, _, _) in enumerate(batches):
                    for j, array in enumerate(output_arrays(call(model, inputs))):
                        arrays[f"{i:06d}.{j:03d}"] = array
            np.savez(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]

    data = [validation_digest, profile.metric_digest]
    entry = _kept(cache, ["reference", profile.model_digest, data, batch_size, agreement], make, versions)
    with np.load(entry.folder / f"{part}.npz", allow_pickle=False) as stored:
        found: dict[str, list[np.ndarray]] = {}
        for name in sorted(stored.files):
            found.setdefault(name.split(".")[0], []).append(stored[name])
    return list(found.values())


def original_scores(
    workload: Workload, outputs: Structure, fingerprint: str, validation_digest: str, home: Path,
    versions: Versions = None,
) -> Original:  # fmt: skip
    """Return the original model's scores on validation, made once for each fingerprint of model, data and metric.

    They are those of this machine's kind of processor: what a trial lost is counted where it was measured.
    ``versions`` are of the interpreter that made them, where that is another one: they are not made here then.

    Raises:
        NotFiniteError: the score is NaN or infinite.
        WorkloadError: the metric breaks its contract.
    """
    if workload.metric is None:
        return Original(1.0, np.ones(len(workload.validation())))

    def make(folder: Path) -> None:
        found = _score_original(workload, outputs, validation_digest)
        arrays = {"mean": np.float64(found.mean), "per_example": found.per_example, "groups": found.without_groups}
        arrays |= {f"rows.{i:03d}": rows for i, rows in enumerate(found.rows or ())}
        kept = {name: value for name, value in arrays.items() if value is not None}
        np.savez(folder / "original.npz", **kept)  # type: ignore[arg-type]

    entry = _kept(StageCache(home / "cache" / "stages"), ["original", fingerprint], make, versions)
    with np.load(entry.folder / "original.npz", allow_pickle=False) as stored:
        rows = [stored[name] for name in sorted(stored.files) if name.startswith("rows.")]
        return Original(float(stored["mean"]), stored.get("per_example"), rows or None, stored.get("groups"))


def _score_original(workload: Workload, outputs: Structure, validation_digest: str) -> Original:
    import torch

    model, dataset = build_model(workload), workload.validation()
    order = fair_order(len(dataset), validation_digest)

    def batches() -> Any:
        for inputs, targets, real in example_batches(dataset, workload.collate, SCORING_BATCH, order=order):
            yield output_arrays(call(model, inputs)), targets, real

    with torch.inference_mode():
        scores = score(workload, outputs, batches(), len(dataset))
    if scores.corpus is None:
        return Original(scores.mean, scores.per_example)
    rows = scores.corpus.rows()
    return Original(scores.mean, None, rows, None if rows else scores.corpus.without_groups())


def example_file(home: Path, fingerprint: str) -> Path:
    """Return where one batch of real inputs is kept, an array for each input."""
    return home / "cache" / "examples" / f"{fingerprint}.npz"
