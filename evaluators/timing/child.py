"""Child: a process at the other end of a pipe, a fork of this one where that is possible, else a program of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NoReturn

from evaluators.interpreter import Interpreter, this_interpreter


def may_fork() -> bool:
    """Whether a fork of this process could use what it needs: CUDA cannot be used in a fork once it was started."""
    torch = sys.modules.get("torch")
    return sys.platform == "linux" and not (torch is not None and torch.cuda.is_initialized())


class Child:
    """A process and this end of its pipe.

    ``serve`` is what a fork does with the other end, and never returns; ``module`` is the program that does the same
    with the descriptor that it is given, started where an ``interpreter`` is named or nothing can be forked.
    """

    def __init__(
        self, module: str, serve: Callable[[Connection], NoReturn], interpreter: Interpreter | None = None
    ) -> None:
        self.link, other = Pipe()
        self._pid: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if interpreter is None and may_fork():
            self._pid = os.fork()
            if self._pid == 0:
                self.link.close()
                serve(other)
        else:
            chosen = interpreter or this_interpreter()
            self._process = subprocess.Popen(  # noqa: S603
                chosen.command(module, str(other.fileno())), pass_fds=(other.fileno(),), env=chosen.environment()
            )
        other.close()

    def wait(self) -> None:
        """Wait for the end of the process. It must have been told: later children hold a copy of its pipe."""
        self.link.close()
        if self._pid is not None:
            with suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = None
        if self._process is not None:
            self._process.wait()
            self._process = None


@contextmanager
def told_over(link: Connection) -> Iterator[None]:
    """Tell what goes wrong in the block as a text over the link, which ends the block; so does the link's own end."""
    try:
        yield
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        traceback.print_exc()
        with suppress(OSError):
            link.send(f"{type(error).__name__}: {error}"[:500])


def exit_after(serve: Callable[[], None]) -> NoReturn:
    """Serve as a process of its own that never returns to what forked it."""
    try:
        serve()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
