"""Serves the bundle beside this file over HTTP: python serve.py --port 8080

It speaks the Open Inference Protocol (V2) with JSON: GET /v2/health/ready, GET /v2/models/NAME, POST
/v2/models/NAME/infer. It needs NumPy and the bundle's runtime. ``--check`` asks a running server whether it is ready.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

HERE = Path(__file__).resolve().parent
TYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
WORDS = {dtype: word for word, dtype in TYPES.items()}
MOST_BYTES = 256 * 2**20


class Refused(Exception):
    """A request that cannot be answered: the status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def arrays_of(request: Any) -> dict[str, np.ndarray]:
    """Return the inputs of an inference request by name."""
    try:
        return {
            given["name"]: np.array(given["data"], dtype=TYPES[given["datatype"]]).reshape(given["shape"])
            for given in request["inputs"]
        }
    except KeyError as error:
        raise Refused(400, f"the request has no {error}, or it is a type that is not known: {sorted(TYPES)}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise Refused(400, f"the inputs cannot be read: {error}") from None


def answer_of(name: str, request: Any, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the inference response, its data flat."""
    tensors = [
        {
            "name": output,
            "shape": list(array.shape),
            "datatype": WORDS[str(array.dtype)],
            "data": array.ravel().tolist(),
        }
        for output, array in outputs.items()
    ]
    return {"model_name": name, **({"id": request["id"]} if "id" in request else {}), "outputs": tensors}


class Handler(BaseHTTPRequestHandler):
    """One request; the model and its name are set before the server starts."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    model: ClassVar[Any]
    name: ClassVar[str]

    def do_GET(self) -> None:
        """Health and metadata."""
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["v2", "health"] and parts[2:] in (["live"], ["ready"]):
            return self._send(200, {parts[2]: True})
        if parts == ["v2", "models", self.name, "ready"]:
            return self._send(200, {"name": self.name, "ready": True})
        if parts == ["v2", "models", self.name]:
            return self._send(200, metadata(self.name, self.model))
        if parts == ["v2"]:
            return self._send(200, {"name": "paretune-export", "extensions": []})
        return self._send(404, {"error": f"there is no {self.path}; the model is /v2/models/{self.name}"})

    def do_POST(self) -> None:
        """Inference."""
        try:
            request = self._request()
            arrays = arrays_of(request)
            try:
                outputs = self.model(arrays)
            except ValueError as error:
                raise Refused(400, str(error)) from None
            except Exception as error:  # runtimes have errors of their own
                raise Refused(500, f"the model failed: {error}") from None
            if not all(array.dtype.kind != "f" or math.isfinite(float(np.sum(np.abs(array), dtype=np.float64)))
                       for array in outputs.values()):  # fmt: skip
                raise Refused(500, "the model answered with NaN or infinity, which JSON cannot hold")
            self._send(200, answer_of(self.name, request, outputs))
        except Refused as refused:
            self._send(refused.status, {"error": str(refused)})

    def _request(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            self.close_connection = True
            raise Refused(413, f"send a Content-Length of at most {MOST_BYTES} bytes")
        body = self.rfile.read(int(length))
        if self.path.strip("/") != f"v2/models/{self.name}/infer":
            raise Refused(404, f"there is no {self.path}; ask /v2/models/{self.name}/infer")
        try:
            request = json.loads(body)
        except ValueError as error:
            raise Refused(400, f"the request is no JSON: {error}") from None
        if not isinstance(request, dict):
            raise Refused(400, "the request must be an object with inputs")
        return request

    def _send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def metadata(name: str, model: Any) -> dict[str, Any]:
    """Return what the protocol tells of a model."""

    def tensors(specs: Any) -> list[dict[str, Any]]:
        return [
            {"name": spec["name"], "datatype": WORDS[spec["dtype"]],
             "shape": [-1, *(-1 if size is None else size for size in spec["shape"][1:])]}
            for spec in specs
        ]  # fmt: skip

    return {"name": name, "versions": [], "platform": f"paretune_{model.manifest['candidate']['backend']}",
            "inputs": tensors(model.inputs), "outputs": tensors(model.outputs)}  # fmt: skip


def ready(port: int) -> bool:
    """Whether a server on this machine answers that it is ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def main() -> int:
    """Serve until the process is ended, or check a server that runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.check:
        return 0 if ready(given.port) else 1
    sys.path.insert(0, str(HERE))
    from runner import Model  # type: ignore[import-not-found]

    Handler.model, Handler.name = Model(HERE), json.loads((HERE / "serve.json").read_text())["name"]
    server = ThreadingHTTPServer((given.host, given.port), Handler)
    server.daemon_threads = True
    print(f"serving /v2/models/{Handler.name} on {given.host}:{server.server_port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
