"""A model that crashes, hangs, eats all memory or returns NaN is an outcome; the search ends with a result."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT, paretune

WORKLOADS = ROOT / "tests" / "faults" / "workloads.py"


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("segfault", "crashed", "segmentation"),
        ("hog", "out_of_memory", "memory"),
        ("hang", "timed_out", "8"),
        ("not_a_number", "not_finite", "NaN"),
    ],
)
def test_a_workload_that_fails_ends_in_a_typed_trial_and_a_result(
    tmp_path: Path, name: str, kind: str, words: str
) -> None:
    limit = "8s" if name == "hang" else "60s"
    answer = paretune(
        "search", f"{WORKLOADS}:{name}", "--home", str(tmp_path), "--trials", "4", "--trial-timeout", limit,
        "--memory-limit", "3GB", "--json",
    )  # fmt: skip
    assert answer.code == 4, answer.stderr
    assert answer.json["status"] == "infeasible"
    assert answer.json["trials"]["failed"] == 1
    trial = paretune("trials", "latest", "--home", str(tmp_path), "--json").json["trials"][0]
    assert (trial["outcome"], trial["failure_kind"]) == ("failed", kind)
    assert words.lower() in trial["reason"].lower()
    assert trial["reproduce"].startswith("paretune reproduce ")


def test_the_reproduce_command_of_a_failed_trial_fails_the_same_way(tmp_path: Path) -> None:
    common = ("--home", str(tmp_path))
    paretune("search", f"{WORKLOADS}:segfault", *common, "--trials", "2", "--trial-timeout", "20s", "--json")
    trial = paretune("trials", "latest", *common, "--json").json["trials"][0]
    again = paretune(*trial["reproduce"].split()[1:], "--json")
    assert again.json["trial"]["failure_kind"] == "crashed"


def test_a_crash_at_one_batch_size_costs_that_trial_alone(tmp_path: Path) -> None:
    answer = paretune(
        "search", f"{WORKLOADS}:segfault_in_batches", "--home", str(tmp_path), "--backend", "eager", "--threads", "1",
        "--batch-size", "1,4", "--max-accuracy-drop", "1", "--trials", "12", "--seed", "1", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    trials = paretune("trials", "latest", "--home", str(tmp_path), "--json").json["trials"]
    assert len(trials) == 12
    by_batch = {size: {t["outcome"] for t in trials if t["candidate"]["batch_size"] == size} for size in (1, 4)}
    assert by_batch[4] == {"failed"}
    assert "measured" in by_batch[1]
    kinds = {t["failure_kind"] for t in trials if t["candidate"]["batch_size"] == 4}
    assert "crashed" in kinds and kinds <= {"crashed", "unsupported"}
