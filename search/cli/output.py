"""What a command says, and where: results on stdout, everything else on stderr, colours only on a terminal."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Reply:
    """What a command answers: the object for ``--json``, the same for people, and the exit code.

    ``view`` is called only when people read it; ``on_stderr`` marks the replies that are not results; ``afterwards``
    runs once the reply is written, and its value is then the exit code.
    """

    payload: dict[str, Any]
    view: Callable[[], RenderableType]
    exit_code: int = 0
    on_stderr: bool = False
    afterwards: Callable[[], int] | None = None


@contextmanager
def reserved_stdout(reserve: bool) -> Iterator[TextIO]:
    """Yield stdout; if ``reserve``, send to stderr whatever anyone else prints meanwhile, child processes included."""
    if not reserve:
        yield sys.stdout
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout, redirect_stdout(sys.stderr):
            yield stdout
    except BrokenPipeError:
        pass
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def show(reply: Reply, stdout: TextIO, as_json: bool) -> None:
    """Write a reply; a reader that has gone away is no error."""
    if as_json:
        _write(stdout, json.dumps({"schema_version": SCHEMA_VERSION, **reply.payload}, allow_nan=False) + "\n")
    if not as_json or reply.on_stderr:
        _print(console(sys.stderr if reply.on_stderr else stdout), reply.view())


def note(text: str) -> None:
    """Say something that is not the result, on stderr."""
    from rich.text import Text

    _print(console(sys.stderr), Text(text))


def console(stream: TextIO) -> Console:
    """Return a console that writes plain text wherever there is no terminal or ``NO_COLOR`` is set."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return Console(file=stream, highlight=False, markup=False, emoji=False, force_terminal=False if plain else None)


def _print(where: Console, renderable: RenderableType) -> None:
    from rich.text import Text

    with _quiet_pipe(where.file):
        where.print(renderable, soft_wrap=isinstance(renderable, str | Text))
        where.file.flush()


def _write(stream: TextIO, text: str) -> None:
    with _quiet_pipe(stream):
        stream.write(text)
        stream.flush()


@contextmanager
def _quiet_pipe(stream: Any) -> Iterator[None]:
    """Go on writing to nowhere once the reader of ``stream`` has gone, so that nothing fails at exit either."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
