"""Whole searches as users run them: result, report, MLflow, bundles, resume, impossible limits, missing runtimes."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY, Finished, command, paretune

TRIAL_FIELDS = {
    "number", "candidate", "outcome", "reason", "latency_ms", "throughput_per_s", "accuracy", "accuracy_drop",
    "size_bytes", "peak_memory_bytes", "stage_seconds", "bundle", "mlflow_run_id",
}  # fmt: skip


def test_a_search_finds_a_feasible_model_and_answers_in_the_agreed_shape(tiny_search: Finished) -> None:
    result = tiny_search.result
    assert (result["schema_version"], result["status"], result["name"]) == (1, "feasible", "tiny")
    assert {"baseline", "best_float", "best", "nearest", "front", "constraints", "elapsed_s", "targets"} <= set(result)
    counts = result["trials"]
    assert counts["total"] == 9 == sum(counts[kind] for kind in ("measured", "rejected", "failed", "cached"))
    best = result["best"]
    assert set(best) >= TRIAL_FIELDS
    assert {"target", "backend", "quantization", "pruning", "batch_size", "runtime"} == set(best["candidate"])
    assert best["latency_ms"]["ci95"][0] <= best["latency_ms"]["p95"] <= best["latency_ms"]["ci95"][1]
    baseline = result["baseline"]["candidate"]
    assert (baseline["backend"], baseline["quantization"]["scheme"], baseline["batch_size"]) == ("eager", "fp32", 4)
    assert 0 <= result["overhead"]["share"] <= 1


def test_every_trial_is_listed_with_the_stages_it_went_through(tiny_search: Finished) -> None:
    listed = paretune("trials", "tiny", "--home", str(tiny_search.home), "--json").json
    assert [trial["number"] for trial in listed["trials"]] == list(range(9))
    measured = [trial for trial in listed["trials"] if trial["outcome"] == "measured"]
    for trial in measured:
        assert {"prune", "quantize", "build", "parity", "latency", "accuracy"} <= set(trial["stage_seconds"])
        assert trial["mlflow_run_id"]
    front = paretune("front", "latest", "--home", str(tiny_search.home), "--json").json["front"]
    assert {trial["number"] for trial in front} <= {trial["number"] for trial in measured}


def test_the_report_is_one_file_that_needs_no_network(tiny_search: Finished) -> None:
    text = Path(tiny_search.result["report"]).read_text()
    assert "plotly" in text.lower()
    assert "<script src=" not in text and '<link rel="stylesheet"' not in text
    assert tiny_search.result["best"]["candidate"]["backend"] in text


def test_the_bundle_that_was_measured_runs_and_a_logged_model_answers_the_same(tiny_search: Finished) -> None:
    script = """
import json, sys, numpy as np, mlflow
from pathlib import Path
from evaluators.batching import run_in_batches
from evaluators.bundle import read_manifest
from evaluators.registry import backend
home, bundle, run_id = sys.argv[1:]
mlflow.set_tracking_uri(f"sqlite:///{home}/mlflow.db")
found = mlflow.search_logged_models(filter_string=f"source_run_id = '{run_id}'", output_format="list",
                                    experiment_ids=[e.experiment_id for e in mlflow.search_experiments()])
model = mlflow.pyfunc.load_model(found[0].model_uri)
manifest = read_manifest(Path(bundle))
x = np.random.default_rng(0).normal(size=(6, 1, 12, 12)).astype(np.float32)
direct = run_in_batches(backend(manifest.candidate.backend).load(Path(bundle), manifest), {"input": x}, 4)[0]
served = model.predict(x)
served = served if isinstance(served, np.ndarray) else np.asarray(list(served.values())[0])
print(json.dumps({"equal": bool(np.array_equal(direct, served)), "rows": len(served)}))
"""
    best = tiny_search.result["best"]
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tiny_search.home), best["bundle"], best["mlflow_run_id"]],
        capture_output=True, text=True, cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {"equal": True, "rows": 6}


def test_the_same_search_again_is_answered_from_the_ledger(tiny_search: Finished) -> None:
    again = paretune(
        "search", TINY, "--home", str(tiny_search.home), "--backend", "eager,onnxruntime", "--batch-size", "4",
        "--threads", "1", "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", "9", "--json",
    )  # fmt: skip
    assert again.code == 0
    first, second = (paretune("trials", name, "--home", str(tiny_search.home), "--json").json["trials"]
                     for name in (tiny_search.result["search"], again.json["search"]))  # fmt: skip
    known = {json.dumps(trial["candidate"]): trial for trial in first if trial["outcome"] == "measured"}
    repeated = [trial for trial in second if json.dumps(trial["candidate"]) in known]
    assert len(repeated) >= 5, "the opening at least is the same; what follows depends on the final comparison too"
    assert all(trial["answered_by"] for trial in repeated)
    assert [trial["accuracy"] for trial in repeated] == [
        known[json.dumps(trial["candidate"])]["accuracy"] for trial in repeated
    ]


def test_an_impossible_budget_says_what_the_limits_would_have_to_be(tiny_search: Finished) -> None:
    answer = paretune(
        "search", TINY, "--home", str(tiny_search.home), "--backend", "onnxruntime", "--batch-size", "4",
        "--threads", "1", "--latency-budget", "1us", "--trials", "4", "--json",
    )  # fmt: skip
    assert answer.code == 4
    result = answer.json
    assert (result["status"], result["best"], result["front"]) == ("infeasible", None, [])
    assert result["nearest"]
    relaxed = result["relaxations"][0]
    clean = result["nearest"][0]["latency_ms"]["clean"]
    assert relaxed["unknown"] == ([] if clean else ["latency_p95_ms"])
    assert not clean or relaxed["limits"]["latency_p95_ms"] > 0.001


def test_a_trial_runs_again_in_the_foreground(tiny_search: Finished) -> None:
    number = str(tiny_search.result["best"]["number"])
    again = paretune("reproduce", "tiny", number, "--home", str(tiny_search.home), "--json")
    trial = again.json["trial"]
    assert trial["outcome"] == "measured", again.stderr
    assert again.code == (0 if trial["feasible"] else 4)
    assert trial["feasible"] or not trial["latency_ms"]["clean"], "nothing but other programs may make it undecided"
    assert trial["accuracy"] == tiny_search.result["best"]["accuracy"]


def test_a_machine_without_a_runtime_searches_without_it_and_says_so(tmp_path: Path) -> None:
    hidden = tmp_path / "site"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'openvino':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
    )
    answer = paretune(
        "search", TINY, "--home", str(tmp_path / "home"), "--trials", "2", "--batch-size", "1", "--threads", "1",
        "--json", env={"PYTHONPATH": f"{hidden}:{ROOT}"},
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    assert any("openvino is not installed: pip install 'paretune[openvino]'" in note for note in answer.json["notes"])


def test_a_search_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    settings = ["--backend", "eager,onnxruntime", "--batch-size", "1,2,4", "--threads", "1", "--trials", "12"]
    begin = ["search", TINY, "--home", str(tmp_path), "--name", "killed", "--max-accuracy-drop", "1", *settings]
    kills = random.Random(7)  # noqa: S311
    arguments = begin
    for _ in range(5):
        process = subprocess.Popen(
            command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        _wait_for_search(tmp_path)
        time.sleep(kills.uniform(0.2, 6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        arguments = ["resume", "killed", "--home", str(tmp_path)]
    answer = paretune("resume", "killed", "--home", str(tmp_path), "--json")
    assert answer.code == 0, answer.stderr
    trials = paretune("trials", "killed", "--home", str(tmp_path), "--json").json["trials"]
    assert [trial["number"] for trial in trials] == list(range(12))
    unsupported = [trial for trial in trials if trial["failure_kind"] == "unsupported"]  # of the candidate, not lost
    assert all(trial["outcome"] in ("measured", "rejected") for trial in trials if trial not in unsupported), trials
    assert len(unsupported) <= 3, trials
    assert len({json.dumps(trial["candidate"], sort_keys=True) for trial in trials}) == 12
    runs = _mlflow_runs_by_trial(tmp_path)
    assert sorted(runs) == list(range(12))
    assert all(count == 1 for count in runs.values()), runs


def _wait_for_search(home: Path) -> None:
    """Wait until the search is in the ledger: before that there is nothing to resume."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with sqlite3.connect(f"file:{home / 'ledger.db'}?mode=ro", uri=True) as ledger:
                if ledger.execute("select count(*) from searches").fetchone()[0]:
                    return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.05)
    raise AssertionError("the search never reached the ledger")


def _mlflow_runs_by_trial(home: Path) -> dict[int, int]:
    with sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True) as store:
        rows = store.execute(
            "select tags.value from tags join runs using (run_uuid) "
            "where tags.key = 'paretune.trial' and runs.lifecycle_stage = 'active'"
        ).fetchall()
    counts: dict[int, int] = {}
    for (value,) in rows:
        number = int(value.rpartition("/")[2])
        counts[number] = counts.get(number, 0) + 1
    return counts


def test_ctrl_c_ends_with_what_was_found_and_can_be_resumed(tmp_path: Path) -> None:
    begin = ["search", TINY, "--home", str(tmp_path), "--backend", "eager", "--trials", "500", "--json"]
    process = subprocess.Popen(
        command(*begin), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    _wait_for_search(tmp_path)
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["status"] == "interrupted"
    listed = paretune("trials", "latest", "--home", str(tmp_path), "--json").json["trials"]
    assert all(trial["outcome"] != "running" for trial in listed)


def test_python_and_command_line_answer_with_the_same_object(tiny_search: Finished) -> None:
    import search

    result = search.run(TINY, home=tiny_search.home, backend=["eager", "onnxruntime"], batch_size=[4], threads=1,
                        latency_budget_ms=1000, max_accuracy_drop=0.2, trials=4, max_foreign_load=1000)  # fmt: skip
    assert set(result.to_json()) == set(tiny_search.result)
    assert result.status == "feasible"


@pytest.mark.parametrize("timeout_s", [30])
def test_the_timeout_holds(tmp_path: Path, timeout_s: int) -> None:
    begun = time.monotonic()
    answer = paretune("search", TINY, "--home", str(tmp_path), "--backend", "eager", "--trials", "1000",
                      "--timeout", f"{timeout_s}s", "--json")  # fmt: skip
    assert answer.code in (0, 4), answer.stderr  # 4: a loaded machine may take all of the time to read the workload
    assert answer.json["trials"]["total"] < 1000
    assert time.monotonic() - begun < timeout_s + 45


def test_a_trial_of_this_home_is_run_and_scored_by_its_number(tiny_search: Finished) -> None:
    # The baseline is eager: it runs the workload's code, which a bundle of one's own home may do.
    reference = f"tiny:{tiny_search.result['baseline']['number']}"
    ran = paretune("bundle", "run", reference, "--home", str(tiny_search.home), "--workload", TINY, "--json")
    assert ran.code == 0, ran.stderr
    assert ran.json["agreement"] == 1.0 and ran.json["score"] == ran.json["original_score"]
