"""Cases: every registered backend and scheme on tiny workloads, for each target of the machine that it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import registry
from evaluators.backends.base import Runner
from evaluators.batching import as_arrays, collated, example_batches
from evaluators.bundle import open_bundle
from evaluators.candidate import Candidate, Quantization, Runtime, Scalar
from evaluators.errors import ParetuneError
from evaluators.jobs import PrepareJob, ProfileJob
from evaluators.parameters import Choice, Parameter, check_values, defaults, written
from evaluators.profile import WorkloadProfile
from evaluators.target import Target, probe_target, probe_targets
from evaluators.workload import load_workload

Outputs = list[np.ndarray]
Batch = dict[str, np.ndarray]

WORKLOADS = "evaluators.testing.workloads"
SETTINGS = (("images", 4), ("texts", 2), ("series", 2))
"""Workload and batch size of the cases. The inputs of ``texts`` vary in length.

bf16 is tried on the first only: it differs from fp32 in nothing that the others would show, and builds take seconds.
"""
BATCHES = 6


class UnavailableError(ParetuneError):
    """The case cannot be tried here; the message is the backend's or the quantizer's own reason."""


class NonconformingError(ParetuneError):
    """The backend or the quantizer breaks its contract."""


@dataclass(frozen=True)
class Case:
    """One registered (backend, scheme) on one tiny workload; ``knob`` is one that has a value of its own.

    ``target`` is the name of one of the machine's; None is the machine's own choice.
    """

    backend: str
    scheme: str
    workload: str
    batch_size: int
    knob: tuple[str, Scalar] | None = None
    target: str | None = None
    threads: int = 1

    def __str__(self) -> str:
        knob = f"-{self.knob[0]}={self.knob[1]}" if self.knob else ""
        threads = f"-t{self.threads}" if self.threads > 1 else ""
        target = f"-{self.target}" if self.target and not self.target.startswith("cpu-") else ""
        return f"{self.backend}-{self.scheme}-{self.workload}-b{self.batch_size}{threads}{knob}{target}"

    @property
    def reference(self) -> str:
        """How to load the workload."""
        return f"{WORKLOADS}:{self.workload}"


def served_targets(backend: str) -> list[Target]:
    """Return the targets of this machine whose device the backend serves; the first of all where it serves none."""
    offered, devices = probe_targets(), registry.backend(backend).devices
    return [target for target in offered if target.device in devices] or [offered[0]]


def schemes_of(backend: str) -> list[str]:
    """Return the schemes that quantizers declare for a backend, fp32 first."""
    return sorted({scheme for name, scheme in registry.quantizers() if name == backend}, key=lambda s: (s != "fp32", s))


def cases(backend: str | None = None) -> list[Case]:
    """Return the cases of every registered quantizer, or of one backend's."""
    return [
        Case(name, scheme, workload, batch_size, target=target.name)
        for name in sorted(registry.backends())
        if backend in (None, name)
        for target in served_targets(name)
        for scheme in schemes_of(name)
        for workload, batch_size in (SETTINGS[:1] if scheme == "bf16" else SETTINGS)
    ]


def representatives(backend: str | None = None) -> list[Case]:
    """Return the case that stands for each backend and target: fp32 on the first setting."""
    workload, batch_size = SETTINGS[0]
    return [
        case
        for case in cases(backend)
        if (case.scheme, case.workload, case.batch_size) == ("fp32", workload, batch_size)
    ]


def variations(backend: str | None = None, workload: str = SETTINGS[0][0]) -> list[Case]:
    """Return a case for every value of every quantizer's knobs and every backend's options, on one workload.

    A value that is no choice for that workload is tried on the others (``computing.check_value``).
    """
    found = []
    for case in cases(backend):
        if case.workload == workload:
            knobs = list(registry.quantizers()[case.backend, case.scheme].parameters)
            found += [replace(case, knob=(knob.name, value)) for knob in knobs for value in _tried(knob)]
            if case.scheme == "fp32":
                declared = registry.backend(case.backend)
                for option in declared.options:  # some make a difference with several threads only
                    threads = 1 if option in declared.options_given((option,), case.batch_size, 1) else 2
                    found += [replace(case, knob=(option.name, each), threads=threads) for each in _tried(option)]
    return found


def _tried(knob: Parameter) -> tuple[Scalar, ...]:
    """Return every value of a choice, and the ends of a grid."""
    return knob.values if isinstance(knob, Choice) else (knob.values[0], knob.values[-1])


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
        UnavailableError: backend or quantizer refuse this machine, this model or this value.
        NonconformingError: what they declare does not fit together.
    """
    target = probe_target(case.target)
    backend, quantizer = registry.backend(case.backend), registry.quantizers()[case.backend, case.scheme]
    reason = backend.unusable(target) or backend.refuse(profile) or quantizer.refuse(profile, target)
    if reason is not None:
        raise UnavailableError(reason)
    knobs, options = quantizer.parameters_for(profile, target), backend.options_for(profile, target)
    for owner, parameters in ((f"{case.backend} {case.scheme}", knobs), (case.backend, options)):
        if (odd := check_values(parameters, defaults(parameters), owner)) is not None:
            raise NonconformingError(odd)
    options = backend.options_given(options, case.batch_size, case.threads)
    values, runtime = defaults(knobs), defaults(options)
    if case.knob is not None:
        name, value = case.knob
        chosen = values if name in values else runtime
        offered = {knob.name: knob.values for knob in (*options, *knobs)}.get(name, ())
        if value not in offered:
            raise UnavailableError(f"{name}={value} is no choice for {case.workload} on {target.name}")
        chosen[name] = value
    return Candidate(
        target=target.name,
        backend=case.backend,
        quantization=Quantization(scheme=case.scheme, **written(knobs, values)),
        batch_size=case.batch_size,
        runtime=Runtime(threads=case.threads, **runtime),
    )


def build(case: Case, home: Path) -> Path:
    """Return the folder of the case's bundle."""
    from evaluators.stages.clock import StageClock
    from evaluators.stages.prepare import prepare

    profile = profile_of(case.reference, home)
    job = PrepareJob(candidate=candidate_of(case, profile), profile=profile, home=str(home))
    return Path(prepare(job, StageClock(lambda _: None)).bundle)


def load(bundle: Path) -> Runner:
    """Load a bundle through its backend."""
    manifest = open_bundle(bundle, trusted=True)
    return registry.backend(manifest.candidate.backend).load(bundle, manifest)


def inputs_of(case: Case) -> list[Batch]:
    """Return a few batches of the workload's validation data by name."""
    workload = load_workload(case.reference)
    batches = example_batches(workload.validation(), workload.collate, case.batch_size, BATCHES * case.batch_size)
    return [as_arrays(inputs) for inputs, _, _ in batches]


def batch_of(case: Case, chosen: Sequence[int]) -> Batch:
    """Return one batch of the validation examples with these indices, in this order."""
    workload = load_workload(case.reference)
    dataset = workload.validation()
    return as_arrays(collated([dataset[index] for index in chosen], workload.collate)[0])


def original_outputs(case: Case) -> list[Outputs]:
    """Return what the original model answers to ``inputs_of``, in eager fp32."""
    import torch

    from evaluators.scoring import output_arrays
    from evaluators.structure import call

    workload = load_workload(case.reference)
    model: Any = workload.model().eval()
    batches = example_batches(workload.validation(), workload.collate, case.batch_size, BATCHES * case.batch_size)
    with torch.inference_mode():
        return [output_arrays(call(model, inputs)) for inputs, _, _ in batches]


def answer(runner: Runner, batch: Batch) -> Outputs:
    """Run one batch and return its outputs."""
    return runner.outputs(runner.run(runner.prepare(batch)))
