"""Every call into Torch-TensorRT: shapes, arguments, compilation, packaging, loading.

Written against torch_tensorrt 2.13, where the engine's precision is that of the graph. What is computed without the
library — arguments and shapes — is apart from what calls it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.libraries import converting
from evaluators.structure import Structure

_AUTOCAST = {"fp16": "float16", "bf16": "bfloat16"}
_UNBOUNDED = 2**31
_HEADROOM = 2


@dataclass(frozen=True)
class Shapes:
    """The shapes of one input that an engine serves: the least, the one it is tuned for, and the greatest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    greatest: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """Whether there is one shape only."""
        return self.least == self.greatest


def shapes_of(
    inputs: Structure, batch_size: int, seen: Sequence[Sequence[tuple[int, ...]]], bounds: Sequence[Any]
) -> tuple[Shapes, ...]:
    """Return the optimization profile: the batch fixed, each axis that varies between the bounds of the program.

    ``seen`` are the shapes of every input of some calibration batches, whose median length the engine is tuned for.
    ``bounds`` gives for each input the (least, greatest) of each axis by its number, as the exported program has them;
    where that is without limit, the engine takes twice the longest length seen.
    """
    found = []
    for position, spec in enumerate(inputs.tensors):
        sizes: list[tuple[int, int, int]] = []
        for axis, size in enumerate(spec.shape):
            if axis == 0:
                sizes.append((batch_size,) * 3)
            elif size is not None:
                sizes.append((size,) * 3)
            else:
                lengths = [shapes[position][axis] for shapes in seen]
                least, greatest = bounds[position].get(axis, (1, _UNBOUNDED))
                most = greatest if greatest < _UNBOUNDED else _HEADROOM * max(lengths)
                usual = min(max(int(statistics.median(lengths)), least), most)
                sizes.append((least, usual, most))
        least_shape, usual_shape, greatest_shape = zip(*sizes, strict=True)
        found.append(Shapes(least_shape, usual_shape, greatest_shape))
    return tuple(found)


def bounds_of(program: Any) -> list[dict[int, tuple[int, int]]]:
    """Return (least, greatest) of each axis that varies, for each input of an exported program in order."""
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    bounds: list[dict[int, tuple[int, int]]] = []
    for name in names:
        found = {}
        for axis, size in enumerate(placeholders[name].meta["val"].shape):
            if not isinstance(size, int):
                limits = program.range_constraints[size.node.expr]
                least, greatest = int(limits.lower), limits.upper
                found[axis] = (least, int(greatest) if greatest < _UNBOUNDED else _UNBOUNDED)
        bounds.append(found)
    return bounds


def compile_arguments(scheme: str, *, sparse: bool, optimization_level: int, scratch: Path) -> dict[str, Any]:
    """Return the arguments of ``torch_tensorrt.dynamo.compile`` besides the program, its inputs and the device.

    Types are torch's names of them. Nothing is cached between builds: what a build chose does not depend on what was
    built before it, so the timing cache lies in ``scratch``.
    """
    half = _AUTOCAST.get(scheme)
    return {
        "disable_tf32": scheme == "fp32",
        "sparse_weights": sparse,
        "optimization_level": optimization_level,
        "enable_autocast": half is not None,
        "autocast_low_precision_type": half,
        "min_block_size": 1,
        "require_full_compilation": False,  # what falls back is counted, and refused over a limit
        "attn_bias_is_causal": False,  # the library's default takes every attention mask for a causal one
        "truncate_double": True,
        "immutable_weights": True,
        "hardware_compatible": False,
        "version_compatible": False,
        "cache_built_engines": False,
        "reuse_cached_engines": False,
        "timing_cache_path": str(scratch / "timing.cache"),
    }


def compile_program(
    program: Any, inputs: Structure, shapes: Sequence[Shapes], *, scheme: str, sparse: bool, optimization_level: int
) -> Any:
    """Compile an exported program on the GPU: a graph of engines, and of what falls back to PyTorch."""
    with converting("Torch-TensorRT cannot compile the model"), tempfile.TemporaryDirectory() as scratch:
        import torch
        import torch_tensorrt

        arguments = compile_arguments(
            scheme, sparse=sparse, optimization_level=optimization_level, scratch=Path(scratch)
        )
        if arguments["autocast_low_precision_type"] is not None:
            arguments["autocast_low_precision_type"] = getattr(torch, arguments["autocast_low_precision_type"])
        specs = [
            _input(torch_tensorrt, shape, getattr(torch, spec.dtype))
            for shape, spec in zip(shapes, inputs.tensors, strict=True)
        ]
        with torch.no_grad(), _quantized(scheme):
            return torch_tensorrt.dynamo.compile(program, arg_inputs=specs, device="cuda", **arguments)


def package(compiled: Any, example: Sequence[Any], dynamic: Any, path: Path) -> None:
    """Write a compiled graph, engines included, as an AOTInductor package: nothing is compiled again when it loads."""
    with converting("Torch-TensorRT cannot package the compiled model"):
        import torch
        import torch_tensorrt

        with torch.no_grad():
            torch_tensorrt.save(
                compiled, str(path), output_format="aot_inductor", retrace=True, arg_inputs=list(example),
                dynamic_shapes=dynamic,
            )  # fmt: skip


def open_package(path: Path) -> Any:
    """Load a package; importing the library registers the operator that runs engines."""
    with converting("the TensorRT package cannot be loaded"):
        import torch_tensorrt  # noqa: F401
        from torch._inductor import aoti_load_package

        return aoti_load_package(str(path))


@contextmanager
def _quantized(scheme: str) -> Iterator[None]:
    """Let modelopt's operators be seen as such while a program with them is compiled."""
    if not scheme.startswith("static_"):
        yield
        return
    from modelopt.torch.quantization.utils import export_torch_mode

    with export_torch_mode():
        yield


def _input(library: Any, shape: Shapes, dtype: Any) -> Any:
    if shape.fixed:
        return library.Input(shape=shape.usual, dtype=dtype)
    return library.Input(min_shape=shape.least, opt_shape=shape.usual, max_shape=shape.greatest, dtype=dtype)
