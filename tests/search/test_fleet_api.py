"""Searches that are left to a fleet: submitted, followed, detached from, come back to, and given up with a reason."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.jobs import JobResult
from evaluators.profile import Problem
from search import api, fleet_api, following
from search.cli import main
from search.cli.fleet_view import fleet as fleet_view
from search.cli.output import console
from search.coordinator import Coordinator
from search.result import TrialCounts, TrialResult
from tests.conftest import TINY
from tests.faults import sleeping
from tests.faults.coordinating import coordinating, submit
from tests.faults.sleeping import TARGET, SleepingSandbox, capabilities
from tests.search.factories import a_spec
from workers.lease import Cancellation, owner_name, wait_for
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.worker import Worker


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(home)) as ledger:
        yield ledger


@pytest.fixture
def working(ledger: Ledger, home: Path) -> Iterator[None]:
    """A worker in a thread, which looks into the ledger by itself."""
    drain = Cancellation()
    worker = Worker(ledger, SleepingSandbox(0.02), home, capabilities(), name="w", device="sleep:w", locks=home)
    thread = threading.Thread(target=worker.run, args=(drain, Cancellation()))
    thread.start()
    yield
    drain.set()
    thread.join(20)


class Heard:
    """What a follower was told."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.notes: list[str] = []

    def started(self, number: int, label: str) -> None:
        assert TARGET in label

    def finished(self, trial: TrialResult, counts: TrialCounts, best: TrialResult | None) -> None:
        self.ended.append(trial.number)

    def note(self, text: str) -> None:
        self.notes.append(text)


def ends(ledger: Ledger, search: SearchRecord) -> SearchRecord:
    for _ in range(400):
        if (found := ledger.search(search.id)).status != "running":
            return found
        wait_for((), 0.05)
    raise AssertionError("it does not end")


def test_a_search_is_followed_to_its_end_by_the_trials_that_end(ledger: Ledger, home: Path, working: None) -> None:
    search, heard = submit(ledger, 6), Heard()
    with coordinating(ledger, home, None):
        state = fleet_api.follow(search.id, home, heard)
    assert (state.status, state.result.status) == ("finished", "feasible")
    assert sorted(heard.ended) == list(range(6))
    best, finals = state.result.best, state.result.finals
    assert best is not None and finals is not None, state.result.notes
    assert finals.best == best.number and best.number in finals.trials, "timed in turn by a worker"


def test_whoever_stops_following_does_not_stop_the_search(ledger: Ledger, home: Path, working: None) -> None:
    search, stop = submit(ledger, 6), Cancellation()
    stop.set()
    assert fleet_api.follow(search.id, home, stop=stop).status == "running"
    with coordinating(ledger, home, None):
        assert ends(ledger, search).status == "finished"


def test_a_search_that_waits_says_for_whom(ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.01)
    search, stop, heard = submit(ledger, 6), Cancellation(), Heard()
    threading.Timer(1.0, stop.set).start()
    fleet_api.follow(search.id, home, heard, stop)
    assert heard.notes[0].startswith(f"waiting for {TARGET}: no worker yet; start one on such a machine")
    assert heard.notes[1] == f"waiting for a coordinator; start one: paretune coordinator --home {home}"


def test_a_coordinator_that_leaves_concludes_nothing_and_the_next_one_goes_on(
    ledger: Ledger, home: Path, working: None
) -> None:
    search = submit(ledger, 12)
    with coordinating(ledger, home, None):
        while not ledger.trials(search.id):
            wait_for((), 0.02)
    found = ledger.search(search.id)
    assert (found.status, found.result) == ("running", None)
    share = ledger.coordinated(search.id)
    assert share is not None and share.owner is None
    with coordinating(ledger, home, None):
        assert ends(ledger, search).status == "finished"
    assert [len(ledger.attempts(trial.id)) for trial in ledger.trials(search.id)] == [1] * 12


def test_a_cancelled_search_is_left_to_the_fleet_again_by_resume(ledger: Ledger, home: Path, working: None) -> None:
    search = submit(ledger, 8)
    with coordinating(ledger, home, None):
        while not ledger.trials(search.id):
            wait_for((), 0.02)
        api.cancel(search.id, home)
        assert ends(ledger, search).status == "cancelled"
        assert api.resume(search.id, home).trials.total == 8
    assert ledger.search(search.id).status == "finished"


def test_a_workload_that_cannot_be_read_is_given_up_with_the_reason(
    ledger: Ledger, home: Path, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(level="error", what="the workload has no metric", advice="give it one")
    monkeypatch.setattr(sleeping, "answer", lambda job: JobResult(problems=(problem,)))
    search = submit(ledger)
    with coordinating(ledger, home, None):
        assert ends(ledger, search).status == "interrupted"
    assert "the workload has no metric (give it one)" in api.result(search.id, home).notes


def test_a_search_whose_coordinator_fails_again_and_again_is_given_up_and_the_others_go_on(
    ledger: Ledger, home: Path, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.service.RETRY_SECONDS", 0.0)
    broken, search = submit(ledger, name="broken"), submit(ledger, 4)
    run: Callable[[Coordinator], object] = Coordinator.run

    def fail(coordinator: Coordinator) -> object:
        if coordinator._record.id == broken.id:
            raise RuntimeError("a slip of ours")
        return run(coordinator)

    monkeypatch.setattr(Coordinator, "run", fail)
    with coordinating(ledger, home, None):
        assert (ends(ledger, search).status, ends(ledger, broken).status) == ("finished", "interrupted")
    assert "the coordinator failed 3 times: RuntimeError('a slip of ours')" in api.result("broken", home).notes


def test_without_a_target_it_is_the_one_that_the_workers_serve(ledger: Ledger, home: Path) -> None:
    spec = a_spec(workload=TINY)
    with pytest.raises(UsageError, match="no worker at the moment; name the target"):
        fleet_api.submit(spec, home)
    ledger.register_worker(owner_name("a"), "a", "here", 1, capabilities(), "cpu")
    record = fleet_api.submit(spec, home, fleet_api.Share(weight=2.0, priority=1, most_at_once=3))
    assert record.spec["target"] == [TARGET]
    (share,) = ledger.submitted()
    assert (share.search_id, share.weight, share.priority, share.most_unfinished) == (record.id, 2.0, 1, 3)
    told = capabilities()
    other = told.model_copy(update={"target": told.target.model_copy(update={"name": "cpu-other"})})
    ledger.register_worker(owner_name("b"), "b", "here", 1, other, "cpu")
    with pytest.raises(UsageError, match="serve cpu-other, cpu-sleep; name the target"):
        fleet_api.submit(spec, home)
    with pytest.raises(UsageError, match="does not exist"):
        fleet_api.submit(a_spec(workload="nowhere.py:workload"), home)


def test_the_fleet_tells_what_each_worker_does_and_whom_searches_wait_for(ledger: Ledger, home: Path) -> None:
    for name in ("busy", "idle", "gone"):
        ledger.register_worker(owner_name(name), name, "here", 1, capabilities(), "sleep:1")
    ledger.end_worker(owner_name("gone"))
    search, waits = submit(ledger, name="night"), ledger.create_search("w", a_spec(target="cuda-sm90").to_json())
    ledger.submit(waits.id, priority=2)
    ledger.take_search(waits.id, owner_name("c"), 60)
    trial = ledger.add_trial(search.id, Candidate(target=TARGET, backend="eager"), "recipe", "key")
    ledger.claim(trial.id, 1, owner_name("busy"), 60)

    report = fleet_api.fleet(home)

    does = {worker.name: (worker.present, worker.trial) for worker in report.workers}
    assert does == {"busy": (True, trial.id), "idle": (True, None), "gone": (False, None)}
    assert [(each.name, each.unfinished, each.waiting_for) for each in report.searches] == [
        ("night", {TARGET: 1}, ()), (waits.name, {}, ("cuda-sm90",)),
    ]  # fmt: skip
    said = _spoken(fleet_view(report))
    assert f"trial {trial.id}: eager fp32 b1 t1" in said and "idle" in said and "gone since" in said
    assert "waits for a coordinator" in said and "waits for a worker of cuda-sm90" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--detach",), "are for a fleet"), (("--weight", "2"), "are for a fleet"),
     (("--fleet", "sqlite:///{home}.db", "--weight", "0"), "--weight: Input should be greater than 0 (got 0.0)"),
     (("--fleet", "nonsense"), "cannot be used")],
)  # fmt: skip
def test_flags_of_a_fleet_are_refused_where_they_mean_nothing(
    home: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(home=home) for argument in arguments]
    assert main(["search", TINY, "--home", str(home), *given]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_search_is_left_to_the_fleet_that_the_home_joined_and_found_without_naming_it(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, at = f"sqlite:///{home}.db", ("--home", str(home))
    search = ("search", TINY, "--target", TARGET, "--detach")
    assert main([*search, *at, "--fleet", url, "--name", "first"]) == 0
    assert main([*search, *at, "--name", "second"]) == 0
    capsys.readouterr()
    assert main(["status", *at]) == 0
    listed = capsys.readouterr().out
    assert "first" in listed and "second" in listed
    with closing(Ledger(url)) as fleet:
        assert {each.name for each in fleet.searches()} == {"first", "second"}
    assert not (home / "ledger.db").exists()


def _spoken(renderable: object) -> str:
    stream = io.StringIO()
    shown = console(stream)
    shown.width = 200
    shown.print(renderable)
    return " ".join(stream.getvalue().split())
