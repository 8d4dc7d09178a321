"""Recovery: a pruned model learns again to answer as the original did."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from evaluators.batching import collated
from evaluators.errors import NotFiniteError
from evaluators.structure import call, flatten
from evaluators.workload import Workload

BATCH = 64
TEMPERATURE = 2.0


def distil(student: Any, teacher: Any, workload: Workload, steps: int, seed: int) -> None:
    """Train ``student`` in place for ``steps`` batches to match ``teacher``; weights that are zero stay zero.

    Data come from the train split, or from calibration where there is none. Outputs with classes are matched by the
    Kullback-Leibler divergence at temperature 2 (Hinton et al., 2015), others by the mean squared error; the
    workload's loss is added where it has one.

    Raises:
        NotFiniteError: training diverged.
    """
    import torch

    torch.manual_seed(seed)
    masks = _masks(student) if _is_sparse(student) else {}
    student.train().requires_grad_(True)
    for layer in student.modules():
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.eval()
    has_batch_norm = any(isinstance(layer, torch.nn.modules.batchnorm._BatchNorm) for layer in student.modules())
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3 if has_batch_norm else 1e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for inputs, targets in itertools.islice(_training_batches(workload, seed), steps):
        with torch.no_grad():
            wanted = flatten(call(teacher, inputs), "output")[1]
        answer = call(student, inputs)
        found = flatten(answer, "output")[1]
        loss = sum((_distance(found[name], wanted[name]) for name in wanted), start=torch.zeros(()))
        if workload.loss is not None:
            loss = loss + workload.loss(answer, targets)
        if not torch.isfinite(loss):
            raise NotFiniteError(f"recovery diverged: the loss became {float(loss)}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for parameter, mask in masks.items():
                parameter.mul_(mask)
    student.eval().requires_grad_(False)


def _training_batches(workload: Workload, seed: int) -> Iterator[tuple[Any, Any]]:
    import torch

    dataset = (workload.train or workload.calibration)()
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(dataset))
    while True:
        order = torch.randperm(len(dataset), generator=generator).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield collated([dataset[i] for i in order[start : start + size]], workload.collate)


def _distance(found: Any, wanted: Any) -> Any:
    from torch.nn import functional

    if wanted.ndim == 2 and wanted.shape[1] > 1:
        return TEMPERATURE**2 * functional.kl_div(
            functional.log_softmax(found / TEMPERATURE, dim=1),
            functional.log_softmax(wanted / TEMPERATURE, dim=1),
            reduction="batchmean",
            log_target=True,
        )
    return functional.mse_loss(found.float(), wanted.float())


def _is_sparse(module: Any) -> bool:
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return bool(zeros > 0.01 * sum(weight.numel() for weight in weights))


def _masks(module: Any) -> dict[Any, Any]:
    return {parameter: (parameter != 0).to(parameter.dtype) for parameter in module.parameters() if parameter.ndim > 1}
