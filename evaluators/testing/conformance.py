"""The conformance suite: what every backend and every quantizer must pass, ours and third parties' alike.

A test module parametrizes it over what is registered::

    @pytest.mark.parametrize("case", conformance.cases(), ids=str)
    def test_backend(case, home):
        conformance.check(case, home)

    @pytest.mark.parametrize("case", conformance.variations(), ids=str)
    def test_knob(case, home):
        conformance.check_knob(case, home)

They raise ``UnavailableError`` where the case cannot be tried on this machine, and ``NonconformingError`` where
the backend or the quantizer breaks the contract.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from evaluators import registry
from evaluators.backends.base import Runner
from evaluators.batching import as_arrays, example_batches
from evaluators.bundle import Manifest, read_manifest
from evaluators.candidate import Candidate, Quantization, Runtime, Scalar
from evaluators.errors import ParetuneError
from evaluators.jobs import PrepareJob, ProfileJob
from evaluators.parameters import check_values, defaults
from evaluators.profile import WorkloadProfile
from evaluators.target import probe_target
from evaluators.workload import load_workload

WORKLOADS = "evaluators.testing.workloads"
SETTINGS = (("images", 4), ("texts", 1))
"""Workload and batch size of the cases; the text workload's inputs vary in length.

bf16 is tried on the first only: it differs from fp32 in nothing that the second would show, and builds take seconds.
"""

FLOAT_TOLERANCE = 1e-3
SQNR_DB = {"fp32": 60.0, "bf16": 25.0}
LOSSY_SQNR_DB = 10.0
_BATCHES = 6


class UnavailableError(ParetuneError):
    """The case cannot be tried here; the message is the backend's or the quantizer's own reason."""


class NonconformingError(ParetuneError):
    """The backend or the quantizer breaks its contract."""


@dataclass(frozen=True)
class Case:
    """One registered (backend, scheme) on one tiny workload; ``knob`` is one that is not at its default."""

    backend: str
    scheme: str
    workload: str
    batch_size: int
    knob: tuple[str, Scalar] | None = None

    def __str__(self) -> str:
        knob = f"-{self.knob[0]}={self.knob[1]}" if self.knob else ""
        return f"{self.backend}-{self.scheme}-{self.workload}-b{self.batch_size}{knob}"

    @property
    def reference(self) -> str:
        """How to load the workload."""
        return f"{WORKLOADS}:{self.workload}"


def cases(backend: str | None = None) -> list[Case]:
    """Return the cases of every registered quantizer, or of one backend's."""
    return [
        Case(name, scheme, workload, batch_size)
        for name, scheme in sorted(registry.quantizers())
        if backend in (None, name)
        for workload, batch_size in (SETTINGS[:1] if scheme == "bf16" else SETTINGS)
    ]


def variations(backend: str | None = None) -> list[Case]:
    """Return a case for every value of every quantizer's knobs that is not the default."""
    return [
        replace(case, knob=(parameter.name, value))
        for case in cases(backend)
        for parameter in registry.quantizers()[case.backend, case.scheme].parameters
        for value in parameter.values
        if value != parameter.default
    ]


def check(case: Case, home: Path) -> None:
    """Build the case's bundle under ``home``, load and run it, and compare it with the original model.

    Raises:
        UnavailableError: it cannot be tried on this machine.
        NonconformingError: it breaks the contract.
    """
    bundle = build(case, home)
    manifest = read_manifest(bundle)
    batches = inputs_of(case)
    runner = registry.backend(case.backend).load(bundle, manifest)
    found = [_run(runner, batch) for batch in batches]
    _check_outputs(case, manifest, found, _original(case))
    _check_repeatable(case, runner, batches, found)
    if (case.workload, case.batch_size) == SETTINGS[0]:  # one process per backend and scheme: each imports its runtime
        _check_elsewhere(case, bundle, batches, found, home)


def check_knob(case: Case, home: Path) -> None:
    """Build and run a case of ``variations``: every value that is declared must work.

    Raises:
        UnavailableError: it cannot be tried on this machine, or makes no difference to this model.
        NonconformingError: it breaks the contract.
    """
    bundle = build(case, home)
    manifest = read_manifest(bundle)
    runner = registry.backend(case.backend).load(bundle, manifest)
    _check_outputs(case, manifest, [_run(runner, batch) for batch in inputs_of(case)], _original(case))


def profile_of(reference: str, home: Path) -> WorkloadProfile:
    """Return the profile of a workload, made once for each ``home``."""
    return _profile(reference, home)


@cache
def _profile(reference: str, home: Path) -> WorkloadProfile:
    from evaluators.profiling import profile_workload
    from evaluators.stages.clock import StageClock

    result = profile_workload(ProfileJob(workload=reference, home=str(home)), StageClock(lambda _: None))
    if result.profile is None:
        raise NonconformingError(f"{reference} has no profile: {result.problems}")
    return result.profile


def candidate_of(case: Case, profile: WorkloadProfile) -> Candidate:
    """Return the known-good candidate of a case.

    Raises:
        UnavailableError: backend or quantizer refuse this machine or this model.
        NonconformingError: what they declare does not fit together.
    """
    target = probe_target()
    backend, quantizer = registry.backend(case.backend), registry.quantizers()[case.backend, case.scheme]
    reason = backend.unusable(target) or backend.refuse(profile) or quantizer.refuse(profile, target)
    if reason is not None:
        raise UnavailableError(reason)
    knobs, options = quantizer.parameters_for(profile, target), backend.options_for(profile, target)
    for owner, parameters in ((f"{case.backend} {case.scheme}", knobs), (case.backend, options)):
        if (odd := check_values(parameters, defaults(parameters), owner)) is not None:
            raise NonconformingError(odd)
    values = defaults(knobs)
    if case.knob is not None:
        name, value = case.knob
        offered = {knob.name: knob.values for knob in knobs}.get(name, ())
        if value not in offered or value == values[name]:
            raise UnavailableError(f"{name}={value} is the default or no choice for {case.workload} on {target.name}")
        values[name] = value
    return Candidate(
        target=target.name,
        backend=case.backend,
        quantization=Quantization(scheme=case.scheme, **values),
        batch_size=case.batch_size,
        runtime=Runtime(threads=1, **defaults(options)),
    )


def build(case: Case, home: Path) -> Path:
    """Return the folder of the case's bundle."""
    from evaluators.stages.clock import StageClock
    from evaluators.stages.prepare import prepare

    profile = profile_of(case.reference, home)
    job = PrepareJob(candidate=candidate_of(case, profile), profile=profile, home=str(home))
    return Path(prepare(job, StageClock(lambda _: None)).bundle)


def inputs_of(case: Case) -> list[dict[str, np.ndarray]]:
    """Return a few batches of the workload's validation data by name."""
    workload = load_workload(case.reference)
    limit = _BATCHES * case.batch_size
    batches = example_batches(workload.validation(), workload.collate, case.batch_size, limit)
    return [as_arrays(inputs) for inputs, _, _ in batches]


def _original(case: Case) -> list[list[np.ndarray]]:
    """Return what the original model answers, in eager fp32."""
    import torch

    from evaluators.scoring import output_arrays
    from evaluators.structure import call

    workload = load_workload(case.reference)
    model = workload.model().eval()
    limit = _BATCHES * case.batch_size
    batches = example_batches(workload.validation(), workload.collate, case.batch_size, limit)
    with torch.inference_mode():
        return [output_arrays(call(model, inputs)) for inputs, _, _ in batches]


def _run(runner: Runner, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    return runner.outputs(runner.run(runner.prepare(batch)))


def _check_outputs(
    case: Case, manifest: Manifest, found: list[list[np.ndarray]], wanted: list[list[np.ndarray]]
) -> None:
    noise = signal = worst = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        if len(mine) != len(manifest.outputs.tensors):
            raise NonconformingError(f"{case} returns {len(mine)} outputs, the manifest lists {manifest.outputs.names}")
        for array, original, spec in zip(mine, theirs, manifest.outputs.tensors, strict=True):
            if array.shape != original.shape or array.shape[0] != case.batch_size:
                raise NonconformingError(f"{case}: {spec.name} has shape {array.shape}, the model's {original.shape}")
            if str(array.dtype) != spec.dtype:
                raise NonconformingError(f"{case}: {spec.name} is {array.dtype}, the manifest says {spec.dtype}")
            if not np.isfinite(array).all():
                raise NonconformingError(f"{case}: {spec.name} holds NaN or infinity")
            difference = np.abs(array.astype(np.float64) - original)
            worst = max(worst, float(difference.max()))
            noise += float((difference**2).sum())
            signal += float((original.astype(np.float64) ** 2).sum())
    sqnr_db = 10 * np.log10(signal / noise) if noise else np.inf
    if case.scheme == "fp32" and worst > FLOAT_TOLERANCE:
        raise NonconformingError(f"{case} differs from the model by {worst:.2g}, at most {FLOAT_TOLERANCE} allowed")
    if sqnr_db < (least := SQNR_DB.get(case.scheme, LOSSY_SQNR_DB)):
        raise NonconformingError(f"{case} is {sqnr_db:.1f} dB from the model, at least {least} dB wanted")


def _check_repeatable(
    case: Case, runner: Runner, batches: list[dict[str, np.ndarray]], found: list[list[np.ndarray]]
) -> None:
    """Prepared inputs can be run in any order, and outputs belong to the caller."""
    prepared = [runner.prepare(batch) for batch in batches]
    kept = [runner.outputs(runner.run(item)) for item in prepared]
    again = [runner.outputs(runner.run(item)) for item in reversed(prepared)][::-1]
    for label, outputs in (("of a second run", kept), ("in another order", again)):
        if not _same(outputs, found, tolerance=1e-5):
            raise NonconformingError(f"{case}: the results {label} are not those of the first")


def _check_elsewhere(
    case: Case, bundle: Path, batches: list[dict[str, np.ndarray]], found: list[list[np.ndarray]], home: Path
) -> None:
    """Another process, which built nothing, gets the same results from the bundle."""
    others = run_elsewhere(bundle, batches, home / f"elsewhere-{case}")
    if not _same(others, found, tolerance=1e-5):
        raise NonconformingError(f"{case}: another process gets other results from the same bundle")


def run_elsewhere(bundle: Path, batches: list[dict[str, np.ndarray]], folder: Path) -> list[list[np.ndarray]]:
    """Load a bundle in a process of its own and return its outputs; ``folder`` gets ``modules.json``, what it imported.

    Raises:
        NonconformingError: the process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{i:03d}/{name}": array for i, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "evaluators.testing.elsewhere", str(bundle), str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603
    if ended.returncode:
        raise NonconformingError(f"{bundle.name} fails in another process: {ended.stderr.strip()[-2000:]}")
    with np.load(folder / "outputs.npz", allow_pickle=False) as stored:
        outputs: list[list[np.ndarray]] = [[] for _ in batches]
        for key in sorted(stored.files):
            outputs[int(key.split("/")[0])].append(stored[key])
    return outputs


def modules_of(folder: Path) -> set[str]:
    """Return the names of the modules that ``run_elsewhere`` imported."""
    return set(json.loads((folder / "modules.json").read_text()))


def _same(mine: list[list[np.ndarray]], theirs: list[list[np.ndarray]], tolerance: float) -> bool:
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a, b, strict=True)]
    return all(a.shape == b.shape and np.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)
