"""MLflow shows what the ledger says: found by tags, never doubled, and its failures have one type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.errors import InfrastructureError, IntegrityError, TargetMismatchError, UsageError
from evaluators.outcome import Failure, FailureKind
from search.browse import Browsed
from search.mlflow_store import DATABASE, mlflow_fails_as, open_client, store_uri
from search.result import SearchResult
from search.saved_views import SAVED, VIEWS, tag_of
from search.tracked_search import trials_table
from search.tracked_trial import clipped, metrics_of, params_of, tags_of, trials_csv
from search.tracking import Tracking
from tests.search.bundles import WEIGHTS, a_bundle, a_bundle_of_two
from tests.search.factories import a_candidate, a_profile, a_search, a_spec, a_target, a_trial

Started = Callable[[], tuple[Tracking, str]]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all tests, in a folder with a space; searches keep them apart."""
    folder = tmp_path_factory.mktemp("home with space")
    open_client(folder)
    return folder


@pytest.fixture
def client(home: Path) -> Any:
    return open_client(home)


@pytest.fixture
def started(home: Path) -> Started:
    """Start a search of its own and return its tracking and its id."""

    def start() -> tuple[Tracking, str]:
        search = uuid.uuid4().hex[:8]
        return _go_on(home, search), search

    return start


def _go_on(home: Path, search: str) -> Tracking:
    tracking = Tracking(home)
    tracking.open()
    tracking.start_search(search, "fashion-cpu", a_spec(), a_profile(), (a_target(),))
    return tracking


def _runs(client: Any, condition: str) -> list[Any]:
    experiment = client.get_experiment_by_name(a_profile().name)
    return list(client.search_runs([experiment.experiment_id], condition, max_results=1000))


def _result(search: str, count: int = 12, **changes: Any) -> tuple[SearchResult, list[Any]]:
    result, trials = a_search(count)
    return result.model_copy(update={"search": search, **changes}), trials


def test_runs_are_found_by_the_tags_of_their_trials(started: Started, client: Any) -> None:
    tracking, search = started()
    _, trials = a_search(12)
    for trial in trials:
        tracking.log_trial(trial)
    mine = f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'trial'"
    assert len(_runs(client, mine)) == len(trials)
    for backend in {trial.candidate.backend for trial in trials}:
        found = _runs(client, f"{mine} and tags.`paretune.backend` = '{backend}'")
        assert {run.data.tags["paretune.number"] for run in found} == {
            str(trial.number) for trial in trials if trial.candidate.backend == backend
        }
    fast = _runs(client, f"{mine} and tags.`paretune.feasible` = 'true' and metrics.`latency/p95_ms` < 0.5")
    assert len(fast) == sum(trial.feasible and (trial.latency_at("p95") or 9) < 0.5 for trial in trials)


def test_a_run_holds_the_whole_trial(started: Started, client: Any) -> None:
    tracking, search = started()
    trial = a_trial(3, a_candidate("onnxruntime", "static_int8", "channel", activations="uint8"))
    run = client.get_run(tracking.log_trial(trial))
    assert run.info.run_name == trial.label and run.info.status == "FINISHED"
    assert run.data.metrics == pytest.approx(metrics_of(trial))
    assert run.data.metrics["latency/ci95_low_ms"] < run.data.metrics["latency/p95_ms"]
    assert run.data.params["quantization.activations"] == "uint8" and run.data.params["pruning.amount"] == "0.5"
    assert run.data.tags["paretune.trial"] == f"{search}/3"
    assert "paretune reproduce" in run.data.tags["mlflow.note.content"]
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.tags["paretune.kind"] == "search" and parent.data.params["latency_budget_ms"] == "2.0"


def test_runs_are_found_by_their_verdicts(started: Started, client: Any) -> None:
    tracking, search = started()
    failure = Failure(kind=FailureKind.CRASHED, stage="latency", reason="segmentation fault")
    trials = [a_trial(0), a_trial(1, accuracy=0.914), a_trial(2, accuracy=0.9), a_trial(3, clean=False)]
    for trial in (*trials, a_trial(4, failure=failure)):
        tracking.log_trial(trial)
    for verdict, numbers in {"pass": {"0"}, "undecided": {"1", "3"}, "fail": {"2"}}.items():
        found = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.verdict` = '{verdict}'")
        assert {run.data.tags["paretune.number"] for run in found} == numbers
    by_number = {
        run.data.tags["paretune.number"]: run.data
        for run in _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'trial'")
    }
    assert by_number["1"].tags["paretune.verdict.accuracy_drop"] == "undecided"
    assert by_number["1"].tags["paretune.verdict.latency_p95_ms"] == "pass"
    assert by_number["3"].tags["paretune.clean"] == "false"
    assert "paretune.verdict" not in by_number["4"].tags
    assert by_number["0"].metrics["latency/speedup"] == 2.0
    assert "0.90 pp drop (0.70 to 1.10 pp)" in by_number["1"].tags["mlflow.note.content"]


def test_logging_a_trial_twice_changes_nothing_even_in_another_session(
    started: Started, client: Any, home: Path
) -> None:
    tracking, search = started()
    trial = a_trial(1)
    first = tracking.log_trial(trial)
    before = client.get_metric_history(first, "latency/p95_ms")
    again = _go_on(home, search)
    assert tracking.log_trial(trial) == again.log_trial(trial) == first
    assert len(_runs(client, f"tags.`paretune.search` = '{search}'")) == 2
    assert len(client.get_metric_history(first, "latency/p95_ms")) == len(before) == 1


def test_a_trial_that_ran_again_shows_its_latest_outcome(started: Started, client: Any) -> None:
    tracking, _ = started()
    candidate = a_candidate("openvino")
    run = tracking.log_trial(a_trial(1, candidate, p50=9.0, accuracy=None))
    tracking.log_trial(a_trial(1, candidate, p50=8.0, accuracy=0.9, gates=False))
    data = client.get_run(run).data
    assert data.tags["paretune.outcome"] == "measured"
    assert data.metrics["latency/p50_ms"] == 8.0 and data.metrics["quality/accuracy"] == 0.9


def test_a_failed_trial_is_a_failed_run_that_says_why(started: Started, client: Any) -> None:
    tracking, search = started()
    failure = Failure(kind=FailureKind.OUT_OF_MEMORY, stage="build", reason="killed at 2 GB " + "x" * 9000)
    run = client.get_run(tracking.log_trial(a_trial(4, failure=failure)))
    assert run.info.status == "FAILED"
    assert run.data.tags["paretune.failure_kind"] == "out_of_memory"
    assert run.data.tags["paretune.reason"].startswith("out_of_memory: killed at 2 GB")
    assert len(_runs(client, f"tags.`paretune.search` = '{search}' and attributes.status = 'FAILED'")) == 1


def test_the_front_moves_only_the_tags_that_change(started: Started, client: Any, home: Path) -> None:
    tracking, search = started()
    for number in range(4):
        tracking.log_trial(a_trial(number, pareto=number in (0, 1)))
    tracking.update_pareto({0, 1}, {1, 2, 99})
    front = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.pareto` = 'true'")
    assert {run.data.tags["paretune.number"] for run in front} == {"1", "2"}
    _go_on(home, search).update_pareto(set(), {3})
    front = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.pareto` = 'true'")
    assert {run.data.tags["paretune.number"] for run in front} == {"3"}


def test_a_finished_search_carries_its_report_and_numbers(started: Started, client: Any, tmp_path: Path) -> None:
    tracking, search = started()
    result, trials = _result(search)
    for trial in trials:
        tracking.log_trial(trial)
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    assert result.best is not None
    result = result.model_copy(update={"front": (), "best": result.best.model_copy(update={"bundle": None})})
    for _ in range(2):
        tracking.finish_search(result, trials, a_profile(), report)
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    assert parent.info.status == "FINISHED" and parent.data.tags["paretune.status"] == "feasible"
    assert parent.data.metrics["search/speedup"] == pytest.approx(result.speedup)
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert names == {
        "spec.json", "environment.json", "result.json", "trials.csv", "trials.json", "front.html", "story.html",
        "report.html",
    }  # fmt: skip
    interrupted = result.model_copy(update={"status": "interrupted"})
    tracking.finish_search(interrupted, trials, a_profile(), report)
    assert client.get_run(parent.info.run_id).info.status == "KILLED"


def test_a_logged_model_serves_any_number_of_rows_from_the_measured_bundle(
    started: Started, client: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("PARETUNE_ALLOW_OTHER_TARGET", "1")  # it was built for no machine at all
    tracking, search = started()
    manifest = a_bundle(tmp_path / "bundle", batch_size=4)
    trial = a_trial(1, manifest.candidate).model_copy(update={"bundle": str(tmp_path / "bundle")})
    result, _ = _result(search, best=trial, front=(trial,))
    run = tracking.log_trial(trial)
    rows = np.random.default_rng(0).random((11, 4), dtype=np.float32)
    np.savez(tmp_path / "example.npz", input=rows)
    for _ in range(2):
        tracking.finish_search(result, [trial], a_profile(), example=tmp_path / "example.npz")
    model = client.get_logged_model(tracking.model_ids[1])
    assert model.source_run_id == run and str(model.status) == "READY"
    assert model.tags["paretune.bundle"] == manifest.digest and model.tags["paretune.best"] == "true"
    assert len(client.get_run(run).outputs.model_outputs) == 1
    assert {metric.key for metric in model.metrics} == set(metrics_of(trial))
    mlflow.set_tracking_uri(store_uri(home))
    served = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    for count in (1, 4, 11):
        np.testing.assert_allclose(served.predict(rows[:count]), rows[:count] @ WEIGHTS, rtol=1e-5)
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 4)


def test_a_model_of_named_inputs_takes_and_returns_arrays_by_name(
    started: Started, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    tracking, search = started()
    manifest = a_bundle_of_two(tmp_path / "bundle", batch_size=2)
    trial = a_trial(1, manifest.candidate).model_copy(update={"bundle": str(tmp_path / "bundle")})
    result, _ = _result(search, front=(trial,))
    tracking.log_trial(trial)
    tracking.finish_search(result, [trial], a_profile())
    mlflow.set_tracking_uri(store_uri(home))
    with pytest.raises(TargetMismatchError, match="was built for"):
        mlflow.pyfunc.load_model(f"models:/{tracking.model_ids[1]}")
    monkeypatch.setenv("PARETUNE_ALLOW_OTHER_TARGET", "1")
    served = mlflow.pyfunc.load_model(f"models:/{tracking.model_ids[1]}")
    left, right = np.full((3, 2), 2, np.float32), np.full((3, 2), 5, np.float32)
    answer = served.predict({"left": left, "right": right})
    np.testing.assert_allclose(answer["sum"], left + right)
    np.testing.assert_allclose(answer["product"], left * right)


def test_one_broken_bundle_is_reported_and_the_others_are_logged(started: Started, client: Any, tmp_path: Path) -> None:
    tracking, search = started()
    trials = []
    for number in (1, 2):
        manifest = a_bundle(tmp_path / str(number), batch_size=number)
        trials.append(a_trial(number, manifest.candidate).model_copy(update={"bundle": str(tmp_path / str(number))}))
        tracking.log_trial(trials[-1])
    (tmp_path / "1" / "model.onnx").write_bytes(b"altered")
    result, _ = _result(search, front=tuple(trials))
    with pytest.raises(IntegrityError, match="altered"):
        tracking.finish_search(result, trials, a_profile())
    assert set(tracking.model_ids) == {2}
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    assert parent.info.status == "FINISHED"


def test_a_model_that_left_the_front_is_marked(started: Started, client: Any, tmp_path: Path) -> None:
    tracking, search = started()
    manifest = a_bundle(tmp_path / "bundle")
    trial = a_trial(1, manifest.candidate).model_copy(update={"bundle": str(tmp_path / "bundle")})
    tracking.log_trial(trial)
    result, _ = _result(search, best=trial, front=(trial,))
    tracking.finish_search(result, [trial], a_profile())
    model = tracking.model_ids[1]
    tracking.finish_search(result.model_copy(update={"front": ()}), [trial], a_profile())
    assert client.get_logged_model(model).tags["paretune.pareto"] == "false"


def test_whatever_mlflow_raises_becomes_one_error(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("this is no database")
    with pytest.raises(InfrastructureError, match="MLflow failed to open"):
        Tracking(tmp_path).open()
    with pytest.raises(InfrastructureError, match="call open"):
        Tracking(tmp_path).start_search("1", "n", a_spec(), a_profile(), (a_target(),))
    with pytest.raises(InfrastructureError, match="log trial 3: boom"), mlflow_fails_as("log trial 3"):
        raise RuntimeError("\nboom\nmore")


def test_two_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    code = "import sys, pathlib; from search.mlflow_store import open_client"
    code += "; print(len(open_client(pathlib.Path(sys.argv[1])).search_experiments()))"
    settings: dict[str, Any] = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "PYTHONWARNINGS": "ignore"}}
    settings |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], **settings) for _ in range(2)]
    for process in both:
        stdout, stderr = process.communicate(timeout=60)
        assert (process.returncode, stdout.strip(), stderr) == (0, "1", "")
    assert {path.name for path in tmp_path.iterdir()} <= {
        DATABASE,
        f"{DATABASE}.lock",
        f"{DATABASE}-wal",
        f"{DATABASE}-shm",
    }


def test_runs_name_the_data_that_they_used(started: Started, client: Any) -> None:
    tracking, search = started()
    pruned = a_trial(1, a_candidate("openvino", structure="channel"))
    unscored = a_trial(2, p50=9.0, accuracy=None)
    used = {trial.number: _data(client.get_run(tracking.log_trial(trial))) for trial in (pruned, unscored)}
    assert used == {1: {"validation"}, 2: set()}  # the profile has no digest of train
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    assert _data(parent) == {"calibration", "validation"}
    digests = {entry.dataset.name: entry.dataset.digest for entry in parent.inputs.dataset_inputs}
    assert digests["fashion-mnist-resnet8-validation"] == a_profile().data_digests["validation"][:32]


def _data(run: Any) -> set[str]:
    return {tag.value for entry in run.inputs.dataset_inputs for tag in entry.tags}


def test_a_search_that_goes_on_is_shown_by_curves_that_no_session_repeats(
    started: Started, client: Any, home: Path
) -> None:
    tracking, search = started()
    result, trials = _result(search, 12)
    for known in (4, 5):
        tracking.show_progress(result, trials[:known])
    again = _go_on(home, search)
    again.show_progress(result, trials[:5])
    again.show_progress(result, trials)
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    steps = [point.step for point in client.get_metric_history(parent.info.run_id, "progress/trials")]
    assert steps == list(range(1, len(trials) + 1))
    assert parent.data.tags["paretune.status"] == "running"
    assert parent.data.tags["paretune.best"] == str(result.best and result.best.number)
    again.finish_search(result.model_copy(update={"front": ()}), trials, a_profile())
    volumes = client.get_metric_history(parent.info.run_id, "progress/hypervolume")
    assert len(volumes) == len(trials) and volumes[-1].value > 0


def test_a_trial_that_ran_again_moves_the_end_of_the_curves(started: Started, client: Any) -> None:
    tracking, search = started()
    result, _ = _result(search)
    before = [a_trial(0, a_candidate()), a_trial(1, a_candidate("openvino"), p50=0.2, accuracy=0.9)]
    tracking.show_progress(result, before)
    tracking.show_progress(result, [before[0], a_trial(1, a_candidate("openvino"), p50=0.2, accuracy=0.922)])
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    assert parent.data.metrics["progress/trials"] == 2 and parent.data.metrics["progress/feasible"] == 2


def test_the_note_of_a_search_leads_on(started: Started, client: Any) -> None:
    tracking, search = started()
    result, trials = _result(search)
    for trial in trials:
        tracking.log_trial(trial)
    with suppress(IntegrityError):  # the bundles of made up trials are not there
        tracking.finish_search(result, trials, a_profile())
    (parent,) = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.kind` = 'search'")
    note = parent.data.tags["mlflow.note.content"]
    assert f"viewStateShareKey={search}-front" in note and f"promote {search} --as" in note
    assert "What each factor is worth" in note and parent.data.metrics["worth/total"] > 1
    table = json.loads(parent.data.tags["mlflow.loggedArtifacts"])
    assert table == [{"path": "trials.json", "type": "table"}]
    assert "paretune promote" in _note(client, search, "true") and "promote" not in _note(client, search, "false")


def _note(client: Any, search: str, feasible: str) -> str:
    runs = _runs(client, f"tags.`paretune.search` = '{search}' and tags.`paretune.feasible` = '{feasible}'")
    return str(runs[0].data.tags["mlflow.note.content"])


def test_the_table_has_a_value_or_nothing_for_every_column_of_every_trial() -> None:
    _, trials = a_search(20)
    table = json.loads(trials_table(trials))
    assert len(table["data"]) == len(trials) and {len(row) for row in table["data"]} == {len(table["columns"])}
    assert table["columns"][:2] == ["number", "label"]


def test_views_lead_to_the_runs_that_they_name(started: Started, client: Any) -> None:
    tracking, search = started()
    result, trials = _result(search)
    for trial in trials:
        tracking.log_trial(trial)
    tracking.show_progress(result, trials)
    experiment = client.get_experiment_by_name(a_profile().name)
    browsed = Browsed(client, experiment.experiment_id, search)
    addresses = {view: browsed.address(view, a_spec()) for view in VIEWS}
    front = {tracking.run_ids[trial.number] for trial in trials if trial.pareto}
    assert {run for run in tracking.run_ids.values() if run in addresses["compare"]} == front
    assert result.best is not None and f"/runs/{tracking.run_ids[result.best.number]}?" in addresses["best"]
    for view in SAVED:
        assert addresses[view].endswith(f"viewStateShareKey={search}-{view}")
        state = json.loads(client.get_experiment(experiment.experiment_id).tags[tag_of(search, view)])
        assert {run.info.run_id for run in _runs(client, state["searchFilter"])} == (
            front if view == "front" else set(tracking.run_ids.values())
        )


@pytest.mark.parametrize(("view", "message"), [("best", "no feasible trial"), ("compare", "nothing to compare")])
def test_a_view_with_nothing_to_show_is_refused(started: Started, client: Any, view: str, message: str) -> None:
    _, search = started()
    experiment = client.get_experiment_by_name(a_profile().name)
    with pytest.raises(UsageError, match=message):
        Browsed(client, experiment.experiment_id, search).address(view, a_spec())


def test_keys_and_tags_hold_what_third_parties_name_as_they_like() -> None:
    trial = a_trial(1, a_candidate("mine", "odd", **{"a:b{c}": "x" * 7000}))
    trial = trial.model_copy(update={"stage_seconds": {"my stage: 1 %": 0.5}, "training_seconds": {"recover": 72.5}})
    assert "stage/my stage_ 1 __s" in metrics_of(trial)
    assert metrics_of(trial)["cost/training_recover_s"] == 72.5
    assert "quantization.a_b_c_" in params_of(trial.candidate)
    assert all(len(value) <= 5000 for value in tags_of(trial, "s").values())
    assert clipped("short") == "short"


def test_the_csv_has_a_row_for_every_trial_and_a_column_for_every_fact() -> None:
    import csv
    import io

    _, trials = a_search(20)
    rows = list(csv.DictReader(io.StringIO(trials_csv(trials))))
    assert [int(row["number"]) for row in rows] == [trial.number for trial in trials]
    assert rows[0]["latency/p50_ms"] and json.loads(rows[0]["batch_size"]) == 1
    assert trials_csv([]) == "number\n"


def test_the_notes_say_who_is_on_the_front_in_the_end(started: Started, client: Any) -> None:
    tracking, search = started()
    runs = [tracking.log_trial(a_trial(number, pareto=number == 0)) for number in range(3)]
    result, _ = _result(search, front=())
    tracking.finish_search(result, [a_trial(number, pareto=number == 2) for number in range(3)], a_profile())
    notes = [client.get_run(run).data.tags["mlflow.note.content"] for run in runs]
    assert ["on the front" in note for note in notes] == [False, False, True]
