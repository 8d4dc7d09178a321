"""Training: the loop that recovery and quantization-aware training share, the same at every run."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from evaluators.batching import collated
from evaluators.errors import NotFiniteError, TooSlowError
from evaluators.structure import call, flatten
from evaluators.workload import Workload

BATCH = 64
TEMPERATURE = 2.0
TIMED_STEPS = 3
"""So many steps are run before it is said how long all of them will take; the first one, slow, does not count."""

Loss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Course:
    """How a model is trained.

    Attributes:
        what: the stage, in words for people: ``recovery``.
        steps: batches of 64 examples.
        learning_rate: AdamW's, at its highest; it rises over a tenth of the steps and falls to zero as a cosine.
        seed: of the order of the examples, and of whatever in the model draws numbers.
        limit_s: seconds that it may take. They never shorten it, which would give other weights on another machine:
            where it would take longer, it is refused as soon as that is known.
    """

    what: str
    steps: int
    learning_rate: float
    seed: int
    limit_s: float | None = None


def fit(module: Any, workload: Workload, course: Course, loss_of: Loss) -> None:
    """Train ``module`` in place, in the mode in which its layers are; weights that are zero stay zero.

    ``loss_of(inputs, targets)`` returns the scalar that is lowered. The module is left in eval mode without gradients.

    Raises:
        NotFiniteError: it diverged.
        TooSlowError: it would take longer than the course allows.
    """
    import torch

    torch.manual_seed(course.seed)
    masks = _masks(module) if _is_sparse(module) else {}
    steps = course.steps
    optimizer = torch.optim.AdamW(module.requires_grad_(True).parameters(), lr=course.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.1 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    pace = Pace(course)
    for step, (inputs, targets) in enumerate(itertools.islice(training_batches(workload, course.seed), steps)):
        loss = loss_of(inputs, targets)
        if not torch.isfinite(loss):
            raise NotFiniteError(f"{course.what} diverged: the loss became {float(loss)} at step {step + 1}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for parameter, mask in masks.items():
                parameter.mul_(mask)
        pace.step()
    module.eval().requires_grad_(False)
    if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
        raise NotFiniteError(f"{course.what} diverged: weights became NaN or infinite in {steps} steps")


class Pace:
    """How long a course takes, found out in its first steps."""

    def __init__(self, course: Course, clock: Callable[[], float] = time.perf_counter) -> None:
        self._course, self._clock = course, clock
        self._ends = [clock()]

    def step(self) -> None:
        """Note that a step has ended.

        Raises:
            TooSlowError: at this pace all of them take longer than the course allows.
        """
        course = self._course
        if course.limit_s is None or len(self._ends) > TIMED_STEPS:
            return
        self._ends.append(self._clock())
        if len(self._ends) <= TIMED_STEPS:
            return
        each = (self._ends[-1] - self._ends[1]) / (TIMED_STEPS - 1)
        if (expected := each * course.steps) > course.limit_s:
            fitting = int(course.limit_s / each)
            raise TooSlowError(
                f"{course.what} of {course.steps} steps would take about {expected:,.0f} s here, {each:.2g} s each, "
                f"and may take {course.limit_s:,.0f} s of a trial's time; give trials more time, or take at most "
                f"{fitting} steps"
            )


def imitation(teacher: Any, workload: Workload) -> Callable[[Any, Any, Any], Any]:
    """Return the loss ``(answer, inputs, targets) -> scalar`` of answering otherwise than ``teacher``.

    Outputs with classes are matched by the Kullback-Leibler divergence at temperature 2 (Hinton et al., 2015), others
    by the mean squared error; the workload's loss is added where it has one.
    """
    import torch

    def loss_of(answer: Any, inputs: Any, targets: Any) -> Any:
        with torch.no_grad():
            wanted = flatten(call(teacher, inputs), "output")[1]
        found = flatten(answer, "output")[1]
        loss = sum((_distance(found[name], wanted[name]) for name in wanted), start=torch.zeros(()))
        return loss if workload.loss is None else loss + workload.loss(answer, targets)

    return loss_of


def training_batches(workload: Workload, seed: int) -> Iterator[tuple[Any, Any]]:
    """Yield batches of the train split, or of calibration where there is none, in a new random order at each pass."""
    import torch

    dataset = (workload.train or workload.calibration)()
    generator = torch.Generator().manual_seed(seed)
    size = min(BATCH, len(dataset))
    while True:
        order = torch.randperm(len(dataset), generator=generator).tolist()
        for start in range(0, len(order) - size + 1, size):
            yield collated([dataset[i] for i in order[start : start + size]], workload.collate)


def batch_norms(module: Any) -> list[Any]:
    """Return the layers that normalize by statistics of a batch."""
    import torch

    return [layer for layer in module.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]


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
