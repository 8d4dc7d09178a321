"""The image example on every runtime, called by hand as its documentation says; no code of paretune's is involved.

A contender may build files once; ``load`` makes it ready to run, in whatever process it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

IMAGES = Path(__file__).resolve().parent.parent / "examples" / "images"
sys.path.insert(0, str(IMAGES))

import workload as example  # noqa: E402 - the example's own model, data and metric; found through the line above

Array = np.ndarray[Any, Any]
CALIBRATION_BATCH = 32


@dataclass(frozen=True)
class Setting:
    """What all contenders have in common: batch size, threads, and a folder for the files that they build."""

    batch_size: int
    threads: int
    folder: Path

    def batches(self, split: str) -> Iterator[tuple[Array, Array]]:
        """Yield images (batch_size, 1, 28, 28) and their labels; a last, incomplete batch repeats its last image."""
        images, labels = (tensor.numpy() for tensor in getattr(example, f"{split}_set")().tensors)
        for start in range(0, len(labels), self.batch_size):
            index = np.minimum(np.arange(start, start + self.batch_size), len(labels) - 1)
            yield np.ascontiguousarray(images[index]), labels[start : start + self.batch_size]

    def calibration(self) -> list[Array]:
        """All calibration images, in batches as the model will see them."""
        return [images for images, _ in self.batches("calibration")]

    def example(self) -> torch.Tensor:
        """One batch of real images."""
        return torch.from_numpy(self.calibration()[0])


@dataclass(frozen=True)
class Ready:
    """A loaded model. Only ``run`` is timed."""

    prepare: Callable[[Array], Any]
    run: Callable[[Any], Any]
    logits: Callable[[Any], Array]


@dataclass(frozen=True)
class Contender:
    """One way to run the example: ``build`` writes files where there is something to keep, ``load`` makes it ready."""

    load: Callable[[Setting], Ready]
    build: Callable[[Setting], object] = lambda setting: None


def torch_ready(module: Callable[[torch.Tensor], Any], layout: torch.memory_format = torch.contiguous_format) -> Ready:
    def run(images: torch.Tensor) -> Any:
        with torch.inference_mode():
            return module(images)

    # clone() gives the tensor memory of torch's own, aligned as its kernels like it
    return Ready(lambda images: torch.from_numpy(images).clone().to(memory_format=layout), run, lambda raw: raw.numpy())


def eager(layout: torch.memory_format, setting: Setting) -> Ready:
    return torch_ready(example.build_model().to(memory_format=layout), layout)


def fx_int8(setting: Setting) -> Ready:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    prepared = prepare_fx(example.build_model(), get_default_qconfig_mapping("x86"), (setting.example(),))
    with torch.no_grad():
        for images in torch.from_numpy(np.concatenate(setting.calibration())).split(CALIBRATION_BATCH):
            prepared(images)
    return torch_ready(convert_fx(prepared))


def compiled(module: torch.nn.Module, setting: Setting) -> Ready:
    torch._inductor.config.freezing = True
    ready = torch_ready(torch.compile(module))
    with torch.no_grad():  # freezing needs it when the first call compiles
        ready.run(setting.example())
    return ready


def aot_build(program: Callable[[Setting], Any], name: str, setting: Setting) -> None:
    package = str(setting.folder / f"{name}.pt2")
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(
            program(setting), package_path=package, inductor_configs={"freezing": True}
        )


def aot_load(name: str, setting: Setting) -> Ready:
    return torch_ready(torch._inductor.aoti_load_package(str(setting.folder / f"{name}.pt2")))


def float_program(setting: Setting) -> Any:
    return torch.export.export(example.build_model(), (setting.example(),))


def pt2e_program(setting: Setting) -> Any:
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    inputs = (setting.example(),)
    with torch.no_grad():
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(example.build_model(), inputs, strict=True).module(), quantizer)
        for images in setting.calibration():
            prepared(torch.from_numpy(images))
        return torch.export.export(convert_pt2e(prepared), inputs, strict=True)


def pt2e_save(setting: Setting) -> None:
    torch.export.save(pt2e_program(setting), setting.folder / "pt2e.export.pt2")


def pt2e_load(setting: Setting) -> Ready:
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers the operators that are in the file

    return compiled(torch.export.load(setting.folder / "pt2e.export.pt2").module(), setting)


def onnx_float(setting: Setting) -> str:
    path = setting.folder / "float.onnx"
    if not path.exists():
        inputs = (setting.example(),)
        names: dict[str, Any] = {"input_names": ["images"], "output_names": ["logits"]}
        torch.onnx.export(example.build_model(), inputs, str(path), dynamo=True, **names)
    return str(path)


def onnx_prepared(setting: Setting) -> str:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = str(setting.folder / "prepared.onnx")
    quant_pre_process(onnx_float(setting), path)
    return path


def onnx_dynamic(setting: Setting) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The default, QInt8, gives ConvInteger nodes with signed weights, for which onnxruntime has no kernel.
    target = str(setting.folder / "dynamic.onnx")
    quantize_dynamic(onnx_prepared(setting), target, weight_type=QuantType.QUInt8)


def onnx_static(name: str, layout: str, activations: str, per_channel: bool, setting: Setting) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        left = iter(setting.calibration())

        def get_next(self) -> dict[str, Array] | None:
            images = next(self.left, None)
            return None if images is None else {"images": images}

    quantize_static(
        onnx_prepared(setting), str(setting.folder / f"{name}.onnx"), Reader(), quant_format=QuantFormat[layout],
        activation_type=QuantType[activations], weight_type=QuantType.QInt8, per_channel=per_channel,
    )  # fmt: skip


def onnx_load(name: str, setting: Setting) -> Ready:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    path = str(setting.folder / f"{name}.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Ready(lambda images: {"images": images}, lambda feed: session.run(["logits"], feed), lambda raw: raw[0])


def openvino_build(int8: bool, setting: Setting) -> None:
    import openvino

    first = setting.example()
    model = openvino.convert_model(example.build_model(), example_input=first, input=list(first.shape))
    if int8:
        import nncf

        model = nncf.quantize(model, nncf.Dataset(setting.calibration()))
    openvino.save_model(model, setting.folder / f"{'int8' if int8 else 'float'}.xml", compress_to_fp16=False)


def openvino_load(name: str, setting: Setting) -> Ready:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": setting.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.compile_model(setting.folder / f"{name}.xml", "CPU", settings).create_infer_request()

    # A third faster on this model than infer([images], share_inputs=True), which wraps the array anew in each call.
    def run(images: Any) -> Any:
        request.set_input_tensor(images)
        return request.infer(share_outputs=True)

    return Ready(lambda images: openvino.Tensor(images, shared_memory=True), run, lambda raw: np.array(raw[0]))


def onnx_contender(name: str, *knobs: Any) -> Contender:
    return Contender(partial(onnx_load, name), partial(onnx_static, name, *knobs))


EAGER = "eager fp32"

CONTENDERS: dict[str, Contender] = {
    EAGER: Contender(partial(eager, torch.contiguous_format)),
    "eager fp32, channels_last": Contender(partial(eager, torch.channels_last)),
    "torch.compile fp32, frozen": Contender(lambda setting: compiled(example.build_model(), setting)),
    "AOTInductor fp32, frozen": Contender(partial(aot_load, "aot_fp32"), partial(aot_build, float_program, "aot_fp32")),
    "FX static int8, x86": Contender(fx_int8),
    "PT2E int8, torch.compile": Contender(pt2e_load, pt2e_save),
    "PT2E int8, AOTInductor": Contender(partial(aot_load, "aot_int8"), partial(aot_build, pt2e_program, "aot_int8")),
    "onnxruntime fp32": Contender(partial(onnx_load, "float"), onnx_float),
    "onnxruntime dynamic int8": Contender(partial(onnx_load, "dynamic"), onnx_dynamic),
    "onnxruntime static int8, QDQ QInt8 (default)": onnx_contender("qdq_s8", "QDQ", "QInt8", False),
    "onnxruntime static int8, QDQ QUInt8 per tensor": onnx_contender("qdq_u8", "QDQ", "QUInt8", False),
    "onnxruntime static int8, QDQ QUInt8 per channel": onnx_contender("qdq_u8_channel", "QDQ", "QUInt8", True),
    "onnxruntime static int8, QOperator QUInt8 per tensor": onnx_contender("qop_u8", "QOperator", "QUInt8", False),
    "onnxruntime static int8, QOperator QUInt8 per channel": onnx_contender(
        "qop_u8_channel", "QOperator", "QUInt8", True
    ),
    "OpenVINO fp32": Contender(partial(openvino_load, "float"), partial(openvino_build, False)),
    "OpenVINO int8, NNCF": Contender(partial(openvino_load, "int8"), partial(openvino_build, True)),
}
