"""Searches over several targets: two workers, one of them slowed down, and the cheaper one wins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.fleet import part
from scripts.servers import PostgreSql, Redis, wait_until
from tests.conftest import ROOT, TINY, paretune

TIMES_SLOWER = 5
SETTINGS = ("--backend", "onnxruntime", "--batch-size", "4", "--threads", "1", "--latency-budget", "1s",
            "--max-accuracy-drop", "0.2", "--trials", "4")  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def workers(home: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Two worker processes on this machine, under the names of two targets; one is slowed down."""
    started = {
        target: subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.slowed_worker", str(home), target, str(slower)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )
        for target, slower in (("cpu-fast", 1), ("cpu-slow", TIMES_SLOWER))
    }  # fmt: skip
    yield started
    for worker in started.values():
        worker.send_signal(signal.SIGTERM)
    for worker in started.values():
        assert worker.wait(60) == 0


@pytest.mark.parametrize(
    ("fast", "slow", "cheaper"),
    [
        # Dearer by the hour, and five times as fast.
        (0.3, 0.2, "cpu-fast"),
        (0.2 * TIMES_SLOWER * 3, 0.2, "cpu-slow"),
    ],
)
def test_the_target_that_is_cheaper_per_million_inferences_wins(
    workers: dict[str, subprocess.Popen[str]], home: Path, fast: float, slow: float, cheaper: str
) -> None:
    answer = paretune(
        "search", TINY, "--home", str(home), "--target", f"cpu-fast={fast},cpu-slow={slow}", "--timeout", "150s",
        *SETTINGS, "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr + answer.stdout
    result = answer.json
    best = result["best"]
    assert (result["objective"], result["targets"]) == ("cost", ["cpu-fast", "cpu-slow"])
    assert best["candidate"]["target"] == cheaper
    prices = {"cpu-fast": fast, "cpu-slow": slow}
    assert best["cost_per_million"] == pytest.approx(prices[cheaper] / best["throughput_per_s"] / 3600 * 1e6)
    trials = paretune("trials", result["search"], "--home", str(home), "--json").json["trials"]
    costs = {target: min(trial["cost_per_million"] for trial in trials if trial["candidate"]["target"] == target)
             for target in prices}  # fmt: skip
    assert min(costs, key=costs.__getitem__) == cheaper
    assert result["best_float"]["candidate"]["target"] == cheaper


def test_a_search_without_a_worker_says_whom_it_waits_for_and_ends_in_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    answer = paretune("search", TINY, "--home", str(tmp_path), "--target", "cuda-sm90", "--timeout", "5s", "--json")
    assert answer.code == 4
    assert time.monotonic() - begun < 60
    (waited,) = (note for note in answer.json["notes"] if note.startswith("waiting"))
    assert waited.startswith("waiting for cuda-sm90: no worker yet; start one on such a machine: paretune worker")
    assert waited in answer.stderr


def test_a_search_is_left_to_a_fleet_of_real_processes_and_come_back_to(
    postgresql: PostgreSql, broker: Redis, tmp_path: Path
) -> None:
    at = ("--home", str(tmp_path / "home"))
    fleet = (*at, "--fleet", postgresql.new_ledger(), "--broker", broker.url)
    with part("worker", *fleet), part("coordinator", *fleet):
        wait_until(
            lambda: any(each["present"] for each in paretune("fleet", *at, "--json").json.get("workers", ())), 120
        )
        left = paretune("search", TINY, *fleet[:4], "--backend", "eager", "--batch-size", "4", "--threads", "1",
                        "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", "3", "--name", "left",
                        "--detach", "--json")  # fmt: skip
        assert (left.code, left.json["submitted"]) == (0, True), left.stderr
        followed = paretune("resume", "left", *at, "--json")
    assert followed.code == 0, followed.stderr
    assert followed.json["trials"]["total"] == 3 and followed.json["best"]["outcome"] == "measured"
    (state,) = paretune("status", *at, "--json").json["searches"]
    assert (state["search"], state["status"], state["result"]) == (left.json["search"], "finished", followed.json)
    assert paretune("fleet", *at, "--json").json["workers"][0]["present"] is False


def _workers(*at: str) -> list[dict[str, Any]]:
    """Return the workers of a home; none while nobody has joined it."""
    return list(paretune("fleet", *at, "--json").json.get("workers", ()))
