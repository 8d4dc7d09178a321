"""What people read of promotions: which gate refused and what to do, and where an alias points."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from evaluators.outcome import Ratio
from search.cli import promoted_views
from search.promotion.diffing import DiffReport, SideReport
from search.promotion.gates import Gate
from search.promotion.lifecycle import AliasReport, HistoryReport, ReconcileReport, VersionReport
from search.promotion.promoting import PromotionReport
from search.promotion.serving import Served
from workers.promotions import AliasStep


def text(view: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(view)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def a_report(**fields: object) -> PromotionReport:
    passed = Gate(gate="bundle", status="passed", found="1 files")
    values = {"search": "s", "trial": 7, "label": "onnxruntime fp32 b4 t1", "model": "shop", "alias": "champion",
              "status": "promoted", "gates": (passed,), "uri": "models:/shop@champion"}  # fmt: skip
    return PromotionReport.model_validate({**values, **fields})


def test_a_refusal_names_the_gate_what_was_found_and_what_to_do() -> None:
    gate = Gate(gate="freshness", status="refused", found="onnxruntime is 2 here and was 1", advice="search again")
    said = text(promoted_views.promotion(a_report(status="refused", gates=(gate,))))
    assert "freshness refused onnxruntime is 2 here and was 1 search again" in said
    assert "shop@champion is as it was: trial 7" in said


def test_a_promotion_says_what_the_alias_points_at_and_what_is_kept() -> None:
    served = Served(rows=5, difference=0.0)
    said = text(promoted_views.promotion(a_report(version=3, previous_version=2, served=served, notes=("by hand",))))
    assert "shop@champion is version 3 now, version 2 is kept" in said
    assert "served 5 real rows" in said and "note: by hand" in said and "models:/shop@champion" in said


def test_history_tells_what_never_passed_a_gate() -> None:
    step = AliasStep(id=1, model="shop", alias="champion", event="rolled_back", version=1, previous_version=2,
                     detail="back from version 2", created_at=1.8e9)  # fmt: skip
    versions = (VersionReport(version=1, aliases=("champion",), certificate=None),)
    report = HistoryReport(model="shop", aliases={"champion": 1}, steps=(step,), versions=versions)
    said = text(promoted_views.history(report))
    assert "rolled back 1 2 back from version 2" in said and "never passed a gate" in said


def test_reconciling_flags_an_alias_by_name() -> None:
    alias = AliasReport(model="shop", alias="champion", expected=1, found=2, status="unproven", why="never passed")
    assert ReconcileReport(aliases=(alias,)).exit_code == 5
    assert "shop@champion unproven 1 2 never passed" in text(
        promoted_views.reconciled(ReconcileReport(aliases=(alias,)))
    )


def test_a_diff_shows_both_sides_and_the_ratio_of_their_times() -> None:
    side = SideReport(reference="a", bundle="b", label="eager fp32 b4 t1", target="cpu-avx2", digest="0", size_bytes=10,
                      accuracy=0.9, p50_ms=2.0, percentile_ms=3.0)  # fmt: skip
    report = DiffReport(a=side, b=side, rows=40, largest_difference=0.1, sqnr_db=20, agreement=0.95, scored_by="top1",
                        original_accuracy=0.9, accuracy_difference=-0.01, accuracy_difference_ci95=(-0.05, 0.02),
                        size_ratio=1.0, percentile="p95",
                        latency_ratio=Ratio(value=1.5, ci95=(1.4, 1.6)), notes=("a note",))  # fmt: skip
    said = text(promoted_views.diff(report))
    assert "40 rows, agreement 0.95, 20 dB" in said and "1.4" in said and "a note" in said
    assert "accuracy of B over A −1.00 pp (95 %: −5.00 pp to 2.00 pp)" in said
