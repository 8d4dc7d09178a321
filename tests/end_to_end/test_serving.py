"""The day of a user by commands only: search, promote, serve, roll back, and serve what was before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from benchmarks.served import in_turn, payload
from evaluators.batching import as_arrays
from scripts.serving import asked, mlflow_serving
from search.mlflow_store import store_uri
from tests.conftest import Finished, paretune
from tests.tiny import workload

TOLERANCE = 1e-5
"""Largest difference between what is served and the bundle's own answer, relative to the largest answer; JSON keeps
every digit of a float32."""


def command(home: Path, *arguments: str) -> dict[str, Any]:
    """Run a command, which must end well, and return what it prints."""
    answer = paretune(*arguments, "--home", str(home), "--json")
    assert answer.code == 0, f"{arguments}: {answer.stdout} {answer.stderr}"
    return answer.json


def bundle_answers(home: Path, bundle: str, images: np.ndarray, scratch: Path) -> np.ndarray:
    """Return what a bundle answers, by its own command."""
    np.savez(scratch / "in.npz", input=images)
    command(home, "bundle", "run", bundle, "--input", str(scratch / "in.npz"), "--output", str(scratch / "out.npz"))
    with np.load(scratch / "out.npz") as found:
        (name,) = found.files
        return np.asarray(found[name])


def difference(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def test_from_a_search_to_a_served_model_and_back(
    tiny_search: Finished, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    home = tiny_search.home  # paretune search … --name tiny --json
    trials = [trial for trial in command(home, "trials", "tiny")["trials"]
              if trial["feasible"] and trial["candidate"]["backend"] == "onnxruntime"
              and trial["candidate"]["pruning"]["structure"] == "none"]  # fmt: skip
    before = next(trial for trial in trials if trial["candidate"]["quantization"]["scheme"] == "fp32")
    after = next(trial for trial in trials if trial["candidate"]["quantization"]["scheme"] != "fp32")
    images = as_arrays(workload.validation().tensors[0][:10])["input"]
    first, second = (bundle_answers(home, f"tiny:{trial['number']}", images, tmp_path) for trial in (before, after))
    assert difference(second, first) > 1e-3, "the two can be told apart"

    def served() -> np.ndarray:
        with mlflow_serving("models:/tiny@served", tmp_path / "serve.log", store_uri(home)) as url:
            answer = np.array(asked(f"{url}/invocations", {"inputs": images.tolist()})["predictions"], np.float32)
            (times,) = in_turn([url], payload({"input": images[:4]}, "tensor"), 30)
            record_property("served_p95_ms", float(np.percentile(times, 95)))
        return answer

    promoted = [
        command(home, "promote", "tiny", "--trial", str(trial["number"]), "--as", "tiny@served")
        for trial in (before, after)
    ]
    assert [answer["version"] for answer in promoted] == [1, 2]
    record_property("budget_ms", tiny_search.result["constraints"][0]["max"])
    assert difference(served(), second) <= TOLERANCE

    exported = command(home, "export", "tiny@served", "--format", "container", "-o", str(tmp_path / "container"))
    assert (exported["evidence"], exported["digest"]) == ("certified", promoted[1]["digest"])
    assert (tmp_path / "container" / "example.npz").exists(), "real inputs of the workload go along"

    assert command(home, "rollback", "tiny@served")["version"] == 1
    assert difference(served(), first) <= TOLERANCE


def test_a_search_is_exported_by_its_best_or_by_number(tiny_search: Finished, tmp_path: Path) -> None:
    home, best = tiny_search.home, tiny_search.result["best"]
    report = command(home, "export", "tiny", "--format", "bundle", "-o", str(tmp_path / "best"))
    assert (report["label"], report["evidence"]) == (best["label"], "measured")
    other = next(trial for trial in command(home, "trials", "tiny")["trials"] if trial["number"] != best["number"]
                 and trial["candidate"]["backend"] == "onnxruntime" and trial["bundle"])  # fmt: skip
    one, same = (
        command(home, "export", *named, "--format", "onnx", "-o", str(tmp_path / f"onnx{index}"))
        for index, named in enumerate((("tiny", "--trial", str(other["number"])), (f"tiny/{other['number']}",)))
    )
    assert one["digest"] == same["digest"] and one["label"] == other["label"]

    study = command(home, "export", "tiny", "--format", "optuna", "-o", str(tmp_path / "study"))
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{tmp_path / 'study' / 'study.db'}")
    told = optuna.load_study(study_name="tiny", storage=f"sqlite:///{tmp_path / 'study' / 'study.db'}")
    assert (summary.study_name, study["label"], len(told.trials)) == (
        "tiny",
        "tiny",
        tiny_search.result["trials"]["total"],
    )
    (same,) = (trial for trial in told.trials if trial.user_attrs["number"] == best["number"])
    assert same.values == [-best["throughput_per_s"], best["accuracy"]] and same.user_attrs["feasible"]
    assert same.params["backend"] == best["candidate"]["backend"]

    missing = paretune(
        "export", "tiny", "--trial", "999", "--format", "onnx", "-o", str(tmp_path / "no"), "--home", str(home)
    )
    assert missing.code == 2 and "no bundle of a trial 999" in missing.stderr
    never = paretune("export", "tiny@champion", "--format", "onnx", "-o", str(tmp_path / "no"), "--home", str(home))
    assert never.code == 2 and "there is no tiny@champion" in never.stderr and not (tmp_path / "no").exists()


@pytest.mark.parametrize("text", ["soon", "-1ms", ""])
def test_a_window_that_is_no_duration_is_bad_usage(text: str, tmp_path: Path) -> None:
    answer = paretune("export", str(tmp_path), "--format", "mlserver", "-o", str(tmp_path / "no"), "--window", text)
    assert answer.code == 2 and "--window" in answer.stderr
