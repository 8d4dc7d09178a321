"""The command line: a thin shell over ``search.api``. Each command imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    With ``--json`` the command's one object is all that reaches stdout; whatever anybody else prints goes to stderr.
    """
    from search.cli.app import app
    from search.cli.output import Reply, reserved_stdout, show

    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in (given[: given.index("--")] if "--" in given else given)
    answered = False
    with reserved_stdout(as_json) as stdout:
        try:
            reply = app(args=given, prog_name="paretune", standalone_mode=False)
            if isinstance(reply, Reply):
                show(reply, stdout, as_json)
                answered = True
                return reply.afterwards() if reply.afterwards else reply.exit_code
            if reply != INTERRUPTED:
                return reply or 0
            problem: BaseException = KeyboardInterrupt()
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):
                return 0
            problem = error
        except (Exception, KeyboardInterrupt) as error:
            problem = error
        from search.cli.failures import Failure

        failure = Failure.of(problem)
        show(failure.reply(), stdout, as_json and not answered)
        return failure.code
