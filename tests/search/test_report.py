"""The report says what was found, needs no network, and shows hostile names as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evaluators.outcome import Failure, FailureKind, Ratio
from search.report import script_json, write_report
from search.result import FinalRow, Finals, SearchResult, TrialResult
from search.wording import headline, show_relaxed
from tests.search.factories import a_candidate, a_profile, a_result, a_search, a_spec, a_target, a_trial

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028{{ 7*7 }}"


class _Page(HTMLParser):
    """The text of a page outside scripts and styles, its tags, and what its attributes load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.lasttag != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _report(result: SearchResult, trials: list[TrialResult], folder: Path, **facts: Any) -> _Page:
    profile, targets = facts.get("profile", a_profile()), facts.get("targets", (a_target(),))
    return _Page(write_report(result, trials, profile, targets, folder / "report.html").read_text(encoding="utf-8"))


def test_a_feasible_search_is_told_with_its_numbers(tmp_path: Path) -> None:
    result, trials = a_search(40)
    page = _report(result, trials, tmp_path)
    assert headline(result) in page.text
    assert result.best is not None and result.best.label in page.text
    for trial in result.front:
        assert f"#{trial.number} " in page.text or str(trial.number) in page.text
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-ending" in attributes]
    assert len(rows) == len(trials) + len(result.front)
    figures = [json.loads(text) for attributes, text in page.scripts if attributes.get("type") == "application/json"]
    assert len(figures) == 4 and all(figure["data"] for figure in figures)


def test_the_report_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    result, trials = a_search(12)
    page = _report(result, trials, tmp_path)
    loaded = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert loaded == []
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in page.tags)


def test_an_infeasible_search_says_what_the_limits_would_have_to_be(tmp_path: Path) -> None:
    result, trials = a_search(40, spec=a_spec(latency_budget_ms=0.09))
    page = _report(result, trials, tmp_path)
    assert result.status == "infeasible" and "None of 40 trials meets latency p95 ≤ 90 µs" in page.text
    assert "What came nearest" in page.text
    for relaxation in result.relaxations:
        assert relaxation.label in page.text
    for relaxation in result.relaxations:
        assert show_relaxed("latency_p95_ms", relaxation.limits["latency_p95_ms"]) in page.text


def test_undecided_trials_are_told_with_what_would_decide_them(tmp_path: Path) -> None:
    trials = [a_trial(5, accuracy=0.915, spread=0.004, polluted=3), a_trial(6, accuracy=0.9)]
    page = _report(a_result(trials), trials, tmp_path)
    assert "Within the limits as measured, undecided at 95 % confidence" in page.text
    assert "0.80 pp drop (0.40 to 1.20 pp), limit 1.00 pp" in page.text
    assert "about 40,000 validation examples instead of 10,000" in page.text
    assert "met by 0 of 2 measured trials at 95 % confidence, undecided for 1" in page.text
    assert "3 blocks repeated, 0 trials never clean" in page.text
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-ending" in attributes]
    assert [row["data-ending"] for row in rows] == ["undecided", "rejected"]
    outside = [a_trial(7, accuracy=0.912)]
    assert "Undecided at 95 % confidence" in _report(a_result(outside), outside, tmp_path).text


def test_the_final_comparison_is_a_table_with_intervals(tmp_path: Path) -> None:
    trials = [a_trial(0, a_candidate(), p50=1.0, accuracy=0.923, gates=False), a_trial(2)]
    rows = (
        FinalRow(trial=2, label=trials[1].label, p50_ms=0.41, percentile_ms=0.44),
        FinalRow(trial=0, label=trials[0].label, p50_ms=0.99, percentile_ms=1.1,
                 over_best=Ratio(value=2.41, ci95=(2.3, 2.52))),
    )  # fmt: skip
    result = a_result(trials, finals=Finals(best=2, rows=rows, rounds=7, seconds=9.0))
    page = _report(result, trials, tmp_path)
    assert "Timed in turn" in page.text and "in 7 rounds of fresh processes" in page.text
    assert "2.41× (2.3 to 2.52×)" in page.text
    assert "95 %: 2.3 to 2.52×, eager fp32" in page.text


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_search_without_trials_has_a_report(interrupted: bool, tmp_path: Path) -> None:
    result, trials = a_search(0, interrupted=interrupted)
    page = _report(result, trials, tmp_path, profile=None, targets=())
    assert "No trial has run." in page.text
    assert headline(result) in page.text


def test_an_interrupted_search_says_how_to_go_on(tmp_path: Path) -> None:
    result, trials = a_search(7, interrupted=True, home=str(tmp_path))
    page = _report(result, trials, tmp_path)
    assert "interrupted" in page.text
    assert f"paretune resume {result.search} --home {tmp_path}" in page.text


def test_failures_are_listed_by_kind_with_the_command_that_reproduces_them(tmp_path: Path) -> None:
    result, trials = a_search(4)
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, stage="build", reason="killed by the kernel at 2.1 GB")
    trials += [a_trial(50, failure=failure), a_trial(51, a_candidate("openvino"), failure=failure)]
    page = _report(result, trials, tmp_path)
    assert page.text.count("killed by the kernel at 2.1 GB") == 3  # once for both, and in the row of each
    assert "out of memory" in page.text and trials[-2].reproduce in page.text


def test_hostile_names_and_reasons_stay_text(tmp_path: Path) -> None:
    result, trials = a_search(4, notes=[EVIL])
    failure = Failure(kind=FailureKind.ERROR, stage=EVIL, reason=EVIL)
    evil = a_candidate(EVIL, EVIL, structure=EVIL, knob=EVIL)
    trials += [a_trial(50, evil, failure=failure), a_trial(51, evil, p50=0.1)]
    hostile = result.model_copy(update={"name": EVIL, "workload": EVIL, "scored_by": EVIL, "home": EVIL})
    page = _report(hostile, trials, tmp_path, profile=a_profile(name=EVIL, reference=EVIL))
    clean = _report(result, trials[:4], tmp_path)
    assert len(page.scripts) == len(clean.scripts)
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "alert(1)" in page.text and "{{ 7*7 }}" in page.text


def test_json_in_a_script_keeps_its_value_and_no_markup() -> None:
    text = script_json(json.dumps({"name": EVIL}))
    assert json.loads(text) == {"name": EVIL}
    assert not re.search("[<>&\u2028]", text)


def test_a_report_replaces_the_older_one_whole(tmp_path: Path) -> None:
    result, trials = a_search(3)
    _report(result, trials, tmp_path)
    again, trials = a_search(5)
    page = _report(again, trials, tmp_path)
    assert headline(again) in page.text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
