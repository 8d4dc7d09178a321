"""What OpenVINO is told for a candidate: device, precision, hint, streams; and whether it does what it was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evaluators.backends.shares import splits
from evaluators.candidate import Candidate
from evaluators.parameters import Choice
from evaluators.target import device_of

PERFORMANCE_HINT = Choice(
    "performance_hint",
    ("latency", "throughput"),
    "latency",
    "all threads work on the whole batch, or each on its share of it as a request of its own",
)
FLOAT_PRECISION = Choice("float_precision", ("f32", "bf16", "f16"), "f32", "what is computed in that is not quantized")
_OF_SCHEME = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_UNQUANTIZED = {"cpu": "f32", "xpu": "f16", "npu": "f16"}
"""What a device computes in beside int8 where the candidate does not say."""

_READ_BACK = ("INFERENCE_PRECISION_HINT", "NUM_STREAMS")


def hint_of(candidate: Candidate) -> str:
    """Return the performance hint of a candidate."""
    return str(candidate.runtime.knobs.get(PERFORMANCE_HINT.name, PERFORMANCE_HINT.default))


def precision_of(candidate: Candidate) -> str:
    """Return OpenVINO's word for what a candidate computes in that is not quantized."""
    scheme, device = candidate.quantization.scheme, device_of(candidate.target)
    chosen = candidate.quantization.knobs.get(FLOAT_PRECISION.name, _UNQUANTIZED[device])
    return _OF_SCHEME.get(scheme, str(chosen))


def streams_of(candidate: Candidate) -> int:
    """Return how many requests a call makes at a time, each of the same number of examples."""
    return candidate.runtime.threads if hint_of(candidate) == "throughput" else 1


def settings_of(candidate: Candidate) -> dict[str, Any]:
    """Return what OpenVINO is told for a candidate; without a precision it lowers float32 to what a device likes best.

    No cache of compiled models is named: what is loaded is what the bundle's hashes cover (decision 0033).
    """
    device, streams = device_of(candidate.target), streams_of(candidate)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": hint_of(candidate).upper(),
        "INFERENCE_PRECISION_HINT": precision_of(candidate),
    }
    if device != "npu":  # it has one stream
        settings["NUM_STREAMS"] = streams
    if device == "cpu":
        settings["INFERENCE_NUM_THREADS"] = candidate.runtime.threads
    return settings


def refuse_candidate(candidate: Candidate) -> str | None:
    """Return which part of a candidate OpenVINO cannot honour, or None."""
    device, threads, hint = device_of(candidate.target), candidate.runtime.threads, hint_of(candidate)
    if hint not in PERFORMANCE_HINT.values:
        return f"performance_hint is {hint!r}; it must be one of {list(PERFORMANCE_HINT.values)}"
    if device != "cpu" and threads != 1:
        return f"threads is {threads}, and OpenVINO sets its threads itself on {candidate.target}: ask for threads 1"
    if hint == "throughput" and not splits(candidate.batch_size, threads):
        return (
            f"performance_hint is 'throughput', and a batch of {candidate.batch_size} is no equal shares for {threads} "
            "threads: ask for 'latency'"
        )
    return None


def ignored(settings: Mapping[str, Any], read: Callable[[str], Any]) -> str | None:
    """Return which setting a compiled model does not have as it was told, or None; ``read`` reads one back by name.

    OpenVINO takes a precision that a device does not have without a word, and computes in another one.
    """
    for name in _READ_BACK:
        if name in settings and (found := _word(read(name))) != str(settings[name]):
            return f"OpenVINO has {name} {found} after {settings[name]} was asked for: this device does not offer it"
    return None


def _word(value: Any) -> str:
    return str(value.to_string()) if hasattr(value, "to_string") else str(value)
