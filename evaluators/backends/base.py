"""Backend: a runtime that executes a model. Adding one is one file and one entry point."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import numpy as np

from evaluators.bundle import Manifest
from evaluators.candidate import Candidate, Scalar
from evaluators.outcome import Diagnosis
from evaluators.parameters import Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.source import SourceModel
from evaluators.target import Target

Arrays = Mapping[str, np.ndarray]


class Runner(Protocol):
    """A loaded bundle. Only ``run`` is timed: it is the runtime's own call and nothing else."""

    def prepare(self, batch: Arrays) -> Any:
        """Turn named arrays into what the runtime takes."""

    def run(self, prepared: Any) -> Any:
        """Run one batch and wait for its result."""

    def outputs(self, raw: Any) -> list[np.ndarray]:
        """Turn what ``run`` returned into arrays, in the order of the manifest's outputs."""


class Backend(ABC):
    """What a runtime declares — capability as data — and the two things that it does; it may also tell what it made.

    Attributes:
        name: the word used in candidates.
        devices: words for the devices of the targets that it serves (``evaluators.target.DEVICES``): ``cpu``, ``cuda``.
        requires: distributions that must be installed.
        extra: the extra of ``pip install 'paretune[extra]'`` that brings them.
        options: runtime options besides ``threads``, each a dimension of the space; applied by ``load``.
        left_out: why an option, or values of it, are not offered where they are not, by the option's name.
        quantizers: quantizers that come with the backend, besides those with an entry point of their own.
        as_written: values of options that run the user's module just as the user wrote it.
        own_threads: devices on which the runtime sets its threads itself, so that only ``threads`` 1 is a candidate.
        threads_at_build: whether ``build`` bakes the number of threads into the bundle.
        options_at_build: names of the options that ``build`` bakes into the bundle.
        builds_anywhere: whether ``build`` works on a machine that is not the target.
        formats: suffixes of files in its bundles besides those that docs/bundles.md lists (``.gguf``); such bundles are
            loaded only where somebody vouches for them, and on no other target.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    requires: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    options: ClassVar[tuple[Parameter, ...]] = ()
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType({})
    quantizers: ClassVar[tuple[type[Quantizer], ...]] = ()
    as_written: ClassVar[Mapping[str, Scalar]] = MappingProxyType({})
    own_threads: ClassVar[tuple[str, ...]] = ()
    threads_at_build: ClassVar[bool] = False
    options_at_build: ClassVar[tuple[str, ...]] = ()
    builds_anywhere: ClassVar[bool] = False
    formats: ClassVar[tuple[str, ...]] = ()

    def unusable(self, target: Target) -> str | None:
        """Return why this backend cannot run on ``target`` and what to install, or None if it can.

        Reads installed metadata only: imports nothing heavy.
        """
        if target.device not in self.devices:
            return f"{self.name} serves {', '.join(self.devices)}, and {target.name} is {target.device}"
        for distribution in self.requires:
            if target.version_of(distribution) is None:
                advice = f"pip install 'paretune[{self.extra}]'" if self.extra else f"pip install {distribution}"
                return f"{distribution} is not installed: {advice}"
        return None

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Return why this backend cannot take the workload's model, or None if it can."""
        return None

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """Return the options that make a difference to this model; the others are no part of the space."""
        return self.options

    def options_given(self, options: tuple[Parameter, ...], batch_size: int, threads: int) -> tuple[Parameter, ...]:
        """Return which of ``options`` make a difference at this batch size with so many threads."""
        return options

    def refuse_option(self, scheme: str, option: str, value: Scalar, target: str) -> str | None:
        """Return why a value of an option does not go with a scheme on ``target``, or None if it does.

        One value of each option goes with every scheme.
        """
        return None

    @abstractmethod
    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        """Write the files that ``load`` needs into ``bundle`` from what the quantizer wrote into ``quantized``.

        The batch size is fixed here: the bundle serves batches of exactly ``candidate.batch_size``.

        Raises:
            UnsupportedError: this model cannot be built for this backend.
        """

    @abstractmethod
    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        """Load a built bundle with the threads and options of ``manifest.candidate.runtime``."""

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        """Return what this runtime really executes for the bundle in ``folder``: operators, precisions, kernels.

        ``runner`` is what ``load`` returned and may be called on ``batch``. Called once everything is measured, and
        through ``evaluators.diagnosis.diagnose``, which turns what goes wrong into a note; it should take less than
        0.3 s. A backend that cannot tell need not have it.
        """
        return Diagnosis(notes=(f"{self.name} does not tell what it executes",))
