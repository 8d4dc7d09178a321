"""What an earlier search has pruned, recovered, quantized and built is not done again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.stage_cache import Stage, run_again, share, stages_of
from search.result import TrialResult
from tests.conftest import TINY, Finished, paretune


def _search(home: Path, batch_size: int, trials: int) -> list[TrialResult]:
    answer = paretune(
        "search", TINY, "--home", str(home), "--backend", "eager,onnxruntime", "--batch-size", str(batch_size),
        "--threads", "1", "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", str(trials),
        "--name", "again", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    return _trials(home, "again")


def _trials(home: Path, name: str) -> list[TrialResult]:
    listed = paretune("trials", name, "--home", str(home), "--json").json["trials"]
    return [TrialResult.model_validate(trial) for trial in listed]


@pytest.fixture(scope="module")
def first(tiny_search: Finished) -> list[Stage]:
    return stages_of(_trials(tiny_search.home, "tiny"))


def test_a_search_at_another_batch_size_recovers_and_quantizes_nothing_again(
    tiny_search: Finished, first: list[Stage], tmp_path: Path
) -> None:
    shutil.copytree(tiny_search.home / "cache", tmp_path / "cache")

    later = stages_of(_search(tmp_path, 2, 6))

    assert run_again(first, later) == []
    assert any(stage.name == "quantize" and stage.cached for stage in later)
    assert any(stage.name == "build" and not stage.cached for stage in later)  # a bundle is for its batch size


def test_the_same_search_again_is_answered_whole(tiny_search: Finished, tmp_path: Path) -> None:
    shutil.copytree(tiny_search.home, tmp_path / "home")

    trials = _search(tmp_path / "home", 4, 9)

    assert share(stages_of(trials)) >= 0.95
    assert sum(trial.answered_by is not None for trial in trials) >= 8
