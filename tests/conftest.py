"""What the tests share: the command line as users run it, and one small finished search."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from evaluators.testing.summary import pytest_terminal_summary  # noqa: F401 - pytest finds it here
from scripts.servers import Missing, PostgreSql, Redis, Server

S = TypeVar("S", bound=Server)
ROOT = Path(__file__).resolve().parent.parent
# Tests share the cores with each other: what they measure is never clean, and none of it is a figure.
os.environ.setdefault("PARETUNE_MAX_FOREIGN_LOAD", "1000")
# A shell that starts the tests in the background has SIGINT ignored, also in every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
TINY = f"{ROOT / 'tests' / 'tiny.py'}:workload"


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object on stdout."""
        value: dict[str, Any] = json.loads(self.stdout)
        return value


def command(*arguments: str) -> list[str]:
    """Return the command line that runs paretune in this environment."""
    return [str(Path(sys.executable).with_name("paretune")), *arguments]


def paretune(*arguments: str, timeout: float = 300, env: dict[str, str] | None = None) -> Answer:
    """Run paretune and wait for it."""
    ended = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}, check=False,
    )  # fmt: skip
    return Answer(ended.returncode, ended.stdout, ended.stderr)


@dataclass(frozen=True)
class Finished:
    """A finished search and the home that holds it."""

    home: Path
    result: dict[str, Any]


@pytest.fixture(scope="session")
def tiny_search(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One search on the tiny workload, eager and onnxruntime, at batch 4."""
    home = tmp_path_factory.mktemp("home")
    answer = paretune(
        "search", TINY, "--home", str(home), "--backend", "eager,onnxruntime", "--batch-size", "4", "--threads", "1",
        "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", "9", "--name", "tiny", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    return Finished(home, answer.json)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSql]:
    """A real server; where there is none, tests that need it are skipped, and fail in CI."""
    with present(PostgreSql, durable=False) as server:
        yield server


@pytest.fixture
def broker() -> Iterator[Redis]:
    """A real broker of this test's own, empty."""
    with present(Redis) as server:
        yield server


@contextmanager
def present(kind: type[S], **settings: Any) -> Iterator[S]:
    """Run a server for the block."""
    try:
        server = kind(**settings)
        server.start()
    except Missing as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
    try:
        yield server
    finally:
        server.__exit__()


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger, on each kind of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server: PostgreSql = request.getfixturevalue("postgresql")
    return server.new_ledger()
