"""The search's side of a job: the link to its warden, and the fork server that makes wardens."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self

from evaluators.errors import InfrastructureError
from evaluators.interpreter import Interpreter, this_interpreter
from workers.child import JobRequest
from workers.lease import Cancellation

# The kernel ends even a large process well within it; the rest of a search does not wait longer for a stuck one.
_KILL_SECONDS = 30.0


class Ended(NamedTuple):
    """How a job's process ended: the status that ``wait`` gave, and its peak resident memory in bytes."""

    status: int
    peak_rss_bytes: int


class JobLink:
    """A running job, seen through its warden's socket. Leaving the block kills the job if it still runs."""

    def __init__(self, connection: socket.socket, program: subprocess.Popen[bytes] | None = None) -> None:
        self._connection = connection
        self._program = program
        self._received = b""
        self._messages: list[dict[str, int]] = []
        self._closed_by_warden = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, request: JobRequest) -> None:
        """Ask the warden for the job; where there is no warden any more, ``wait_for_start`` tells."""
        with suppress(OSError):
            self._connection.sendall(request.model_dump_json().encode() + b"\n")

    def wait_for_start(self, seconds: float) -> bool:
        """Block until the job's process exists; False if the warden is gone or silent for ``seconds``."""
        deadline = time.monotonic() + seconds
        while not self._messages and not self._closed_by_warden:
            if not self._receive(deadline, ()):
                return False
        return bool(self._messages)

    def wait(self, deadline: float, cancel: Sequence[Cancellation]) -> Literal["ended", "timed_out", "cancelled"]:
        """Block until the job has ended, ``deadline`` (monotonic seconds) is reached or a switch is set."""
        while len(self._messages) < 2 and not self._closed_by_warden:
            if any(switch.is_set for switch in cancel):
                return "cancelled"
            if not self._receive(deadline, cancel) and time.monotonic() >= deadline:
                return "timed_out"
        return "ended"

    def end(self) -> Ended:
        """Kill the job if it still runs, wait until nothing of it is left, and return how its process ended.

        Raises:
            InfrastructureError: the warden was killed, or the job cannot be killed.
        """
        self._kill()
        if len(self._messages) < 2:
            lives = f"it was not dead {_KILL_SECONDS:g} s after a kill"
            why = "its warden is gone" if self._closed_by_warden else lives
            raise InfrastructureError(f"a job was lost from sight: {why}; look for what kills processes here")
        return Ended(**self._messages[1])

    def close(self) -> None:
        """Kill the job if it still runs, wait until it is gone, and close the link."""
        try:
            self._kill()
        finally:
            self._connection.close()
            if self._program is not None:
                with suppress(subprocess.TimeoutExpired):
                    self._program.wait(_KILL_SECONDS)

    def _kill(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + _KILL_SECONDS
        while len(self._messages) < 2 and not self._closed_by_warden and self._receive(deadline, ()):
            pass

    def _receive(self, deadline: float, cancel: Iterable[Cancellation]) -> bool:
        """Wait for the warden or a switch; False where neither came in time."""
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        for switch in cancel:
            poller.register(switch, select.POLLIN)
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if self._connection.fileno() in (descriptor for descriptor, _ in ready):
            try:
                received = self._connection.recv(4096)
            except ConnectionError:
                received = b""
            self._closed_by_warden = not received
            *lines, self._received = (self._received + received).split(b"\n")
            self._messages += [json.loads(line) for line in lines]
        return bool(ready)


class ForkServer:
    """The process that forks wardens, in a session of its own so that Ctrl-C reaches only the search.

    It and all that it forks are programs of ``interpreter``, of this process's own unless told. It loads the modules
    ``preloaded``, or torch and what goes with it.
    """

    def __init__(self, interpreter: Interpreter | None = None, preloaded: Sequence[str] = ()) -> None:
        self._control, theirs = socket.socketpair()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        with theirs:
            self._process = _program(interpreter, "workers.forkserver", theirs, self._log.fileno(), preloaded)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def new_link(self) -> JobLink:
        """Ask for a warden and return the link to it; the link ends at once if the server is gone."""
        mine, theirs = socket.socketpair()
        with theirs, suppress(OSError):
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        return JobLink(mine)

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), 2000, max(0, size - 2000)).decode(errors="replace").strip()

    def close(self) -> None:
        """End the server. Wardens, and the jobs that they guard, live on."""
        self._process.kill()
        self._process.wait()
        self._control.close()
        self._log.close()


def spawn_warden(request: JobRequest, interpreter: Interpreter | None = None) -> JobLink:
    """Start a warden as a program of its own, for the job of ``request``; both are programs of ``interpreter``."""
    mine, theirs = socket.socketpair()
    with theirs, request.log.open("ab") as log:
        program = _program(interpreter, "workers.warden", theirs, log.fileno())
    return JobLink(mine, program)


def _program(
    interpreter: Interpreter | None, module: str, link: socket.socket, log: int, arguments: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    chosen = interpreter or this_interpreter()
    # One BLAS thread in the parent of all jobs: a pool of threads does not survive a fork.
    environment = chosen.environment() | {"OPENBLAS_NUM_THREADS": "1"}
    try:
        return subprocess.Popen(  # noqa: S603
            chosen.command(module, str(link.fileno()), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(link.fileno(),),
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise InfrastructureError(f"{chosen.python} -m {module} cannot be started: {error}") from error
