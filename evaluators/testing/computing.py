"""What a bundle computes: the model's own outputs, in any order, for any companions and at any batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluators.bundle import read_manifest
from evaluators.testing.cases import (
    SETTINGS,
    Case,
    NonconformingError,
    Outputs,
    UnavailableError,
    answer,
    batch_of,
    build,
    inputs_of,
    load,
    original_outputs,
)

FLOAT_TOLERANCE = 1e-3
SQNR_DB = {"fp32": 60.0, "bf16": 25.0}
LOSSY_SQNR_DB = 10.0
KNOB_SQNR_DB = 3.0
"""A value that is not the known-good one may lose more, and a search finds out how much; it is still the model."""
REPEATED = 1e-5


def sqnr_db(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """Return the signal-to-noise ratio of ``found`` against ``wanted`` over all arrays together, in dB."""
    noise = sum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in zip(found, wanted, strict=True))
    signal = sum(float(np.square(b.astype(np.float64)).sum()) for b in wanted)
    return float(10 * np.log10(signal / noise)) if noise and signal else (float("inf") if not noise else -float("inf"))


def least_db(scheme: str) -> float:
    """Return how close outputs of a scheme must be to the model's, and to each other, in dB."""
    return SQNR_DB.get(scheme, LOSSY_SQNR_DB)


def same(mine: Sequence[Outputs], theirs: Sequence[Outputs]) -> bool:
    """Whether outputs are the same but for the last digits, batch by batch."""
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a, b, strict=True)]
    return all(a.shape == b.shape and np.allclose(a, b, rtol=REPEATED, atol=REPEATED) for a, b in pairs)


def check_parity(case: Case, home: Path) -> None:
    """The bundle computes what the original model computes, in the shapes and types that its manifest declares."""
    bundle = build(case, home)
    runner = load(bundle)
    found = [answer(runner, batch) for batch in inputs_of(case)]
    _check_outputs(case, bundle, found, original_outputs(case))


def check_value(case: Case, home: Path) -> None:
    """A value of a knob builds, and computes what the model computes, on the first workload that it is a choice for."""
    reasons: list[str] = []
    for workload, batch_size in (SETTINGS[0], *SETTINGS[:0:-1]):  # the last one builds faster than that before it
        try:
            return check_parity(replace(case, workload=workload, batch_size=batch_size), home)
        except UnavailableError as error:
            reasons.append(str(error))
    raise UnavailableError(reasons[0])


def _check_outputs(case: Case, bundle: Path, found: Sequence[Outputs], wanted: Sequence[Outputs]) -> None:
    declared = read_manifest(bundle).outputs
    for mine, theirs in zip(found, wanted, strict=True):
        if len(mine) != len(declared.tensors):
            raise NonconformingError(f"it returns {len(mine)} outputs, the manifest lists {declared.names}")
        for array, original, spec in zip(mine, theirs, declared.tensors, strict=True):
            if array.shape != original.shape or array.shape[0] != case.batch_size:
                raise NonconformingError(f"{spec.name} has shape {array.shape}, the model's {original.shape}")
            if str(array.dtype) != spec.dtype:
                raise NonconformingError(f"{spec.name} is {array.dtype}, the manifest says {spec.dtype}")
            if not np.isfinite(array).all():
                raise NonconformingError(f"{spec.name} holds NaN or infinity")
    mine, theirs = ([array for outputs in side for array in outputs] for side in (found, wanted))
    worst = max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(mine, theirs, strict=True))
    if case.scheme == "fp32" and worst > FLOAT_TOLERANCE:
        raise NonconformingError(f"it differs from the model by {worst:.2g}, at most {FLOAT_TOLERANCE} allowed")
    least = least_db(case.scheme) if case.knob is None or case.scheme in SQNR_DB else KNOB_SQNR_DB
    if (ratio := sqnr_db(mine, theirs)) < least:
        raise NonconformingError(f"it is {ratio:.1f} dB from the model, at least {least} dB wanted")


def check_repeatable(case: Case, home: Path) -> None:
    """Prepared inputs can be run again and in any order, and outputs belong to the caller."""
    runner, batches = load(build(case, home)), inputs_of(case)
    prepared = [runner.prepare(batch) for batch in batches]
    first = [runner.outputs(runner.run(item)) for item in prepared]
    kept = [[array.copy() for array in outputs] for outputs in first]
    again = [runner.outputs(runner.run(item)) for item in prepared]
    backwards = [runner.outputs(runner.run(item)) for item in reversed(prepared)][::-1]
    for label, outputs in (("a second run", again), ("a run in another order", backwards)):
        if not same(outputs, kept):
            raise NonconformingError(f"the results of {label} are not those of the first")
    if not same(first, kept):
        raise NonconformingError("outputs that were handed out changed when the bundle was run again")


def check_batch_invariance(case: Case, home: Path) -> None:
    """An example gets the same answer at every place in a batch, beside any companions, and beside itself alone.

    As close as the scheme must be to the model: ranges that are found at every call depend on the companions.
    """
    runner, size = load(build(case, home)), case.batch_size
    if size < 2:
        raise UnavailableError("a batch of one has no companions")
    straight = list(range(size))
    there = {index: [array[index] for array in answer(runner, batch_of(case, straight))] for index in straight}
    others = [*straight[1:], 0], [0, *range(size, 2 * size - 1)], [0] * size
    for label, chosen in zip(("at another place", "beside others", "beside itself alone"), others, strict=True):
        outputs = answer(runner, batch_of(case, chosen))
        for place, index in enumerate(chosen):
            if index in there:
                _check_row(case, f"example {index} {label}", [array[place] for array in outputs], there[index])


def single_on_two_threads(case: Case) -> Case:
    """Return the case at another batch size and number of threads: one more build for all that asks for either."""
    return replace(case, batch_size=1, threads=2)


def check_batch_sizes(case: Case, home: Path) -> None:
    """Bundles of different batch sizes, and for different numbers of threads, give an example the same answer."""
    whole, single = load(build(case, home)), load(build(single_on_two_threads(case), home))
    chosen = list(range(case.batch_size))
    together = answer(whole, batch_of(case, chosen))
    for index in chosen:
        alone = answer(single, batch_of(case, [index]))
        _check_row(case, f"example {index} at batch 1", [array[0] for array in alone], [a[index] for a in together])


def _check_row(case: Case, label: str, found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> None:
    if any(a.shape != b.shape for a, b in zip(found, wanted, strict=True)):
        raise NonconformingError(f"{label} gets outputs of another shape")
    if (ratio := sqnr_db(found, wanted)) < (least := least_db(case.scheme)):
        raise NonconformingError(f"{label} is {ratio:.1f} dB from its answer in order, at least {least} dB wanted")
