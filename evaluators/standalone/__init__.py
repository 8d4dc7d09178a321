"""Code that is shipped with an exported bundle and runs it without paretune, and which backends have such code.

The files beside this one are copied as they are: none of them imports anything of paretune. ``runner.py`` takes any
number of rows, ``runtimes/BACKEND.py`` makes one call of the runtime, the others put the two behind a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evaluators.backends.openvino_settings import settings_of, streams_of
from evaluators.backends.providers import PROVIDERS, SAVED, provider_of, provider_settings
from evaluators.backends.shares import shares_of
from evaluators.candidate import Candidate
from evaluators.target import device_of

HERE = Path(__file__).parent
RUNNER, RUNTIME, SETTINGS = "runner.py", "runtime.py", "runtime.json"


@dataclass(frozen=True)
class Standalone:
    """How the bundles of one backend run without paretune.

    Attributes:
        source: the file that makes a call; ``load(bundle, settings, manifest)`` in it returns the call.
        distributions: what must be installed besides NumPy.
        settings: what the runtime is told for a candidate, as JSON.
        refuse: why a candidate cannot be run so, or None if it can.
    """

    source: Path
    distributions: tuple[str, ...]
    settings: Callable[[Candidate], dict[str, Any]]
    refuse: Callable[[Candidate], str | None] = lambda candidate: None


def standalone_of(candidate: Candidate) -> Standalone | str:
    """Return how a candidate's bundle runs without paretune, or why it does not."""
    name = candidate.backend
    found = _RUNTIMES.get(name)
    if found is None:
        return f"bundles of {name} do not run without paretune" + (
            ", which rebuilds the module from the workload's own code" if name == "eager" else ""
        )
    return found.refuse(candidate) or found


def _onnxruntime(candidate: Candidate) -> dict[str, Any]:
    word = provider_of(candidate)
    return {
        "model": "model.onnx",
        "threads": candidate.runtime.threads // shares_of(candidate),
        "shares": shares_of(candidate),
        "provider": PROVIDERS[word],
        "provider_settings": provider_settings(word, candidate),
        # The graph was optimized when it was built, where the provider's graphs can be saved.
        "level": "ORT_DISABLE_ALL" if word in SAVED else "ORT_ENABLE_ALL",
    }


def _openvino(candidate: Candidate) -> dict[str, Any]:
    device = {"cpu": "CPU", "xpu": "GPU", "npu": "NPU"}[device_of(candidate.target)]
    return {
        "model": "model.xml",
        "device": device,
        "settings": settings_of(candidate),
        "streams": streams_of(candidate),
    }


def _inductor(candidate: Candidate) -> dict[str, Any]:
    return {"model": "model.pt2", "threads": candidate.runtime.threads}


def _only_on_processors(candidate: Candidate) -> str | None:
    if device_of(candidate.target) == "cpu":
        return None
    return f"packages for {candidate.target} are called through page-locked memory and CUDA graphs, which paretune does"


_RUNTIMES: Mapping[str, Standalone] = MappingProxyType({
    "onnxruntime": Standalone(HERE / "runtimes" / "onnxruntime.py", ("onnxruntime",), _onnxruntime),
    "openvino": Standalone(HERE / "runtimes" / "openvino.py", ("openvino",), _openvino),
    "inductor": Standalone(HERE / "runtimes" / "inductor.py", ("torch",), _inductor, _only_on_processors),
})  # fmt: skip
