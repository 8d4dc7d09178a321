"""Synthetic trials that differ in their precision alone, and operators that they execute."""

from __future__ import annotations

from typing import Any

from evaluators.outcome import Operators
from search.result import TrialResult
from tests.search.factories import a_candidate, a_trial

_CHOICES = ("activation_type", "structure", "amount", "batch_size", "threads")


def int8(
    number: int = 1, p50: float = 0.4, backend: str = "openvino", scheme: str = "static_int8", **more: Any
) -> TrialResult:
    """Return a quantized trial; ``more`` are parts of its candidate or of the trial."""
    knobs = {name: more.pop(name) for name in _CHOICES if name in more}
    return alone(a_trial(number, a_candidate(backend, scheme, **knobs), p50=p50, **more))


def fp32(number: int = 0, p50: float | None = 0.4, backend: str = "openvino", **more: Any) -> TrialResult:
    """Return a float trial, unpruned unless ``more`` says otherwise."""
    knobs = {name: more.pop(name) for name in _CHOICES if name in more}
    return alone(a_trial(number, a_candidate(backend, **knobs), p50=p50, **more))


def alone(trial: TrialResult) -> TrialResult:
    """Return the trial as if it was not timed in turn with eager fp32."""
    return trial.model_copy(update={"speedup": None})


def ran(kind: str, precision: str, count: int = 1, share: float | None = None, kernel: str = "kernel") -> Operators:
    """Return operators that a trial executes."""
    return Operators(kind=kind, precision=precision, kernel=kernel, count=count, time_share=share)
