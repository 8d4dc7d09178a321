"""Load a bundle, run it on real inputs and print what that took: ``python -m evaluators.footprint BUNDLE EXAMPLE``.

EXAMPLE is an ``.npz`` file with one batch of real inputs, an array for each. Nothing is imported but what the bundle's
runtime needs: bundles of onnxruntime and OpenVINO run without torch.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import registry
from evaluators.backends.base import Arrays, Backend
from evaluators.bundle import open_bundle
from evaluators.footprint.energy import Counter, EnergyMeter, packages
from evaluators.footprint.gpus import NOTHING, bytes_in_use, device_memory_bytes, gpus_of, load_nvml, with_energy
from evaluators.footprint.measured import Footprint
from evaluators.footprint.memory import peak_resident_bytes, resident_bytes
from evaluators.target import device_of

LEAST_CALLS, MOST_CALLS, ENOUGH_SECONDS = 3, 10, 1.0
"""Runtimes take the last of their memory in the first calls."""

ENERGY_SECONDS = 1.0
"""RAPL counters move about once a millisecond; over a second that is a tenth of a percent."""


def main() -> int:
    """Print a ``Footprint`` as JSON on standard output; what libraries and user's code print goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m evaluators.footprint", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a built bundle")
    parser.add_argument("example", type=Path, help=".npz file with one batch of real inputs, an array for each")
    given = parser.parse_args()
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        answer.write(observe(given.bundle, given.example).model_dump_json())
    return 0


def observe(bundle: Path, example: Path) -> Footprint:
    """Load ``bundle`` in this process, which must have done nothing else, and run it on ``example``."""
    begun = time.perf_counter()
    manifest = open_bundle(bundle, trusted=True)  # the job that asks has made or opened it
    backend = registry.backend(manifest.candidate.backend)
    batch = batch_of(example, manifest.candidate.batch_size)
    nvml = load_nvml()
    before = bytes_in_use(nvml) if nvml is not None and device_of(manifest.candidate.target) == "cuda" else NOTHING
    _import_runtime(backend)
    baseline = resident_bytes()
    runner = backend.load(bundle, manifest)
    loaded = resident_bytes()
    prepared = runner.prepare(batch)
    calls, first = 0, time.perf_counter()
    while calls < LEAST_CALLS or (calls < MOST_CALLS and time.perf_counter() - first < ENOUGH_SECONDS):
        runner.outputs(runner.run(prepared))
        calls += 1
    peak = peak_resident_bytes()
    gpus = () if nvml is None else gpus_of(os.getpid(), nvml, before)
    found, missing = packages()
    counters: tuple[Counter, ...] = (*found, *with_energy(gpus))
    return Footprint(
        peak_memory_bytes=peak,
        baseline_bytes=baseline,
        loaded_bytes=loaded,
        device_memory_bytes=device_memory_bytes(gpus),
        energy_j=_energy_of_call(runner, prepared, counters),
        energy_of=tuple(counter.name for counter in counters),
        no_energy=None if counters else missing,
        seconds=time.perf_counter() - begun,
    )


def batch_of(example: Path, batch_size: int) -> Arrays:
    """Read the arrays of ``example`` and repeat or cut their rows to ``batch_size``."""
    with np.load(example, allow_pickle=False) as stored:
        return {name: np.resize(array, (batch_size, *array.shape[1:])) for name, array in stored.items()}


def _import_runtime(backend: Backend) -> None:
    """Import the library that runs the bundle: the first that the backend requires, torch where it requires none."""
    module = next(iter(backend.requires), "torch").replace("-", "_")
    if importlib.util.find_spec(module) is not None:
        importlib.import_module(module)


def _energy_of_call(runner: Any, prepared: Any, counters: tuple[Counter, ...]) -> float | None:
    """Return the joules of one call, from a run of a second at least."""
    if not counters:
        return None
    calls = 0
    with EnergyMeter(counters) as meter:
        end = time.perf_counter() + ENERGY_SECONDS
        while time.perf_counter() < end:
            runner.run(prepared)
            calls += 1
    return None if meter.joules is None else meter.joules / calls


if __name__ == "__main__":
    sys.exit(main())
