"""The process of one job: limits itself, runs the job, leaves the answer in a file, and ends without ceremony.

Also a program, ``python -m workers.child REQUEST PARENT``, for machines where torch's process cannot fork.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pydantic import Field, TypeAdapter

from evaluators.errors import found_no_space
from evaluators.frozen import Frozen
from evaluators.jobs import Job, JobResult
from evaluators.outcome import Failure, FailureKind, Outcome
from workers.kernel import die_with_parent

MEMORY_SIGNS = ("MemoryError", "std::bad_alloc", "can't allocate memory", "Cannot allocate memory")
"""What Python, C++, torch's allocator and the C library say when there is no memory left."""

NO_SPACE_CODE = 73
"""How a job exits whose answer cannot be written: the disk is full."""

TELL_WHERE = signal.SIGUSR1
"""Makes a job write the stack of every thread to its log."""

# Held back from the job's limit, so that a job that ran into it can still say so.
_RESERVE_BYTES = 64 * 2**20

Runner = Callable[[Job, Callable[[str], None]], JobResult]


class JobRequest(Frozen):
    """One job for one process. ``folder`` holds ``job.json`` and receives ``result.json``, ``stage`` and ``log.txt``.

    ``runner`` names the function that runs it, ``module:name``; ``memory_limit_bytes`` bounds the private memory
    that the process may map (Linux only).
    """

    folder: str
    runner: str
    memory_limit_bytes: int | None = None
    env: dict[str, str] = Field(default_factory=dict)

    @property
    def log(self) -> Path:
        """Where the job's output goes."""
        return Path(self.folder) / "log.txt"


def run_job(request: JobRequest, parent: int) -> NoReturn:
    """Become the process of ``request``: run its job and exit. Never returns, whatever the job does.

    ``parent`` is the process that must outlive this one.
    """
    code = 70
    try:
        _become_a_job(request, parent)
        code = _answer(request)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        # Not sys.exit: threads and exit hooks of the job's libraries may wait for ever.
        os._exit(code & 0xFF)


def _become_a_job(request: JobRequest, parent: int) -> None:
    with suppress(PermissionError):
        os.setsid()
    die_with_parent(parent)
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    faulthandler.enable()
    faulthandler.register(TELL_WHERE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # The kernel takes this process when memory runs out, not the search.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        if request.memory_limit_bytes is not None:
            limit = request.memory_limit_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit + _RESERVE_BYTES))
    os.environ.update(request.env)


def _answer(request: JobRequest) -> int:
    folder = Path(request.folder)
    stages = os.open(folder / "stage", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    reached = ["start"]

    def report_stage(stage: str) -> None:
        reached.append(stage)
        os.write(stages, f"{stage}\n".encode())

    try:
        module, _, name = request.runner.partition(":")
        runner: Runner = getattr(importlib.import_module(module), name)
        job: Job = TypeAdapter[Job](Job).validate_json((folder / "job.json").read_bytes())
        result = runner(job, report_stage)
    except Exception as error:
        _free_the_reserve()
        traceback.print_exc()
        result = JobResult(outcome=_failed(error, reached[-1]))
    part = folder / "result.part"
    try:
        part.write_text(result.model_dump_json())
    except OSError as error:
        if not found_no_space(error):
            raise
        return NO_SPACE_CODE
    part.replace(folder / "result.json")
    return 0


def _free_the_reserve() -> None:
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def _failed(error: Exception, stage: str) -> Outcome:
    said = f"{type(error).__name__}: {error}"
    kind = FailureKind.DISK_FULL if found_no_space(error) else FailureKind.ERROR
    if any(sign in said for sign in MEMORY_SIGNS):
        kind = FailureKind.OUT_OF_MEMORY
    reason = said.splitlines()[0].rstrip(": ")
    return Outcome(
        kind="failed", failure=Failure(kind=kind, stage=stage, reason=reason, details=traceback.format_exc()[-4000:])
    )


if __name__ == "__main__":
    run_job(JobRequest.model_validate_json(sys.argv[1]), int(sys.argv[2]))
