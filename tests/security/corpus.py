"""The corpus: bundles and models that mean ill. Each spoils a sound bundle and says why it must be refused."""

from __future__ import annotations

import json
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluators.bundle import MANIFEST
from tests.security import good

Spoil = Callable[[Path, Path], None]
"""Takes the bundle's empty folder and a folder outside with ``secret``; a payload would create ``marker`` there."""

CASES: dict[str, tuple[str, Spoil]] = {}


def case(reason: str) -> Callable[[Spoil], Spoil]:
    def register(spoil: Spoil) -> Spoil:
        CASES[spoil.__name__] = (reason, spoil)
        return spoil

    return register


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Make a sound ONNX bundle and change its manifest."""
    good.onnx_bundle(folder)
    good.sealed(folder, "onnxruntime")
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _manifest_case(name: str, reason: str, change: Callable[[dict[str, Any]], object]) -> None:
    CASES[name] = (reason, lambda folder, outside: edited(folder, change))


SHA = "0" * 64
for label, path, why in (
    ("absolute", "/etc/passwd", "absolute"), ("parent", "../canary/secret", "leaves the bundle"),
    ("hidden_parent", "a/../../canary/secret", "leaves the bundle"),
    ("backslash", "..\\canary\\secret", "leads elsewhere"),
    ("encoded", "%2e%2e/canary/secret", "leads elsewhere"), ("drive", "C:secret", "leads elsewhere"),
    ("nul", "model.onnx\0.txt", "cannot be seen"), ("empty_part", "a//b", "leaves the bundle"),
    ("home", "~/secret", "absolute"), ("long", "a" * 300, "longer than"), ("deep", "a/" * 40 + "b", "folders deep"),
    ("case", "MODEL.onnx", "one file on some systems"), ("itself", "Manifest.JSON", "one file on some systems"),
    ("decomposed", "e\u0301.json", "composed form"), ("bidi", "x\u202exnno.json", "cannot be seen"),
):  # fmt: skip
    _manifest_case(f"path_{label}", why, lambda m, path=path: m["files"].update({path: SHA}))
_manifest_case("hash_differs", "altered", lambda m: m["files"].update({"model.onnx": SHA}))
_manifest_case("file_missing", "missing", lambda m: m["files"].update({"other.onnx": SHA}))
_manifest_case("not_a_hash", "no SHA-256", lambda m: m["files"].update({"model.onnx": "x"}))
_manifest_case("unknown_version", "schema_version 99", lambda m: m.update(schema_version=99))
_manifest_case("version_of_wrong_type", "schema_version", lambda m: m.update(schema_version=True))
_manifest_case("unknown_field", "not a manifest", lambda m: m.update(loader="os:system"))
_manifest_case("wrong_type", "not a manifest", lambda m: m["candidate"].update(batch_size="4"))
_manifest_case("dtype_is_an_attribute", "none of", lambda m: m["inputs"]["tensors"][0].update(dtype="load"))
_manifest_case("a_million_threads", "threads", lambda m: m["candidate"].update(runtime={"threads": 10**6}))
_manifest_case("other_target", "was built for cuda-sm90", lambda m: m["candidate"].update(target="cuda-sm90"))
_manifest_case("other_machine", "was built for another", lambda m: m.update(target_fingerprint="f" * 16))
_manifest_case("preprocessing_outside", "no file of the bundle",
               lambda m: m.update(preprocessing={"description": "", "file": "../canary/secret"}))  # fmt: skip


def _text_case(name: str, reason: str, text: bytes) -> None:
    CASES[name] = (reason, lambda folder, outside: (folder / MANIFEST).write_bytes(text) and None)


_text_case("manifest_nested", "nested", b"[" * 100_000)
_text_case("manifest_huge", "more than", b'{"files": "' + b"a" * (5 * 2**20) + b'"}')
_text_case("manifest_twice", "the same name twice", b'{"files": {}, "files": {"a": "b"}}')
_text_case("manifest_nan", "no number", b'{"flops": NaN}')
_text_case("manifest_is_no_text", "not JSON", b"\xff\xfe{}")


def special(make: Callable[[Path, Path], object]) -> Spoil:
    def spoil(folder: Path, outside: Path) -> None:
        good.onnx_bundle(folder)
        manifest = good.sealed(folder, "onnxruntime").model_dump(mode="json")
        make(folder, outside)
        manifest["files"]["extra.bin"] = SHA
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return spoil


CASES["symlink"] = ("a symbolic link", special(lambda f, o: (f / "extra.bin").symlink_to(o / "secret")))
CASES["symlinked_folder"] = ("a symbolic link", special(lambda f, o: (f / "sub").symlink_to(o)))
CASES["hard_link"] = ("a hard link", special(lambda f, o: os.link(o / "secret", f / "extra.bin")))
CASES["pipe"] = ("a pipe", special(lambda f, o: os.mkfifo(f / "extra.bin")))
CASES["foreign_file"] = ("foreign", special(lambda f, o: (f / "evil.py").write_text("") or (f / "extra.bin").touch()))


@case("a socket")
def a_socket(folder: Path, outside: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            special(lambda f, o: listener.bind("extra.bin"))(folder, outside)
    finally:
        os.chdir(here)


@case("no readable manifest")
def manifest_is_a_link(folder: Path, outside: Path) -> None:
    (folder / MANIFEST).symlink_to(outside / "secret")


def _kind(name: str, content: bytes) -> None:
    def spoil(folder: Path, outside: Path) -> None:
        (folder / name).write_bytes(content)
        good.sealed(folder, "inductor")

    CASES[f"kind_{name}"] = ("of a kind that no bundle holds", spoil)


for file in ("model.pkl", "model.pt", "loader.py", "libcustom.so"):
    _kind(file, b"x")


# --- ONNX


def _external(tensor: Any, where: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", where


def onnx_case(name: str, spoil: Callable[[Any, Path], None], reason: str = "external data") -> None:
    def make(folder: Path, outside: Path) -> None:
        good.onnx_bundle(folder, lambda model: spoil(model, outside))
        good.sealed(folder, "onnxruntime")

    CASES[f"onnx_{name}"] = (reason, make)


def _constant(graph: Any) -> Any:
    node = graph.node.add(op_type="Constant", output=["hidden"])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(graph.initializer[0])
    return attribute.t


def _subgraph(model: Any, outside: Path) -> None:
    node = model.graph.node.add(op_type="If", input=["input"], output=["x"])
    branch = node.attribute.add(name="then_branch", type=5)
    tensor = branch.g.initializer.add()
    tensor.CopyFrom(model.graph.initializer[0])
    _external(tensor, str(outside / "secret"))


def _sparse(model: Any, outside: Path) -> None:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(model.graph.initializer[0])
    _external(sparse.values, str(outside / "secret"))


def _function(model: Any, outside: Path) -> None:
    function = model.functions.add(name="f", domain="d")
    node = function.node.add(op_type="Constant", output=["c"])
    attribute = node.attribute.add(name="value", type=4)
    attribute.t.CopyFrom(model.graph.initializer[0])
    _external(attribute.t, str(outside / "secret"))


def _context(model: Any, outside: Path) -> None:
    model.graph.node.add(op_type="EPContext", domain="com.microsoft", output=["x"])


def _settings(model: Any, outside: Path) -> None:
    model.metadata_props.add(key="ort_config", value="{}")


onnx_case("external_parent", lambda m, o: _external(m.graph.initializer[0], "../canary/secret"))
onnx_case("external_absolute", lambda m, o: _external(m.graph.initializer[0], str(o / "secret")))
onnx_case("external_beside", lambda m, o: _external(m.graph.initializer[0], "weights.bin"))
onnx_case("external_in_memory", lambda m, o: _external(m.graph.initializer[0], "*/_ORT_MEM_ADDR_/*"))
onnx_case("external_in_attribute", lambda m, o: _external(_constant(m.graph), str(o / "secret")))
onnx_case("external_in_subgraph", _subgraph)
onnx_case("external_sparse", _sparse)
onnx_case("external_in_function", _function)
onnx_case("context_of_a_provider", _context, "EPContext")
onnx_case("session_settings", _settings, "ort_config")


@case("ends")
def onnx_cut_off(folder: Path, outside: Path) -> None:
    good.onnx_bundle(folder)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-7])
    good.sealed(folder, "onnxruntime")


@case("nested more than")
def onnx_nested(folder: Path, outside: Path) -> None:
    def field(number: int, content: bytes) -> bytes:
        length, text = len(content), bytearray()
        while length > 0x7F:
            text.append(length & 0x7F | 0x80)
            length >>= 7
        return bytes([number * 8 + 2]) + bytes([*text, length]) + content

    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))
    (folder / "model.onnx").write_bytes(field(7, graph))
    good.sealed(folder, "onnxruntime")


# --- OpenVINO


def ir_case(name: str, reason: str, old: str, new: str) -> None:
    def make(folder: Path, outside: Path) -> None:
        good.openvino_bundle(folder, good.IR.replace(old, new.replace("OUTSIDE", str(outside))))
        good.sealed(folder, "openvino")

    CASES[f"ir_{name}"] = (reason, make)


ir_case(
    "external_entity", "document type", "<net ", '<!DOCTYPE net [<!ENTITY x SYSTEM "file://OUTSIDE/secret">]>\n<net '
)
ir_case(
    "entity_bomb", "document type", "<net ", '<!DOCTYPE net [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]>\n<net '
)
ir_case("weights_path", "leads out", 'offset="0"', 'offset="0" weights_path="OUTSIDE/secret"')
ir_case("library", "leads out", 'name="linear"', 'name="linear" library="OUTSIDE/evil.so"')
ir_case("extension", "opset", 'type="MatMul" version="opset1"', 'type="MatMul" version="extension"')
ir_case("beyond_its_weights", "ends at", 'size="48"', 'size="4800000"')
ir_case("negative_offset", "has a constant", 'offset="0"', 'offset="-8"')
ir_case("another_encoding", "UTF-8", 'version="1.0"', 'version="1.0" encoding="utf-16"')
ir_case("instruction", "instruction", "<net ", '<?xml-stylesheet href="x"?>\n<net ')
ir_case("nested", "nested", "<layers>", "<layers>" + "<body>" * 100 + "</body>" * 100)


# --- safetensors, plan and recipe


def eager_case(name: str, reason: str, **parts: Any) -> None:
    def make(folder: Path, outside: Path) -> None:
        code = outside / "workload.py"
        code.write_text(
            "import torch\nfrom evaluators import Workload\n"
            "workload = Workload(name='w', model=lambda: torch.nn.Linear(4, 3), calibration=None, validation=None)\n"
        )
        good.eager_bundle(folder, **parts)
        good.sealed(folder, "eager", workload=f"{code}:workload")

    CASES[f"eager_{name}"] = (reason, make)


_F32 = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
eager_case("overlap", "begins at", weights=good.safetensors_bytes({"a": _F32, "b": _F32}))
eager_case("hole", "its tensors end", weights=good.safetensors_bytes({"a": _F32}, b"\0" * 64))
eager_case("huge_header", "says that its header", weights=(2**62).to_bytes(8, "little") + b"{}")
eager_case("wrong_shape", "does not fill", weights=good.safetensors_bytes({"a": {**_F32, "shape": [2**40]}}))
eager_case("negative", "no counts", weights=good.safetensors_bytes({"a": {**_F32, "data_offsets": [-48, 0]}}))
eager_case("nested_header", "nested", weights=(4000).to_bytes(8, "little") + b"[" * 4000)
eager_case("attribute", "sets 'forward'", plan={"attributes": {"": {"forward": 1}}, "shared": {}})
eager_case("dunder", "no module has", plan={"attributes": {"a.__class__": {"groups": 1}}, "shared": {}})
eager_case("size_is_text", "no size", plan={"attributes": {"": {"groups": "1"}}, "shared": {}})
eager_case("unknown_layer", "does not have", plan={"attributes": {"head": {"groups": 1}}, "shared": {}})
eager_case("replaced_by_word", "in the place of", plan={"attributes": {}, "shared": {}, "replaced": {"": "os.system"}})
eager_case(
    "replaced_unknown", "does not have", plan={"attributes": {}, "shared": {}, "replaced": {"a": "passed_through"}}
)
eager_case(
    "replaced_whole", "the whole model", plan={"attributes": {}, "shared": {}, "replaced": {"": "passed_through"}}
)
eager_case("unknown_tensor", "not among", plan={"attributes": {}, "shared": {"a": "b"}})
eager_case("type_is_an_attribute", "no type of numbers",
           recipe={"scheme": "static_int8", "activations": {"a": {"dtype": "load"}}})  # fmt: skip
eager_case("argument", "nothing else", recipe={"scheme": "static_int8", "activations": {"a": {"factory_kwargs": 1}}})


# --- PT2


class Payload:
    """What a pickle that means ill runs."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._marker),)


LIBRARY = "data/aotinductor/model/m.so"


def pt2_case(name: str, reason: str, members: Callable[[Path], dict[str, bytes]], **options: int) -> None:
    def make(folder: Path, outside: Path) -> None:
        good.archive(folder / "model.pt2", members(outside), **options)
        good.sealed(folder, "inductor")

    CASES[f"pt2_{name}"] = (reason, make)


def _sample(outside: Path) -> dict[str, bytes]:
    import io

    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(outside / "marker"), protocol=2))
    return {"models/model.json": b"{}", "data/sample_inputs/model.pt": inner.getvalue()}


_PICKLED = b'{"config": {"w": {"path_name": "weight_0", "use_pickle": true}}}'
_ELSEWHERE = b'{"config": {"w": {"path_name": "../../canary/secret", "use_pickle": false}}}'
pt2_case("slip", "leaves the bundle", lambda o: {LIBRARY: b"", "data/aotinductor/model/../../../marker": b"x"})
pt2_case("bomb", "compressed", lambda o: {LIBRARY: b"\0" * 2**20}, compression=zipfile.ZIP_DEFLATED)
pt2_case("sources_only", "0 libraries", lambda o: {"data/aotinductor/model/m.wrapper.cpp": b"int x;"})
pt2_case("compiler_flags", "no archive of a model",
         lambda o: {LIBRARY: b"", "data/aotinductor/model/m_linker_flags.json": b"{}"})  # fmt: skip
pt2_case("two_libraries", "2 libraries", lambda o: {LIBRARY: b"", "data/aotinductor/model/n.so": b""})
pt2_case("pickled_sample", "is a pickle that calls", _sample)
pt2_case("pickled_weight", "as a pickle", lambda o: {"data/weights/model_weights_config.json": _PICKLED})
pt2_case("weight_elsewhere", "no file of tensors", lambda o: {"data/weights/model_weights_config.json": _ELSEWHERE})
pt2_case("custom_object", "no archive of a model", lambda o: {"data/constants/custom_obj_0": b"x"})
pt2_case("python", "no archive of a model", lambda o: {"extra/evil.py": b"x"})


@case("no zip archive, or something follows")
def pt2_is_no_zip(folder: Path, outside: Path) -> None:
    (folder / "model.pt2").write_bytes(pickle.dumps(Payload(outside / "marker")))
    good.sealed(folder, "inductor")


@case("does not begin")
def pt2_behind_something(folder: Path, outside: Path) -> None:
    good.archive(folder / "model.pt2", {LIBRARY: b""})
    (folder / "model.pt2").write_bytes(b"#!/bin/sh\n" + (folder / "model.pt2").read_bytes())
    good.sealed(folder, "inductor")


@case("says two things")
def pt2_two_names(folder: Path, outside: Path) -> None:
    good.archive(folder / "model.pt2", {LIBRARY: b""})
    content = (folder / "model.pt2").read_bytes()
    first = content.index(b"m.so")
    (folder / "model.pt2").write_bytes(content[:first] + b"x.so" + content[first + 4 :])
    good.sealed(folder, "inductor")
