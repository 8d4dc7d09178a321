"""Where a torch model computes: the way to the device and back, CUDA graphs, and the precision of float32.

Without a GPU a stand-in takes torch's place where the device would: it has the signatures of the real one, notes what
is done in which order, and computes on the processor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluators import registry
from evaluators.backends import eager, inductor
from evaluators.backends.torch_device import (
    CUDA_GRAPHS,
    DeviceRunner,
    Recorded,
    graphs_option,
    use_float_precision,
    with_graphs,
)
from evaluators.bundle import Manifest, read_manifest
from evaluators.candidate import Candidate, Quantization, Runtime
from evaluators.errors import UnsupportedError, WorkloadError
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Target, probe_target
from evaluators.testing import conformance
from evaluators.testing.cases import served_targets

WORDS = TensorSpec(name="words", dtype="int64", shape=(None, None))
NUMBERS = TensorSpec(name="numbers", dtype="float32", shape=(None, 3))


def a_manifest(*inputs: TensorSpec, target: str = "cuda-sm90", scheme: str = "fp32", **knobs: bool) -> Manifest:
    candidate = Candidate(target=target, backend="eager", quantization=Quantization(scheme=scheme), batch_size=2,
                          runtime=Runtime(**knobs))  # fmt: skip
    structure = Structure(style="tuple", tensors=inputs or (NUMBERS,))
    return Manifest(candidate=candidate, workload="w.py:w", inputs=structure, outputs=structure, files={},
                    environment={}, target_fingerprint="0" * 16)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch_device")


# --- CUDA graphs: where they are offered, and where they are refused


@pytest.mark.parametrize(
    ("workload", "features", "offered"),
    [("images", ("graphs",), True), ("images", (), False), ("texts", ("graphs",), False)],
)
def test_graphs_are_offered_for_inputs_of_one_shape_on_a_device_that_has_them(
    workload: str, features: tuple[str, ...], offered: bool, home: Path
) -> None:
    profile = conformance.profile_of(f"evaluators.testing.workloads:{workload}", home)
    target = Target(name="cuda-sm90", processor="", features=features, cores=1, memory_bytes=1, system="")

    assert graphs_option(profile, target) == ((CUDA_GRAPHS,) if offered else ())


@pytest.mark.parametrize(
    ("knobs", "asked"), [({"cuda_graphs": True}, True), ({"cuda_graphs": False}, False), ({}, False)]
)
def test_graphs_are_recorded_only_where_asked_for(knobs: dict[str, bool], asked: bool) -> None:
    assert with_graphs(a_manifest(**knobs), "cuda") is asked


@pytest.mark.parametrize(
    ("manifest", "device", "why"),
    [
        (a_manifest(target="cpu-avx2", cuda_graphs=True), "cpu", "cpu-avx2 is no CUDA device: leave it out"),
        (a_manifest(target="apple-m2", cuda_graphs=True), "mps", "apple-m2 is no CUDA device"),
        (a_manifest(NUMBERS, WORDS, cuda_graphs=True), "cuda", r"vary in shape \(words\): set it to false"),
    ],
)
def test_graphs_that_cannot_be_are_refused(manifest: Manifest, device: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        with_graphs(manifest, device)


# --- Precision of float32: settings of the process, which torch keeps also where it has no device


SETTINGS: tuple[Callable[[], Any], ...] = (
    lambda: torch.backends.cuda.matmul.fp32_precision,
    lambda: torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
    lambda: torch.backends.cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
)
OLDER: tuple[Callable[[], Any], ...] = (
    lambda: torch.backends.cuda.matmul.allow_tf32,
    lambda: torch.backends.cudnn.allow_tf32,
    lambda: torch.get_float32_matmul_precision() == "high",
)


@pytest.fixture
def as_before() -> Iterator[None]:
    """Put the settings back to what torch begins with."""
    yield
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = True


def precisions() -> list[str]:
    return [setting() for setting in SETTINGS]


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("scheme", "word"),
    [("fp32", "ieee"), ("tf32", "tf32"), ("fp16", "ieee"), ("bf16", "ieee"), ("dynamic_int8", "ieee")],
)
def test_float32_is_computed_as_the_scheme_says(scheme: str, word: str) -> None:
    use_float_precision(a_manifest(scheme=scheme).candidate, "cuda")

    assert precisions() == [word, word, word]


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("scheme", ["fp32", "tf32", "fp32"])
def test_torchs_older_settings_agree(scheme: str) -> None:
    """inductor asks for them when it tunes; where the two disagree, asking raises an error."""
    use_float_precision(a_manifest(scheme=scheme).candidate, "cuda")

    assert [setting() for setting in OLDER] == [scheme == "tf32"] * 3


@pytest.mark.usefixtures("as_before")
def test_a_later_bundle_is_not_computed_as_the_one_before_it() -> None:
    for scheme in ("tf32", "fp32"):
        use_float_precision(a_manifest(scheme=scheme).candidate, "cuda")

    assert precisions() == ["ieee", "ieee", "ieee"]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_other_devices_leave_the_settings_alone(device: str) -> None:
    before = precisions()

    use_float_precision(a_manifest(scheme="tf32").candidate, device)

    assert precisions() == before


# --- The way to the device and back


@dataclass
class Stand:
    """Notes what is done with a device that is not there."""

    done: list[str] = field(default_factory=list)
    replay: Callable[[], None] | None = None

    def note(self, what: str) -> None:
        self.done.append(what)


class Elsewhere(Tensor):
    """A tensor that passes for one on the device."""


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Take the place of the device in ``torch.Tensor`` and ``torch.cuda``."""
    stand, torchs = Stand(), Tensor.to

    def real(self: Tensor, *where: Any, **options: Any) -> Tensor:
        with torch._C.DisableTorchFunctionSubclass():  # else it would come back to the one below
            return torchs(self, *where, **options)

    def to(self: Tensor, where: Any = None, *more: Any, **options: Any) -> Tensor:
        if where in ("cuda", "mps"):
            stand.note("up" if options.get("non_blocking") else "up and wait")
            return real(self, "cpu", copy=True).as_subclass(Elsewhere)
        if where == "cpu" and isinstance(self, Elsewhere):
            stand.note("down" if options.get("non_blocking") else "down and wait")
            return real(self, "cpu", copy=True).as_subclass(Tensor)
        return real(self, where, *more, **options) if where is not None else real(self, *more, **options)

    def pin_memory(self: Tensor, device: Any = None) -> Tensor:
        stand.note("pin")
        return self

    class Stream:
        def synchronize(self) -> None:
            stand.note("wait")

        def wait_stream(self, stream: Any) -> None:
            stand.note("wait for stream")

    class CUDAGraph:
        def replay(self) -> None:
            stand.note("replay")
            assert stand.replay is not None
            stand.replay()

    @contextmanager
    def on_stream(stream: Any) -> Iterator[None]:
        stand.note("aside")
        yield
        stand.note("back")

    @contextmanager
    def recording(
        cuda_graph: Any, pool: Any = None, stream: Any = None, capture_error_mode: str = ""
    ) -> Iterator[None]:
        stand.note("record")
        yield
        stand.note("recorded")

    ours = Stream()
    for owner, name, replacement in (
        (Tensor, "to", to), (Tensor, "pin_memory", pin_memory),
        (torch.cuda, "current_stream", lambda device=None: ours),
        (torch.cuda, "Stream", Stream), (torch.cuda, "stream", on_stream), (torch.cuda, "CUDAGraph", CUDAGraph),
        (torch.cuda, "graph", recording),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, replacement)
    return stand


def doubled(stand: Stand) -> Callable[[Sequence[Any]], list[Any]]:
    def function(tensors: Sequence[Any]) -> list[Any]:
        stand.note("compute")
        assert all(isinstance(tensor, Elsewhere) for tensor in tensors), "it computes on the device"
        return [tensor * 2 for tensor in tensors]

    return function


BATCH = {"numbers": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_a_call_goes_up_computes_comes_down_and_waits(stand: Stand) -> None:
    runner = DeviceRunner(doubled(stand), a_manifest(), "cuda")

    prepared = runner.prepare(BATCH)
    assert stand.done == ["pin"], "inputs wait in page-locked memory of the host"
    raw = runner.run(prepared)

    assert stand.done == ["pin", "up", "compute", "down", "wait"]
    (found,) = runner.outputs(raw)
    np.testing.assert_array_equal(found, BATCH["numbers"] * 2)


def test_every_input_goes_up_and_every_output_comes_down_before_the_one_wait(stand: Stand) -> None:
    more = TensorSpec(name="more", dtype="int64", shape=(None,))
    runner = DeviceRunner(doubled(stand), a_manifest(NUMBERS, more), "cuda")

    raw = runner.run(runner.prepare({**BATCH, "more": np.array([3, 4], np.int32)}))

    assert stand.done[-6:] == ["up", "up", "compute", "down", "down", "wait"]
    numbers, twice = runner.outputs(raw)
    assert (numbers.dtype, twice.dtype, twice.tolist()) == (np.float32, np.int64, [6, 8])


def test_a_device_without_streams_waits_for_each_output(stand: Stand) -> None:
    runner = DeviceRunner(doubled(stand), a_manifest(target="apple-m2"), "mps")

    raw = runner.run(runner.prepare(BATCH))

    assert stand.done == ["up", "compute", "down and wait"], "nothing is pinned, and nothing else waits"
    np.testing.assert_array_equal(runner.outputs(raw)[0], BATCH["numbers"] * 2)


def test_a_batch_that_breaks_the_contract_never_gets_to_the_device(stand: Stand) -> None:
    runner = DeviceRunner(doubled(stand), a_manifest(), "cuda")

    with pytest.raises(WorkloadError, match=r"numbers has shape \(3, 3\)"):
        runner.prepare({"numbers": np.zeros((3, 3), np.float32)})
    assert stand.done == []


# --- CUDA graphs: recorded once, replayed on the inputs of each call


def graphed(stand: Stand) -> Callable[[Sequence[Any]], list[Any]]:
    """Return a function whose graph, replayed, computes again from the buffers that it was recorded with."""
    results: list[Tensor] = []

    def function(tensors: Sequence[Any]) -> list[Any]:
        stand.note("compute")
        results[:] = [(tensor * 2).as_subclass(Elsewhere) for tensor in tensors]

        def again() -> None:
            for result, tensor in zip(results, tensors, strict=True):
                result.copy_(tensor * 2)

        stand.replay = again
        return results

    return function


def test_a_graph_is_recorded_once_after_warming_up_aside(stand: Stand) -> None:
    DeviceRunner(graphed(stand), a_manifest(), "cuda", graph=True)

    assert stand.done == [
        "pin", "up", "wait for stream", "aside", "compute", "compute", "compute", "back", "wait for stream",
        "record", "compute", "recorded",
    ]  # fmt: skip


def test_a_replay_computes_from_the_inputs_of_its_call(stand: Stand) -> None:
    runner = DeviceRunner(graphed(stand), a_manifest(), "cuda", graph=True)
    prepared = [runner.prepare({"numbers": np.full((2, 3), value, np.float32)}) for value in (1.0, 5.0)]
    stand.done.clear()

    raws = [runner.run(item) for item in (*prepared, prepared[0])]

    assert stand.done == ["up", "replay", "down", "wait"] * 3
    assert [float(runner.outputs(raw)[0][0, 0]) for raw in raws] == [2.0, 10.0, 2.0]


def test_what_cannot_be_recorded_is_a_property_of_the_model(stand: Stand) -> None:
    def reading_back(tensors: Sequence[Any]) -> Sequence[Any]:
        if stand.done[-1] == "record":
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return tensors

    with pytest.raises(UnsupportedError, match=r"cannot be recorded as a CUDA graph: .*not permitted"):
        Recorded(reading_back, [torch.ones(2)])


@pytest.mark.parametrize(
    ("real", "arguments"),
    [
        (torch.cuda.graph.__init__, ("cuda_graph",)),
        (torch.cuda.stream, ("stream",)),
        (torch.cuda.Stream.wait_stream, ("stream",)),
        (torch.cuda.Stream.synchronize, ()),
        (torch.cuda.current_stream, ()),
    ],
)
def test_the_stand_in_takes_what_torch_takes(real: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    parameters = [name for name in inspect.signature(real).parameters if name != "self"]

    assert parameters[: len(arguments)] == list(arguments)
    required = [name for name, p in inspect.signature(real).parameters.items()
                if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]  # fmt: skip
    assert [name for name in required if name != "self"] == list(arguments)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("graph", [True, False])
def test_a_package_that_is_recorded_keeps_no_threads_apart(
    graph: bool, stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would ask CUDA for events otherwise, which may not be done while a graph is recorded."""
    from torch import _inductor

    given: dict[str, Any] = {}

    def load(path: Any, run_single_threaded: bool = False, device_index: int = -1) -> Any:
        given.update(path=path, run_single_threaded=run_single_threaded)
        return lambda *tensors: graphed(stand)(tensors)

    assert list(inspect.signature(_inductor.aoti_load_package).parameters) == list(inspect.signature(load).parameters)
    monkeypatch.setattr(_inductor, "aoti_load_package", load)
    monkeypatch.setattr(inductor, "require_target", lambda name, what: None)

    runner = inductor.Inductor().load(tmp_path, a_manifest(cuda_graphs=graph))

    assert given == {"path": str(tmp_path / "model.pt2"), "run_single_threaded": graph}
    assert isinstance(runner, DeviceRunner)
    assert ("record" in stand.done) is graph


# --- What is found when it is built; torch's device without memory stands for the one that is not there


class Plain(torch.nn.Module):
    def forward(self, numbers: Tensor) -> Tensor:
        return numbers + torch.ones(3, device=numbers.device)


class Astray(torch.nn.Module):
    """Makes a tensor where the processor computes."""

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers + torch.ones(3)


def a_source(model: type[torch.nn.Module]) -> Any:
    facts = SimpleNamespace(inputs=Structure(style="tensor", tensors=(NUMBERS,)))
    return SimpleNamespace(profile=facts, module=model, example=lambda size: torch.ones(size, 3))


def test_a_model_that_makes_tensors_elsewhere_is_refused_as_it_is_built(tmp_path: Path) -> None:
    (tmp_path / "quantization.json").write_text('{"scheme": "fp32"}')
    candidate = a_manifest(target="cpu-avx2").candidate

    eager._try_on("meta", tmp_path, a_source(Plain), candidate)
    with pytest.raises(UnsupportedError, match=r"the model does not run on meta: .*cpu.*device"):
        eager._try_on("meta", tmp_path, a_source(Astray), candidate)


def test_an_exported_program_takes_the_tensors_that_it_makes_along(tmp_path: Path) -> None:
    program = torch.export.export(Astray(), (torch.ones(2, 3),))

    moved = inductor.on_device(program, "meta").module()

    assert moved(torch.ones(2, 3, device="meta")).device.type == "meta"
    assert inductor.on_device(program, "cpu") is program


# --- On a GPU


GPU_CASES = [
    case
    for name in ("eager", "inductor")
    for case in conformance.cases(name)
    if any(target.device == "cuda" and target.name == case.target for target in served_targets(name))
]


@pytest.mark.gpu
def test_float32_is_ieees_and_tf32_is_not_on_a_gpu() -> None:
    if not torch.cuda.is_available() or not probe_target().has("tf32"):
        pytest.skip("no GPU with TF32")
    numbers = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    wanted = (numbers.double() @ numbers.double()).float()

    def error(scheme: str) -> float:
        use_float_precision(a_manifest(scheme=scheme).candidate, "cuda")
        there = numbers.cuda()
        return float(((there @ there).cpu() - wanted).abs().max())

    assert error("fp32") < 1e-3 < error("tf32")


@pytest.mark.gpu
@pytest.mark.parametrize("case", GPU_CASES or [pytest.param(None, marks=pytest.mark.skip(reason="no GPU"))], ids=str)
def test_conforms_on_a_gpu_with_and_without_graphs(case: conformance.Case, home: Path) -> None:
    backend = registry.backend(case.backend)
    try:
        bundle = conformance.build(case, home)
    except conformance.UnavailableError as reason:
        pytest.skip(str(reason))
    manifest = read_manifest(bundle)
    batch = conformance.inputs_of(case)[0]
    answers = []
    for graphs in (False, not manifest.inputs.varies):
        runtime = manifest.candidate.runtime.model_copy(update={"cuda_graphs": graphs})
        asked = manifest.model_copy(update={"candidate": manifest.candidate.model_copy(update={"runtime": runtime})})
        runner = backend.load(bundle, asked)
        answers.append(runner.outputs(runner.run(runner.prepare(batch))))
    for plain, replayed in zip(*answers, strict=True):
        np.testing.assert_allclose(replayed, plain, rtol=1e-4, atol=1e-4)
