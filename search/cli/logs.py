"""Logs of a part of a fleet: sentences on a terminal, elsewhere an object on each line; never a password."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TextIO

_PASSWORD = re.compile(r"(?<=://)([^\s/@:]*):[^\s/]*(?=@)")
_NAMED_PASSWORD = re.compile(r"([?&]password=)[^&\s]*")


class LogFormat(StrEnum):
    """How a part of a fleet says what it does."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"


def log_to(stream: TextIO | None = None, log_format: LogFormat = LogFormat.AUTO, **about: Any) -> Callable[[str], None]:
    """Return what takes sentences for a log on ``stream``, stderr unless told.

    In JSON a line has the sentence as ``event``, a ``timestamp`` in UTC, ``about``, and what the thread is about:
    ``search``, ``trial``, ``attempt``.
    """
    import structlog

    stream = stream or sys.stderr
    as_json = log_format is LogFormat.JSON or (log_format is LogFormat.AUTO and not stream.isatty())
    if not as_json:
        from search.cli.output import note

        return lambda text: note(without_passwords(text))
    logger = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.contextvars.merge_contextvars, structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True), _redacted, structlog.processors.JSONRenderer(),
        ],
    ).bind(**about)  # fmt: skip
    return lambda text: logger.info(text)


def without_passwords(text: str) -> str:
    """Return a text with the passwords of its URLs left out."""
    return _NAMED_PASSWORD.sub(r"\1***", _PASSWORD.sub(r"\1:***", text))


def _redacted(_: Any, __: str, event: Any) -> Any:
    return {key: without_passwords(value) if isinstance(value, str) else value for key, value in event.items()}
