"""Format ``triton``: a model repository of Triton, one request or many to a batch of the size that was measured.

A bundle's batch size is fixed, and Triton's batcher only makes batches for models whose batch size is free. So a model
in Triton's Python backend takes what the batcher brings, fills it up, and has it computed: by the very file in Triton's
backend for it where that can be told all that was measured, else in the bundle's own runtime.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.backends.openvino_settings import precision_of, streams_of
from evaluators.backends.providers import SAVED, provider_of
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.standalone import HERE
from evaluators.structure import TensorSpec
from evaluators.target import device_of
from search.exports.evidence import batching_window_ms
from search.exports.format import Format, Options, Written
from search.exports.parts import Rows, needs_runner, no_v2_type, real_rows, requirements, write_examples, write_runner
from search.exports.pbtxt import Word, pbtxt
from search.exports.source import Source

Message = dict[str, Any]
BATCH = "_batch"
"""What is added to a model's name for the one that computes whole batches."""
_WORDS = {"onnxruntime": "onnxruntime", "openvino": "openvino"}
_FILES = {"onnxruntime": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
_TYPES = {"bool": "TYPE_BOOL", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"} | {
    f"{sign}int{bits}": f"TYPE_{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


def _refuse(manifest: Manifest) -> str | None:
    backend = manifest.candidate.backend
    if backend in ("inductor", "tensorrt"):
        return ("Triton's PyTorch backend runs TorchScript and not packages of AOTInductor"
                + (", and its TensorRT backend engines alone" if backend == "tensorrt" else ""))  # fmt: skip
    return needs_runner(manifest) or no_v2_type(manifest)


def native(candidate: Candidate) -> Message | None:
    """Return what Triton's own backend is told to compute as was measured, or None where it cannot be told."""
    if candidate.backend == "onnxruntime":
        return _onnxruntime(candidate)
    # There is no word for float32: where a processor has bfloat16, OpenVINO computes in that unless told otherwise.
    if device_of(candidate.target) != "cpu" or precision_of(candidate) != "bf16" or streams_of(candidate) > 1:
        return None
    return {"parameters": _parameters({
        "INFERENCE_NUM_THREADS": candidate.runtime.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
        "HINT_BF16": "YES",
    })}  # fmt: skip


def _onnxruntime(candidate: Candidate) -> Message | None:
    word, scheme = provider_of(candidate), candidate.quantization.scheme
    if word not in ("cpu", "cuda", "tensorrt"):
        return None
    accelerator = {
        "cpu": None,
        "cuda": {"name": "cuda", "parameters": {"key": "use_tf32", "value": "1" if scheme == "tf32" else "0"}},
        "tensorrt": {
            "name": "tensorrt", "parameters": {"key": "precision_mode", "value": "FP16" if scheme == "fp16" else "FP32"}
        },
    }[word]  # fmt: skip
    # Level 2 is none: the graph was optimized when it was built.
    optimization: Message = {"graph": {"level": 2}} if word in SAVED else {}
    if accelerator is not None:
        optimization["execution_accelerators"] = {"gpu_execution_accelerator": accelerator}
    return {
        "optimization": optimization or None,
        "parameters": _parameters(
            {"intra_op_thread_count": candidate.runtime.threads, "inter_op_thread_count": 1, "execution_mode": 0}
        ),
    }


def front_config(source: Source, options: Options) -> Message:
    """Return the configuration of the model that clients ask, with dynamic batching up to the batch size."""
    manifest, candidate = source.manifest, source.manifest.candidate
    size, name, window = candidate.batch_size, options.name or source.name, options.window_ms
    window = batching_window_ms(source.evidence) if window is None else window
    told = native(candidate) is not None
    batching = {"preferred_batch_size": [size], "max_queue_delay_microseconds": round(window * 1e3)}
    return {
        "name": name, "backend": "python", "max_batch_size": size,
        "input": [_row(tensor) for tensor in manifest.inputs.tensors],
        "output": [_row(tensor) for tensor in manifest.outputs.tensors],
        "dynamic_batching": batching if size > 1 else None,
        "instance_group": {"count": options.instances or 1, "kind": Word("KIND_CPU")},
        "parameters": _parameters({"batch_model": name + BATCH} if told else {}),
        # Triton loads both at once: who computes the batch may not be there yet, and warms up itself.
        "model_warmup": None if told else _warmup(source, whole=False),
    }  # fmt: skip


def batch_config(source: Source, options: Options, name: str) -> Message:
    """Return the configuration of the model that computes whole batches in a backend of Triton's."""
    manifest, candidate = source.manifest, source.manifest.candidate
    kind = "KIND_CPU" if device_of(candidate.target) == "cpu" else "KIND_GPU"
    return {
        "name": name, "backend": _WORDS[candidate.backend], "max_batch_size": 0,
        "input": [_whole(tensor, candidate.batch_size) for tensor in manifest.inputs.tensors],
        "output": [_whole(tensor, candidate.batch_size) for tensor in manifest.outputs.tensors],
        "instance_group": {"count": options.instances or 1, "kind": Word(kind)},
        **(native(candidate) or {}),
        "model_warmup": _warmup(source, whole=True),
    }  # fmt: skip


def _row(tensor: TensorSpec) -> Message:
    dims = [-1 if size is None else size for size in tensor.shape[1:]]
    # Triton wants a dimension where the model has none: it is reshaped to none.
    scalar: Message = {} if dims else {"reshape": {}}
    return {"name": tensor.name, "data_type": Word(_TYPES[tensor.dtype]), "dims": dims or [1], **scalar}


def _whole(tensor: TensorSpec, batch_size: int) -> Message:
    dims = [batch_size, *(-1 if size is None else size for size in tensor.shape[1:])]
    return {"name": tensor.name, "data_type": Word(_TYPES[tensor.dtype]), "dims": dims}


def _warm(source: Source, *, whole: bool) -> Rows:
    """Return the real inputs of a warm-up: a whole batch, or one row; nothing where none are kept."""
    rows = real_rows(source) or {}
    size = source.manifest.candidate.batch_size if whole else 1
    return {name: np.ascontiguousarray(array[np.arange(size) % len(array)]) for name, array in rows.items()}


def _warmup(source: Source, *, whole: bool) -> Message | None:
    """Return a warm-up: one request of a whole batch, or as many of one row as a batch has."""
    inputs = [
        {"key": name, "value": {
            "data_type": Word(_TYPES[str(array.dtype)]), "dims": list(array.shape if whole else array.shape[1:]) or [1],
            "input_data_file": name,
        }}
        for name, array in _warm(source, whole=whole).items()
    ]  # fmt: skip
    size = 1 if whole else source.manifest.candidate.batch_size
    return {"name": "real inputs", "batch_size": size, "inputs": inputs} if inputs else None


def _parameters(values: dict[str, Any]) -> list[Message]:
    return [{"key": name, "value": {"string_value": str(value)}} for name, value in values.items()]


def _write_model(source: Source, folder: Path, config: Message, *, whole: bool) -> Path:
    """Write a model's configuration and what it is warmed up with; return the folder of its first version."""
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(pbtxt(config))
    if config["model_warmup"] is not None:
        (folder / "warmup").mkdir()
        for name, array in _warm(source, whole=whole).items():
            (folder / "warmup" / name).write_bytes(array.tobytes())
    return folder / "1"


def _requirements(manifest: Manifest) -> str:
    """Return what the Python backend needs: not NumPy, whose version has to be that of Triton's image."""
    return "".join(f"{line}\n" for line in requirements(manifest).splitlines() if line.partition("==")[0] != "numpy")


def _write(source: Source, folder: Path, options: Options) -> Written:
    candidate, name = source.manifest.candidate, options.name or source.name
    models, told = folder / "models", native(candidate)
    alone = told is not None and candidate.batch_size == 1
    if not alone:
        version = _write_model(source, models / name, front_config(source, options), whole=False)
        shutil.copyfile(HERE / "triton_model.py", version / "model.py")
        if told is None:
            write_runner(source, version)
            (folder / "requirements.txt").write_text(_requirements(source.manifest))
    if told is not None:
        inner = name if alone else name + BATCH
        version = _write_model(source, models / inner, batch_config(source, options, inner), whole=True)
        for file in _FILES[candidate.backend]:
            source.copy_file(file, version / file)
    runtime, measured = candidate.backend, source.manifest.environment.get(candidate.backend, "?")
    note = (
        f"computed in {runtime} by Triton's Python backend, which needs what requirements.txt names"
        if told is None
        else f"computed by Triton's {runtime} backend; it was measured in {runtime} {measured}"
    )
    return Written("tritonserver --model-repository models", (note, *write_examples(source, folder)))


FORMAT = Format("triton", "a model repository of Triton", _refuse, _write,
                frozenset({"name", "window_ms", "instances"}))  # fmt: skip
