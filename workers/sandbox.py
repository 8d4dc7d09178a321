"""Sandbox: runs one job in a process of its own, and comes back whatever the job does: crash, hang, eat all memory."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from pydantic import ValidationError

from evaluators.errors import InfrastructureError
from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter
from evaluators.jobs import AnyJob as AnyJob
from evaluators.jobs import JobResult
from workers.child import JobRequest
from workers.kernel import out_of_memory_kills
from workers.lease import Cancellation
from workers.link import ForkServer, JobLink, spawn_warden

# Loading torch from a cold disk takes tens of seconds.
_START_SECONDS = 120.0
_LOG_TAIL_BYTES = 4000


class SandboxResult(Frozen):
    """How one job ended. ``result`` is its answer, or None if it gave none.

    ``exit_code`` or ``signal`` say how the process ended; ``stage`` is the last one that the job reported, ``seconds``
    run from the start of its process; ``peak_rss_bytes`` is the memory that the process had at most;
    ``kernel_killed`` says whether the kernel killed anything for want of memory meanwhile, None where it does not tell.
    """

    result: JobResult | None
    exit_code: int | None
    signal: int | None
    timed_out: bool
    cancelled: bool
    stage: str | None
    seconds: float
    log_tail: str
    peak_rss_bytes: int
    timeout_s: float
    memory_limit_bytes: int | None
    kernel_killed: bool | None = None


class Sandbox:
    """Starts processes for jobs, one each; may be shared between threads.

    Args:
        runner: the function that runs a job in its process, ``module:name``.
        mode: ``fork`` starts jobs in milliseconds from a server that has loaded torch; ``spawn`` starts each as a
            program of its own, where forking is impossible. By default ``fork`` on Linux.
        preloaded: the modules that the fork server loads before the first job: torch and what goes with it unless told.
    """

    def __init__(
        self, *, runner: str = "evaluators.run_job:run", mode: Literal["fork", "spawn"] | None = None,
        preloaded: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._runner, self._preloaded = runner, tuple(preloaded)
        self._mode = mode or ("fork" if sys.platform == "linux" else "spawn")
        self._servers: dict[Interpreter | None, ForkServer] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Begin to load torch in the fork server, without waiting for it."""
        if self._mode == "fork":
            self._running_server(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def server_pid(self) -> int | None:
        """The process id of this interpreter's fork server, if there is one."""
        return self._servers[None].pid if None in self._servers else None

    def close(self) -> None:
        """End the fork servers. Jobs in progress are not touched."""
        with self._lock:
            while self._servers:
                self._servers.popitem()[1].close()

    def run(
        self,
        job: AnyJob,
        folder: Path,
        *,
        timeout_s: float,
        memory_limit_bytes: int | None = None,
        env: Mapping[str, str] | None = None,
        cancel: Sequence[Cancellation] = (),
        interpreter: Interpreter | None = None,
    ) -> SandboxResult:
        """Run ``job`` and block until its process, and all that it started, is gone.

        Args:
            job: what to do; it, its answer, its stages and its log are kept in ``folder``.
            folder: made where it is missing; what an earlier job left there is dropped.
            timeout_s: seconds after which the job is killed.
            memory_limit_bytes: private memory that it may map (Linux only); None for no limit.
            env: environment variables set for the job.
            cancel: switches that kill the job.
            interpreter: whose process the job is, this one's unless told; each has a fork server of its own, which
                starts with its first job.

        Raises:
            InfrastructureError: no process could be started, it was lost from sight, or the folder cannot be used.
        """
        folder = folder.resolve()
        request = JobRequest(
            folder=str(folder), runner=self._runner, memory_limit_bytes=memory_limit_bytes, env=dict(env or {})
        )
        _lay_out(folder, job)
        kills = out_of_memory_kills()
        with self._start(request, interpreter) as link:
            started = time.monotonic()
            how = link.wait(started + timeout_s, cancel)
            ended = link.end()
        return SandboxResult(
            result=_answer(folder),
            exit_code=os.WEXITSTATUS(ended.status) if os.WIFEXITED(ended.status) else None,
            signal=os.WTERMSIG(ended.status) if os.WIFSIGNALED(ended.status) else None,
            timed_out=how == "timed_out",
            cancelled=how == "cancelled",
            stage=_last_stage(folder),
            seconds=time.monotonic() - started,
            log_tail=_tail(request.log),
            peak_rss_bytes=ended.peak_rss_bytes,
            timeout_s=timeout_s,
            memory_limit_bytes=memory_limit_bytes,
            kernel_killed=None if kills is None else kills != out_of_memory_kills(),
        )

    def _start(self, request: JobRequest, interpreter: Interpreter | None) -> JobLink:
        if self._mode == "spawn":
            link = spawn_warden(request, interpreter)
            if _asked(link, request):
                return link
            raise InfrastructureError(f"no process starts for a job; it said: {_tail(request.log) or 'nothing'}")
        said = ""
        for _ in range(2):
            server = self._running_server(interpreter)
            link = server.new_link()
            if _asked(link, request):
                return link
            said = self._dismiss(interpreter, server) or said
        which = f" of {interpreter.python}" if interpreter else ""
        raise InfrastructureError(
            f"the fork server{which} can start no process for a job; it said: {said or 'nothing'}"
        )

    def _running_server(self, interpreter: Interpreter | None) -> ForkServer:
        with self._lock:
            known = self._servers.get(interpreter)
            if known is not None and known.is_running():
                return known
            if known is not None:
                known.close()
            self._servers[interpreter] = ForkServer(interpreter, self._preloaded)
            return self._servers[interpreter]

    def _dismiss(self, interpreter: Interpreter | None, server: ForkServer) -> str:
        with self._lock:
            if self._servers.get(interpreter) is not server:
                return ""
            said = server.last_words()
            server.close()
            del self._servers[interpreter]
            return said


def _asked(link: JobLink, request: JobRequest) -> bool:
    """Send the request and wait until the job has started; otherwise close the link."""
    started = False
    try:
        link.send(request)
        started = link.wait_for_start(_START_SECONDS)
    finally:
        if not started:
            link.close()
    return started


def _lay_out(folder: Path, job: AnyJob) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "result.part", "stage", "log.txt"):
            (folder / name).unlink(missing_ok=True)
        (folder / "job.json").write_text(job.model_dump_json())
    except OSError as error:
        raise InfrastructureError(f"the job folder {folder} cannot be used: {error}") from error


def _answer(folder: Path) -> JobResult | None:
    try:
        return JobResult.model_validate_json((folder / "result.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InfrastructureError(f"the answer in {folder} cannot be read: {error}") from error


def _last_stage(folder: Path) -> str | None:
    with suppress(FileNotFoundError):
        reported = (folder / "stage").read_text(errors="replace").splitlines()
        return reported[-1] if reported else None
    return None


def _tail(log: Path) -> str:
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
    return ""
