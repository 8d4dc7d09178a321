"""Does training win back what compression loses? Recovery after pruning, and quantization-aware training.

    python -m benchmarks.training --record

On the sealed test split of the image example, each bundle built by the jobs of a trial and scored through its runtime:

1. 50 % channel pruning in eager fp32, on every rung of the recovery ladder. Asked: the known-good rung wins back at
   least half of the accuracy that pruning alone lost.
2. static int8 and quantization-aware training on every backend that has both: on the original, which static int8 hardly
   harms; on a pruned model, whose recovery the training continues, so that it may lose less than nothing; and on the
   original with uneven channels (benchmarks/uneven.py), the same function in weights that are hard to round, where
   whatever is won back is won by learning to be rounded. Asked: wherever static int8 loses more than 0.005 against the
   float model that it was made of, the trained one loses less, and its gain over static int8 is above zero with 95 %
   confidence.

Intervals are of 95 %, over the same examples for both sides: paired proportions for differences, a paired bootstrap for
the share won back. Exit code 0: both hold; 1: not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.bundles import HERE, IMAGES, Workshop
from benchmarks.results import record

if TYPE_CHECKING:
    from evaluators.space import Space

UNEVEN = f"{HERE / 'uneven.py'}:workload"
MOST_LOST = 0.005
LEAST_WON_BACK = 0.5
RESAMPLES = 2000
BATCH_SIZE = 50
LADDER: tuple[dict[str, Any], ...] = (
    {}, {"recovery": "bn"}, {"recovery_steps": 150}, {"recovery_steps": 500},
    {"recovery": "train", "recovery_steps": 150}, {"recovery": "train", "recovery_steps": 500},
)  # fmt: skip
KNOWN_GOOD: dict[str, Any] = {"recovery_steps": 150}
CHANNELS: dict[str, Any] = {"structure": "channel", "amount": 0.5, "alignment": 8}
MODELS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("original", IMAGES, {}),
    ("channel 0.50, 500 steps", IMAGES, {**CHANNELS, "recovery_steps": 500}),
    ("uneven", UNEVEN, {}),
)
"""The models that are quantized: what they are called, of which workload, and how they are pruned."""


@dataclass(frozen=True)
class Scored:
    """One bundle: its score of every example of the test split, shape (N,), and what its training took."""

    scores: np.ndarray
    training_seconds: dict[str, float]


@dataclass(frozen=True)
class Difference:
    """How much lower one model scores than another, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, better: np.ndarray, worse: np.ndarray) -> Difference:
        from evaluators.statistics.scores import drop_of

        found = drop_of(better, worse, 0.95)
        return cls(found.value, *found.ci95)

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.low:.4f} to {self.high:.4f})"


class Example:
    """A workload in one home: bundles of it, and their scores."""

    def __init__(self, home: Path, threads: int, workload: str = IMAGES) -> None:
        from evaluators.space import derive_space
        from evaluators.target import probe_target
        from evaluators.workload import load_workload

        self._workshop = Workshop(home, threads)
        self._threads = threads
        self._workload = load_workload(workload)
        self.profile = self._workshop.profile(workload)
        self.space: Space = derive_space(self.profile, probe_target(), batch_sizes=(BATCH_SIZE,), threads=threads)

    def close(self) -> None:
        """End the processes."""
        self._workshop.close()

    def scored(self, backend: str, scheme: str, pruning: dict[str, Any], **knobs: Any) -> Scored:
        """Build a known-good candidate with these knobs, and score its bundle on the sealed test split."""
        from evaluators.jobs import PrepareJob

        candidate = self.space.recipe(backend, scheme, BATCH_SIZE, self._threads, **pruning)
        quantization = candidate.quantization.model_copy(update=knobs)
        candidate = candidate.model_copy(update={"quantization": quantization})
        print(candidate.canonical, file=sys.stderr)
        job = PrepareJob(candidate=candidate, profile=self.profile, home=str(self._workshop.home))
        answer = self._workshop.run(job, "prepare")
        if answer.prepared is None:
            raise SystemExit(f"{candidate.label()} was not built: {answer.outcome and answer.outcome.reason}")
        scores = self._score(Path(answer.prepared.bundle))
        print(f"  {scores.mean():.4f}", file=sys.stderr)
        return Scored(scores, answer.prepared.training_seconds)

    def _score(self, bundle: Path) -> np.ndarray:
        from evaluators import registry
        from evaluators.batching import as_arrays, example_batches
        from evaluators.bundle import open_bundle
        from evaluators.scoring import score

        if self._workload.test is None:
            raise SystemExit("the example has no test split")
        split, collate = self._workload.test(), self._workload.collate
        manifest = open_bundle(bundle, trusted=True)
        runner = registry.backend(manifest.candidate.backend).load(bundle, manifest)
        batches = (
            (runner.outputs(runner.run(runner.prepare(as_arrays(inputs)))), targets, real)
            for inputs, targets, real in example_batches(split, collate, BATCH_SIZE)
        )
        scores = score(self._workload, self.profile.outputs, batches, len(split)).per_example
        if scores is None:
            raise SystemExit("the example's metric gives no score for each example")
        return scores


def won_back(original: np.ndarray, pruned: np.ndarray, recovered: np.ndarray) -> Difference:
    """Return the share of what pruning lost that recovery won back, with a paired bootstrap's 95 % interval."""

    def share(chosen: Any) -> float:
        lost = float((original[chosen] - pruned[chosen]).mean())
        return float((recovered[chosen] - pruned[chosen]).mean()) / lost if lost > 0 else float("nan")

    random, count = np.random.default_rng(0), len(original)
    drawn = [share(random.integers(0, count, count)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return Difference(share(slice(None)), float(low), float(high))


def recovery(example: Example) -> tuple[list[str], bool]:
    """Write the table of the ladder, and say whether its known-good rung wins back enough."""
    original = example.scored("eager", "fp32", {}).scores
    pruned = example.scored("eager", "fp32", CHANNELS).scores
    lines = ["| recovery | accuracy | lost | won back | seconds |", "| --- | --- | --- | --- | --- |"]
    holds = False
    for rung in LADDER:
        found = example.scored("eager", "fp32", {**CHANNELS, **rung})
        share = won_back(original, pruned, found.scores)
        label = f"{rung.get('recovery', 'distil' if rung else 'none')} {rung.get('recovery_steps', '')}".strip()
        seconds = found.training_seconds.get("recover")
        cells = [label, f"{found.scores.mean():.4f}", str(Difference.of(original, found.scores)),
                 str(share) if rung else "–", f"{seconds:.1f}" if seconds is not None else "–"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
        if rung == KNOWN_GOOD:
            holds = share.value >= LEAST_WON_BACK
    return lines, holds


def int8(examples: dict[str, Example], backends: Sequence[str], steps: Sequence[int]) -> tuple[list[str], bool]:
    """Write the table of static int8 beside training, and say whether training loses less wherever it should."""
    lines = ["| model | backend | float | static int8 loses | steps | trained loses | trained wins back | seconds |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    asked, held = 0, 0
    for model, workload, pruning in MODELS:
        example = examples[workload]
        floats = example.scored("eager", "fp32", pruning).scores
        for backend in backends:
            static = example.scored(backend, "static_int8", pruning).scores
            lost = Difference.of(floats, static)
            for count in steps:
                trained = example.scored(backend, "qat_int8", pruning, qat_steps=count)
                gained = Difference.of(trained.scores, static)
                cells = [model, backend, f"{floats.mean():.4f}", str(lost), str(count),
                         str(Difference.of(floats, trained.scores)), str(gained),
                         f"{trained.training_seconds.get('qat', 0.0):.1f}"]  # fmt: skip
                lines.append(f"| {' | '.join(cells)} |")
                if lost.value > MOST_LOST:
                    asked, held = asked + 1, held + (gained.low > 0)
    lines += ["", f"Static int8 loses more than {MOST_LOST} in {asked} of these rows; the trained weights surely lose "
              f"less in {held} of them."]  # fmt: skip
    return lines, asked > 0 and held == asked


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backends", default="eager,inductor,onnxruntime,openvino", help="with commas")
    parser.add_argument("--steps", default="100,300", help="of quantization-aware training, with commas")
    parser.add_argument("--home", type=Path, help="keep what is made there; a temporary folder otherwise")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        examples: dict[str, Example] = {}
        try:
            for workload in (IMAGES, UNEVEN):
                examples[workload] = Example(given.home or Path(scratch), given.threads, workload)
            ladder, recovers = recovery(examples[IMAGES])
            table, trains = int8(examples, given.backends.split(","), [int(part) for part in given.steps.split(",")])
        finally:
            for example in examples.values():
                example.close()
    lines = [f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: training", "",
             f"`python -m benchmarks.training {' '.join(argv)}`", "",
             f"Image example, {given.threads} threads, sealed test split. 50 % of the channels removed:", "", *ladder,
             "", f"The known-good recovery wins back at least {LEAST_WON_BACK:.0%}: {'yes' if recovers else 'no'}.",
             "", *table, "", "**Holds.**" if recovers and trains else "**Does not hold.**", "", ""]  # fmt: skip
    record("\n".join(lines), keep=given.record)
    return 0 if recovers and trains else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
