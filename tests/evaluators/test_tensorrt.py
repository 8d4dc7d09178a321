"""tensorrt without a GPU: shapes, arguments, sparsity and partition; the compiler's own signature where installed."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluators.backends import torch_tensorrt
from evaluators.backends.tensorrt import MOST_FALLBACK, TensorRt
from evaluators.backends.torch_tensorrt import Shapes, bounds_of, compile_arguments, shapes_of
from evaluators.diagnosis.tensorrt import Partition, diagnosis, partition, refuse_partition
from evaluators.pruners.sparse_2_4 import Sparse24, sparse_2_4
from evaluators.quantizers.tensorrt import (
    TensorRtBfloat16,
    TensorRtFloat16,
    TensorRtStaticFloat8,
    TensorRtTensorFloat32,
)
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Accelerator, Target
from evaluators.testing import conformance

TEXTS = Structure(
    style="dict",
    tensors=(
        TensorSpec(name="tokens", dtype="int64", shape=(None, None)),
        TensorSpec(name="mask", dtype="int64", shape=(None, None)),
    ),
)
IMAGES = Structure(style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 3, 16, 16)),))


def _gpu(architecture: str, *features: str) -> Target:
    device = Accelerator(name="a GPU", architecture=architecture, memory_bytes=2**34)
    return Target(name=f"cuda-{architecture}", processor="a processor", features=features, cores=8,
                  memory_bytes=2**36, system="Linux x86_64", accelerator=device)  # fmt: skip


TURING = _gpu("sm75", "fp16", "int8", "graphs")
HOPPER = _gpu("sm90", "fp16", "int8", "bf16", "tf32", "sparse_2_4", "fp8", "graphs")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensorrt")


def test_a_processor_and_a_machine_without_the_libraries_are_told_apart() -> None:
    assert (
        TensorRt().unusable(TURING.model_copy(update={"name": "cpu-avx2"}))
        == "tensorrt serves cuda, and cpu-avx2 is cpu"
    )
    try:
        metadata.version("tensorrt")
    except metadata.PackageNotFoundError:
        assert "pip install 'paretune[tensorrt]'" in str(TensorRt().unusable(HOPPER))


def test_schemes_are_those_that_the_gpu_computes_in(home: Path) -> None:
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)
    schemes = (TensorRtTensorFloat32(), TensorRtFloat16(), TensorRtBfloat16())

    assert [scheme.refuse(profile, HOPPER) for scheme in schemes] == [None, None, None]
    assert [scheme.refuse(profile, TURING) for scheme in schemes] == [
        "cuda-sm75 has none of tf32", None, "cuda-sm75 has none of bf16",
    ]  # fmt: skip
    assert TensorRtStaticFloat8().refuse(profile, TURING) is not None
    assert Sparse24().refuse_target(HOPPER) is None
    assert "sparse_2_4" in (Sparse24().refuse_target(TURING) or "")


def test_an_axis_that_varies_is_tuned_for_the_median_length_and_bounded() -> None:
    seen = [[(1, length), (1, length)] for length in (4, 9, 30)]

    bounded = shapes_of(TEXTS, 8, seen, [{1: (2, 24)}, {1: (2, 24)}])
    unbounded = shapes_of(TEXTS, 8, seen, [{1: (2, 2**31)}, {1: (2, 2**31)}])

    assert bounded == (Shapes((8, 2), (8, 9), (8, 24)),) * 2
    assert unbounded[0].greatest == (8, 60)
    assert shapes_of(IMAGES, 4, [], [{}]) == (Shapes((4, 3, 16, 16), (4, 3, 16, 16), (4, 3, 16, 16)),)


def test_bounds_are_read_from_the_program() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.zeros(24, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.positions[: x.shape[1]]

    dynamic = ({1: torch.export.Dim("length", max=24)},)
    program = torch.export.export(Table(), (torch.zeros(2, 5, 3),), dynamic_shapes=dynamic)

    ((axis, (_, greatest)),) = bounds_of(program)[0].items()
    assert (axis, greatest) == (1, 24)


@pytest.mark.parametrize(
    ("scheme", "disable_tf32", "half"),
    [("fp32", True, None), ("tf32", False, None), ("fp16", False, torch.float16), ("bf16", False, torch.bfloat16)],
)
def test_what_reaches_the_compiler(
    scheme: str, disable_tf32: bool, half: torch.dtype | None, compiler: dict[str, Any]
) -> None:
    shapes = (Shapes((8, 2), (8, 9), (8, 24)),) * 2

    torch_tensorrt.compile_program("a program", TEXTS, shapes, scheme=scheme, sparse=True, optimization_level=5)

    assert compiler["program"] == "a program"
    assert compiler["arg_inputs"][0] == {
        "min_shape": (8, 2), "opt_shape": (8, 9), "max_shape": (8, 24), "dtype": torch.int64,
    }  # fmt: skip
    assert (compiler["disable_tf32"], compiler["autocast_low_precision_type"]) == (disable_tf32, half)
    assert (compiler["sparse_weights"], compiler["optimization_level"]) == (True, 5)
    assert compiler["attn_bias_is_causal"] is False
    assert not Path(compiler["timing_cache_path"]).parent.exists()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A torch_tensorrt whose compiler notes what it is given."""
    given: dict[str, Any] = {}

    def compile(program: Any, **arguments: Any) -> None:
        given.update(arguments, program=program)

    fake = types.ModuleType("torch_tensorrt")
    fake.dynamo = types.SimpleNamespace(compile=compile)  # type: ignore[attr-defined]
    fake.Input = lambda **arguments: arguments  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "torch_tensorrt", fake)
    yield given


def _signature(module: str, function: str) -> set[str]:
    """Return the parameters of a function of the installed library, whose import needs a GPU, from its source."""
    try:
        files = metadata.files("torch-tensorrt") or []
    except metadata.PackageNotFoundError:
        pytest.skip("torch-tensorrt is not installed: pip install --no-deps torch-tensorrt==2.13.0")
    path = next(file.locate() for file in files if str(file) == f"torch_tensorrt/{module}.py")
    for node in ast.parse(Path(str(path)).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    raise AssertionError(f"torch_tensorrt.{module} has no function {function}")


def test_the_real_compiler_has_every_argument_that_it_is_given(tmp_path: Path) -> None:
    """It swallows unknown ones silently."""
    given = compile_arguments("fp16", sparse=False, optimization_level=3, scratch=tmp_path)
    assert {*given, "arg_inputs", "device"} <= _signature("dynamo/_compiler", "compile")


def test_the_real_library_packages_as_it_is_asked_to() -> None:
    assert {"output_format", "retrace", "arg_inputs", "dynamic_shapes"} <= _signature("_compile", "save")


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 3, 3)])
def test_two_of_every_four_input_channels_are_left(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    sparse = sparse_2_4(weight)

    assert sparse is not None
    groups = sparse.reshape(6, 2, 4, -1)
    assert ((groups != 0).sum(2) == 2).all()
    kept = groups != 0
    original = weight.reshape(6, 2, 4, -1)
    assert original.abs().masked_fill(~kept, torch.inf).amin(2).ge(original.abs().masked_fill(kept, 0).amax(2)).all()
    assert torch.equal(sparse[sparse != 0], weight[sparse != 0])
    assert sparse_2_4(torch.ones(4, 6)) is None


def _divided() -> tuple[Any, Any]:
    """Return a program of three operators, and a graph in which one of them is left to PyTorch."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(torch.relu(x) @ x, 0)

    class Engine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    left = torch.fx.Graph()
    left.output(left.call_function(torch.ops.aten.cumsum.default, (left.placeholder("x"), 0)))
    root = nn.Module()
    root.add_module("_run_on_acc_0", Engine())
    root.add_module("_run_on_gpu_1", torch.fx.GraphModule(nn.Module(), left))
    graph = torch.fx.Graph()
    through = graph.call_module("_run_on_acc_0", (graph.placeholder("x"),))
    graph.output(graph.call_module("_run_on_gpu_1", (through,)))
    return torch.export.export(Model(), (torch.ones(2, 2),)), torch.fx.GraphModule(root, graph)


def test_what_falls_back_to_pytorch_is_counted_reported_and_refused_over_a_limit() -> None:
    found = partition(*_divided())

    assert found == Partition(operators={"relu": 1, "matmul": 1, "cumsum": 1}, fallback={"cumsum": 1}, engines=1)
    assert refuse_partition(found, 0.5) is None
    assert (
        refuse_partition(found, MOST_FALLBACK)
        == "1 operators of 3 (33%) fall back to PyTorch, at most 25% may: cumsum (1)"
    )
    assert "takes no part" in str(refuse_partition(found.model_copy(update={"engines": 0}), 1.0))
    told = diagnosis(found, "static_int8")
    assert told.quantized_share == 1.0
    assert told.notes[0] == "1 TensorRT engine(s); 1 operators (33%) fall back to PyTorch"


@pytest.mark.gpu
@pytest.mark.parametrize("case", conformance.cases("tensorrt"), ids=str)
def test_conforms_on_a_gpu(case: conformance.Case, home: Path) -> None:
    try:
        conformance.check(case, home)
    except conformance.UnavailableError as reason:
        pytest.skip(str(reason))
