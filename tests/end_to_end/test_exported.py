"""Exports as they are used: each is started by its own command, without paretune, and answers as the bundle does."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.bundle import Manifest, open_bundle, read_manifest
from evaluators.candidate import Runtime
from evaluators.registry import backend
from evaluators.run_bundle import run_rows
from scripts.serving import asked, free_port, mlflow_serving, refused, running
from search import api
from search.exports.evidence import unknown
from search.exports.format import Options
from search.exports.registry import FORMATS
from search.exports.source import Source
from tests.conftest import ROOT
from tests.interpreters import an_environment
from tests.search.bundles import WEIGHTS, a_bundle, a_bundle_of_two
from tests.security import good

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a container listens on
ROWS = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
PLAIN = {"PATH": os.environ["PATH"]}
TOLERANCE = 1e-6
"""Largest difference between a served answer and the bundle's own: the same file in the same runtime."""


def onnxruntime(folder: Path) -> Manifest:
    return a_bundle(folder, batch_size=4)


def openvino(folder: Path) -> Manifest:
    folder.mkdir(parents=True)
    good.openvino_bundle(folder)
    return good.sealed(folder, "openvino")


def openvino_streams(folder: Path) -> Manifest:
    """A batch of 4 that two streams compute, each its half."""
    from openvino import Model as Graph
    from openvino import opset13, save_model

    folder.mkdir(parents=True)
    rows = opset13.parameter([4, 4], np.float32, name="input")
    rows.output(0).set_names({"input"})
    product = opset13.matmul(rows, opset13.constant(WEIGHTS), False, False)
    product.output(0).set_names({"output"})
    save_model(Graph([product], [rows], "linear"), folder / "model.xml", compress_to_fp16=False)
    plain, runtime = good.sealed(folder, "openvino"), Runtime.model_validate(STREAMS)
    candidate = plain.candidate.model_copy(update={"batch_size": 4, "runtime": runtime})
    (folder / "manifest.json").write_text(plain.model_copy(update={"candidate": candidate}).model_dump_json())
    return read_manifest(folder)


STREAMS = {"threads": 2, "performance_hint": "throughput"}


def exported(make: Callable[[Path], Manifest], format: str, folder: Path, **options: Any) -> tuple[Path, np.ndarray]:
    """Export a new bundle; return the export, and what the bundle itself answers on ``ROWS``."""
    bundle = folder / "home" / "bundles" / "one"
    manifest = make(bundle)
    report = api.export(str(bundle), format, folder / "out", folder / "home", **options)
    runner = backend(manifest.candidate.backend).load(bundle, open_bundle(bundle, other_target=True))
    (wanted,) = run_rows(runner, {"input": ROWS}, manifest.candidate.batch_size)
    return Path(report.output), wanted


def v2(rows: np.ndarray) -> dict[str, Any]:
    return {"inputs": [{"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}]}


def answered(answer: Any) -> np.ndarray:
    """Return the one output of a V2 answer."""
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"]) == ("output", "FP32")
    return np.array(output["data"], np.float32).reshape(output["shape"])


@pytest.fixture(scope="module", params=[onnxruntime, openvino, openvino_streams])
def alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A Python with NumPy and one runtime, and nothing else; and what makes a bundle of that runtime."""
    folder = tmp_path_factory.mktemp("alone")
    return an_environment(folder, "numpy", request.param.__name__.partition("_")[0]), request.param


def test_a_runner_needs_numpy_and_the_runtime_and_no_more(alone: tuple[Path, Any], tmp_path: Path) -> None:
    python, make = alone
    for absent in ("evaluators", "torch", "pydantic"):
        assert subprocess.run([str(python), "-c", f"import {absent}"], capture_output=True, check=False).returncode
    out, wanted = exported(make, "bundle", tmp_path)
    np.savez(tmp_path / "in.npz", input=ROWS)

    def run() -> subprocess.CompletedProcess[str]:
        command = [str(python), "runner.py", str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
        return subprocess.run(command, cwd=out, env=PLAIN, capture_output=True, text=True, check=False)

    assert (ended := run()).returncode == 0, ended.stderr
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_allclose(found["output"], wanted, atol=TOLERANCE)

    (model,) = (out / "bundle").glob("model.[ox][nm][nl]*")
    model.write_bytes(model.read_bytes() + b" ")
    assert f"{model.name} is not the file that was measured" in run().stderr


def test_a_containers_command_serves_and_its_health_check_passes(alone: tuple[Path, Any], tmp_path: Path) -> None:
    python, make = alone
    out, wanted = exported(make, "container", tmp_path, name="digits")
    docker = (out / "Dockerfile").read_text().replace("\\\n", " ")
    image = tmp_path / "image"  # what the instructions copy, and no more
    image.mkdir()
    for line in re.findall(r"^COPY (.+)$", docker, re.M):
        *names, _ = shlex.split(line)
        for name in names:
            copy = shutil.copytree if (out / name).is_dir() else shutil.copyfile
            copy(out / name, image / name)
    port = free_port()
    command, check = (
        [part.replace("8080", str(port)).replace(EVERYWHERE, "127.0.0.1") for part in json.loads(found)]
        for found in (
            re.findall(r"^CMD (\[.+\])$", docker, re.M)[-1],
            re.findall(r"HEALTHCHECK.* CMD (\[.+\])", docker)[0],
        )
    )
    assert command[0] == check[0] == "python"
    env, url = PLAIN, f"http://127.0.0.1:{port}/v2/models/digits"
    healthy = [str(python), *check[1:]]

    assert subprocess.run(healthy, cwd=image, env=env, check=False).returncode == 1, "nothing is served yet"
    with running([str(python), *command[1:]], f"http://127.0.0.1:{port}/v2/health/ready", tmp_path / "log", image, env):
        assert subprocess.run(healthy, cwd=image, env=env, check=False).returncode == 0
        with ThreadPoolExecutor(4) as clients:
            found = list(clients.map(lambda row: answered(asked(f"{url}/infer", v2(row[None]))), ROWS))
        np.testing.assert_allclose(np.concatenate(found), wanted, atol=TOLERANCE)
        np.testing.assert_allclose(answered(asked(f"{url}/infer", v2(ROWS) | {"id": "7"})), wanted, atol=TOLERANCE)
        assert asked(url)["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
        assert refused(f"{url}/infer", v2(ROWS[:, :3]))[0] == 400
        assert refused(f"{url}/infer", {"inputs": [{"name": "input"}]})[0] == 400
        assert refused(f"{url}/infer", [1])[0] == 400
        assert refused(f"http://127.0.0.1:{port}/v2/models/other/infer", v2(ROWS))[0] == 404


def test_a_container_runs_pinned_versions_without_rights(tmp_path: Path) -> None:
    out, _ = exported(onnxruntime, "container", tmp_path)
    docker = (out / "Dockerfile").read_text()
    instructions = [line.split()[0] for line in docker.replace("\\\n", " ").splitlines() if line and line[0].isupper()]

    assert re.search(r"^FROM python:3\.11\.\d+-slim-bookworm$", docker, re.M), "pinned to the Python that was measured"
    assert instructions.index("USER") < instructions.index("CMD") and "USER 10001" in docker
    assert "HEALTHCHECK" in instructions and "ADD" not in instructions
    for line in (out / "requirements.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z]+==[0-9.]+", line), line
    ignored = (out / ".dockerignore").read_text().splitlines()
    copied = {name for line in re.findall(r"^COPY (.+)$", docker, re.M) for name in shlex.split(line)[:-1]}
    assert ignored[0] == "*" and {f"!{name}" for name in copied} <= set(ignored)


def test_mlflow_serves_an_exported_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_ALLOW_OTHER_TARGET", "1")  # the bundle says that it was built elsewhere
    bundle = tmp_path / "home" / "bundles" / "two"
    a_bundle_of_two(bundle)
    api.export(str(bundle), "mlflow", tmp_path / "out", tmp_path / "home")
    inputs = {"left": ROWS[:, :2].tolist(), "right": ROWS[:, 2:].tolist()}
    with mlflow_serving(str(tmp_path / "out" / "model"), tmp_path / "log") as url:
        answer = asked(f"{url}/invocations", {"inputs": inputs})
    found = {name: np.array(values, np.float32) for name, values in answer["predictions"].items()}
    np.testing.assert_allclose(found["sum"], ROWS[:, :2] + ROWS[:, 2:], atol=TOLERANCE)
    np.testing.assert_allclose(found["product"], ROWS[:, :2] * ROWS[:, 2:], atol=TOLERANCE)


def serving_python(name: str) -> Path:
    """Return the Python of an environment that ``make test-serving`` makes beside this one, whose pins are not ours."""
    python = Path(os.environ.get(f"PARETUNE_{name.upper()}", ROOT / ".venv" / name)) / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} is not there: make test-serving installs it")
    return python


def test_mlserver_gathers_concurrent_requests_into_batches(tmp_path: Path) -> None:
    python = serving_python("mlserver")
    out, wanted = exported(onnxruntime, "mlserver", tmp_path, name="digits", window_ms=500.0)
    ports = {name: free_port() for name in ("http", "grpc", "metrics")}
    env = {"PATH": f"{python.parent}:{os.environ['PATH']}", "MLSERVER_HOST": "127.0.0.1"}
    env |= {f"MLSERVER_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    url = f"http://127.0.0.1:{ports['http']}"
    command = [str(python.parent / "mlserver"), "start", "."]

    with running(command, f"{url}/v2/models/digits/ready", tmp_path / "log", out, env):
        assert asked(f"{url}/v2/models/digits")["inputs"][0]["shape"] == [-1, 4]
        with ThreadPoolExecutor(len(ROWS)) as clients:
            found = list(clients.map(lambda row: answered(asked(f"{url}/v2/models/digits/infer", v2(row[None]))), ROWS))
        metrics = subprocess.run(["curl", "-s", f"http://127.0.0.1:{ports['metrics']}/metrics"], capture_output=True,
                                 text=True, check=True).stdout  # fmt: skip
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=TOLERANCE)
    counted = {
        name: float(value) for name, value in re.findall(r"^paretune_rows_(sum|count)\{.*\} (\S+)$", metrics, re.M)
    }
    assert counted["sum"] == len(ROWS) and counted["count"] < len(ROWS), "requests shared calls"


PARSED = """
import json, sys
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc.model_config_pb2 import ModelConfig
print(json.dumps([MessageToDict(text_format.Parse(open(path).read(), ModelConfig())) for path in sys.argv[1:]]))
"""


def test_tritons_configuration_is_its_published_schema(tmp_path: Path) -> None:
    python = serving_python("mlserver")  # brings Triton's client
    out, _ = exported(onnxruntime, "triton", tmp_path, name="digits", window_ms=2.0, instances=2)
    files = [str(out / "models" / name / "config.pbtxt") for name in ("digits", "digits_batch")]
    ended = subprocess.run([str(python), "-c", PARSED, *files], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    front, batch = json.loads(ended.stdout)

    assert (front["backend"], front["maxBatchSize"], front["input"][0]["dims"]) == ("python", 4, ["4"])
    assert front["dynamicBatching"] == {"preferredBatchSize": [4], "maxQueueDelayMicroseconds": "2000"}
    assert front["instanceGroup"] == batch["instanceGroup"] == [{"count": 2, "kind": "KIND_CPU"}]
    assert front["parameters"] == {"batch_model": {"stringValue": "digits_batch"}}
    assert (batch["backend"], "maxBatchSize" in batch, batch["input"][0]["dims"]) == ("onnxruntime", False, ["4", "4"])
    assert batch["optimization"]["graph"] == {"level": 2}
    assert batch["parameters"]["intra_op_thread_count"] == {"stringValue": "1"}


STAND_IN = """
import onnxruntime
from pathlib import Path
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self.session = onnxruntime.InferenceSession(str(Path(__file__).parent / "model.onnx"))

    def execute(self, requests):
        return [triton.InferenceResponse([triton.Tensor("output", self.session.run(None, {
            "input": triton.get_input_tensor_by_name(request, "input").as_numpy()})[0])]) for request in requests]
"""


@pytest.mark.parametrize("make", [onnxruntime, openvino])
def test_triton_gathers_requests_into_batches_of_the_measured_size(make: Any, tmp_path: Path) -> None:
    """A real Triton, warmed up with real inputs; it has no backend but Python's, which stands in for onnxruntime's."""
    python = serving_python("triton")
    if make is openvino and subprocess.run([str(python), "-c", "import openvino"], check=False).returncode:
        pytest.skip("the environment of Triton has no openvino")
    _, wanted = exported(make, "bundle", tmp_path)
    bundle, out, example = tmp_path / "home" / "bundles" / "one", tmp_path / "triton", tmp_path / "example.npz"
    np.savez(example, input=ROWS)
    manifest = read_manifest(bundle)
    source = Source(bundle, manifest, unknown("one", manifest), "digits", example)
    FORMATS["triton"].write(source, out, Options(window_ms=300.0))
    if make is onnxruntime:
        config = out / "models" / "digits_batch" / "config.pbtxt"
        config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
        (out / "models" / "digits_batch" / "1" / "model.py").write_text(STAND_IN)
    (triton,) = (python.parent.parent / "lib").glob("python*/site-packages/pytriton/tritonserver")
    backends = tmp_path / "backends"
    shutil.copytree(triton / "backends", backends)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    port = free_port()
    command = [str(triton / "bin" / "tritonserver"), "--model-repository", "models", "--http-port", str(port),
               "--backend-directory", str(backends), "--http-address", "127.0.0.1", "--allow-grpc", "false",
               "--allow-metrics", "false"]  # fmt: skip
    env = {"PATH": f"{python.parent}:{os.environ['PATH']}",
           "LD_LIBRARY_PATH": str(triton.parent.parent / "nvidia_pytriton.libs")}  # fmt: skip
    url = f"http://127.0.0.1:{port}/v2/models/digits"

    with running(command, f"http://127.0.0.1:{port}/v2/health/ready", tmp_path / "log", out, env):
        assert asked(f"{url}/config")["max_batch_size"] == (4 if make is onnxruntime else 1)
        with ThreadPoolExecutor(len(ROWS)) as clients:
            found = list(clients.map(lambda row: answered(asked(f"{url}/infer", v2(row[None]))), ROWS))
        (stats,) = asked(f"{url}/stats")["model_stats"]
    np.testing.assert_allclose(np.concatenate(found), wanted, atol=TOLERANCE)
    np.testing.assert_allclose(wanted, ROWS @ (WEIGHTS if make is onnxruntime else np.ones((4, 3))), atol=1e-5)
    if make is openvino:
        assert stats["inference_count"] == len(ROWS) + 1, "it warmed itself up"
    else:
        assert stats["inference_count"] == len(ROWS), "the other model warmed itself up"
        assert stats["execution_count"] < len(ROWS), "requests shared calls"
    assert "failed to run warmup" not in (tmp_path / "log").read_text().lower()
