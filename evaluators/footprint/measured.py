"""Footprint: the memory and energy of one bundle, measured by a program that does nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from evaluators.bundle import read_manifest
from evaluators.errors import InfrastructureError
from evaluators.frozen import Frozen

_TAIL_CHARACTERS = 500


class Footprint(Frozen):
    """What loading a bundle and running it takes besides time.

    Attributes:
        peak_memory_bytes: the most resident memory of a process that only loads the bundle and runs it.
        baseline_bytes: resident memory before the load: interpreter, numpy, the runtime's library.
        loaded_bytes: resident memory after the load, before the first call.
        device_memory_bytes: of accelerators; null where none is used.
        energy_j: joules of one call with the whole batch, of all that ``energy_of`` names, idle power included.
        no_energy: why there is no energy, in one sentence.
        seconds: what measuring took, without starting the interpreter.
    """

    peak_memory_bytes: int
    baseline_bytes: int
    loaded_bytes: int
    device_memory_bytes: int | None = None
    energy_j: float | None = None
    energy_of: tuple[str, ...] = ()
    no_energy: str | None = None
    seconds: float


def measure_footprint(bundle: Path, example: Path, timeout_s: float) -> Footprint:
    """Load and run a verified bundle in a program of its own, with the candidate's threads, and read what it took.

    ``example`` is an ``.npz`` file with one batch of real inputs of any number of rows, an array for each input. After
    ``timeout_s`` seconds the program and all that it started in its session are killed.

    Raises:
        IntegrityError: the bundle has no readable manifest.
        InfrastructureError: the program took too long, died, or did not answer.
    """
    count = str(read_manifest(bundle, verify=False).candidate.runtime.threads)
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    command = [sys.executable, "-m", "evaluators.footprint", str(bundle), str(example)]
    # Files, not pipes: something that outlives the program cannot hold up the reader.
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        program = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.DEVNULL, stdout=answer, stderr=said, env={**os.environ, **pinned},
            start_new_session=True,
        )  # fmt: skip
        try:
            code = program.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise InfrastructureError(
                f"the footprint of bundle {bundle.name} took more than {timeout_s:g} s; it said: {_tail(said)}"
            ) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        try:
            return Footprint.model_validate_json(_read(answer))
        except ValidationError:
            raise InfrastructureError(
                f"the footprint of bundle {bundle.name} ended with code {code} and no answer; it said: {_tail(said)}"
            ) from None


def _read(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _tail(file: BinaryIO) -> str:
    text = " ".join(_read(file).decode(errors="replace").split())
    return text[-_TAIL_CHARACTERS:] or "nothing"
