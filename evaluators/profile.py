"""WorkloadProfile: the facts about a workload that the space, the gates and the bundles need, without its code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evaluators.frozen import Frozen, digest
from evaluators.lengths import Lengths
from evaluators.structure import Structure


class Problem(Frozen):
    """A breach of the workload contract: what is wrong, the value seen, and what to do."""

    level: Literal["error", "warning"]
    what: str
    advice: str = ""


class Prunable(Frozen):
    """What a structure of pruning finds in a model: the sizes that it can cut, one each, or why it finds none.

    ``beside`` are sizes that a knob of it cuts along with them.
    """

    sizes: tuple[int, ...] = ()
    beside: tuple[int, ...] = ()
    why_not: str | None = None


class WorkloadProfile(Frozen):
    """Facts read once from a workload; frozen JSON, so that nobody but a sandbox needs to load the user's code.

    Attributes:
        reference: how to load the workload (absolute path or module, and attribute).
        model_digest: hash of weights, architecture and source; equal models give equal digests.
        data_digests: hash per split (calibration, validation, train, and test where given).
        metric_digest: hash of metric and collate.
        inputs / outputs: structure of one batch, ``None`` for axes that vary.
        layers: number of layers by class name, e.g. ``{"Conv2d": 9, "Linear": 1}``.
        widths: output widths of the layers whose channels can be removed (not the last layer).
        exportable: why ``torch.export`` cannot capture the model, or None if it can.
        dynamic_batch: whether one exported program serves every batch size.
        has_train / has_loss: whether the workload has a train split, and a loss.
        accuracy: mean score of the original model on validation; ``examples`` is their number.
        scored_by: the metric's name, or ``agreement`` where the workload has none.
        per_example: whether scores come one per example (paired comparison is possible).
        prunable: what the pruners that look into the model found, by structure.
        lengths: how long examples are where their length varies; null where it does not, or nobody looked.
    """

    name: str
    reference: str
    model_digest: str
    data_digests: dict[str, str]
    metric_digest: str
    parameters: int
    size_bytes: int
    flops: int | None
    inputs: Structure
    outputs: Structure
    layers: dict[str, int]
    widths: tuple[int, ...]
    exportable: str | None
    dynamic_batch: bool
    has_train: bool
    accuracy: float
    examples: int
    calibration_examples: int
    scored_by: str
    per_example: bool
    lengths: Lengths | None = None
    problems: tuple[Problem, ...] = ()
    prunable: dict[str, Prunable] = Field(default_factory=dict)
    has_loss: bool = False

    @property
    def fingerprint(self) -> str:
        """What results of this workload depend on: model, data and metric."""
        return fingerprint_of(self.model_digest, self.data_digests, self.metric_digest)


def fingerprint_of(model_digest: str, data_digests: dict[str, str], metric_digest: str) -> str:
    """Hash what results of a workload depend on."""
    return digest([model_digest, dict(sorted(data_digests.items())), metric_digest])
