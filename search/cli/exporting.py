"""The command that writes a bundle as a serving system takes it: ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.exports.exporting import ExportReport

FORMATS = "bundle, onnx, openvino, pt2, coreml, mlflow, mlserver, triton, container; or optuna, for the whole search"


def export(
    search: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH", help="id, name or 'latest'; or SEARCH/TRIAL, NAME@ALIAS, or a folder of a bundle",
            show_default=False,
        ),
    ],
    format: Annotated[str, typer.Option("--format", metavar="NAME", help=FORMATS, show_default=False)],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="folder to make, not there or empty", show_default=False),
    ],
    trial: options.TrialNumber = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="what the server calls the model")] = None,
    window: Annotated[
        str | None,
        typer.Option("--window", metavar="DURATION", help="how long a server waits for a batch to fill, such as 2ms"),
    ] = None,
    instances: Annotated[
        int | None, typer.Option("--instances", metavar="N", min=1, help="how many of it the server runs, default 1")
    ] = None,
    trust: Annotated[
        str | None,
        typer.Option("--trust", metavar="DIGEST", help="take a folder with code of its own: the digest you were told"),
    ] = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:  # fmt: skip
    """Write a bundle as a serving system takes it, with its evidence."""
    from search import api

    window_ms = None if window is None else _window_ms(window)
    report = api.export(search, format, output, home, trial=trial, name=name, window_ms=window_ms, instances=instances,
                        trust=trust)  # fmt: skip
    return Reply(report.to_json(), lambda: _view(report))


def _window_ms(text: str) -> float:
    from evaluators.errors import UsageError
    from search.units import milliseconds

    try:
        return 0.0 if text == "0" else milliseconds(text)
    except ValueError as error:
        raise UsageError(f"--window: {error}, or 0 for not at all") from None


def _view(report: ExportReport) -> RenderableType:
    from search.cli.views import facts_table
    from search.units import show_bytes

    return facts_table({
        "exported": f"{report.label} as {report.format} to {report.output}",
        "holds": f"{len(report.files)} files, {show_bytes(sum(report.files.values()))}",
        "evidence": report.evidence,
        **({"runs code": report.runs_code} if report.runs_code else {}),
        **{f"note {number}": note for number, note in enumerate(report.notes, 1)},
        "start it there": report.start,
    })  # fmt: skip
