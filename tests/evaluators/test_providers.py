"""Execution providers of onnxruntime: which are offered, what they are told, and that a fallback is refused.

The sessions are onnxruntime's own. What needs a provider that is not installed stands on the processor's in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators import registry
from evaluators.backends import onnxruntime as adapter
from evaluators.backends import providers
from evaluators.backends.onnxruntime import OnnxRuntime, OnnxRuntimeRunner, open_session
from evaluators.bundle import Manifest, read_manifest
from evaluators.candidate import Candidate, Quantization, Runtime
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice
from evaluators.target import Accelerator, Target, probe_target
from evaluators.testing import conformance
from tests.security import good

onnxruntime = pytest.importorskip("onnxruntime")
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def a_target(name: str, system: str = "Linux x86_64", *features: str) -> Target:
    device = None if name.startswith("cpu") else Accelerator(name="a GPU", architecture="sm90", memory_bytes=2**34)
    return Target(name=name, processor="p", features=features, cores=2, memory_bytes=2**33, system=system,
                  accelerator=device)  # fmt: skip


def a_candidate(target: str = "cpu-avx2", scheme: str = "fp32", threads: int = 1, **knobs: str) -> Candidate:
    return Candidate(target=target, backend="onnxruntime", quantization=Quantization(scheme=scheme),
                     runtime=Runtime(threads=threads, **knobs))  # fmt: skip


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return conformance.profile_of("evaluators.testing.workloads:images", tmp_path_factory.mktemp("providers"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product of four numbers with weights of one, and two operators more that a compiler could fuse."""
    path = tmp_path / "model.onnx"
    path.write_bytes(good.onnx_model().SerializeToString())  # type: ignore[attr-defined]
    return path


@pytest.mark.parametrize(
    ("distribution", "target", "words"),
    [
        ("onnxruntime", a_target("cpu-avx2"), ("cpu",)),
        ("onnxruntime", a_target("cpu-arm64", "Darwin arm64"), ("cpu", "coreml")),
        ("onnxruntime", a_target("apple-m2", "Darwin arm64"), ("coreml",)),
        ("onnxruntime", a_target("cuda-sm90"), ()),
        ("onnxruntime-gpu", a_target("cuda-sm90"), ("cuda", "tensorrt")),
        ("onnxruntime-gpu", a_target("cpu-avx2"), ("cpu",)),
        ("onnxruntime-openvino", a_target("cpu-avx2"), ("cpu", "openvino")),
        ("onnxruntime-directml", a_target("cuda-sm90"), ("directml",)),
        (None, a_target("cpu-avx2"), ()),
    ],
)
def test_a_distribution_offers_what_it_was_built_with(
    distribution: str | None, target: Target, words: tuple[str, ...]
) -> None:
    assert providers.offered(target, distribution) == words


def test_an_onnxruntime_for_processors_is_no_use_on_a_gpu_and_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_DISTRIBUTION", "onnxruntime")

    assert OnnxRuntime().unusable(a_target("cuda-sm90")) == (
        "onnxruntime has no execution provider for cuda: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
    )


def test_providers_are_a_choice_where_there_are_several(monkeypatch: pytest.MonkeyPatch, profile: Any) -> None:
    def choices(distribution: str, target: Target) -> dict[str, tuple[Any, ...]]:
        monkeypatch.setattr(adapter, "_DISTRIBUTION", distribution)
        found = OnnxRuntime().options_for(profile, target)
        return {option.name: (option.values, option.default) for option in found if isinstance(option, Choice)}

    assert choices("onnxruntime-gpu", a_target("cuda-sm90")) == {"provider": (("cuda", "tensorrt"), "cuda")}
    assert set(choices("onnxruntime", a_target("cpu-avx2"))) == {"graph_optimization", "split_batch"}


@pytest.mark.parametrize(
    ("target", "knobs", "word"),
    [
        ("cpu-avx2", {}, "cpu"), ("cuda-sm90", {}, "cuda"), ("rocm-gfx942", {}, "cuda"), ("apple-m2", {}, "coreml"),
        ("cuda-sm90", {"provider": "tensorrt"}, "tensorrt"),
    ],
)  # fmt: skip
def test_a_candidate_without_a_provider_takes_the_first_of_its_device(
    target: str, knobs: dict[str, str], word: str
) -> None:
    assert providers.provider_of(a_candidate(target, **knobs)) == word


@pytest.mark.parametrize(
    ("word", "scheme", "told"),
    [
        ("cuda", "fp32", {"use_tf32": "0"}),
        ("cuda", "tf32", {"use_tf32": "1"}),
        ("tensorrt", "fp32", {"trt_fp16_enable": "0"}),
        ("tensorrt", "fp16", {"trt_fp16_enable": "1"}),
        ("openvino", "fp32", {"device_type": "CPU", "num_of_threads": "3", "precision": "FP32"}),
        ("coreml", "fp32", {"ModelFormat": "MLProgram"}),
        ("cpu", "fp32", {}),
    ],
)
def test_a_provider_is_told_precision_and_threads(word: str, scheme: str, told: dict[str, str]) -> None:
    assert providers.provider_settings(word, a_candidate(scheme=scheme, threads=3)) == told


@pytest.mark.parametrize(
    ("word", "target", "scheme", "refused"),
    [
        ("tensorrt", "cuda-sm90", "fp32", True),  # its engines compute in TF32
        ("tensorrt", "cuda-sm90", "tf32", False),
        ("tensorrt", "cuda-sm75", "fp32", False),  # has no TF32
        ("cuda", "cuda-sm90", "fp32", False),
    ],
)
def test_fp32_that_would_be_tf32_is_refused(word: str, target: str, scheme: str, refused: bool, model: Path) -> None:
    candidate = a_candidate(target, scheme, provider=word)

    assert (providers.refuse_precision(word, candidate.quantization.scheme, candidate.target) is not None) == refused
    if refused:
        with pytest.raises(UnsupportedError, match="take the scheme tf32, or the provider cuda"):
            open_session(model, candidate, "all")


def test_a_session_has_the_threads_and_the_level_asked_for(model: Path, tmp_path: Path) -> None:
    session = open_session(model, a_candidate(threads=2), "extended", save=tmp_path / "saved.onnx")

    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    assert session.get_providers() == [CPU]
    assert (tmp_path / "saved.onnx").stat().st_size > 0


def test_a_word_that_is_no_provider_is_refused(model: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"no provider 'gpu'; known are cpu, cuda, tensorrt"):
        open_session(model, a_candidate(provider="gpu"), "all")


def test_a_provider_that_this_machine_lacks_is_refused_before_anything_runs(model: Path) -> None:
    absent = next(word for word, name in providers.PROVIDERS.items() if name not in _available())

    with pytest.raises(UnsupportedError, match=f"onnxruntime here has no {providers.PROVIDERS[absent]}; it has .*CPU"):
        open_session(model, a_candidate(provider=absent), "all")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_falls_back_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime itself goes on with the processor, as it does where CUDA's libraries do not load."""
    if CUDA in _available():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])

    with pytest.raises(UnsupportedError, match=f"fell back: it runs on {CPU} instead of {CUDA}"):
        open_session(model, a_candidate("cuda-sm90"), "all")


def _available() -> list[str]:
    found: list[str] = onnxruntime.get_available_providers()
    return found


def an_event(provider: str, index: int, duration: int, **more: Any) -> dict[str, Any]:
    arguments = {"provider": provider, "node_index": str(index), "op_name": "MatMul"}
    return {"cat": "Node", "name": f"n{index}_kernel_time", "dur": duration, "args": arguments, **more}


def test_nodes_and_time_that_land_elsewhere_are_counted_once_a_node() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "dur": 1000, "args": {}},
        an_event(CUDA, 0, 60), an_event(CUDA, 0, 60), an_event(CUDA, 1, 70), an_event(CUDA, 2, 8), an_event(CPU, 3, 2),
        {"cat": "Node", "name": "n0_fence_before", "dur": 500, "args": {"op_name": "MatMul"}},
    ]  # fmt: skip

    landing = providers.read_landing(events, CUDA)

    assert (landing.nodes, landing.nodes_elsewhere, landing.elsewhere) == (4, 0.25, (CPU,))
    assert landing.time_elsewhere == pytest.approx(2 / 200)
    assert landing.note == f"25% of 4 nodes with 1% of the time run on {CPU} instead of {CUDA}"
    assert landing.refused is None


@pytest.mark.parametrize(
    ("nodes", "time", "refused"),
    [(0.5, 0.1, False), (0.51, 0.0, True), (0.0, 0.11, True), (0.0, 0.0, False)],
)
def test_a_landing_over_either_limit_is_refused(nodes: float, time: float, refused: bool) -> None:
    landing = providers.Landing(CUDA, nodes=100, nodes_elsewhere=nodes, time_elsewhere=time, elsewhere=(CPU,))

    assert (landing.refused is not None) == refused
    assert not refused or f"onnxruntime fell back: {landing.note}" in str(landing.refused)


def test_a_graph_that_all_landed_where_asked_has_nothing_to_tell() -> None:
    landing = providers.read_landing([an_event(CUDA, 0, 5)], CUDA)

    assert (landing.note, landing.refused, landing.time_elsewhere) == (None, None, 0.0)
    assert providers.read_landing([], CUDA).nodes == 0


def test_a_model_that_the_processor_ran_instead_is_refused(model: Path, tmp_path: Path) -> None:
    """The profile is a real one, of a session on the processor."""
    session = open_session(model, a_candidate(), "all", profile=tmp_path / "profile")

    with pytest.raises(UnsupportedError, match=f"100% of 1 nodes with 100% of the time run on {CPU} instead of {CUDA}"):
        adapter._require_landing(session, "cuda", [np.ones((1, 4), np.float32)])


def test_a_model_that_ran_where_asked_is_taken(model: Path, tmp_path: Path) -> None:
    session = open_session(model, a_candidate(), "all", profile=tmp_path / "profile")

    adapter._require_landing(session, "cpu", [np.ones((1, 4), np.float32)])

    (written,) = tmp_path.glob("profile*")
    assert any(event.get("cat") == "Node" for event in json.loads(written.read_text()))


@pytest.mark.parametrize(
    ("target", "knobs", "level"),
    [
        (probe_target().name, {"graph_optimization": "all"}, "none"),
        (probe_target().name, {}, "none"),
        ("cpu-elsewhere", {"graph_optimization": "extended"}, "none"),
        ("cuda-sm90", {"provider": "tensorrt"}, "all"),  # its graph is optimized as it is loaded
    ],
)
def test_a_saved_graph_is_not_optimized_again(target: str, knobs: dict[str, str], level: str) -> None:
    assert adapter._level_at_load(a_candidate(target, **knobs)) == level


def test_a_graph_with_layouts_for_other_hardware_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="made for cpu-elsewhere"):
        adapter._level_at_load(a_candidate("cpu-elsewhere", graph_optimization="all"))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return good.sealed(tmp_path, "onnxruntime")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Values that would lie on a device lie in the host's memory; what was asked for is noted."""
    made = onnxruntime.OrtValue.ortvalue_from_numpy
    noted: list[tuple[str, int]] = []

    def on_host(array: np.ndarray, device_type: str = "cpu", device_id: int = 0) -> Any:
        noted.append((device_type, device_id))
        return made(array)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", staticmethod(on_host))
    yield noted


def test_each_call_brings_its_own_inputs_to_the_device(
    model: Path, manifest: Manifest, asked: list[tuple[str, int]]
) -> None:
    session = open_session(model, a_candidate(), "all")
    runner = OnnxRuntimeRunner(session, manifest, "cuda")
    batches = [{"input": np.full((1, 4), value, np.float32)} for value in (1.0, 2.0)]

    first, second = (runner.prepare(batch) for batch in batches)
    answers = [runner.outputs(runner.run(item))[0] for item in (first, second, first)]

    assert asked == [("cuda", 0), ("cuda", 0)]
    assert [answer[0, 0] for answer in answers] == [4.0, 8.0, 4.0]
    assert [len(item.uploads) for item in (first, second)] == [1, 1]
    first.arrays[0][:] = 3.0  # what the host holds when the call begins is what is computed
    assert runner.outputs(runner.run(first))[0][0, 0] == 12.0


def test_on_the_processor_nothing_is_brought_anywhere(
    model: Path, manifest: Manifest, asked: list[tuple[str, int]]
) -> None:
    runner = OnnxRuntimeRunner(open_session(model, a_candidate(), "all"), manifest)

    assert runner.prepare({"input": np.ones((1, 4), np.float32)}).uploads == ()
    assert asked == []


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", ["fp32", "tf32", "fp16"])
def test_a_bundle_runs_on_cuda_alone(scheme: str, tmp_path: Path) -> None:
    backend, target = registry.backend("onnxruntime"), probe_target()
    if (why := backend.unusable(target)) is not None or target.device != "cuda":
        pytest.skip(why or f"{target.name} is no GPU")
    case = conformance.Case("onnxruntime", scheme, "images", 4, target=target.name)

    conformance.check(case, tmp_path)

    bundle = conformance.build(case, tmp_path)
    runner: Any = backend.load(bundle, read_manifest(bundle))
    assert runner._session.get_providers()[0] == CUDA
    assert runner.device == "cuda"
