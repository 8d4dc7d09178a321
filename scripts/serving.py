"""Model servers for tests and benchmarks: started on a port of their own, asked over HTTP, and ended whole."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], ready: str, log: Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None,
    seconds: float = 120,
) -> Iterator[None]:  # fmt: skip
    """Run a server for the block, from when ``ready`` answers 200."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)} if env is None else dict(env)
    with log.open("wb") as output, subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        start_new_session=True,
    ) as server:  # fmt: skip
        try:
            end = time.monotonic() + seconds
            while not _answers(ready):
                assert server.poll() is None, f"the server ended with {server.poll()}: {log.read_text()[-2000:]}"
                assert time.monotonic() < end, f"the server is not ready: {log.read_text()[-2000:]}"
                time.sleep(0.1)
            yield
        finally:
            for wanted in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, wanted)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(timeout=15)


@contextmanager
def mlflow_serving(model: str, log: Path, tracking_uri: str | None = None) -> Iterator[str]:
    """Serve a model with ``mlflow models serve`` and yield the address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-h",
               "127.0.0.1", "-p", str(port)]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true",
           "PATH": os.pathsep.join([*_script_folders(), os.environ["PATH"]])}  # fmt: skip
    if tracking_uri is not None:
        env |= {"MLFLOW_TRACKING_URI": tracking_uri, "MLFLOW_REGISTRY_URI": tracking_uri}
    with running(command, f"http://127.0.0.1:{port}/health", log, env=env):
        yield f"http://127.0.0.1:{port}"


def _script_folders() -> list[str]:
    """Return where the commands of installed packages are: MLflow looks for its server's on the PATH."""
    packages = Path(str(metadata.distribution("uvicorn").locate_file("")))
    return [str(Path(sys.executable).parent), str(packages.parents[2] / "bin")]


def asked(url: str, body: Any = None) -> Any:
    """Return the answer to a request as JSON; one with a body is a POST."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def refused(url: str, body: Any) -> tuple[int, str]:
    """Return status and text of a request that is not answered."""
    try:
        asked(url, body)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    raise AssertionError(f"{url} answered")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
