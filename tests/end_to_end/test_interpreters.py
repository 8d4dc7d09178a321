"""A whole search with one backend in an interpreter of its own, which has other versions and none of our code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, Finished, paretune
from tests.interpreters import make_interpreter, programs_of

VERSION = "99.1"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_interpreter(tmp_path_factory.mktemp("environment"), versions={"onnxruntime": VERSION})


@pytest.fixture(scope="module")
def search(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("home")
    config = home / "search.yaml"
    config.write_text(f"home: {home}\nbackends:\n  onnxruntime:\n    python: {python}\n")
    answer = paretune(
        "search", TINY, "--config", str(config), "--backend", "eager,onnxruntime", "--batch-size", "4", "--threads",
        "1", "--latency-budget", "1s", "--max-accuracy-drop", "0.2", "--trials", "2", "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    return Finished(home, answer.json)


@pytest.fixture(scope="module")
def trials(search: Finished) -> dict[str, dict[str, Any]]:
    """The trial of each backend, all of them measured."""
    listed = paretune("trials", "latest", "--home", str(search.home), "--json").json["trials"]
    assert [trial["outcome"] for trial in listed] == ["measured"] * 2, listed
    return {trial["candidate"]["backend"]: trial for trial in listed}


def test_each_bundle_names_the_versions_of_the_interpreter_that_built_it(
    search: Finished, trials: dict[str, dict[str, Any]], python: Path
) -> None:
    built_with = {
        backend: json.loads((Path(trial["bundle"]) / "manifest.json").read_text())["environment"]
        for backend, trial in trials.items()
    }
    assert built_with["onnxruntime"]["onnxruntime"] == VERSION
    assert "onnxruntime" not in built_with["eager"]
    assert any(str(python) in note and VERSION in note for note in search.result["notes"])


def test_jobs_and_the_final_comparison_ran_there(
    search: Finished, trials: dict[str, dict[str, Any]], python: Path
) -> None:
    started = programs_of(python)

    assert {"workers.forkserver", "evaluators.footprint"} <= set(started)
    assert "evaluators.timing.nursery" in started, "bundles are compared in their own interpreter"
    assert not {"evaluators.timing.stand", "workers.child"} & set(started), "the original is timed elsewhere"
    rows = {row["label"].split()[0] for row in search.result["finals"]["rows"]}
    assert "onnxruntime" in rows and "eager" in rows
    ours = trials["onnxruntime"]
    assert ours["speedup"] is not None, "the original was timed beside it"
    assert "prune" in ours["cached_stages"], "the model under trial is that of the other trial"


def test_a_bundle_is_run_and_compared_with_its_own_interpreter(
    search: Finished, trials: dict[str, dict[str, Any]], python: Path
) -> None:
    ours = trials["onnxruntime"]
    named = {"PARETUNE_BACKEND_PYTHON": f"onnxruntime={python}"}
    before = programs_of(python).count("evaluators.run_bundle")

    here = paretune("bundle", "inspect", ours["bundle"], "--home", str(search.home), "--json").json
    there = paretune("bundle", "inspect", ours["bundle"], "--home", str(search.home), "--json", env=named).json
    ran = paretune(
        "bundle", "run", f"latest:{ours['number']}", "--workload", TINY, "--examples", "8", "--home", str(search.home),
        "--json", env=named,
    )  # fmt: skip

    assert "onnxruntime" in here["other_versions"] and not there["other_versions"]
    assert ran.code == 0 and ran.json["rows"] == 8, ran.stderr
    assert programs_of(python).count("evaluators.run_bundle") == before + 1


def test_a_wrong_interpreter_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    home = tmp_path / "home"

    answer = paretune("search", TINY, "--backend-python", f"onnxruntime={os.devnull}", "--home", str(home), "--json")

    assert answer.code == 2 and os.devnull in answer.json["error"]["message"]
    assert not (home / "ledger.db").exists()
