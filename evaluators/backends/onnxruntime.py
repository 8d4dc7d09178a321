"""The onnxruntime backend: an ONNX file on one of onnxruntime's execution providers. Its bundles run without torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from evaluators.backends import providers
from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.backends.placement import require_target
from evaluators.backends.shares import SPLIT_BATCH, shares_of, splits
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate, Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.traits import convolutional
from evaluators.source import SourceModel
from evaluators.stages.export import positional
from evaluators.target import Target

MODEL = "model.onnx"
GRAPH_OPTIMIZATION = Choice(
    "graph_optimization", ("all", "extended"), "all", "with other layouts for convolutions, or without them"
)
_BATCH = "batch"
_DISTRIBUTION = providers.installed_distribution()
_LEVELS = {"all": "ORT_ENABLE_ALL", "extended": "ORT_ENABLE_EXTENDED", "none": "ORT_DISABLE_ALL"}


class OnnxRuntime(Backend):
    """Builds from ``model.onnx``; the bundle is the same graph with its batch size fixed, optimized beforehand.

    Where threads share a batch, its size stays open: a share is smaller than a batch. The optimized graph is for one
    provider and one class of hardware.
    """

    name: ClassVar[str] = "onnxruntime"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps")
    requires: ClassVar[tuple[str, ...]] = (_DISTRIBUTION or "onnxruntime", "onnx", "onnxscript")
    extra: ClassVar[str] = "onnxruntime"
    options: ClassVar[tuple[Parameter, ...]] = (
        Choice("provider", tuple(providers.PROVIDERS), "cpu", "what executes the nodes of the graph"),
        GRAPH_OPTIMIZATION,
        SPLIT_BATCH,
    )
    options_at_build: ClassVar[tuple[str, ...]] = ("provider", GRAPH_OPTIMIZATION.name, SPLIT_BATCH.name)
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "provider": "the onnxruntime that is installed has it not for this target, or has one only",
            GRAPH_OPTIMIZATION.name: "the highest level is about convolutions on processors, and there are none",
        }
    )

    def unusable(self, target: Target) -> str | None:
        if (why := super().unusable(target)) is not None or providers.offered(target, _DISTRIBUTION):
            return why
        advice = {"cuda": "pip uninstall onnxruntime, then pip install onnxruntime-gpu"}.get(target.device)
        return f"{_DISTRIBUTION} has no execution provider for {target.device}" + (f": {advice}" if advice else "")

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """A provider is a choice where there are several; the highest level of optimization is about convolutions."""
        words = providers.offered(target, _DISTRIBUTION)
        choice = (Choice("provider", words, words[0], self.options[0].description),) if len(words) > 1 else ()
        level = (GRAPH_OPTIMIZATION,) if target.device == "cpu" and convolutional(profile) else ()
        split = (SPLIT_BATCH,) if target.device == "cpu" and words == ("cpu",) and profile.dynamic_batch else ()
        return (*choice, *level, *split)

    def options_given(self, options: tuple[Parameter, ...], batch_size: int, threads: int) -> tuple[Parameter, ...]:
        return tuple(option for option in options if option.name != SPLIT_BATCH.name or splits(batch_size, threads))

    def refuse_option(self, scheme: str, option: str, value: Scalar, target: str) -> str | None:
        return providers.refuse_precision(value, scheme, target) if option == "provider" else None

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        import onnx
        from onnxruntime.tools.onnx_model_utils import make_dim_param_fixed

        word = providers.provider_of(candidate)
        if (why := refuse_split(candidate, source.batch_size)) is not None:
            raise UnsupportedError(why)
        level = str(candidate.runtime.knobs.get(GRAPH_OPTIMIZATION.name, "all"))
        with tempfile.TemporaryDirectory() as scratch:
            fixed, optimized, profile = (Path(scratch) / name for name in ("fixed.onnx", MODEL, "profile"))
            with converting(f"onnxruntime cannot take batches of {candidate.batch_size}"):
                model = onnx.load(str(quantized / MODEL))
                if shares_of(candidate) == 1:
                    make_dim_param_fixed(model.graph, _BATCH, candidate.batch_size)
                fixed.write_bytes(model.SerializeToString())
                saved = optimized if word in providers.SAVED else None
                watched = profile if word != "cpu" else None
                session = open_session(fixed, candidate, level, save=saved, profile=watched)
                shutil.move(saved or fixed, bundle / MODEL)
            if watched is not None:
                _require_landing(session, word, positional(source.example(candidate.batch_size), source.profile.inputs))

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        candidate = manifest.candidate
        session = open_session(bundle / MODEL, candidate, _level_at_load(candidate))
        device = "cuda" if providers.provider_of(candidate) in ("cuda", "tensorrt") else "cpu"
        return _runner(session, manifest, device)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.diagnosis.executed import executed_precisions, summarize
        from evaluators.diagnosis.instructions import offered_instructions
        from evaluators.diagnosis.onnxruntime import read_profile, spare_memory
        from evaluators.diagnosis.timing import call_seconds
        from evaluators.target import probe_target

        candidate = manifest.candidate
        prepared = runner.prepare(batch)
        if not spare_memory():
            return Diagnosis(notes=("there is too little memory to load the model once more and profile it",))
        with tempfile.TemporaryDirectory() as scratch:
            session = open_session(
                folder / MODEL, candidate, _level_at_load(candidate), profile=Path(scratch) / "profile"
            )
            watched: Any = _runner(session, manifest, runner.device)
            again = watched.prepare(batch)
            call_seconds(lambda: watched.run(again))
            events = json.loads(Path(session.end_profiling()).read_text())
        found = read_profile(events)
        landing = providers.read_landing(events, providers.PROVIDERS[providers.provider_of(candidate)])
        told = "onnxruntime does not tell its kernels' instructions; they are the best that the processor has"
        return summarize(
            found,
            candidate.quantization.scheme,
            call_seconds=call_seconds(lambda: runner.run(prepared)),
            instruction_set=offered_instructions(probe_target(candidate.target), executed_precisions(found)),
            notes=(told, landing.note) if landing.note else (told,),
        )


def open_session(
    path: Path, candidate: Candidate, level: str, *, save: Path | None = None, profile: Path | None = None
) -> Any:
    """Open a model on the candidate's provider with its threads.

    ``save`` is where the optimized graph is written; ``profile`` begins the name of a file with what is executed.

    Raises:
        UnsupportedError: onnxruntime here does not have the provider, falls back to another, or the provider does not
            compute in the candidate's precision.
    """
    import onnxruntime

    word = providers.provider_of(candidate)
    if word not in providers.PROVIDERS:
        raise UnsupportedError(f"there is no provider {word!r}; known are {', '.join(providers.PROVIDERS)}")
    if (why := providers.refuse_precision(word, candidate.quantization.scheme, candidate.target)) is not None:
        raise UnsupportedError(why)
    asked = providers.PROVIDERS[word]
    if asked not in (available := onnxruntime.get_available_providers()):
        raise UnsupportedError(f"onnxruntime here has no {asked}; it has {', '.join(available)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = candidate.runtime.threads // shares_of(candidate)
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
    options.log_severity_level = 3
    if save is not None:
        options.optimized_model_filepath = str(save)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    with_settings = [(asked, settings)] if (settings := providers.provider_settings(word, candidate)) else [asked]
    session = onnxruntime.InferenceSession(str(path), options, providers=with_settings)
    if (found := session.get_providers())[:1] != [asked]:
        raise UnsupportedError(f"onnxruntime fell back: it runs on {', '.join(found)} instead of {asked}")
    return session


def _runner(session: Any, manifest: Manifest, device: str) -> OnnxRuntimeRunner | SplitRunner:
    if (shares := shares_of(manifest.candidate)) > 1:
        return SplitRunner(session, manifest, shares)
    return OnnxRuntimeRunner(session, manifest, device)


def _level_at_load(candidate: Candidate) -> str:
    """Return the level that a bundle is opened with: none where its graph was optimized when it was built.

    Raises:
        UnsupportedError: it was optimized for another class of hardware.
    """
    if providers.provider_of(candidate) not in providers.SAVED:
        return "all"
    if candidate.runtime.knobs.get(GRAPH_OPTIMIZATION.name) == "all":  # only layouts of convolutions tie it to hardware
        require_target(candidate.target, "the optimized graph")
    return "none"


def _require_landing(session: Any, word: str, tensors: Sequence[Any]) -> None:
    """Run a profiled session once.

    Raises:
        UnsupportedError: too much of the graph runs on another provider than asked.
    """
    names = [value.name for value in session.get_inputs()]
    with converting(f"the model does not run on {providers.PROVIDERS[word]}"):
        feeds = {name: np.asarray(tensor) for name, tensor in zip(names, tensors, strict=True)}
        session.run(None, feeds)  # the first call chooses kernels
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    if (why := providers.read_landing(events, providers.PROVIDERS[word]).refused) is not None:
        raise UnsupportedError(why)


@dataclass(frozen=True)
class Bound:
    """A batch tied to a session: where inputs are read from and outputs are written to is settled before the call.

    ``uploads`` are the arrays of the host that each call copies to values on the device; ``arrays`` are kept alive.
    """

    binding: Any
    arrays: tuple[np.ndarray, ...]
    uploads: tuple[tuple[Any, np.ndarray], ...] = ()


def refuse_split(candidate: Candidate, exported_for: int | None) -> str | None:
    """Return why a candidate's batch cannot be split, or None; ``exported_for`` is the one batch size of the model."""
    size, threads = candidate.batch_size, candidate.runtime.threads
    if candidate.runtime.knobs.get(SPLIT_BATCH.name) is not True:
        return None
    if (word := providers.provider_of(candidate)) != "cpu":
        return f"split_batch is true, and the provider {word} has threads of its own: ask for false"
    if not splits(size, threads):
        return f"split_batch is true, and a batch of {size} is no equal shares for {threads} threads: ask for false"
    return None if exported_for is None else f"the model is exported for batches of {exported_for}, which are not split"


class OnnxRuntimeRunner:
    """One session whose inputs and outputs are bound, so that a call neither looks names up nor makes arrays.

    On a GPU a call begins and ends in the memory of the host, as everywhere (decision 0030).
    """

    def __init__(self, session: Any, manifest: Manifest, device: str = "cpu") -> None:
        self.device = device
        self._session = session
        self._call = session.run_with_iobinding
        self._outputs = list(manifest.outputs.names)
        self._declared, self._batch_size = manifest.inputs, manifest.candidate.batch_size
        self._dtypes = {tensor.name: tensor.dtype for tensor in manifest.inputs.tensors}
        self._inputs = [value.name for value in session.get_inputs()]

    def prepare(self, batch: Arrays) -> Bound:
        self._declared.check(batch, self._batch_size)
        arrays = tuple(np.array(batch[name], dtype=self._dtypes[name], order="C") for name in self._inputs)
        binding, uploads = self._session.io_binding(), []
        for name, array in zip(self._inputs, arrays, strict=True):
            if self.device == "cpu":
                binding.bind_cpu_input(name, array)
            else:
                import onnxruntime

                value = onnxruntime.OrtValue.ortvalue_from_numpy(array, self.device, 0)
                binding.bind_ortvalue_input(name, value)
                uploads.append((value, array))
        for name in self._outputs:
            binding.bind_output(name)
        return Bound(binding, arrays, tuple(uploads))

    def run(self, prepared: Bound) -> Any:
        for value, array in prepared.uploads:
            value.update_inplace(array)
        self._call(prepared.binding)
        return prepared.binding

    def outputs(self, raw: Any) -> list[np.ndarray]:
        return [np.array(array) for array in raw.copy_outputs_to_cpu()]


class SplitRunner:
    """One session that as many threads call at a time as a batch has shares; the caller's is one of them.

    A session may be run by several threads; with one thread of its own, each run stays in the thread that calls it.
    """

    def __init__(self, session: Any, manifest: Manifest, shares: int) -> None:
        self.device = "cpu"
        share = manifest.candidate.model_copy(update={"batch_size": manifest.candidate.batch_size // shares})
        self._one = OnnxRuntimeRunner(session, manifest.model_copy(update={"candidate": share}))
        self._declared, self._batch_size, self._shares = manifest.inputs, manifest.candidate.batch_size, shares
        self._others = ThreadPoolExecutor(shares - 1, "share")

    def prepare(self, batch: Arrays) -> list[Bound]:
        self._declared.check(batch, self._batch_size)
        parts = {name: np.split(batch[name], self._shares) for name in self._declared.names}
        return [self._one.prepare({name: part[i] for name, part in parts.items()}) for i in range(self._shares)]

    def run(self, prepared: list[Bound]) -> list[Any]:
        others = [self._others.submit(self._one.run, bound) for bound in prepared[1:]]
        first = self._one.run(prepared[0])
        return [first, *(other.result() for other in others)]

    def outputs(self, raw: list[Any]) -> list[np.ndarray]:
        return [np.concatenate(pieces) for pieces in zip(*map(self._one.outputs, raw), strict=True)]
