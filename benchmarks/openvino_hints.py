"""What OpenVINO's performance hints are worth to one caller with one batch, and what a compiled model is worth.

    python benchmarks/openvino_hints.py --threads 2 --turns 20

The fp32 and int8 models of the images and motion examples, each in four settings that take turns of 40 ms in one
process: one thread; the latency hint; the throughput hint with one request; the throughput hint with the batch split
into a request for each thread. Written is the speed over that of the latency hint, the median over the turns, and how
many processors worked. A row in which the latency hint did not get its processors is marked. Then the milliseconds that
compiling each model takes, and importing it compiled, the median of six fresh processes each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bundles import HERE, Workshop

TURN_SECONDS, WARMUP_SECONDS = 0.04, 0.15
LEAST_BUSY = 0.75
"""The share of the threads' time that the latency hint must have worked for a row to count."""

_LOADING = """
import io, sys, time, openvino
path, blob, settings = sys.argv[1], sys.argv[2], {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
core, kept = openvino.Core(), open(blob, "rb").read() if blob else b""
begun = time.perf_counter()
core.import_model(io.BytesIO(kept), "CPU", settings) if blob else core.compile_model(path, "CPU", settings)
print((time.perf_counter() - begun) * 1e3)
"""
_FRESH = 6

Call = Callable[[], None]


def calls(path: Path, batch: int, threads: int) -> dict[str, Call]:
    """Return a call for each setting."""
    latency = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    throughput = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": threads}
    return {
        "one thread": call(path, batch, 1, latency | {"INFERENCE_NUM_THREADS": 1}),
        "latency": call(path, batch, 1, latency | {"INFERENCE_NUM_THREADS": threads}),
        "throughput, one request": call(path, batch, 1, throughput),
        "throughput, split": call(path, batch, threads, throughput | {"NUM_STREAMS": threads}),
    }


def call(path: Path, batch: int, requests: int, settings: dict[str, Any]) -> Call:
    """Return a call of one batch in so many requests at a time."""
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    shapes = {value.any_name: value.get_partial_shape() for value in model.inputs}
    for shape in shapes.values():
        shape[0] = batch // requests
    model.reshape(shapes)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
    made = [compiled.create_infer_request() for _ in range(requests)]
    random = np.random.default_rng(0)
    for request in made:
        for index, value in enumerate(compiled.inputs):
            array = random.random(tuple(value.shape)).astype(value.get_element_type().to_dtype())
            request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))

    def run() -> None:
        if requests == 1:
            made[0].infer(share_outputs=True)
            return
        for request in made:
            request.start_async()
        for request in made:
            request.wait()

    return run


def turn(run: Call, seconds: float) -> tuple[float, float]:
    """Run for so long and return the median seconds of a call, and how many processors worked."""
    begun, busy, taken = time.perf_counter(), _processor_seconds(), []
    while (now := time.perf_counter()) < begun + seconds:
        run()
        taken.append(time.perf_counter() - now)
    return median(taken), (_processor_seconds() - busy) / (time.perf_counter() - begun)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def row(name: str, path: Path, batch: int, threads: int, turns: int) -> str:
    """Time all settings in turn and write their row."""
    settings = calls(path, batch, threads)
    for run in settings.values():
        turn(run, WARMUP_SECONDS)
    found = [{setting: turn(run, TURN_SECONDS) for setting, run in settings.items()} for _ in range(turns)]
    cells = [
        f"{median(each['latency'][0] / each[setting][0] for each in found):.2f} "
        f"({median(each[setting][1] for each in found):.1f})"
        for setting in settings
    ]
    polluted = median(each["latency"][1] for each in found) < LEAST_BUSY * threads
    return f"| {name} | {batch} | {' | '.join(cells)} | {'other programs ran' if polluted else ''} |"


def loading(name: str, path: Path, folder: Path) -> str:
    """Load a model compiled and not, in fresh processes, and write its row."""
    import openvino

    blob = folder / "compiled.blob"
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    exported = openvino.Core().compile_model(str(path), "CPU", settings).export_model()
    blob.write_bytes(exported.read() if hasattr(exported, "read") else exported)

    def milliseconds(kept: str) -> float:
        command = [sys.executable, "-c", _LOADING, str(path), kept]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    found = [(milliseconds(""), milliseconds(str(blob))) for _ in range(_FRESH)]
    return f"| {name} | {median(one for one, _ in found):.0f} | {median(two for _, two in found):.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[2, 8, 32])
    given = parser.parse_args()
    head = "| model | batch | one thread | latency | throughput, one request | throughput, split | |"
    print(head, "|" + " --- |" * 7, sep="\n", flush=True)
    loads = []
    for example in ("images", "motion"):
        with tempfile.TemporaryDirectory(prefix="openvino-hints-") as scratch:
            workshop = Workshop(Path(scratch), given.threads)
            try:
                wanted = [("openvino", "fp32"), ("openvino", "static_int8")]
                reference = f"{HERE.parent / 'examples' / example / 'workload.py'}:workload"
                for built in workshop.build(wanted, max(given.batch_sizes), reference):
                    name = f"{example} {built.candidate.quantization.scheme}"
                    model = Path(built.bundle) / "model.xml"
                    for batch in given.batch_sizes:
                        print(row(name, model, batch, given.threads, given.turns), flush=True)
                    loads.append(loading(name, model, Path(scratch)))
            finally:
                workshop.close()
    print("", "| model | compile, ms | import, ms |", "|" + " --- |" * 3, *loads, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
