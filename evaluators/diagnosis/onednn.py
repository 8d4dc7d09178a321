"""What oneDNN executes under torch: it names every primitive, its kernel and its time when it is asked to.

The lines are those that ``ONEDNN_VERBOSE=1`` prints (oneDNN's developer guide, "Verbose Mode").
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evaluators.diagnosis.executed import Executed, precision_of
from evaluators.diagnosis.streams import STDOUT, redirected
from evaluators.diagnosis.timing import repeated

_KINDS = {
    "convolution": "convolution", "deconvolution": "convolution", "inner_product": "linear", "matmul": "linear",
    "rnn": "recurrent", "reorder": "reorder",
}  # fmt: skip
_SOURCE = re.compile(r"\bsrc(?:_\w+)?:(\w+)")


@dataclass(frozen=True)
class Primitive:
    """One execution of a primitive; ``kind`` is oneDNN's own, ``kernel`` names its instructions."""

    kind: str
    kernel: str
    precision: str
    seconds: float


def primitives(call: Callable[[], object]) -> list[Primitive]:
    """Run ``call`` a few times and return the primitives that oneDNN executes in one, in their order.

    The time of each is the shortest, where every call executes the same.
    """
    from torch.backends import mkldnn

    if not mkldnn.is_available():  # type: ignore[no-untyped-call]
        return []
    with tempfile.TemporaryFile() as said:
        sys.stdout.flush()
        asked = mkldnn.verbose(mkldnn.VERBOSE_ON)  # type: ignore[no-untyped-call]
        with redirected(STDOUT, said.fileno()), asked:
            calls = len(repeated(call))
        said.seek(0)
        return _one_call(parse(said.read().decode(errors="replace")), calls)


def parse(text: str) -> list[Primitive]:
    """Read the lines of executions; headers and anything else that was printed meanwhile are passed over."""
    found = []
    for line in text.splitlines():
        fields = line.split(",")
        if fields[0] != "onednn_verbose" or "exec" not in fields:
            continue
        kind, kernel, *rest = fields[fields.index("exec") + 2 :]
        source = _SOURCE.search(",".join(rest))
        precision = precision_of(source.group(1)) if source else ""
        found.append(Primitive(kind, kernel, precision, float(rest[-1]) / 1e3))
    return found


def _one_call(found: list[Primitive], calls: int) -> list[Primitive]:
    each = len(found) // calls
    runs = [found[i * each : (i + 1) * each] for i in range(calls)]
    if len(found) != each * calls or any([p.kernel for p in run] != [p.kernel for p in runs[0]] for run in runs):
        return runs[-1]
    return [min(same, key=lambda item: item.seconds) for same in zip(*runs, strict=True)]


def with_kernels(executed: Sequence[Executed], found: Sequence[Primitive]) -> list[Executed]:
    """Name the kernels of operators that oneDNN ran, and add its reorders.

    Both lists are in the order of execution. Operators of one kind and precision are matched with primitives where
    there are as many of them; elsewhere some ran outside oneDNN, and which is not known. A matched operator without
    a time takes the primitive's. Reorders within an operator's call are listed beside it, and are in its time too.
    """
    named = list(executed)
    for kind, precision in {(item.kind, item.precision) for item in executed}:
        places = [i for i, item in enumerate(executed) if (item.kind, item.precision) == (kind, precision)]
        matching = [item for item in found if (_KINDS.get(item.kind), item.precision) == (kind, precision)]
        if kind != "reorder" and len(places) == len(matching):
            for place, item in zip(places, matching, strict=True):
                seconds = item.seconds if named[place].seconds is None else named[place].seconds
                named[place] = replace(named[place], kernel=item.kernel, seconds=seconds)
    reorders = [item for item in found if item.kind == "reorder"]
    return [*named, *(Executed("reorder", item.precision, item.kernel, item.seconds) for item in reorders)]


def computing_kernels(found: Sequence[Primitive]) -> list[str]:
    """Return the names of the kernels that multiplied something."""
    return [item.kernel for item in found if _KINDS.get(item.kind, "reorder") != "reorder"]
