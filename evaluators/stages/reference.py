"""What the original model answers on real validation inputs: the yardstick of parity, drop and agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from evaluators.batching import example_batches
from evaluators.cache import StageCache
from evaluators.frozen import digest
from evaluators.profile import WorkloadProfile
from evaluators.scoring import AGREEMENT, output_arrays
from evaluators.stages.restore import build_model
from evaluators.structure import call
from evaluators.target import environment
from evaluators.workload import Workload

PARITY_EXAMPLES = 64


def parity_batches(batch_size: int) -> int:
    """Return how many batches are compared: at least 64 examples, at most 64 batches."""
    return -(-PARITY_EXAMPLES // batch_size)


def reference_outputs(
    workload: Workload, profile: WorkloadProfile, batch_size: int, cache: StageCache
) -> list[list[np.ndarray]]:
    """Return the original model's outputs, batch by batch of ``batch_size``, made once and cached.

    They cover the parity examples, or all of validation where the score is the agreement with them.
    """
    import torch

    limit = None if profile.scored_by == AGREEMENT else parity_batches(batch_size) * batch_size

    def make(folder: Path) -> None:
        model = build_model(workload)
        arrays: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for i, (inputs, _, _) in enumerate(
                example_batches(workload.validation(), workload.collate, batch_size, limit)
            ):
                for j, array in enumerate(output_arrays(call(model, inputs))):
                    arrays[f"{i:06d}.{j:03d}"] = array
        np.savez(folder / "outputs.npz", **arrays)  # type: ignore[arg-type]

    data = [profile.data_digests["validation"], profile.metric_digest]
    key = digest(["reference", profile.model_digest, data, batch_size, limit, environment()])
    with np.load(cache.get_or_make(key, make).folder / "outputs.npz", allow_pickle=False) as stored:
        batches: dict[str, list[np.ndarray]] = {}
        for name in sorted(stored.files):
            batches.setdefault(name.split(".")[0], []).append(stored[name])
    return list(batches.values())


def scores_file(home: Path, fingerprint: str) -> Path:
    """Return where the original model's per-example scores are kept."""
    return home / "cache" / "scores" / f"{fingerprint}.npy"


def example_file(home: Path, fingerprint: str) -> Path:
    """Return where one batch of real inputs is kept, an array for each input."""
    return home / "cache" / "examples" / f"{fingerprint}.npz"


def stored_scores(home: Path, profile: WorkloadProfile) -> Any | None:
    """Return the original model's per-example scores, shape (N,), or None where the metric has none."""
    path = scores_file(home, profile.fingerprint)
    return np.load(path, allow_pickle=False) if profile.per_example and path.exists() else None
