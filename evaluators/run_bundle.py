"""Run a bundle on inputs, with nothing but its own runtime: ``python -m evaluators.run_bundle BUNDLE --input FILE``.

With ``--workload`` the inputs are its first validation examples, and the answers are scored; that takes torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import registry
from evaluators.backends.base import Runner
from evaluators.bundle import Manifest, open_bundle
from evaluators.errors import ParetuneError, UsageError
from evaluators.frozen import Frozen
from evaluators.lengths import Buckets


class BundleRun(Frozen):
    """What running a bundle gave.

    Attributes:
        rows: examples that were run; the last batch is filled up, which does not count.
        calls: of the runtime, each with a whole batch.
        first_call_ms / median_call_ms: how long they took, without copying in and out. No measurement: nobody looked
            whether the machine was busy. The median is that of the calls after the first, null where there is none.
        outputs: shape of each output by name.
        scored_by / score / original_score / agreement: of a workload's examples; agreement is with its original model.
    """

    rows: int
    calls: int
    first_call_ms: float
    median_call_ms: float | None
    outputs: dict[str, tuple[int, ...]]
    scored_by: str | None = None
    score: float | None = None
    original_score: float | None = None
    agreement: float | None = None


def main() -> int:
    """Print a ``BundleRun`` as JSON; what libraries and user's code print goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.run_bundle", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--input", type=Path, help=".npz with an array for each input, any number of rows")
    parser.add_argument("--workload", help="take the first validation examples of this workload instead")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--output", type=Path, help=".npz to write, an array for each output")
    parser.add_argument("--scores", type=Path, help=".npy to write, the score of each example where there is one")
    parser.add_argument("--allow-other-target", action="store_true")
    parser.add_argument("--trust", help="digest of the bundle, as its builder told it; or 'own' for one of yours")
    given = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            trusted = given.trust == "own" or given.trust or False
            manifest = open_bundle(given.bundle, trusted=trusted, other_target=given.allow_other_target)
            found, outputs, scores = run_on(given.bundle, manifest, given.input, given.workload, given.examples)
            if given.scores is not None and scores is not None:
                np.save(given.scores, scores)
            if given.output is not None:
                named = dict(zip(manifest.outputs.names, outputs, strict=True))
                np.savez(given.output, **named)  # type: ignore[arg-type]
        except ParetuneError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        answer.write(found.model_dump_json())
    return 0


def run_on(
    bundle: Path, manifest: Manifest, file: Path | None, workload: str | None, examples: int
) -> tuple[BundleRun, list[np.ndarray], np.ndarray | None]:
    """Run an opened bundle on the rows of a file or on examples of a workload.

    Returns:
        What it gave, its outputs, and the score of each example where the workload's metric has one.

    Raises:
        UsageError: neither or both are given, or the file does not hold the inputs.
        WorkloadError: the workload cannot be used.
    """
    if (file is None) == (workload is None):
        raise UsageError("name the inputs with --input FILE.npz or with --workload REF, one of them")
    runner = TimedRunner(registry.backend(manifest.candidate.backend).load(bundle, manifest))
    scores: dict[str, Any] = {}
    each: np.ndarray | None = None
    if file is not None:
        outputs = run_rows(runner, rows_of(file, manifest), manifest.candidate.batch_size, manifest.buckets)
    else:
        outputs, scores, each = _score(runner, manifest, str(workload), examples)
    later = runner.seconds[1:]
    return (
        BundleRun(
            rows=len(outputs[0]),
            calls=len(runner.seconds),
            first_call_ms=runner.seconds[0] * 1e3,
            median_call_ms=statistics.median(later) * 1e3 if later else None,
            outputs={name: array.shape for name, array in zip(manifest.outputs.names, outputs, strict=True)},
            **scores,
        ),
        outputs,
        each,
    )


class TimedRunner:
    """A runner that notes how long its calls take."""

    def __init__(self, runner: Runner) -> None:
        self.prepare, self.outputs, self._run = runner.prepare, runner.outputs, runner.run
        self.seconds: list[float] = []

    def run(self, prepared: Any) -> Any:
        """Run one batch."""
        begun = time.perf_counter()
        raw = self._run(prepared)
        self.seconds.append(time.perf_counter() - begun)
        return raw


def rows_of(file: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """Read the inputs from an ``.npz``, of the types and shapes that the manifest tells.

    Raises:
        UsageError: the file cannot be read, or an input is missing, unknown, or of another shape.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"inputs {file} cannot be read: {error}; save them with numpy.savez") from error
    wanted = {tensor.name: tensor for tensor in manifest.inputs.tensors}
    if arrays.keys() != wanted.keys():
        raise UsageError(f"inputs {file} hold {', '.join(arrays)}; the bundle takes {', '.join(wanted)}")
    for name, array in arrays.items():
        shape = wanted[name].shape
        if len(array.shape) != len(shape) or any(
            size not in (None, given) for size, given in zip(shape[1:], array.shape[1:], strict=True)
        ):
            raise UsageError(f"input {name} has the shape {array.shape}; the bundle takes {shape}, null for any length")
    return {name: array.astype(wanted[name].dtype, copy=False) for name, array in arrays.items()}


def run_rows(
    runner: Runner, arrays: dict[str, np.ndarray], batch_size: int, buckets: Buckets | None = None
) -> list[np.ndarray]:
    """Run any number of rows through a bundle that takes ``batch_size`` of them."""
    from evaluators.batching import run_in_batches

    return run_in_batches(runner, arrays, batch_size, buckets)


def _score(
    runner: Runner, manifest: Manifest, reference: str, examples: int
) -> tuple[list[np.ndarray], dict[str, Any], np.ndarray | None]:
    """Run the first validation examples; return the outputs, what was scored, and the score of each example."""
    import torch

    from evaluators.batching import answered_batches, example_batches
    from evaluators.scoring import Scorer, agreement, metric_name, output_arrays
    from evaluators.stages.restore import build_model
    from evaluators.structure import call
    from evaluators.workload import load_workload

    workload = load_workload(reference)
    original = build_model(workload)
    mine, theirs = (Scorer(workload, manifest.outputs, examples) for _ in range(2))
    parts: list[list[np.ndarray]] = []
    agreed: list[np.ndarray] = []
    size = manifest.candidate.batch_size
    batches = example_batches(workload.validation(), workload.collate, size, examples)
    for inputs, outputs, targets, real in answered_batches(runner, batches, size, manifest.buckets):
        with torch.inference_mode():
            wanted = [array[:real] for array in output_arrays(call(original, inputs))]
        found = [array[:real] for array in outputs]
        parts.append(found)
        agreed.append(agreement(found, wanted))
        mine.add(found, targets, real, wanted)
        theirs.add(wanted, targets, real, wanted)
    scored = mine.scores()
    scores = {
        "scored_by": metric_name(workload),
        "score": scored.mean,
        "original_score": theirs.scores().mean,
        "agreement": float(np.concatenate(agreed).mean()),
    }
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)], scores, scored.per_example


if __name__ == "__main__":
    sys.exit(main())
