"""docker-compose.yml, read as Compose reads it, for tests that run its commands without a Docker engine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from scripts.servers import postgresql_programs, redis_program

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docker-compose.yml"
EXAMPLE = ROOT / "docker" / "example.env"

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<text>[^}]*))?\})")


class Unset(Exception):
    """A variable without which the file cannot be used is missing or empty."""


def environment_of(file: Path) -> dict[str, str]:
    """Return the variables of an ``.env`` file."""
    lines = (line.strip() for line in file.read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Put variables in, as Compose does: ``${A}``, ``${A:-default}``, ``${A:?why}``; ``$$`` is a dollar."""

    def value(found: re.Match[str]) -> str:
        if found["name"] is None:
            return "$"
        known = variables.get(found["name"], "")
        if not known and found["kind"] == "?":
            raise Unset(f"{found['name']}: {found['text']}")
        return known or (found["text"] if found["kind"] == "-" else "")

    return _VARIABLE.sub(value, text)


def compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the file with these variables, which Compose puts in after it has read the YAML."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(each) for name, each in value.items()}
        if isinstance(value, list):
            return [filled(each) for each in value]
        return interpolated(value, variables) if isinstance(value, str) else value

    found: dict[str, Any] = filled(yaml.safe_load(FILE.read_text()))
    return found


class Native:
    """Runs what services say on this machine: their host names, ports, paths and programs by a table.

    Args:
        named: the services.
        folder: stands for their volumes and their ``/tmp``.
        ports: the port here for each ``host:port`` there.
    """

    def __init__(self, named: Mapping[str, dict[str, Any]], folder: Path, ports: Mapping[str, int]) -> None:
        self._services, self._folder = named, folder
        beside = (Path(sys.executable).parent, redis_program().parent, postgresql_programs())
        self._path = os.pathsep.join([*map(str, beside), os.environ["PATH"], str(ROOT / "tests" / "programs")])
        self._texts = {"0.0.0.0": "127.0.0.1", "valkey-cli": f"valkey-cli -p {ports['redis:6379']}"}  # noqa: S104
        self._parts = {}
        for address, port in ports.items():
            host, inner = address.split(":")
            self._texts |= {f"{name}:{inner}": f"127.0.0.1:{port}" for name in (host, "localhost", "127.0.0.1")}
            self._texts |= {f"--port={inner}": f"--port={port}"}
            self._parts |= {inner: str(port)}
        self._more = {"postgres": {"PGHOST": str(folder / "postgres"), "PGPORT": str(ports["postgres:5432"])}}

    def here(self, service: str, text: str) -> str:
        """Return a text of a service as it is true on this machine."""
        table = self._texts | {"/tmp/alive": str(self._folder / f"{service}.alive")}
        for volume in self._services[service].get("volumes", ()):
            source, target, *_ = volume.split(":")
            table[target] = str(Path(ROOT, source) if source[0] in "./" else self._folder / source)
        for there in sorted(table, key=len, reverse=True):
            text = text.replace(there, table[there])
        return self._parts.get(text, text)

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a service's processes."""
        told = {name: self.here(service, str(value)) for name, value in self._services[service]["environment"].items()}
        ours = {"PYTHONPATH": str(ROOT), "PATH": self._path, "TMPDIR": str(self._folder / "tmp")}
        return {**os.environ, **ours, **told, **self._more.get(service, {})}

    def command(self, service: str, *more: str) -> list[str]:
        """Return the command of a service, and what its image would add."""
        return [*(self.here(service, part) for part in self._services[service]["command"]), *more]

    @contextmanager
    def up(self, service: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a service for the block, and ask it to leave at its end."""
        with (self._folder / f"{service}.log").open("ab") as log:
            started = subprocess.Popen(self.command(service, *more), env=self.environment(service), cwd=self._folder,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True)  # fmt: skip
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):
                started.send_signal(signal.SIGTERM)
            try:
                started.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)

    def healthy(self, service: str) -> bool:
        """Whether the health check of a service passes."""
        kind, *test = (self.here(service, part) for part in self._services[service]["healthcheck"]["test"])
        return self.run(service, *(("sh", "-c", *test) if kind == "CMD-SHELL" else test)).returncode == 0

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside a service, as ``docker compose exec`` does."""
        return subprocess.run([self.here(service, part) for part in command], env=self.environment(service),
                              capture_output=True, text=True, check=False, timeout=300)  # fmt: skip

    def log(self, service: str) -> str:
        """Return what a service has said."""
        return (self._folder / f"{service}.log").read_text(errors="replace")
