"""Calling converters and quantizers of other projects: keep them quiet, and turn their failures into reasons."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from evaluators.errors import ParetuneError, UnsupportedError

_LONGEST = 200
_NO_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "not enough memory", "out of memory")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@contextmanager
def converting(what: str) -> Iterator[None]:
    """Run a library's conversion silently.

    Raises:
        UnsupportedError: the library failed; the reason is ``what`` and the first line of its message that says so.
        MemoryError: the library found no memory left, whatever the error it said so with.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, ParetuneError):
        raise
    except Exception as error:
        if any(sign in str(error).lower() for sign in _NO_MEMORY):
            raise MemoryError(first_line(error)) from error
        raise UnsupportedError(f"{what}: {first_line(error)}") from error
    finally:
        logging.disable(disabled)


def first_line(error: BaseException) -> str:
    """Return the first line that says something in the message of an error's root cause, at most 200 characters."""
    while error.__cause__ is not None:
        error = error.__cause__
    for line in _COLOURS.sub("", str(error)).splitlines():
        text = line.strip(" \t:>-#=*")
        if len(text) > 8 and not text.startswith(("Traceback", "File ")):
            return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__} {error}".strip()
