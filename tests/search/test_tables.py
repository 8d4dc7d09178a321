"""What the terminal shows fits 80 columns, and without a terminal it is plain text."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from evaluators.outcome import Constraint, Failure, FailureKind, Ratio
from evaluators.verdicts import judge
from search.live import LiveProgress
from search.result import FinalRow, Finals
from search.tables import front_table, relaxations_table, summary, trials_table
from search.view import count_trials
from search.wording import (
    distinct_labels,
    headline,
    show_disturbed,
    show_drop,
    show_interval,
    show_limit,
    show_metric,
    show_relaxed,
    show_score,
    show_verdict,
    why_not,
)
from tests.search.factories import a_candidate, a_result, a_search, a_spec, a_trial


def _text(renderable: Any, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, highlight=False, markup=False, emoji=False).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize(
    "settings",
    [{}, {"objective": "latency"}, {"objective": "size"}, {"latency_budget_ms": 0.02}, {"percentile": "p99"}],
)
def test_the_summary_fits_80_columns_without_escape_codes(settings: dict[str, Any]) -> None:
    result, _ = a_search(40, spec=a_spec(**settings))
    text = _text(summary(result))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    assert " ".join(headline(result).split()) in " ".join(text.split())


def test_the_summary_compares_the_best_with_both_baselines_and_leads_on() -> None:
    result, _ = a_search(40)
    text = _text(summary(result.model_copy(update={"report": "/tmp/report.html"})))
    for word in ("baseline", "best float", "best", "speed-up", "overhead", "/tmp/report.html", f"ui {result.name}"):
        assert word in text
    assert "latency p95 ≤ 2 ms: met at 95 % confidence with" in text
    assert "measured beside other programs" not in text


def test_undecided_trials_are_shown_as_such_and_come_with_what_would_decide_them() -> None:
    trials = [a_trial(5, accuracy=0.915, spread=0.004), a_trial(6, accuracy=0.915, spread=0.004, clean=False)]
    result = a_result(trials, a_spec(confidence=0.99))
    text = " ".join(_text(summary(result)).split())
    assert "accuracy drop ≤ 1.00 pp at 99 % confidence; 2 are undecided." in text
    assert "undecided at 99 % confidence" in text
    assert "0.80 pp drop (0.40 to 1.20 pp), limit 1.00 pp" in text
    assert "about 40,000 validation examples" in text and "quieter machine" in text
    assert "accuracy drop up to 1.20 pp" in text
    listed = " ".join(_text(trials_table(trials)).split())
    assert "#5: undecided: 0.80 pp drop (0.40 to 1.20 pp), limit 1.00 pp" in listed
    assert "#6: undecided: 0.432 ms at p95 (measured beside other programs), limit 2 ms; 0.80 pp" in listed


def test_a_best_of_an_earlier_version_that_was_undecided_is_not_called_certain() -> None:
    result, _ = a_search(40)
    assert result.best is not None
    unsure = result.best.verdicts[0].model_copy(update={"status": "undecided"})
    best = result.best.model_copy(update={"verdicts": (unsure, *result.best.verdicts[1:])})
    text = _text(summary(result.model_copy(update={"best": best})))
    assert "latency p95 ≤ 2 ms: undecided at 95 % confidence" in text


@pytest.mark.parametrize(
    ("polluted", "clean", "said"),
    [
        (0, True, ""),
        (1, True, "measured beside other programs: 1 block repeated, 0 trials never clean"),
        (1200, False, "measured beside other programs: 1,200 blocks repeated, 1 trial never clean"),
    ],
)
def test_what_other_programs_spoiled_is_said_in_one_line(polluted: int, clean: bool, said: str) -> None:
    result = a_result([a_trial(1, polluted=polluted, clean=clean)])
    assert show_disturbed(result) == said
    assert ("measured beside" in _text(summary(result))) == bool(said)


def test_a_speed_up_that_was_timed_in_turn_has_its_interval_everywhere() -> None:
    trials = [a_trial(0, a_candidate(), p50=1.0, accuracy=0.923, gates=False), a_trial(2)]
    over = Ratio(value=2.41, ci95=(2.3, 2.52))
    rows = (
        FinalRow(trial=2, label=trials[1].label, p50_ms=0.41, percentile_ms=0.44),
        FinalRow(trial=0, label=trials[0].label, p50_ms=0.99, percentile_ms=1.1, over_best=over),
    )
    result = a_result(trials, finals=Finals(best=2, rows=rows, rounds=7, seconds=9.0))
    text = _text(summary(result))
    assert "Timed in turn in fresh processes, 7 rounds" in text
    assert "2.41× (2.3 to 2.52×)" in text and "the best" in text
    assert "2.41× (2.3 to 2.52×) faster than eager fp32" in headline(result)
    unsure = result.model_copy(update={"speedup": 1.02, "speedup_ci95": (0.98, 1.06)})
    assert "1.02× (0.98 to 1.06×) the speed of eager fp32, no sure difference" in headline(unsure)


def test_the_best_float_is_not_called_faster_than_itself() -> None:
    trials = [a_trial(0, a_candidate(), p50=1.0, accuracy=0.923), a_trial(1, a_candidate("openvino"), accuracy=0.923)]
    said = headline(a_result(trials))
    assert "itself the fastest unmodified float model" in said and "1× faster" not in said


def test_what_is_surely_missed_is_said_before_what_is_undecided() -> None:
    trial = a_trial(1, clean=False, accuracy=0.9, gates=False)
    assert trial.verdict == "fail"
    assert why_not(trial) == "accuracy_drop 0.023 > 0.01 (+130%)"


def test_a_limit_without_an_interval_is_not_called_certain() -> None:
    size, accuracy = Constraint(metric="size_bytes", max=2e6), Constraint(metric="accuracy", min=0.9)
    assert show_verdict(judge(size, 1e6, None), 0.95) == "met with 1.00 MB"
    assert show_verdict(judge(accuracy, 0.92, None), 0.95) == "met with 92.00 %, of which no interval is known"
    sure = show_verdict(judge(accuracy, 0.92, (0.91, 0.93)), 0.999)
    assert sure == "met at 99.9 % confidence with 92.00 %, at least 91.00 %"
    assert show_verdict(judge(size, 3e6, None), 0.95) == "missed with 3.00 MB"


def test_every_trial_has_a_row_and_every_failure_its_reason_and_command() -> None:
    failure = Failure(kind=FailureKind.CRASHED, stage="latency", reason="segmentation fault [bold]SIGSEGV[/bold]")
    _, trials = a_search(12)
    trials = [*trials, a_trial(77, failure=failure), a_trial(78, failure=failure)]
    text = _text(trials_table(trials))
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "#77, #78: crashed: segmentation fault [bold]SIGSEGV[/bold]" in text
    assert trials[-2].reproduce is not None and trials[-2].reproduce in text


def test_the_front_and_the_relaxations_have_tables() -> None:
    result, _ = a_search(40)
    assert all(f"{trial.throughput_per_s:,.0f}" in _text(front_table(result.front)) for trial in result.front)
    assert "no trial is feasible" in _text(front_table([]))
    infeasible, _ = a_search(40, spec=a_spec(latency_budget_ms=0.02))
    assert "latency p95 up to" in _text(relaxations_table(infeasible.relaxations))


def test_without_a_terminal_each_finished_trial_is_one_line() -> None:
    stream = io.StringIO()
    _, trials = a_search(14)
    with LiveProgress(Console(file=stream, width=80), a_spec(objective="latency"), 14) as progress:
        for done, trial in enumerate(trials, 1):
            progress.started(trial.number, trial.label)
            progress.finished(trial, count_trials(trials[:done]), trials[0])
        progress.note("left out: tensorrt [no device]")
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(trials) + 1
    assert lines[0].startswith("[ 1/14] measured  eager fp32 b1 t1  p95 ")
    assert "(best " in lines[1]
    assert lines[-1] == "note: left out: tensorrt [no device]"
    assert "\x1b" not in stream.getvalue()


def test_an_undecided_trial_is_a_line_that_says_what_is_undecided() -> None:
    stream = io.StringIO()
    trial = a_trial(1, accuracy=0.914)
    with LiveProgress(Console(file=stream, width=80), a_spec(), 4) as progress:
        progress.finished(trial, count_trials([trial]), None)
        shown = _text(progress._view(), width=100)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("[1/4] undecided onnxruntime static_int8")
    assert line.endswith("0.90 pp drop (0.70 to 1.10 pp), limit 1.00 pp")
    assert "nothing feasible yet  (1 undecided)" in shown


def test_on_a_terminal_the_display_shows_the_last_trials_and_the_time_left() -> None:
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, width=100, force_terminal=True)
    _, trials = a_search(10)
    with LiveProgress(console, a_spec(), 20, timeout_s=600, clock=lambda: now[0]) as progress:
        now[0] = 100.0
        for done, trial in enumerate(trials, 1):
            progress.finished(trial, count_trials(trials[:done]), trials[4])
        progress.started(10, "openvino bf16 b4 t1")
        shown = _text(progress._view(), width=100)
    assert trials[-1].label in shown and trials[0].label not in shown
    assert "running      #10 openvino bf16 b4 t1" in shown
    assert f"{len(trials)}/20 trials" in shown
    assert "left" in shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_score(0.9234), "92.34 %"),
        (show_score(-0.52), "-0.52"),
        (show_drop(0.0031), "0.31 pp"),
        (show_drop(-0.002), "−0.20 pp"),
        (show_drop(1.5, share=False), "1.5"),
        (show_interval("latency_p95_ms", (1.2, 1.3)), "1.2 to 1.3 ms"),
        (show_interval("latency_p95_ms", (0.09, 0.13)), "90 µs to 0.13 ms"),
        (show_metric("size_bytes", 2_500_000), "2.50 MB"),
        (show_relaxed("accuracy", 0.9), "accuracy down to 90.00 %"),
        (show_limit(a_spec().constraints[0]), "latency p95 ≤ 2 ms"),
    ],
)
def test_numbers_are_written_with_their_unit(shown: str, expected: str) -> None:
    assert shown == expected


def test_a_metric_that_is_no_share_is_not_written_in_percent() -> None:
    best = a_trial(1, accuracy=-0.4, constraints=())
    result, _ = a_search(4)
    assert "drop 1.323" in headline(result.model_copy(update={"best": best}))


def test_candidates_with_the_same_label_are_told_apart_by_the_knobs_that_differ() -> None:
    knobs = [{"preset": "mixed", "range": "mean"}, {"preset": "mixed", "range": "minmax"}]
    alike = [a_trial(number, a_candidate("openvino", "static_int8", **each)) for number, each in enumerate(knobs)]
    labels = distinct_labels([*alike, a_trial(2)])
    assert labels[0] == f"{alike[0].label} range=mean" and labels[1].endswith(" range=minmax")
    assert labels[2] == a_trial(2).label
