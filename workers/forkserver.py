"""Fork server: has imported torch once, and forks a clean process for each job, in milliseconds instead of seconds.

It is single-threaded, touches no device and loads nothing of the user's. Over its one socket come file descriptors,
each the link of a new warden; when that socket closes, the search is gone and so is the server.

Run as ``python -m workers.forkserver DESCRIPTOR [MODULE ...]`` in a session of its own; it loads the modules that it is
told, or torch and what goes with it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from workers.warden import fork_job, guard

PRELOADED = ("numpy", "torch", "safetensors.torch", "evaluators.jobs")

PRELOADED_LATER = ("evaluators.preload", "torch._dynamo", "torch._inductor.compile_fx")
"""What many jobs need and the first one, which reads the workload, does not: loaded while that one runs."""


def main(descriptor: int, modules: Sequence[str] = ()) -> None:
    """Import what jobs need, then serve until the other side closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    # Inductor reads it when it is imported; a pool of compilers would be threads that no fork survives.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    _load(modules or PRELOADED)
    if _serve_one(control):
        _load(() if modules else PRELOADED_LATER)
        while _serve_one(control):
            pass


def _load(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
    # Objects made so far are never collected, so that the children's collector leaves their pages shared.
    gc.collect()
    gc.freeze()


def _serve_one(control: socket.socket) -> bool:
    """Fork the next warden that is asked for; False once nobody can ask any more."""
    message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
    for descriptor in descriptors:
        _note_threads()
        if os.fork() == 0:
            control.close()
            _become_a_warden(descriptor)
        os.close(descriptor)
    return bool(message)


def _become_a_warden(descriptor: int) -> None:
    try:
        with socket.socket(fileno=descriptor) as link:
            guard(link, fork_job)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _note_threads() -> None:
    with suppress(OSError):
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads != 1:
            note = f"warning: forking with {threads} threads; a lock that one of them holds stays shut"
            print(note, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
