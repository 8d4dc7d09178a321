"""PruningData: what pruners that judge by the loss are given: real batches, and a scalar to differentiate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evaluators.batching import collated
from evaluators.structure import flatten

if TYPE_CHECKING:
    from evaluators.workload import Workload

BATCH = 64


@dataclass(frozen=True)
class PruningData:
    """Batches of the train split, or of calibration where there is none, always the same ones in the same order."""

    workload: Workload

    def batches(self, limit: int) -> Iterator[tuple[Any, Any]]:
        """Yield ``(inputs, targets)`` of at most ``limit`` batches of 64 examples, spread over the split."""
        dataset = (self.workload.train or self.workload.calibration)()
        count = min(limit * BATCH, len(dataset))
        chosen = [i * len(dataset) // count for i in range(count)]
        for start in range(0, count, BATCH):
            yield collated([dataset[i] for i in chosen[start : start + BATCH]], self.workload.collate)

    def loss(self, outputs: Any, targets: Any) -> Any:
        """Return the workload's loss; without one, how sure the model is of its own answers, or their energy.

        A distillation loss would not do: at the original weights its gradient is zero.
        """
        if self.workload.loss is not None:
            return self.workload.loss(outputs, targets)
        return sum(_own_loss(tensor) for tensor in flatten(outputs, "output")[1].values())


def _own_loss(tensor: Any) -> Any:
    from torch.nn import functional

    if tensor.ndim == 2 and tensor.shape[1] > 1:
        return functional.cross_entropy(tensor, tensor.detach().argmax(1))
    return tensor.float().square().mean()
