"""The workload contract: every check of model, splits and metric, each breach a problem in words."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluators.errors import NotFiniteError, WorkloadError
from evaluators.frozen import digest
from evaluators.profile import Problem
from evaluators.scoring import output_arrays, score
from evaluators.structure import Structure, TensorSpec, flatten
from evaluators.workload import Workload

HASHED_EXAMPLES = 50_000
SHOWN = 3
SPLITS = ("calibration", "train", "validation", "test")
UNSCORED = {"calibration", "train"}


def check_model(workload: Workload, model: Any) -> list[Problem]:
    """Check what the factory returned: a module, in eval mode, without NaN.

    Raises:
        WorkloadError: it is no module at all.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise WorkloadError(f"model() of {workload.name} returned a {kind}; it must return an nn.Module")
    problems = []
    training = [name or "the model itself" for name, layer in model.named_modules() if layer.training]
    if training:
        what = f"model() returned a model in training mode ({training[0]} and {len(training) - 1} more layers)"
        problems.append(Problem(level="error", what=what, advice="return model.eval()"))
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            what = f"weight {name!r} holds {count} NaN or infinite values of {tensor.numel()}"
            problems.append(Problem(level="error", what=what, advice="check the file that the weights come from"))
            break
    return problems


def load_splits(workload: Workload, problems: list[Problem]) -> dict[str, Any]:
    """Load every split that the workload has, checking that each is a map-style dataset of ``(inputs, target)``."""
    factories = {"calibration": workload.calibration, "validation": workload.validation,
                 "test": workload.test, "train": workload.train}  # fmt: skip
    splits = {}
    for name, factory in factories.items():
        if factory is None:
            continue
        dataset = factory()
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            kind = type(dataset).__name__
            what = f"{name}() returned a {kind} without length or indexing"
            problems.append(Problem(level="error", what=what, advice="return a map-style Dataset"))
        elif len(dataset) == 0:
            what = f"the {name} split is empty"
            problems.append(Problem(level="error", what=what, advice="check its path and filter"))
        elif (odd := _odd_example(dataset[0])) is not None:
            what = f"the first example of {name}: {odd}"
            problems.append(Problem(level="error", what=what, advice="a dataset yields (inputs, target)"))
        splits[name] = dataset
    return splits


def _odd_example(example: Any) -> str | None:
    if not isinstance(example, tuple | list) or len(example) != 2:
        return f"it is a {type(example).__name__}, not a pair (inputs, target)"
    try:
        flatten(example[0], "input")
    except WorkloadError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class SplitHashes:
    """A split as hashes: which of its ``of`` examples were read, and a hash of the inputs of each.

    ``digest`` stands for the whole split, targets included. The test split is read for this and for nothing else.
    """

    of: int
    indices: tuple[int, ...]
    inputs: tuple[str, ...]
    digest: str

    def where(self) -> dict[str, int]:
        """Return the first index at which each hash is found."""
        return dict(zip(reversed(self.inputs), reversed(self.indices), strict=True))


def hash_examples(dataset: Any) -> SplitHashes:
    """Hash the examples of a split; of more than 50,000, a fixed sample of 50,000 spread evenly over it.

    What breaks the contract of a dataset is left out: it is a problem of its own.
    """
    total = len(dataset) if hasattr(dataset, "__len__") else 0
    spread = np.linspace(0, total - 1, min(total, HASHED_EXAMPLES)).astype(int) if total else ()
    indices: list[int] = []
    inputs: list[str] = []
    targets = hashlib.sha256()
    for i in map(int, spread):
        try:
            example = dataset[i]
            _, named = flatten(example[0], "input")
            target = example[1]
        except (WorkloadError, TypeError, IndexError):
            break
        state = hashlib.sha256()
        for name, tensor in named.items():
            state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        indices.append(i)
        inputs.append(state.hexdigest())
        tensor = hasattr(target, "numpy")
        targets.update(np.ascontiguousarray(target.numpy()).tobytes() if tensor else repr(target).encode())
    return SplitHashes(total, tuple(indices), tuple(inputs), digest([total, inputs, targets.hexdigest()]))


def check_overlap(splits: dict[str, SplitHashes]) -> list[Problem]:
    """No example may be in two splits: what is scored on must not have been trained, calibrated or chosen on.

    Calibration and training may share theirs: neither is scored on.
    """
    problems = []
    for first, second in itertools.combinations([name for name in SPLITS if name in splits], 2):
        if {first, second} == UNSCORED:
            continue
        here, there = splits[first].where(), splits[second].where()
        common = sorted((index, there[key]) for key, index in here.items() if key in there)
        if not common:
            continue
        share = len(common) / len(there)
        shown = [f"{first}[{i}] = {second}[{j}]" for i, j in common[:SHOWN]]
        more = ", …" if len(common) > SHOWN else ""
        verb = "example of {0} is" if len(common) == 1 else "examples of {0} are"
        what = f"{len(common)} {verb.format(first)} in {second} as well ({share:.1%} of it): {', '.join(shown)}{more}"
        advice = "drop them from one of the two splits, or the scores flatter the result"
        partly = _partly({name: splits[name] for name in (first, second)})
        problems.append(Problem(level="error", what=what + partly, advice=advice))
    return problems


def check_duplicates(splits: dict[str, SplitHashes]) -> list[Problem]:
    """Warn of examples that a split holds more than once: they count double, and make intervals too narrow."""
    problems = []
    for name, split in splits.items():
        first = split.where()
        again = [(i, first[key]) for i, key in zip(split.indices, split.inputs, strict=True) if first[key] != i]
        if not again:
            continue
        shown = ", ".join(f"{name}[{i}] = {name}[{j}]" for i, j in again[:SHOWN]) + (
            ", …" if len(again) > SHOWN else ""
        )
        count = f"1 example of {name} repeats" if len(again) == 1 else f"{len(again)} examples of {name} repeat"
        what = f"{count} an earlier one: {shown}{_partly({name: split})}"
        advice = "each counts as an example of its own; drop the repeats if they are not meant"
        problems.append(Problem(level="warning", what=what, advice=advice))
    return problems


def _partly(splits: dict[str, SplitHashes]) -> str:
    """Say of which splits only a sample was looked at."""
    parts = [f"{len(split.inputs):,} of the {split.of:,} examples of {name}"
             for name, split in splits.items() if len(split.inputs) < split.of]  # fmt: skip
    return f" (looked at {' and '.join(parts)})" if parts else ""


def check_metric(workload: Workload, raw: Any, targets: Any) -> None:
    """Score one batch of two.

    Raises:
        WorkloadError: the metric fails, or returns another shape than one score per example.
        NotFiniteError: a score is NaN or infinite.
    """
    outputs = output_arrays(raw)
    style, named = flatten(raw, "output")
    specs = tuple(TensorSpec(name=n, dtype="float32", shape=(None,)) for n in named)
    structure = Structure.model_validate({"style": style, "tensors": specs})
    try:
        score(workload, structure, [(outputs, targets, 2)], 2)
    except (WorkloadError, NotFiniteError):
        raise
    except Exception as error:
        raise WorkloadError(f"the metric failed on a batch of 2: {type(error).__name__}: {error}") from error


def check_scoring(workload: Workload) -> list[Problem]:
    """Warn where there is no metric."""
    if workload.metric is None:
        what = "there is no metric: accuracy means agreement with the original model"
        return [Problem(level="warning", what=what, advice="give Workload(metric=…) to score on the task itself")]
    return []
