"""A real MLflow server is away, hangs or dies: the search goes on, and in the end every trial has exactly one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from scripts.servers import Mlflow, wait_until
from search import outage
from search.api import resume
from search.mlflow_store import open_client
from search.tracking import Tracking
from search.tracking_server import use_tracking_server
from tests.faults.coordinating import coordinating, submit
from tests.faults.sleeping import SleepingSandbox, capabilities
from tests.search.bundles import a_bundle
from tests.search.factories import a_profile, a_search, a_spec, a_target, a_trial
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.worker import Worker

TRIALS = 8
PATIENCE_SECONDS = 150.0
"""How long anything may take on a machine that is busy with other tests."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    with Mlflow(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def home(server: Mlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose runs are on the server; requests are given up early, and the server is asked for often."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(outage.Outage.__init__, "__defaults__", ((0.2,),))
    use_tracking_server(tmp_path, server.url)
    return tmp_path


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(home)) as opened:
        yield opened


@contextmanager
def working(ledger: Ledger, home: Path) -> Iterator[None]:
    """Run the trials for the block, in a thread."""
    stop = Cancellation()
    worker = Worker(ledger, SleepingSandbox(0.15), home, capabilities(), name="a", device="sleep:a", locks=home)
    thread = Thread(target=worker.run, args=(stop, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


@contextmanager
def paused(server: Mlflow) -> Iterator[None]:
    """Let the server accept requests and answer none for the block."""
    server.pause()
    try:
        yield
    finally:
        server.go_on()


def done(ledger: Ledger, search: SearchRecord) -> int:
    return sum(step[2] == "DONE" for step in ledger.progress(search.id))


def wait_for_end(ledger: Ledger, search: SearchRecord) -> None:
    wait_until(lambda: ledger.search(search.id).status == "finished", PATIENCE_SECONDS)


def runs_of(home: Path, search: SearchRecord) -> list[Any]:
    client = open_client(home)
    (experiment,) = client.search_experiments(filter_string=f"name = '{a_profile().name}'")
    return list(client.search_runs([experiment.experiment_id], f"tags.`paretune.search` = '{search.id}'"))


def every_trial_has_one_run_and_the_search_its_end(ledger: Ledger, home: Path, search: SearchRecord) -> None:
    assert ledger.pending(search.id) == ()
    runs = runs_of(home, search)
    (parent,) = (run for run in runs if run.data.tags["paretune.kind"] == "search")
    assert (parent.info.status, parent.data.tags["paretune.status"]) == ("FINISHED", "feasible")
    trials = {run.data.tags["paretune.trial"]: run for run in runs if run is not parent}
    assert sorted(trials) == [f"{search.id}/{number}" for number in range(TRIALS)] and len(runs) == TRIALS + 1
    for trial in ledger.trials(search.id):
        run = trials[trial.id]
        assert (run.info.run_id, run.info.status) == (trial.view_id, "FINISHED")
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["paretune.outcome"] == "measured" and run.data.metrics["latency/p95_ms"] > 0


def test_a_server_that_hangs_is_told_what_it_missed_while_the_search_goes_on(
    server: Mlflow, ledger: Ledger, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with coordinating(ledger, home, None, mlflow=True):
        search = submit(ledger, TRIALS)
        with working(ledger, home):
            wait_until(lambda: done(ledger, search) >= 1, PATIENCE_SECONDS)
            with paused(server):
                wait_until(lambda: done(ledger, search) >= 3, PATIENCE_SECONDS)
            wait_for_end(ledger, search)
    every_trial_has_one_run_and_the_search_its_end(ledger, home, search)
    said = capsys.readouterr().out
    away, back, last = (said.index(text) for text in ("cannot be reached", "be reached again", f"{TRIALS} in all"))
    assert away < back < last


def test_a_server_that_hangs_all_the_while_is_told_everything_after_the_end(
    server: Mlflow, ledger: Ledger, home: Path
) -> None:
    with coordinating(ledger, home, None, mlflow=True):
        with paused(server), working(ledger, home):
            search = submit(ledger, TRIALS)
            wait_for_end(ledger, search)
            assert len({news.trial_number for news in ledger.pending(search.id)}) == TRIALS + 1
        wait_until(lambda: ledger.pending(search.id) == (), PATIENCE_SECONDS)
    every_trial_has_one_run_and_the_search_its_end(ledger, home, search)


def test_a_server_that_dies_is_told_everything_when_the_ended_search_is_resumed(
    server: Mlflow, ledger: Ledger, home: Path
) -> None:
    with coordinating(ledger, home, None, mlflow=True), working(ledger, home):
        search = submit(ledger, TRIALS)
        wait_until(lambda: done(ledger, search) >= 2, PATIENCE_SECONDS)
        server.kill()
        wait_for_end(ledger, search)
    assert {news.trial_number for news in ledger.pending(search.id)} >= {TRIALS - 1, None}
    server.start()
    resume(search.id, home)
    every_trial_has_one_run_and_the_search_its_end(ledger, home, search)


def test_models_of_the_front_are_stored_on_the_server_and_one_that_was_begun_is_made_anew(
    home: Path, tmp_path: Path
) -> None:
    manifest = a_bundle(tmp_path / "bundle")
    trial = a_trial(1, manifest.candidate).model_copy(update={"bundle": str(tmp_path / "bundle")})
    tracking = Tracking(home)
    tracking.open()
    tracking.start_search("12ab", "models", a_spec(), a_profile(), (a_target(),))
    run = tracking.log_trial(trial)
    client, experiment = tracking._opened, tracking._experiment
    tags = {"paretune.search": "12ab", "paretune.trial": "12ab/1", "paretune.bundle": manifest.digest}
    client.create_logged_model(experiment, name="begun", source_run_id=run, tags=tags)
    result = a_search(12)[0].model_copy(update={"search": "12ab", "best": trial, "front": (trial,)})
    tracking.finish_search(result, [trial], a_profile())
    (model,) = client.search_logged_models([experiment], filter_string="tags.`paretune.search` = '12ab'")
    assert (model.model_id, str(model.status)) == (tracking.model_ids[1], "READY")
    assert model.artifact_location.startswith("mlflow-artifacts:/")
    assert any("manifest" in str(path) or path.is_dir for path in client.list_logged_model_artifacts(model.model_id))
