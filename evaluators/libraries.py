"""Calling converters and quantizers of other projects: keep them quiet, and turn their failures into reasons."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from evaluators.errors import ParetuneError, UnsupportedError

_LONGEST = 200


@contextmanager
def converting(what: str) -> Iterator[None]:
    """Run a library's conversion silently.

    Raises:
        UnsupportedError: the library failed; the reason is ``what`` and the first line of its message that says so.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, ParetuneError):
        raise
    except Exception as error:
        raise UnsupportedError(f"{what}: {first_line(error)}") from error
    finally:
        logging.disable(disabled)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that says something, at most 200 characters long."""
    for line in str(error).splitlines():
        text = line.strip(" \t:>-#=*")
        if len(text) > 8 and not text.startswith(("Traceback", "File ")):
            return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__} {error}".strip()
