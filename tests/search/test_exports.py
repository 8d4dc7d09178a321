"""What each export format carries, what it refuses and how, and that a refusal leaves nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluators.bundle import Manifest, read_manifest
from evaluators.bundle.tree import hash_of
from evaluators.candidate import Candidate, Quantization, Runtime
from evaluators.errors import FormatError, IntegrityError, UsageError
from evaluators.lengths import Buckets
from evaluators.outcome import Constraint
from search import api
from search.exports.coreml import swift_of
from search.exports.evidence import batching_window_ms, unknown
from search.exports.exporting import staged
from search.exports.format import Options
from search.exports.mlserver import model_settings
from search.exports.parts import batching_notes
from search.exports.pbtxt import Word, pbtxt
from search.exports.registry import FORMATS, fitting
from search.exports.source import Source
from search.exports.triton import batch_config, front_config, native
from tests.conftest import paretune
from tests.search.bundles import a_bundle, a_bundle_of_two
from tests.search.factories import a_search
from tests.security import good


def an_onnx_bundle(folder: Path) -> Manifest:
    return a_bundle(folder, batch_size=4)


def an_openvino_bundle(folder: Path) -> Manifest:
    folder.mkdir()
    good.openvino_bundle(folder)
    return good.sealed(folder, "openvino")


def an_eager_bundle(folder: Path) -> Manifest:
    folder.mkdir()
    good.eager_bundle(folder)
    return good.sealed(folder, "eager")


BUNDLES = (an_onnx_bundle, an_openvino_bundle, an_eager_bundle)
FIT = {
    "an_onnx_bundle": {"bundle", "onnx", "mlflow", "mlserver", "triton", "container"},
    "an_openvino_bundle": {"bundle", "openvino", "mlflow", "mlserver", "triton", "container"},
    "an_eager_bundle": {"bundle", "mlflow"},
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose bundles lie where a search would have put them: they are its own."""
    (tmp_path / "home" / "bundles").mkdir(parents=True)
    return tmp_path / "home"


@pytest.mark.parametrize("make", BUNDLES)
@pytest.mark.parametrize("format", sorted(FORMATS))
def test_a_format_carries_a_bundle_whole_or_names_those_that_do(
    make: Callable[[Path], Manifest], format: str, home: Path, tmp_path: Path
) -> None:
    bundle = home / "bundles" / "one"
    manifest, out = make(bundle), tmp_path / "out"
    assert set(fitting(manifest)) == FIT[make.__name__]

    if format not in fitting(manifest):
        with pytest.raises(FormatError, match=f"these fit it: {', '.join(fitting(manifest))}"):
            api.export(str(bundle), format, out, home)
        assert [path for path in tmp_path.iterdir() if path != home] == []
        return
    report = api.export(str(bundle), format, out, home)

    assert json.loads((out / "evidence.json").read_text())["digest"] == manifest.digest == report.digest
    assert report.start in (out / "README.md").read_text()
    copies = {path for name in manifest.files for path in out.rglob(Path(name).name)}
    assert copies, "no file of the bundle is in it"
    for copy in copies:
        assert hash_of(copy.parent, copy.name) == manifest.files[copy.name]
    assert set(report.files) == {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}


def test_nothing_is_written_over_and_a_failure_leaves_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, out = home / "bundles" / "one", tmp_path / "out"
    an_onnx_bundle(bundle)
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        api.export(str(bundle), "onnx", out, home)
    assert [path.name for path in out.iterdir()] == ["notes.txt"]

    (out / "notes.txt").unlink()
    with pytest.raises(OSError, match="disk full"), staged(out) as staging:
        (staging / "half").write_text("written")
        raise OSError("disk full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"] and not any(out.iterdir())

    with pytest.raises(UsageError, match="is not empty"), staged(out) as staging:
        (staging / "whole").write_text("written")
        (out / "meanwhile").write_text("by somebody else")
    assert [path.name for path in out.iterdir()] == ["meanwhile"]


def test_an_altered_bundle_ends_with_exit_code_5_and_no_folder(home: Path, tmp_path: Path) -> None:
    bundle, out = home / "bundles" / "one", tmp_path / "out"
    an_onnx_bundle(bundle)
    file = bundle / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")

    answer = paretune("export", str(bundle), "--format", "container", "-o", str(out), "--home", str(home), "--json")

    assert answer.code == 5 and "model.onnx altered" in answer.json["error"]["message"]
    assert not out.exists()


def test_a_file_that_changes_while_it_is_exported_is_noticed(home: Path, tmp_path: Path) -> None:
    bundle = home / "bundles" / "one"
    manifest = an_onnx_bundle(bundle)
    source = Source(bundle, manifest, unknown("one", manifest), "one")
    (bundle / "model.onnx").write_bytes(b"another")
    with pytest.raises(IntegrityError, match=r"model\.onnx .* was changed while it was exported"):
        source.copy_bundle(tmp_path / "copy")


def test_a_strangers_code_is_exported_only_where_somebody_vouches_for_it(home: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    manifest = an_eager_bundle(stranger)
    with pytest.raises(IntegrityError, match=f"--trust {manifest.digest}"):
        api.export(str(stranger), "bundle", tmp_path / "out", home)
    with pytest.raises(IntegrityError, match="and 0000 was expected"):
        api.export(str(stranger), "bundle", tmp_path / "out", home, trust="0000")
    report = api.export(str(stranger), "bundle", tmp_path / "out", home, trust=manifest.digest)
    assert report.runs_code is not None and "there is no runner" in report.notes[0]


@pytest.mark.parametrize(
    ("format", "option", "why"),
    [
        ("onnx", {"window_ms": 2.0}, "no use for --window; it is for mlserver, triton"),
        ("container", {"instances": 2}, "no use for --instances"),
        ("mlflow", {"name": "classifier"}, "no use for --name; it is for mlserver, triton, container"),
        ("mlserver", {"name": "a b"}, "must be of letters"),
        ("triton", {"instances": 0}, "must be at least 1"),
        ("mlserver", {"window_ms": -1.0}, "from 0 to a minute"),
        ("savedmodel", {}, "there is no format 'savedmodel'"),
        ("onnx", {"trial": 3}, "is one bundle; --trial 3 is for searches"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    format: str, option: dict[str, object], why: str, home: Path, tmp_path: Path
) -> None:
    an_onnx_bundle(home / "bundles" / "one")
    with pytest.raises(UsageError, match=why):
        api.export(str(home / "bundles" / "one"), format, tmp_path / "out", home, **option)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def a_source(folder: Path, make: Callable[[Path], Manifest] = an_onnx_bundle, rows: int = 0) -> Source:
    manifest = make(folder)
    example = None
    if rows:
        example = folder.parent / "example.npz"
        arrays = {tensor.name: np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
                  for tensor in manifest.inputs.tensors}  # fmt: skip
        np.savez(example, **arrays)  # type: ignore[arg-type]
    return Source(folder, manifest, unknown("one", manifest), "digits", example)


def test_a_server_waits_as_long_as_the_budget_leaves_and_no_longer_than_a_call(tmp_path: Path) -> None:
    manifest = an_onnx_bundle(tmp_path / "one")
    nothing = unknown("one", manifest)
    assert batching_window_ms(nothing) == 1.0, "nobody measured a call"

    best = a_search()[0].best
    assert best is not None and best.latency_ms is not None and best.latency_ms.bounds is not None
    call = best.latency_ms.bounds[1]

    def window(budget: float | None) -> float:
        limits = () if budget is None else (Constraint(metric="latency_p95_ms", max=budget),)
        return batching_window_ms(nothing.model_copy(update={"trial": best, "constraints": limits}))

    assert window(None) == pytest.approx(call, abs=1e-3)
    assert window(call * 10) == pytest.approx(call, abs=1e-3)
    assert window(call * 1.5) == pytest.approx(call * 0.5, abs=1e-3)
    assert window(call * 0.5) == 0.0


def test_mlserver_gathers_the_measured_batch_size_where_batches_can_be_gathered(tmp_path: Path) -> None:
    source = a_source(tmp_path / "one")
    settings = model_settings(source, Options(window_ms=2.0), "served")
    assert (settings["max_batch_size"], settings["max_batch_time"]) == (4, 0.002)
    assert settings["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]

    one = a_source(tmp_path / "two", lambda folder: a_bundle(folder, batch_size=1))
    assert model_settings(one, Options(window_ms=2.0), "served")["max_batch_size"] == 0
    assert model_settings(source, Options(window_ms=0.0), "served")["max_batch_size"] == 0


def test_triton_gathers_in_front_of_the_very_file_which_is_warmed_up_with_real_inputs(tmp_path: Path) -> None:
    source = a_source(tmp_path / "one", rows=6)
    front, batch = front_config(source, Options(window_ms=2.0)), batch_config(source, Options(), "digits_batch")

    assert (front["backend"], front["max_batch_size"]) == ("python", 4)
    assert front["dynamic_batching"] == {"preferred_batch_size": [4], "max_queue_delay_microseconds": 2000}
    assert front["parameters"] == [{"key": "batch_model", "value": {"string_value": "digits_batch"}}]
    assert (batch["backend"], batch["max_batch_size"], batch["input"][0]["dims"]) == ("onnxruntime", 0, [4, 4])
    assert batch["optimization"]["graph"] == {"level": 2}, "the graph was optimized when it was built"
    assert front["model_warmup"] is None, "it would ask the other, which may not be loaded yet"
    assert batch["model_warmup"]["batch_size"] == 1 and batch["model_warmup"]["inputs"][0]["value"]["dims"] == [4, 4]


def test_triton_computes_in_the_bundles_own_runtime_where_its_own_cannot_be_told(tmp_path: Path) -> None:
    source = a_source(tmp_path / "one", an_openvino_bundle, rows=2)
    front, folder = front_config(source, Options()), tmp_path / "out"
    assert front["parameters"] == [] and front["model_warmup"]["inputs"][0]["value"]["dims"] == [4]
    FORMATS["triton"].write(source, folder, Options())
    assert [path.name for path in (folder / "models").iterdir()] == ["digits"]
    assert (folder / "models" / "digits" / "warmup" / "input").stat().st_size == 4 * 4, "one row, as Triton wants it"
    assert "numpy" not in (folder / "requirements.txt").read_text(), "that of Triton's image"


def test_few_real_inputs_are_repeated_to_warm_up_a_whole_batch(tmp_path: Path) -> None:
    source, folder = a_source(tmp_path / "one", rows=3), tmp_path / "out"
    FORMATS["triton"].write(source, folder, Options())
    stored = np.fromfile(folder / "models" / "digits_batch" / "warmup" / "input", np.float32).reshape(4, 4)
    np.testing.assert_array_equal(stored, np.arange(12, dtype=np.float32).reshape(3, 4)[[0, 1, 2, 0]])


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        (Candidate(target="cpu-avx2", backend="onnxruntime", runtime=Runtime(threads=3)), "intra_op_thread_count=3"),
        (Candidate(target="cuda-sm90", backend="onnxruntime"), "use_tf32=0"),
        (Candidate(target="cuda-sm90", backend="onnxruntime", quantization=Quantization(scheme="tf32")), "use_tf32=1"),
        (
            Candidate(target="cuda-sm75", backend="onnxruntime", quantization=Quantization(scheme="fp16"),
                      runtime=Runtime.model_validate({"threads": 1, "provider": "tensorrt"})),
            "precision_mode=FP16",
        ),
        (Candidate(target="cpu-avx2", backend="openvino", quantization=Quantization(scheme="bf16")), "HINT_BF16=YES"),
        (Candidate(target="cpu-avx2", backend="openvino"), None),
        (
            Candidate(target="cpu-avx2", backend="onnxruntime",
                      runtime=Runtime.model_validate({"threads": 1, "provider": "openvino"})),
            None,
        ),
    ],
)  # fmt: skip
def test_tritons_own_backend_is_used_only_where_it_can_be_told_what_was_measured(
    candidate: Candidate, told: str | None
) -> None:
    config = native(candidate)
    if told is None:
        assert config is None
        return
    text = pbtxt(config or {}).replace('"', "")
    name, value = told.split("=")
    assert f"key: {name}" in text and f": {value}\n" in text


def test_packages_of_torch_are_refused_by_triton_with_the_reason(tmp_path: Path) -> None:
    manifest = an_onnx_bundle(tmp_path / "one")
    for backend in ("inductor", "tensorrt"):
        candidate = manifest.candidate.model_copy(update={"backend": backend})
        why = FORMATS["triton"].refuse(manifest.model_copy(update={"candidate": candidate}))
        assert why is not None and "TorchScript and not packages of AOTInductor" in why


def test_messages_are_written_as_protocol_buffers_read_them() -> None:
    assert pbtxt(
        {"name": 'a "b"', "kind": Word("KIND_CPU"), "dims": [1, -1], "on": True, "none": None, "inner": {}}
    ) == ('name: "a \\"b\\""\nkind: KIND_CPU\ndims: 1\ndims: -1\non: true\ninner {\n}\n')


def test_swift_calls_the_package_by_the_names_of_its_tensors(tmp_path: Path) -> None:
    manifest = a_bundle_of_two(tmp_path / "two")
    candidate = manifest.candidate.model_copy(
        update={"backend": "coreml", "runtime": Runtime.model_validate({"threads": 1, "compute_units": "cpu_and_ne"})}
    )
    files = {"model.mlpackage/Manifest.json": "0" * 64}
    package = manifest.model_copy(update={"candidate": candidate, "files": files})

    assert FORMATS["coreml"].refuse(manifest) is not None and FORMATS["coreml"].refuse(package) is None
    text = swift_of(package)
    assert ".cpuAndNeuralEngine" in text and '["left": input0, "right": input1]' in text
    assert '["sum", "product"]' in text and "left: MLMultiArray of .float32, shape [4, 2]" in text


def test_real_inputs_go_along_as_arrays_and_as_a_request(tmp_path: Path) -> None:
    source, folder = a_source(tmp_path / "one", rows=6), tmp_path / "out"
    folder.mkdir()
    FORMATS["container"].write(source, folder, Options())
    with np.load(folder / "example.npz") as stored:
        assert stored["input"].shape == (4, 4), "a batch, not all that is kept"
    request = json.loads((folder / "request.json").read_text())
    assert request["inputs"][0] == {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0.0, 1.0, 2.0, 3.0]}
    assert read_manifest(folder / "bundle").digest == source.manifest.digest


def test_who_calls_the_bare_model_is_told_how_it_was_batched(tmp_path: Path) -> None:
    plain = an_onnx_bundle(tmp_path / "bundle")
    split = plain.candidate.model_copy(update={"runtime": Runtime.model_validate({"threads": 2, "split_batch": True})})
    buckets = Buckets(axes={"input": 1}, padding={"input": 0}, edges=(3, 6))

    (only,) = batching_notes(plain)
    whole, filled, shared = batching_notes(plain.model_copy(update={"candidate": split, "buckets": buckets}))

    assert only == whole == "it takes batches of exactly 4"
    assert "filled up to 3, 6" in filled and shared.startswith("2 threads ran a share")
