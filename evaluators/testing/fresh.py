"""Programs of the suite in fresh processes: with a time limit that takes everything that they started with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 300.0
DEATH_SECONDS = 2.0
"""How long the dead may take to disappear."""


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        code: exit status; negative for the signal that ended it.
        said: the end of what it wrote to stdout and stderr.
        killed: whether it was killed for its time limit.
        survivors: command lines of what it started and what still runs after the kill.
    """

    code: int
    said: str
    killed: bool = False
    survivors: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """How it ended, in words."""
        if self.killed:
            return "it was killed for its time limit"
        return f"signal {signal.Signals(-self.code).name}" if self.code < 0 else f"exit status {self.code}"


def run_fresh(
    module: str,
    arguments: Sequence[str],
    timeout_s: float,
    due: Callable[[], bool] = lambda: True,
    patience_s: float = PATIENCE_SECONDS,
) -> Ended:
    """Run ``python -m module`` in a session of its own and kill all of it after ``timeout_s`` seconds.

    The clock starts when ``due`` first says so: when the program has come to what is to be limited. It has
    ``patience_s`` seconds for that.
    """
    command = [sys.executable, "-m", module, *arguments]
    # A file, not a pipe: something that outlives the program cannot hold up the reader.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline, started, given_up = None, _Descendants(process.pid), time.monotonic() + patience_s
        while process.poll() is None:
            now = time.monotonic()
            started.look()
            if deadline is None and due():
                deadline = now + timeout_s
            if now > (given_up if deadline is None else deadline):
                break
            time.sleep(POLL_SECONDS)
        killed = process.poll() is None
        if killed:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        survivors = started.survivors()
        said.seek(0)
        return Ended(code, said.read().decode(errors="replace").strip()[-2000:], killed, survivors)


class _Descendants:
    """Every process that a program was seen to start, children of children too."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._psutil = psutil
        self._seen: dict[int, psutil.Process] = {}
        with suppress(psutil.Error):
            self._root: psutil.Process | None = psutil.Process(pid)

    def look(self) -> None:
        """Note what runs now."""
        with suppress(self._psutil.Error):
            for child in self._root.children(recursive=True) if self._root else ():
                self._seen.setdefault(child.pid, child)

    def survivors(self) -> tuple[str, ...]:
        """Return the command lines of those that are still there a while after the kill, and end them."""
        _, alive = self._psutil.wait_procs(list(self._seen.values()), timeout=DEATH_SECONDS)
        found = []
        for process in alive:
            with suppress(self._psutil.Error):
                if process.status() != self._psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:200])
                    process.kill()
        return tuple(found)


def fresh_folder(home: Path, name: str) -> Path:
    """Return a new folder under ``home`` for what a program reads and writes."""
    home.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
