"""Asking: one short program of an interpreter, which says whether our code runs there and what it can run."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

from pydantic import Field, ValidationError

from evaluators.capabilities import Capabilities
from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter

ANSWER_SECONDS = 120.0
"""How long an interpreter may take: it imports torch, which takes long from a cold disk."""

NEEDED = ("numpy", "psutil", "pydantic", "safetensors", "scipy", "torch")
"""What our code imports wherever it prepares and measures; an interpreter brings them itself."""

# Begins the line that is the answer: libraries print what they like when they are imported.
_MARK = "paretune answers: "

# Runs in any Python: nothing of ours is imported where the version is another one.
_PROGRAM = """
import json, sys
wanted, needed, mark = json.loads(sys.argv[1])
said = {"python": list(sys.version_info[:3])}
if said["python"][:2] == wanted:
    try:
        from importlib import metadata, util
        said["installed"] = sorted({found.version for found in metadata.distributions(name="paretune")})
        said["missing"] = [name for name in needed if util.find_spec(name) is None]
        if not said["missing"]:
            import torch, workers.forkserver
            from evaluators.capabilities import capabilities_of
            from evaluators.target import probe_targets
            said["capabilities"] = [capabilities_of(target).to_json() for target in probe_targets()]
    except Exception as error:
        said["error"] = "%s: %s" % (type(error).__name__, error)
sys.stdout.write("\\n" + mark + json.dumps(said) + "\\n")
"""


class Answer(Frozen):
    """What an interpreter says: its version, the versions of paretune that it sees, what it lacks, what it can run."""

    python: tuple[int, int, int]
    installed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    capabilities: tuple[Capabilities, ...] = Field(default=())
    error: str | None = None


@cache
def ask(interpreter: Interpreter, changed_ns: int, version: str) -> tuple[Capabilities, ...]:
    """Return what an interpreter can run on each target of this machine.

    Asked once in the life of this process; ``changed_ns`` is when the executable was changed.

    Raises:
        UsageError: it is no Python, not ours to use, lacks something, or has a paretune other than ``version``.
    """
    answer = _read(_run(interpreter))
    if (why := why_not(answer, interpreter.python, version)) is not None:
        raise UsageError(why)
    return answer.capabilities


def why_not(answer: Answer, python: str, version: str) -> str | None:
    """Return why an interpreter cannot be used, and what to do about it; None if it can."""
    wanted = sys.version_info[:2]
    if answer.python[:2] != wanted:
        found, ours = (".".join(str(part) for part in each) for each in (answer.python, wanted))
        return f"it is Python {found}, and paretune runs on Python {ours}: make an environment of that version"
    if others := [found for found in answer.installed if found != version]:
        return (
            f"paretune {', '.join(others)} is installed there, and this is paretune {version}: install {version} "
            f"there, or none at all: {python} -m pip uninstall paretune"
        )
    if answer.missing:
        missing = " ".join(answer.missing)
        return f"it lacks {', '.join(answer.missing)}, which paretune needs there: {python} -m pip install {missing}"
    if answer.error is not None:
        return f"paretune's code does not run there: {answer.error}"
    return None


def _run(interpreter: Interpreter) -> subprocess.CompletedProcess[str]:
    given = json.dumps([list(sys.version_info[:2]), list(NEEDED), _MARK])
    # An older Python knows no -P; for a newer one the variable is the same.
    environment = interpreter.environment() | {"PYTHONSAFEPATH": "1"}
    try:
        return subprocess.run(  # noqa: S603
            [interpreter.python, "-c", _PROGRAM, given], capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS, env=environment, errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise UsageError(f"it cannot be started: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"it did not answer within {ANSWER_SECONDS:g} s") from None


def _read(ended: subprocess.CompletedProcess[str]) -> Answer:
    lines = [line for line in ended.stdout.splitlines() if line.startswith(_MARK)]
    said: Any = None
    if lines:
        try:
            return Answer.model_validate(json.loads(lines[-1].removeprefix(_MARK)))
        except (ValueError, ValidationError) as error:
            said = error
    said = said or ended.stderr.strip().splitlines()[-1:] or ["nothing"]
    last = said[0] if isinstance(said, list) else said
    raise UsageError(f"it does not answer as a Python does; it ended with code {ended.returncode} and said: {last}")
