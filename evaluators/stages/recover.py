"""Recovery: a pruned model learns again to answer as the original did."""

from __future__ import annotations

import itertools
from typing import Any

from evaluators.candidate import Recovery
from evaluators.errors import UnsupportedError
from evaluators.stages.training import BATCH, Course, batch_norms, fit, imitation, training_batches
from evaluators.structure import call
from evaluators.workload import Workload

STATISTICS_BATCHES = 50


def recover(
    student: Any, teacher: Any, workload: Workload, how: Recovery, steps: int, seed: int, limit_s: float | None = None
) -> None:
    """Let ``student`` recover in place: ``bn``, ``distil`` or ``train``; ``none`` leaves it as it is.

    Raises:
        NotFiniteError: training diverged.
        TooSlowError: ``steps`` steps would take longer than ``limit_s``.
        UnsupportedError: the model or the workload lacks what this way to recover needs.
    """
    if how == "bn":
        estimate_statistics(student, workload, seed)
    elif how == "distil":
        distil(student, teacher, workload, steps, seed, limit_s)
    elif how == "train":
        train(student, workload, steps, seed, limit_s)


def estimate_statistics(student: Any, workload: Workload, seed: int) -> None:
    """Estimate means and variances of the batch norms anew, over one pass of at most 50 batches; no weight changes.

    Raises:
        UnsupportedError: no layer keeps such statistics.
    """
    import torch

    layers = [layer for layer in batch_norms(student) if layer.track_running_stats]
    if not layers:
        raise UnsupportedError("the model has no batch norm that keeps statistics; choose another recovery than bn")
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain average of all batches
        layer.train()
    examples = len((workload.train or workload.calibration)())
    passes = min(STATISTICS_BATCHES, max(1, examples // BATCH))
    with torch.no_grad():
        for inputs, _ in itertools.islice(training_batches(workload, seed), passes):
            call(student, inputs)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    student.eval()


def distil(student: Any, teacher: Any, workload: Workload, steps: int, seed: int, limit_s: float | None = None) -> None:
    """Train ``student`` in place for ``steps`` batches to match ``teacher``; weights that are zero stay zero.

    Data come from the train split, or from calibration where there is none; see ``imitation`` for the loss.

    Raises:
        NotFiniteError: training diverged.
        TooSlowError: it would take longer than ``limit_s``.
    """
    course = _course(student, steps, seed, limit_s)
    loss_of = imitation(teacher, workload)
    fit(student, workload, course, lambda inputs, targets: loss_of(call(student, inputs), inputs, targets))


def train(student: Any, workload: Workload, steps: int, seed: int, limit_s: float | None = None) -> None:
    """Train ``student`` in place for ``steps`` batches of the train split with the workload's own loss alone.

    Raises:
        NotFiniteError: training diverged.
        TooSlowError: it would take longer than ``limit_s``.
        UnsupportedError: the workload has no loss, or no train split.
    """
    loss = workload.loss
    if loss is None or workload.train is None:
        lacks = "train split" if loss is not None else "loss"
        raise UnsupportedError(f"workload {workload.name} has no {lacks}; choose another recovery than train")
    course = _course(student, steps, seed, limit_s)
    fit(student, workload, course, lambda inputs, targets: loss(call(student, inputs), targets))


def _course(student: Any, steps: int, seed: int, limit_s: float | None) -> Course:
    """Put the student into the mode in which it trains: dropout off, batch norms on."""
    import torch

    student.train()
    for layer in student.modules():
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.eval()
    return Course("recovery", steps, 2e-3 if batch_norms(student) else 1e-4, seed, limit_s)
