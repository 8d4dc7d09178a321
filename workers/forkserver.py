"""Fork server: has imported torch once, and forks a clean process for each job, in milliseconds instead of seconds.

It is single-threaded, touches no device and loads nothing of the user's. Over its one socket come file descriptors,
each the link of a new warden; when that socket closes, the search is gone and so is the server.

Run as ``python -m workers.forkserver DESCRIPTOR`` in a session of its own.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from workers.warden import fork_job, guard

PRELOADED = ("numpy", "torch", "safetensors.torch", "evaluators.jobs")


def main(descriptor: int) -> None:
    """Import what jobs need, then serve until the other side closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    for module in PRELOADED:
        importlib.import_module(module)
    # Objects made so far are never collected, so that the children's collector leaves their pages shared.
    gc.collect()
    gc.freeze()
    _serve(control)


def _serve(control: socket.socket) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            _note_threads()
            if os.fork() == 0:
                control.close()
                _become_a_warden(descriptor)
            os.close(descriptor)


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
    main(int(sys.argv[1]))
