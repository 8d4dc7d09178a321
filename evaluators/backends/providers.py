"""Execution providers of onnxruntime: which a machine offers for a device, what they are told, and what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.candidate import Candidate, Scalar
from evaluators.target import Target, device_of, probe_processor
from evaluators.target.nvidia import features_of

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
"""Our word for each provider, and onnxruntime's."""

_OF_DISTRIBUTION = {
    "onnxruntime-gpu": ("cuda", "tensorrt", "cpu"),
    "onnxruntime-openvino": ("openvino", "cpu"),
    "onnxruntime-directml": ("directml", "cpu"),
    "onnxruntime": ("cpu",),
}
"""What each distribution was built with; onnxruntime itself has Core ML's too on Apple's machines."""

_FOR_DEVICE = {
    "cpu": ("cpu", "openvino", "directml", "coreml"),
    "cuda": ("cuda", "tensorrt", "directml"),
    "mps": ("coreml",),
}
"""The providers that compute on a device; those for ``cpu`` may use a GPU that torch does not know."""

SAVED = ("cpu", "cuda")
"""Providers whose optimized graph can be saved; the others compile parts of it when it is loaded."""

MOST_TIME_ELSEWHERE = 0.1
MOST_NODES_ELSEWHERE = 0.5
"""A candidate that leaves more to another provider than asked is another candidate. Few nodes of little work, such as
those that compute shapes, are left to the processor on purpose."""


@dataclass(frozen=True)
class Landing:
    """Where the nodes of a graph ran: how many in all, and the shares of nodes and of time that ran elsewhere."""

    asked: str
    nodes: int
    nodes_elsewhere: float
    time_elsewhere: float
    elsewhere: tuple[str, ...]

    @property
    def note(self) -> str | None:
        """Say what ran on another provider than asked, or None if nothing did."""
        if not self.elsewhere:
            return None
        return (
            f"{self.nodes_elsewhere:.0%} of {self.nodes} nodes with {self.time_elsewhere:.0%} of the time run on "
            f"{', '.join(self.elsewhere)} instead of {self.asked}"
        )

    @property
    def refused(self) -> str | None:
        """Say why this is not the provider that was asked for, or None if it is."""
        if self.nodes_elsewhere > MOST_NODES_ELSEWHERE or self.time_elsewhere > MOST_TIME_ELSEWHERE:
            return f"onnxruntime fell back: {self.note}; at most {MOST_TIME_ELSEWHERE:.0%} of the time may"
        return None


def read_landing(events: Sequence[dict[str, Any]], asked: str) -> Landing:
    """Read from the events of a profile where nodes ran that ``asked`` (onnxruntime's name) should have run.

    A provider that compiles parts of the graph shows each part as one node of its own.
    """
    seconds: dict[str, float] = {}
    nodes: dict[str, set[str]] = {}
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and (provider := arguments.get("provider")):
            seconds[provider] = seconds.get(provider, 0.0) + float(event["dur"])
            nodes.setdefault(provider, set()).add(str(arguments.get("node_index", event["name"])))
    count, time = sum(len(each) for each in nodes.values()), sum(seconds.values())
    elsewhere = sorted(set(nodes) - {asked})
    return Landing(
        asked=asked,
        nodes=count,
        nodes_elsewhere=sum(len(nodes[name]) for name in elsewhere) / count if count else 0.0,
        time_elsewhere=sum(seconds[name] for name in elsewhere) / time if time else 0.0,
        elsewhere=tuple(elsewhere),
    )


def installed_distribution() -> str | None:
    """Return the name of the distribution of onnxruntime that is installed here; only one can be."""
    return next((name for name in _OF_DISTRIBUTION if probe_processor().version_of(name)), None)


def offered(target: Target, distribution: str | None) -> tuple[str, ...]:
    """Return our words for the providers that a distribution has for ``target``, the known-good one first."""
    built = _OF_DISTRIBUTION.get(distribution or "", ())
    if distribution == "onnxruntime" and target.system.startswith("Darwin"):
        built = (*built, "coreml")
    return tuple(word for word in _FOR_DEVICE.get(target.device, ()) if word in built)


def provider_of(candidate: Candidate) -> str:
    """Return our word for the provider that a candidate runs on: the one it names, else the first of its device."""
    return str(candidate.runtime.knobs.get("provider", _FOR_DEVICE[device_of(candidate.target)][0]))


def refuse_precision(word: Scalar, scheme: str, target: str) -> str | None:
    """Return why a provider cannot compute in a scheme on ``target``, or None if it can.

    TensorRT's has no setting for TF32, which its engines use wherever the GPU has it (onnxruntime issue 26029).
    """
    architecture = target.partition("-sm")[2]
    if word != "tensorrt" or scheme != "fp32" or not architecture.isdigit():
        return None
    if "tf32" not in features_of(int(architecture)):
        return None
    return (
        f"onnxruntime's TensorRT computes float32 in TF32 on {target} and cannot be told not to: "
        "take the scheme tf32, or the provider cuda"
    )


def provider_settings(word: str, candidate: Candidate) -> dict[str, str]:
    """Return what a provider is told for a candidate: fp32 means IEEE's on CUDA, and threads are those asked for."""
    scheme, threads = candidate.quantization.scheme, str(candidate.runtime.threads)
    if word == "cuda":
        return {"use_tf32": "1" if scheme == "tf32" else "0"}
    if word == "tensorrt":
        return {"trt_fp16_enable": "1" if scheme == "fp16" else "0"}
    if word == "openvino":
        return {"device_type": "CPU", "num_of_threads": threads, "precision": "FP32"}
    if word == "coreml":
        return {"ModelFormat": "MLProgram"}
    return {}
