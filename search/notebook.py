"""A result in a notebook: as HTML, as a pandas table, and promoted from there."""

from __future__ import annotations

import base64
import html
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.errors import GateRefusedError
from search.result import SearchResult, TrialResult
from search.tracked_trial import trial_rows
from search.units import show_bytes, show_ms
from search.wording import headline, in_shares, show_drop, show_rate, show_score

if TYPE_CHECKING:
    from pandas import DataFrame

    from search.promotion.promoting import PromotionReport

_CELL = 'style="text-align:left;padding:2px 12px 2px 0"'


def promote_result(
    result: SearchResult, name: str, *, trial: int | None, pick: str | None, needs_sealed: bool
) -> PromotionReport:
    """Promote a trial of a result; what a gate refuses is an error here, since nobody may look at the report.

    Raises:
        GateRefusedError: a gate refused; the registry is as it was.
    """
    from search import api

    report = api.promote(result.search, name, result.home, trial=trial, pick=pick, needs_sealed=needs_sealed)
    if report.refused is not None:
        raise GateRefusedError(f"trial {report.trial} ({report.label}): {report.refused}")
    return report


def frame_of(result: SearchResult) -> DataFrame:
    """Return every trial of a result, as the ledger has them, as a row of a table."""
    from pandas import DataFrame

    return DataFrame(trial_rows(_trials(result)))


def html_of(result: SearchResult) -> str:
    """Return a headline, the front as a picture and as a table; one piece that needs no network."""
    parts = [f"<p><b>{html.escape(result.name)}</b>: {html.escape(headline(result))}</p>"]
    if result.front:
        parts += [f'<img alt="accuracy over {html.escape(result.objective)}" style="max-width:900px;width:100%" '
                  f'src="data:image/png;base64,{_picture(result)}">', _table(result)]  # fmt: skip
    return "\n".join(parts)


def _trials(result: SearchResult) -> list[TrialResult]:
    from search import api

    return api.trials(result.search, Path(result.home))


def _picture(result: SearchResult) -> str:
    from search.pictures import pareto_png

    trials = _trials(result) if Path(result.home).is_dir() else list(result.front)
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        picture = pareto_png(result, trials, Path(folder) / "front.png")
        return base64.b64encode(picture.read_bytes()).decode()


def _table(result: SearchResult) -> str:
    share = in_shares(result)
    titles = ("trial", "model", f"latency {result.percentile}", "throughput", "accuracy", "drop", "size")
    rows = [
        (str(trial.number), trial.label, show_ms(trial.latency_at(result.percentile)),
         show_rate(trial.throughput_per_s), show_score(trial.accuracy), show_drop(trial.accuracy_drop, share),
         show_bytes(trial.size_bytes))
        for trial in result.front
    ]  # fmt: skip
    head = "".join(f"<th {_CELL}>{html.escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td {_CELL}>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
