"""What an AOTInductor package executes: the calls in the C++ that inductor wrote, which the package keeps."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from evaluators.diagnosis.executed import BITS, Executed, precision_of

_BEGIN, _END = "void AOTInductorModel::run_impl(", "} // AOTInductorModel::run_impl"
_CALL = re.compile(r"\b(aoti_torch_(?:cpu_\w+|proxy_executor_call_function)|cpp_fused_\w+)\(([^;]*)")
_CONSTANT = re.compile(r"auto& (\w+) = constants_->at\((\d+)\)")
_TYPE = re.compile(r"constants_info_\[(\d+)\]\.dtype = cached_torch_dtype_(\w+)")
_NAME = re.compile(r"\w+")
_PURE_CONVERSION = re.compile(r"cpp_fused_(quantize|dequantize)_per_\w+_\d+")
_OTHER_WORK = ("mean", "add", "mul", "relu", "view", "norm", "softmax", "embedding", "gelu")
_KINDS = (
    ("conv", "convolution"),
    ("linear", "linear"),
    ("scaled_dot_product", "attention"),
    ("bmm", "matmul"),
    ("mm", "linear"),
    ("lstm", "recurrent"),
    ("gru", "recurrent"),
    ("rnn", "recurrent"),
)
_QUANTIZED = ("qconv", "qlinear", "int8pack", "int4pack")


def executed(package: Path) -> list[Executed]:
    """Return the calls of a package's model, in their order: kernels of libraries, and inductor's own fused loops."""
    return read_wrapper(_member(package, ".wrapper.cpp"))


def instruction_set(package: Path) -> str | None:
    """Return the widest instructions that inductor compiled its loops for, as the package says: ``avx512_vnni``."""
    named = json.loads(_member(package, ".wrapper_metadata.json")).get("AOTI_CPU_ISA", "").split()
    return named[-1].lower() if named else None


def read_wrapper(source: str) -> list[Executed]:
    """Read the calls of the model's body from the C++ that calls the kernels."""
    begin = source.index(_BEGIN)
    body = source[begin : source.index(_END, begin)]
    types = dict(_TYPE.findall(source))
    constants = {name: precision_of(types.get(index, "")) for name, index in _CONSTANT.findall(source)}
    return [_operator(name, arguments, constants) for name, arguments in _CALL.findall(body)]


def _operator(name: str, arguments: str, constants: dict[str, str]) -> Executed:
    if name.startswith("cpp_fused_"):
        pure = _PURE_CONVERSION.fullmatch(name) and not any(work in name for work in _OTHER_WORK)
        kind = name.removeprefix("cpp_fused_").partition("_")[0] if pure else "fused"
        return Executed(kind, "", name)
    kernel = name.removeprefix("aoti_torch_").removeprefix("cpu_")
    weights = [constants[word] for word in _NAME.findall(arguments) if word in constants]
    kind = next((kind for part, kind in _KINDS if part in kernel), kernel.strip("_"))
    if kind == "linear" and not weights:
        kind = "matmul"
    if any(part in kernel for part in _QUANTIZED):
        return Executed(kind, "int8", kernel)
    return Executed(kind, next((word for word in weights if word in BITS), "fp32"), kernel)


def _member(package: Path, ending: str) -> str:
    with zipfile.ZipFile(package) as files:
        name = next(name for name in files.namelist() if name.endswith(ending))
        return files.read(name).decode()
