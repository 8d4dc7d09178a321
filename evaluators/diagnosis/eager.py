"""What torch executes for a module: its own profiler's record of one call, operator by operator."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.diagnosis.executed import BITS, COMPUTING, CONVERSIONS, Executed, precision_of
from evaluators.diagnosis.streams import STDERR, redirected
from evaluators.diagnosis.timing import repeated

_KINDS = (
    ("convolution", re.compile(r"_?conv(olution|_transpose)?[123]?d?(_\w*)?")),
    ("linear", re.compile(r"linear\w*|_?addmm\w*|_(int|scaled)_mm\w*|_weight_int[48]pack_mm\w*")),
    ("matmul", re.compile(r"matmul|mm|bmm|baddbmm")),
    ("attention", re.compile(r"\w*(scaled_dot_product|multi_head)_\w*attention\w*|_transformer_encoder_layer_fwd")),
    ("recurrent", re.compile(r"(quantized_)?(lstm|gru|rnn_tanh|rnn_relu)(_cell|_dynamic)?")),
    ("quantize", re.compile(r"quantize_per_(tensor|channel)\w*")),
    ("dequantize", re.compile(r"dequantize")),
)
_MOST_OF_IT = 0.5
_KERNEL_LIKE = ("aten::mkldnn_", "aten::_", "aten::thnn_", "aten::slow_", "mkldnn::", "onednn::")


@dataclass
class _Event:
    """One recorded call of an operator, times in microseconds, and the calls that it made.

    ``launched`` is what it did on a device itself: for how long, and the name of the longest kernel.
    """

    name: str
    begin: float
    end: float
    types: Sequence[str]
    children: list[_Event] = field(default_factory=list)
    launched: tuple[float, str] | None = None

    @property
    def kind(self) -> str | None:
        bare = self.name.rpartition("::")[2]
        return next((kind for kind, pattern in _KINDS if pattern.fullmatch(bare)), None)


def executed(call: Callable[[], object]) -> list[Executed]:
    """Run ``call`` a few times under torch's profiler and return the operators of one, in their order.

    The time of each is the shortest, where every call executes the same.
    """
    runs: list[list[Executed]] = []
    repeated(lambda: runs.append(_profiled(call)))
    if any(len(run) != len(runs[0]) for run in runs):
        return runs[-1]
    return [min(same, key=lambda item: item.seconds or 0.0) for same in zip(*runs, strict=True)]


def _profiled(call: Callable[[], object]) -> list[Executed]:
    from torch.autograd.profiler import profile  # torch.profiler's imports torch's compiler, which takes a second

    with open(os.devnull, "w") as nowhere, redirected(STDERR, nowhere.fileno()):
        with profile(record_shapes=True, acc_events=True) as recorded:
            call()
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "trace.json"
            recorded.export_chrome_trace(str(path))
            return read_trace(json.loads(path.read_text()))


def read_trace(trace: dict[str, Any], launched: Mapping[int, tuple[float, str]] | None = None) -> list[Executed]:
    """Read the operators of a trace in Chrome's format; a composite counts as what computes within it.

    ``launched`` tells, where the work is done on a device, the microseconds and the longest kernel of what each
    operator launched, by its external id; these are its time and kernel then.
    """
    on_device = launched is not None
    tree = _tree(trace["traceEvents"], launched or {})
    return [operator for event in tree for operator in _operators(event, on_device)]


def _tree(events: Sequence[dict[str, Any]], launched: Mapping[int, tuple[float, str]]) -> list[_Event]:
    """Nest the operators of the thread that called the module by their times."""
    records = [event for event in events if event.get("cat") == "cpu_op"]
    threads = [event["tid"] for event in records]
    caller = max(set(threads), key=threads.count, default=None)
    roots: list[_Event] = []
    open_calls: list[_Event] = []
    for record in sorted((event for event in records if event["tid"] == caller), key=lambda e: (e["ts"], -e["dur"])):
        types = record.get("args", {}).get("Input type", [])
        own = launched.get(record.get("args", {}).get("External id", -1))
        event = _Event(record["name"], record["ts"], record["ts"] + record["dur"], types, launched=own)
        while open_calls and open_calls[-1].end <= event.begin:
            open_calls.pop()
        (open_calls[-1].children if open_calls else roots).append(event)
        open_calls.append(event)
    return roots


def _operators(event: _Event, on_device: bool) -> Iterator[Executed]:
    kind = event.kind
    if kind is None and _computes(event):
        for child in event.children:
            yield from _operators(child, on_device)
        return
    bare = event.name.rpartition("::")[2]
    kernel, time = _kernel(event) if kind in COMPUTING else event.name, event.end - event.begin
    if on_device:
        work = _launched(event)
        time = sum(each for each, _ in work)
        kernel = max(work)[1] if work else event.name
    yield Executed(kind or bare.strip("_"), _precision(event), kernel, time / 1e6)


def _launched(event: _Event) -> list[tuple[float, str]]:
    own = [event.launched] if event.launched else []
    return own + [each for child in event.children for each in _launched(child)]


def _computes(event: _Event) -> bool:
    return any(child.kind in (*COMPUTING, *CONVERSIONS) or _computes(child) for child in event.children)


def _kernel(event: _Event) -> str:
    """Return the innermost operator that takes most of the time: ``mkldnn_convolution`` within ``conv2d``."""
    inner = [child for child in event.children if child.kind is not None or child.name.startswith(_KERNEL_LIKE)]
    longest = max(inner, key=lambda child: child.end - child.begin, default=None)
    if longest is None or longest.end - longest.begin < _MOST_OF_IT * (event.end - event.begin):
        return event.name
    return _kernel(longest)


def _precision(event: _Event) -> str:
    if event.name.startswith("quantized::"):
        return "int8"
    words = (precision_of(name) for name in event.types)
    return next((word for word in words if word in BITS), "")
