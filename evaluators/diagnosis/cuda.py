"""What torch executes on a CUDA device: its profiler's record of one call, kernels put to the operators they belong to.

The host's clock says how long a call takes (decision 0030). CUDA's own events say here how much of it the device works.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluators.backends.base import Arrays
from evaluators.bundle import Manifest
from evaluators.diagnosis.eager import read_trace
from evaluators.diagnosis.executed import WEIGHTED, Executed, summarize
from evaluators.diagnosis.timing import call_seconds
from evaluators.outcome import Diagnosis

_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")


def diagnosed(runner: Any, manifest: Manifest, batch: Arrays) -> Diagnosis:
    """Return what one call of a torch model executes on the device."""
    prepared = runner.prepare(batch)
    run = call_seconds(lambda: runner.run(prepared))
    busy = device_seconds(lambda: runner.run(prepared))
    trace = recorded(lambda: runner.run(prepared))
    scheme, target = manifest.candidate.quantization.scheme, manifest.candidate.target
    return summarize(
        with_kernels(trace),
        scheme,
        call_seconds=run,
        asked=("linear",) if scheme.startswith("dynamic") else WEIGHTED,
        instruction_set=target.partition("-")[2] or None,
        notes=(f"between the first and the last thing that the device does in a call of {run * 1e3:.3f} ms "
               f"lie {busy * 1e3:.3f} ms",),
    )  # fmt: skip


def device_seconds(call: Callable[[], object]) -> float:
    """Return the seconds between CUDA events recorded before and after ``call`` on its stream."""
    import torch

    cuda: Any = torch.cuda
    begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def recorded(call: Callable[[], object]) -> dict[str, Any]:
    """Run ``call`` under torch's profiler and return its record in Chrome's format."""
    from torch.autograd.profiler import profile

    with profile(use_device="cuda", record_shapes=True, acc_events=True) as record:
        call()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trace.json"
        record.export_chrome_trace(str(path))
        trace: dict[str, Any] = json.loads(path.read_text())
    return trace


def with_kernels(trace: dict[str, Any]) -> list[Executed]:
    """Read the operators of a record; the time of each is that of the kernels that it launched, and so is its name.

    Kernels that no operator launched, as those of a replayed graph or of a compiled package, follow by their own names.
    """
    launched: dict[int, list[dict[str, Any]]] = {}
    for event in trace["traceEvents"]:
        if event.get("cat") in _ON_DEVICE:
            launched.setdefault(event.get("args", {}).get("External id", -1), []).append(event)
    known = {id_ for event in trace["traceEvents"] if event.get("cat") == "cpu_op" for id_ in [_external(event)]}
    operators = read_trace(trace, {id_: _work(events) for id_, events in launched.items()})
    loose = [event for id_, events in launched.items() if id_ not in known for event in events]
    return [*operators, *(_kernel(event) for event in loose)]


def _external(event: Mapping[str, Any]) -> int:
    return int(event.get("args", {}).get("External id", -1))


def _work(events: list[dict[str, Any]]) -> tuple[float, str]:
    """Return the microseconds of what an operator launched, and the name of the longest."""
    longest = max(events, key=lambda event: float(event["dur"]))
    return sum(float(event["dur"]) for event in events), str(longest["name"])


_KINDS = (
    ("attention", ("attention", "flash_fwd", "fmha")),  # first: they are written with CUTLASS too
    ("convolution", ("conv", "fprop", "implicit_gemm", "scudnn", "winograd")),
    ("linear", ("gemm", "gemv", "nvjet", "matmul", "cutlass", "_mm_", "_addmm_", "_bmm_", "_baddbmm_")),
)
_PRECISIONS = (
    ("fp8", ("e4m3", "e5m2", "f8", "nvjet_qq")),
    ("int8", ("s8", "i8", "int8", "imma")),
    ("bf16", ("bf16", "bfloat16", "nvjet_tst")),
    ("fp16", ("f16", "fp16", "half", "h884", "h1688", "h16816", "hmma", "nvjet_hsh")),
    ("fp32", ("f32", "sgemm", "float", "scudnn", "s1688")),
)


def _kernel(event: Mapping[str, Any]) -> Executed:
    """Return a kernel as an operator; kind and precision are read from its name, where that tells them."""
    name = str(event["name"])
    low = name.lower()
    kind = next((kind for kind, parts in _KINDS if any(part in low for part in parts)), str(event["cat"]))
    precision = next((word for word, parts in _PRECISIONS if any(part in low for part in parts)), "")
    return Executed(kind, precision if kind != event["cat"] else "", name, float(event["dur"]) / 1e6)
