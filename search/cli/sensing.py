"""The command ``sensitivity``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.sensitivity import SensitivityReport


def sensitivity(
    context: typer.Context,
    workload: options.Workload = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.Config = None,
) -> Reply:
    """Rank the layers of a workload's model by what int8 in each of them alone costs its outputs, worst first."""
    from search import api

    report = api.sensitivity(options.spec_of(context, config).workload, home)
    return Reply(report.to_json(), lambda: _view(report))


def _view(report: SensitivityReport) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from evaluators.sensitivity import NO_NOISE_DB

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", overflow="fold")
    for heading, justify in (("kind", "left"), ("parameters", "right"), ("SQNR", "right"), ("of the noise", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for layer in report.layers:
        ratio = "no noise" if layer.sqnr_db >= NO_NOISE_DB else f"{layer.sqnr_db:.1f} dB"
        table.add_row(layer.name or "(the model)", layer.kind, f"{layer.parameters:,}", ratio,
                      f"{layer.noise_share:.1%}")  # fmt: skip
    note = "The outputs with that layer alone in int8 against those in float; float_share keeps the first in float."
    return Group(table, "", Text(note, "dim"))
