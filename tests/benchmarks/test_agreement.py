"""The pure parts of the comparison with MLPerf LoadGen: reading its summary, ratios, and the verdict."""

from __future__ import annotations

import pytest

from benchmarks.agreement import LEAST_PAIRS, Pair, Reading, Report, Row, line_of, p90_ms_of

SUMMARY = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : SingleStream
90.0th percentile latency (ns) : 123456
Result is : {result}
  Min duration satisfied : Yes

50.00 percentile latency (ns)   : 100000
90.00 percentile latency (ns)   : 123456
99.00 percentile latency (ns)   : 200000
"""


def _pairs(*ratios: float, waited: float = 0.0) -> tuple[Pair, ...]:
    return tuple(Pair(Reading(2.0), Reading(2.0 * ratio, waited)) for ratio in ratios)


def test_the_p90_is_read_from_the_summary() -> None:
    assert p90_ms_of(SUMMARY.format(result="VALID")) == pytest.approx(0.123456)


@pytest.mark.parametrize("summary", [SUMMARY.format(result="INVALID"), "", "Result is : nothing"])
def test_a_run_that_loadgen_does_not_call_valid_is_refused(summary: str) -> None:
    with pytest.raises(ValueError, match="not VALID"):
        p90_ms_of(summary)


@pytest.mark.parametrize(
    ("ratios", "agrees"),
    [
        ((1.0,) * LEAST_PAIRS, True),
        ((1.0,) * (LEAST_PAIRS - 1), False),
        ((0.94,) * LEAST_PAIRS, False),
        ((1.06,) * LEAST_PAIRS, False),
        ((0.5, 0.5, 1.01, 1.02, 1.03, 2.0, 2.0), True),
    ],
)
def test_instruments_agree_where_the_median_of_enough_pairs_is_within_5_percent(
    ratios: tuple[float, ...], agrees: bool
) -> None:
    assert Row("bundle", _pairs(*ratios)).agrees is agrees


def test_disturbed_pairs_do_not_count_beside_enough_others() -> None:
    row = Row("bundle", _pairs(1.5, 1.5, waited=0.5) + _pairs(*[1.01] * LEAST_PAIRS))
    assert row.ratio == pytest.approx(1.01)
    assert row.agrees
    assert line_of(row, 0.0).endswith(f"| {LEAST_PAIRS}, 2 disturbed |")


def test_disturbed_pairs_alone_are_shown_and_never_agree() -> None:
    row = Row("bundle", _pairs(*[1.0] * LEAST_PAIRS, waited=0.5))
    assert row.ratio == 1.0
    assert not row.agrees


def test_a_line_shows_the_ratio_its_interval_and_spread_and_what_the_overhead_explains() -> None:
    row = Row("bundle", _pairs(0.98, 1.0, 1.02, 1.04, 1.06, 1.08, 1.1))
    assert line_of(row, 0.02) == (
        "| bundle | 2.0000 | 2.0800 | **1.040** | 0.980 to 1.100 | 0.980 to 1.100 | 1.030 | 7 |"
    )


def test_the_comparison_holds_where_every_bundle_agrees_and_none_failed() -> None:
    def holds(*rows: Row) -> bool:
        return Report(rows, overhead_ms=0.001, rounds=(1, 1), seconds=0.2, command="", took_s=1, load_before=0).holds

    good = Row("good", _pairs(*[1.0] * LEAST_PAIRS))
    assert holds(good, good)
    assert not holds(good, Row("far", _pairs(*[1.2] * LEAST_PAIRS)))
    assert not holds(good, Row("broken", error="it was not built"))
    assert not holds()


def test_a_bundle_whose_calls_are_as_short_as_loadgen_itself_is_shown_and_not_judged() -> None:
    def holds(*rows: Row) -> bool:
        return Report(rows, overhead_ms=0.1, rounds=(1, 1), seconds=0.2, command="", took_s=1, load_before=0).holds

    long = Row("eager b8", tuple(Pair(Reading(20.0), Reading(20.1)) for _ in range(LEAST_PAIRS)))
    short = Row("eager b1", _pairs(*[1.2] * LEAST_PAIRS))
    assert line_of(short, 0.1).split(" | ")[3] == "1.200, not judged"
    assert holds(long, short)
    assert not holds(long, Row("openvino b1", short.pairs)), "a backend without a bundle that can be judged"


@pytest.mark.parametrize(
    ("ratios", "sure"),
    [([1.0, 1.01, 0.99, 1.02, 1.0, 0.98], True), ([1.0, 1.3, 0.8, 1.1, 0.9, 1.0], False), ([1.1, 1.2] * 3, True)],
)
def test_pairs_are_sure_where_their_interval_lies_on_one_side_of_what_is_asked(ratios: list[float], sure: bool) -> None:
    row = Row("a bundle", tuple(Pair(Reading(1.0), Reading(ratio)) for ratio in ratios))
    assert row.sure is sure
    assert not Row("too few", row.pairs[: LEAST_PAIRS - 1]).sure
