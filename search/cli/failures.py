"""How an exception becomes one sentence and an exit code; a traceback only with ``PARETUNE_DEBUG=1``."""

from __future__ import annotations

import os
import tempfile
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typer import Abort, TyperException

from evaluators.errors import InfrastructureError, ParetuneError
from search.cli import INTERRUPTED
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Failure:
    """Why a command ended without an answer."""

    code: int
    message: str
    details: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Name the failure: the user's, the infrastructure's or ours."""
        details = "".join(traceback.format_exception(error)) if os.environ.get("PARETUNE_DEBUG") else ""
        if isinstance(error, KeyboardInterrupt | Abort):
            return cls(INTERRUPTED, "interrupted", details)
        if isinstance(error, TyperException):
            what = _one_line(error.format_message()).rstrip(".")
            return cls(error.exit_code, f"{what}; see {_help_of(error)}", details)
        if isinstance(error, ParetuneError):
            return cls(error.exit_code, _one_line(str(error)), details)
        if isinstance(error, OSError) or type(error).__module__.startswith("sqlalchemy"):
            return cls(InfrastructureError.exit_code, _one_line(f"{type(error).__name__}: {error}"), details)
        return cls(1, _internal(error), details)

    def reply(self) -> Reply:
        """The failure as every command reports it."""
        return Reply({"error": {"code": self.code, "message": self.message}}, self._view, self.code, on_stderr=True)

    def _view(self) -> Text:
        from rich.text import Text

        return Text(f"{self.details}").append(f"error: {self.message}", style="bold red")


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _help_of(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'paretune'} --help"


def _internal(error: BaseException) -> str:
    what = "the code that it ran called sys.exit" if isinstance(error, SystemExit) else type(error).__name__
    file, path = tempfile.mkstemp(prefix="paretune-error-", suffix=".txt")
    with os.fdopen(file, "w", encoding="utf-8") as log:
        traceback.print_exception(error, file=log)
    return _one_line(f"internal: {what}: {error}; the traceback is in {path}, PARETUNE_DEBUG=1 shows it here")
