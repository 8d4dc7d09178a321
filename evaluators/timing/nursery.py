"""Nursery: a program of another interpreter that imports torch once, and forks a fresh process for one stand at a time.

Run as ``python -m evaluators.timing.nursery DESCRIPTOR``. The processes that it forks take turns on its one link.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from evaluators.interpreter import Interpreter
from evaluators.timing.stand import END, LinkedStand, StandRequest, serve_and_exit


class Nursery:
    """The program; leaving the block ends it, and the stand that may be left."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._link, other = Pipe()
        with other:
            self._program = subprocess.Popen(  # noqa: S603
                interpreter.command("evaluators.timing.nursery", str(other.fileno())), pass_fds=(other.fileno(),),
                env=interpreter.environment(),
            )  # fmt: skip

    def stand(self, request: StandRequest) -> LinkedStand:
        """Return a stand in a fresh process; the one before it must have been closed."""
        return LinkedStand(self._link, request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()
        self._program.wait()


def main(descriptor: int) -> None:
    """Fork a stand for every request, and wait for its end."""
    import torch  # noqa: F401 - what takes long, once for all stands

    link = Connection(descriptor)
    with suppress(EOFError, OSError):
        while True:
            request = link.recv()
            if request == END:  # to a stand that has failed, and is gone
                continue
            child = os.fork()
            if child == 0:
                serve_and_exit(link, request=request)
            _, status = os.waitpid(child, 0)
            if status:
                link.send(f"its process ended by itself, with status {status}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
