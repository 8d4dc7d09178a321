"""A home may keep its runs on a server: which one is settled once, and nobody waits for one that is away."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import IntegrityError, UsageError
from scripts.servers import wait_until
from search.mlflow_store import artifact_location, open_client, store_answers, store_uri
from search.outage import Outage
from search.tracked_trial import tags_of
from search.tracking import Tracking
from search.tracking_server import FILE, answers, checked_url, tracking_server, use_tracking_server
from tests.conftest import ROOT, TINY, command, paretune
from tests.search.factories import a_profile, a_spec, a_target, a_trial

AWAY = "http://127.0.0.1:9"


def test_a_home_keeps_its_server_in_mind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert tracking_server(home) is None and store_uri(home).startswith("sqlite:///")
    use_tracking_server(home, "http://mlflow:5000/")
    use_tracking_server(home, "http://mlflow:5000")
    assert tracking_server(home) == store_uri(home) == "http://mlflow:5000"
    assert artifact_location(home, "any") is None, "the server decides where files go"
    assert [path.name for path in home.iterdir()] == [FILE]


def test_it_keeps_to_it(tmp_path: Path) -> None:
    use_tracking_server(tmp_path / "one", "http://mlflow:5000")
    with pytest.raises(UsageError, match="keeps its runs on http://mlflow:5000"):
        use_tracking_server(tmp_path / "one", "http://other:5000")
    open_client(tmp_path / "two")
    with pytest.raises(UsageError, match="store of its own"):
        use_tracking_server(tmp_path / "two", "http://mlflow:5000")
    assert tracking_server(tmp_path / "two") is None


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("sqlite:///mlflow.db", "http://host:5000"),
        ("mlflow:5000", "http://host:5000"),
        ("http://", "http://host:5000"),
        ("https://me:secret@host", "MLFLOW_TRACKING_PASSWORD"),
        ("http://host:5000/?a=b", "query"),
    ],
)
def test_only_servers_without_secrets_are_taken(url: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as refused:
        checked_url(url)
    assert "secret" not in str(refused.value)


def test_a_search_and_a_coordinator_make_a_home_keep_a_server(tmp_path: Path) -> None:
    left = paretune("search", TINY, "--home", str(tmp_path / "one"), "--mlflow", "ftp://host", "--json")
    assert left.code == 2 and "http://host:5000" in left.stderr
    coordinator = [*command("coordinator", "--home", str(tmp_path / "two"), "--alive", str(tmp_path / "alive"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARETUNE_MLFLOW": AWAY}
    with subprocess.Popen(coordinator, env=environment, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        wait_until((tmp_path / "alive").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert tracking_server(tmp_path / "two") == AWAY


def test_a_server_that_is_away_is_noticed_at_once_and_a_file_is_always_there(tmp_path: Path) -> None:
    assert not answers(AWAY)
    assert store_answers(tmp_path)
    use_tracking_server(tmp_path, AWAY)
    assert not store_answers(tmp_path)


def test_the_ui_of_a_server_needs_no_command_and_takes_no_port(tmp_path: Path) -> None:
    use_tracking_server(tmp_path, AWAY)
    assert paretune("ui", "--home", str(tmp_path), "--json").json["url"] == f"{AWAY}/"
    refused = paretune("ui", "--home", str(tmp_path), "--port", "5001")
    assert refused.code == 2 and "--port is for a server that paretune starts" in refused.stderr


def test_an_outage_ends_with_an_answer_and_is_asked_less_and_less_often_while_it_does_not_work() -> None:
    answering, asked = threading.Event(), threading.Semaphore(0)

    def ask() -> bool:
        asked.release()
        return answering.is_set()

    outage = Outage(ask, pauses_s=(0.0, 0.0, 3600.0))
    assert not outage.lasts
    outage.begin()
    outage.begin()
    assert asked.acquire(timeout=10) and asked.acquire(timeout=10) and outage.lasts
    outage.ask_now()
    assert outage.lasts, "there was no answer"
    answering.set()
    outage.ask_now()
    assert not outage.lasts and outage.happened
    assert outage.end() and not outage.end(), "it is told once that it works again"
    outage.close()


def test_a_closed_outage_asks_no_more() -> None:
    outage = Outage(lambda: pytest.fail("it asked"), pauses_s=(0.0,))
    outage.close()
    outage.begin()
    assert not outage.lasts


class Lost(Exception):
    """The answer to a request was lost; what it asked for was done."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


class Lossy(Tracking):
    """A search in an experiment of its own."""

    def __init__(self, home: Path, experiment: str) -> None:
        super().__init__(home)
        self.profile = a_profile().model_copy(update={"name": experiment})
        self.open()

    def start(self) -> None:
        self.start_search("12ab", "lossy", a_spec(), self.profile, (a_target(),))


@pytest.fixture
def tracking(home: Path, request: pytest.FixtureRequest) -> Lossy:
    return Lossy(home, request.node.name)


def _losing(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        method(*arguments, **named)
        raise Lost

    return call


@pytest.mark.parametrize("request_", ["create_experiment", "create_run", "log_batch", "log_text"])
def test_a_lost_answer_at_the_start_doubles_nothing(
    tracking: Lossy, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = tracking._opened
    with monkeypatch.context() as lossy, pytest.raises(Exception, match="start the search"):
        lossy.setattr(client, request_, _losing(getattr(client, request_)))
        tracking.start()
    tracking.start()
    (experiment,) = client.search_experiments(filter_string=f"name = '{tracking.profile.name}'")
    (parent,) = client.search_runs([experiment.experiment_id])
    assert parent.data.params["trials"] == str(a_spec().trials) and parent.info.status == "RUNNING"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"spec.json", "environment.json"}
    assert len({item.dataset.name for item in parent.inputs.dataset_inputs}) == len(parent.inputs.dataset_inputs)


@pytest.mark.parametrize("request_", ["create_run", "log_batch", "set_terminated"])
def test_a_lost_answer_to_a_trial_doubles_nothing(
    tracking: Lossy, request_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.start()
    client, trial = tracking._opened, a_trial(0)
    with monkeypatch.context() as lossy, pytest.raises(Exception, match="log trial 0"):
        lossy.setattr(client, request_, _losing(getattr(client, request_)))
        tracking.log_trial(trial)
    tracking.start()
    tracking.log_trial(trial)
    runs = client.search_runs([tracking._experiment], "tags.`paretune.kind` = 'trial'")
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.tags["paretune.outcome"] == "measured"
    assert len(client.get_metric_history(runs[0].info.run_id, "latency/p95_ms")) == 1


def test_runs_that_a_late_request_made_are_deleted_and_the_parent_of_the_trials_stays(tracking: Lossy) -> None:
    tracking.start()
    client, parent = tracking._opened, tracking._parent
    run = tracking.log_trial(a_trial(0))
    tags = {key: value for key, value in tags_of(a_trial(0), "12ab").items() if not key.startswith("mlflow")}
    client.create_run(tracking._experiment, tags=tags)
    client.create_run(tracking._experiment, tags={"paretune.search": "12ab", "paretune.kind": "search"}, start_time=1)
    tracking.start()
    assert tracking._parent == parent and tracking.run_ids == {0: run}
    assert {found.info.run_id for found in client.search_runs([tracking._experiment])} == {parent, run}


def test_a_bundle_that_is_gone_is_nothing_to_try_again(tracking: Lossy) -> None:
    from tests.search.factories import a_search

    tracking.start()
    result, trials = a_search(12)
    for trial in trials:
        tracking.log_trial(trial)
    gone = tuple(trial.model_copy(update={"bundle": "gone"}) for trial in result.front)
    with pytest.raises(IntegrityError):
        tracking.finish_search(result.model_copy(update={"front": gone}), trials, a_profile())
