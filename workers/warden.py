"""Warden: a small process around one job. It reports how the job ended, and leaves nothing of it behind.

Its only link to the search is a socket: one JSON line comes in (the request), two go out (started, ended). The end of
the file on that socket, because the search gave up or died, kills the job. Whatever the job started goes with it,
also what left its process group: orphans become the warden's children (Linux).

Also a program, ``python -m workers.warden DESCRIPTOR``, for machines where torch's process cannot fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from resource import struct_rusage

import psutil

from workers.child import TELL_WHERE, JobRequest, run_job
from workers.kernel import adopt_orphans

# For a hanging job to write down where it hangs, before it is killed.
_TELLING_SECONDS = 0.05

Start = Callable[[JobRequest, Iterable[socket.socket]], int]
"""Starts the process of a job, which must not hold these sockets, and returns its id."""


def guard(link: socket.socket, start: Start) -> None:
    """Run the one job that ``link`` asks for with ``start`` and report its end."""
    with link.makefile("rb") as lines:
        text = lines.readline()
    if not text:
        return
    adopting = adopt_orphans()
    ticks, tock = socket.socketpair()
    tock.setblocking(False)
    signal.set_wakeup_fd(tock.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = start(JobRequest.model_validate_json(text), (link, ticks, tock))
    _say(link, {"pid": child})
    status, usage = _wait(child, link, ticks)
    _sweep(child, adopting)
    unit = 1 if sys.platform == "darwin" else 1024
    _say(link, {"status": status, "peak_rss_bytes": usage.ru_maxrss * unit})


def fork_job(request: JobRequest, not_for_it: Iterable[socket.socket]) -> int:
    """Start the job as a fork of this process, which has loaded what jobs need."""
    warden = os.getpid()
    child = os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        for mine in not_for_it:
            mine.close()
        run_job(request, warden)
    return child


def spawn_job(request: JobRequest, _not_for_it: Iterable[socket.socket]) -> int:
    """Start the job as a program of its own; programs inherit no socket."""
    command = [sys.executable, "-m", "workers.child", request.model_dump_json(), str(os.getpid())]
    return subprocess.Popen(command).pid  # noqa: S603


def _wait(child: int, link: socket.socket, ticks: socket.socket) -> tuple[int, struct_rusage]:
    poller = select.poll()
    poller.register(link, select.POLLIN)
    poller.register(ticks, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if link.fileno() in ready:
            _kill_family(child)
            _, status, usage = os.wait4(child, 0)
            return status, usage
        ticks.recv(64)
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return status, usage


def _kill_family(child: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, TELL_WHERE)
        time.sleep(_TELLING_SECONDS)
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(child).children(recursive=True)
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _sweep(child: int, adopting: bool) -> None:
    if not adopting:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        return
    with suppress(ChildProcessError):
        while True:
            # Raises ChildProcessError once there is no child left, and so no descendant: orphans come here.
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            os.waitpid(-1, 0)


def _say(link: socket.socket, message: dict[str, int]) -> None:
    with suppress(OSError):
        link.sendall(json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    guard(socket.socket(fileno=int(sys.argv[1])), spawn_job)
