"""The workload contract: every check of model, splits and metric, each breach a problem in words."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from evaluators.errors import NotFiniteError, WorkloadError
from evaluators.profile import Problem
from evaluators.scoring import output_arrays, score
from evaluators.structure import Structure, TensorSpec, flatten
from evaluators.workload import Workload

HASHED_EXAMPLES = 20_000
FEW_SHARED = 0.01


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


def hash_examples(dataset: Any) -> list[str]:
    """Return a hash of the inputs of each example, of at most 20,000 spread evenly."""
    total = len(dataset) if hasattr(dataset, "__len__") else 0
    step = max(1, math.ceil(total / HASHED_EXAMPLES))
    hashes = []
    for i in range(0, total, step):
        try:
            _, named = flatten(dataset[i][0], "input")
        except (WorkloadError, TypeError, IndexError):
            return []
        state = hashlib.sha256()
        for name, tensor in named.items():
            state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            state.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        hashes.append(state.hexdigest())
    return hashes


def check_overlap(hashes: dict[str, list[str]]) -> list[Problem]:
    """What is scored on must not have been trained or calibrated on."""
    problems = []
    for seen in ("calibration", "train", "validation"):
        for scored in ("validation", "test"):
            if seen == scored or seen not in hashes or scored not in hashes:
                continue
            common = len(set(hashes[seen]) & set(hashes[scored]))
            if common == 0:
                continue
            share = common / max(1, len(set(hashes[scored])))
            what = f"{common} examples of {seen} are in {scored} as well ({share:.1%} of it)"
            level = "warning" if seen == "train" and share < FEW_SHARED else "error"
            advice = "splits must be disjoint, or the scores flatter the result"
            problems.append(Problem.model_validate({"level": level, "what": what, "advice": advice}))
    return problems


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
        score(workload, structure, [(outputs, targets, 2)])
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
