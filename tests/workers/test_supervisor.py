"""The supervisor sees a trial through from claim to finish, whatever becomes of its jobs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_for_tests import PROFILE, REJECTED, candidate

from evaluators.cache import ENTRY, StageCache
from evaluators.errors import InfrastructureError
from evaluators.jobs import Comparison
from evaluators.outcome import Failure, FailureKind, Outcome
from workers.keeping import Keeping
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.locks import device_lock
from workers.records import TrialRecord
from workers.sandbox import Sandbox
from workers.supervisor import Supervisor, TrialSettings, job_environment, run_profile

SETTINGS = TrialSettings(profile=PROFILE, trial_timeout_s=20.0, lease_seconds=30.0, memory_limit_bytes=2**30)


@pytest.fixture
def supervisor(ledger: Ledger, sandbox: Sandbox, tmp_path: Path) -> Supervisor:
    return Supervisor(ledger, sandbox, tmp_path, owner="me", locks=tmp_path)


@pytest.fixture
def queue(ledger: Ledger) -> Callable[..., TrialRecord]:
    search = ledger.create_search("w.py:workload", {})

    def queue(**knobs: Any) -> TrialRecord:
        return ledger.add_trial(search.id, candidate(**knobs), "sampled", "key")

    return queue


Queue = Callable[..., TrialRecord]


def test_a_trial_is_prepared_measured_and_finished(
    ledger: Ledger, supervisor: Supervisor, queue: Queue, tmp_path: Path
) -> None:
    trial = queue(threads=3)

    outcome = supervisor.run(trial.id, 1, SETTINGS)

    assert outcome is not None and outcome == ledger.trial(trial.id).outcome
    assert outcome.kind == "measured" and outcome.evidence.size_bytes == 3, "measured with the candidate's threads"
    assert outcome.stage_seconds == {"build": 1.0, "latency": 2.0}
    assert outcome.cached_stages == ("prune",) and outcome.training_seconds == {"recover": 60.0}
    assert outcome.bundle is not None and f'"env": "{len(os.sched_getaffinity(0))}"' in outcome.bundle
    assert outcome.evaluation_key == "key" and outcome.reproduce is None
    assert (tmp_path / "jobs" / trial.search_id / "0-1" / "measure" / "result.json").exists()


def test_a_trial_that_is_rejected_early_is_not_measured(supervisor: Supervisor, queue: Queue, tmp_path: Path) -> None:
    trial = queue(prepare="reject", measure="segfault")

    outcome = supervisor.run(trial.id, 1, SETTINGS)

    assert outcome == Outcome(kind="rejected", gate=REJECTED.gate, evaluation_key="key")
    assert not (tmp_path / "jobs" / trial.search_id / "0-1" / "measure").exists()


@pytest.mark.parametrize(
    ("knobs", "kind", "seconds"),
    [
        ({"prepare": "segfault"}, FailureKind.CRASHED, {}),
        ({"measure": "segfault"}, FailureKind.CRASHED, {"build": 1.0}),
        ({"prepare": "raise"}, FailureKind.ERROR, {}),
        ({"measure": "exit3"}, FailureKind.CRASHED, {"build": 1.0}),
        ({"measure": "hog"}, FailureKind.OUT_OF_MEMORY, {"build": 1.0}),
    ],
)
def test_a_failure_is_typed_and_says_how_to_see_it_again(
    ledger: Ledger,
    supervisor: Supervisor,
    queue: Queue,
    tmp_path: Path,
    knobs: dict[str, str],
    kind: FailureKind,
    seconds: dict[str, float],
) -> None:
    trial = queue(**knobs)

    outcome = supervisor.run(trial.id, 1, SETTINGS)

    assert outcome is not None and outcome.failure is not None and outcome.failure.kind == kind
    assert seconds.items() <= outcome.stage_seconds.items()
    assert outcome.reproduce == f"paretune reproduce {trial.search_id} 0 --home {tmp_path}"
    assert ledger.trial(trial.id).state == "DONE"


def test_a_job_that_was_killed_from_outside_is_tried_once_more(
    ledger: Ledger, supervisor: Supervisor, queue: Queue
) -> None:
    trial = queue(measure="killed_once")

    assert supervisor.run(trial.id, 1, SETTINGS) is None
    again = ledger.trial(trial.id)
    assert (again.state, again.attempt) == ("QUEUED", 2)
    outcome = supervisor.run(trial.id, 2, SETTINGS)

    assert outcome is not None and outcome.kind == "measured"
    assert [attempt.ended_how for attempt in ledger.attempts(trial.id)] == ["disturbed", "finished"]


def test_a_job_that_is_killed_from_outside_again_has_failed(
    ledger: Ledger, supervisor: Supervisor, queue: Queue
) -> None:
    trial = queue(measure="terminated")

    assert supervisor.run(trial.id, 1, SETTINGS) is None
    outcome = supervisor.run(trial.id, 2, SETTINGS)

    assert outcome is not None and outcome.failure is not None and outcome.failure.kind == FailureKind.KILLED
    assert ledger.trial(trial.id).state == "DONE"


def test_a_full_disk_is_no_fault_of_the_candidate_the_first_time(
    ledger: Ledger, supervisor: Supervisor, queue: Queue, tmp_path: Path
) -> None:
    trial = queue(prepare="disk_full")

    with pytest.raises(InfrastructureError, match=f"No space left on device.*; free some space where {tmp_path} is"):
        supervisor.run(trial.id, 1, SETTINGS)
    assert ledger.trial(trial.id).state == "QUEUED"
    outcome = supervisor.run(trial.id, 2, SETTINGS)

    assert outcome is not None and outcome.failure is not None and outcome.failure.kind == FailureKind.DISK_FULL


def test_one_limit_of_time_covers_both_jobs(supervisor: Supervisor, queue: Queue) -> None:
    trial = queue(prepare="sleep1.5", measure="hang")

    started = time.monotonic()
    outcome = supervisor.run(trial.id, 1, SETTINGS.model_copy(update={"trial_timeout_s": 2.0}))

    assert time.monotonic() - started < 3.4
    assert outcome is not None and outcome.failure is not None
    assert outcome.failure.reason == "no answer within 2 s, in stage act"


def test_a_claimed_or_superseded_attempt_is_left_alone(ledger: Ledger, supervisor: Supervisor, queue: Queue) -> None:
    trial = queue()
    ledger.claim(trial.id, 1, "somebody else", 60)

    assert supervisor.run(trial.id, 1, SETTINGS) is None
    assert ledger.trial(trial.id).owner == "somebody else"
    ledger.release(trial.id, 1, "somebody else")
    assert supervisor.run(trial.id, 1, SETTINGS) is None
    assert ledger.trial(trial.id).state == "QUEUED"
    assert supervisor.run(trial.id, 2, SETTINGS) is not None


def test_a_cancelled_trial_is_queued_again(ledger: Ledger, supervisor: Supervisor, queue: Queue) -> None:
    trial = queue(measure="hang")
    switch = Cancellation()
    threading.Timer(0.5, switch.set).start()

    assert supervisor.run(trial.id, 1, SETTINGS, cancel=[switch]) is None

    found = ledger.trial(trial.id)
    assert (found.state, found.attempt, found.outcome) == ("QUEUED", 2, None)
    assert ledger.attempts(trial.id)[0].ended_how == "released"


def test_a_lost_lease_stops_the_work_and_its_answer_is_dropped(
    ledger: Ledger, supervisor: Supervisor, queue: Queue
) -> None:
    trial = queue(measure="hang")
    threading.Timer(0.5, lambda: ledger.requeue_lost(trial.search_id, lambda owner: False)).start()

    started = time.monotonic()
    assert supervisor.run(trial.id, 1, SETTINGS.model_copy(update={"lease_seconds": 1.5})) is None

    assert time.monotonic() - started < 5.0
    found = ledger.trial(trial.id)
    assert (found.state, found.attempt, found.outcome) == ("QUEUED", 2, None)


def test_a_device_in_use_is_waited_for_outside_the_time_limit(
    ledger: Ledger, supervisor: Supervisor, queue: Queue, tmp_path: Path
) -> None:
    trial = queue()
    brief = SETTINGS.model_copy(update={"trial_timeout_s": 1.0})
    outcomes: list[Outcome | None] = []
    running = threading.Thread(target=lambda: outcomes.append(supervisor.run(trial.id, 1, brief)))
    with device_lock("cpu", folder=tmp_path):
        running.start()
        time.sleep(1.2)
        assert ledger.trial(trial.id).state == "RUNNING"
    running.join()

    assert outcomes[0] is not None and outcomes[0].kind == "measured"


@pytest.mark.parametrize(("holds", "together"), [(True, False), (False, True)])
def test_preparing_can_share_the_device_but_measuring_cannot(
    supervisor: Supervisor, queue: Queue, tmp_path: Path, holds: bool, together: bool
) -> None:
    trial = queue(prepare="raise")
    settings = SETTINGS.model_copy(update={"prepare_holds_device": holds})
    switch = Cancellation()
    threading.Timer(1.5, switch.set).start()

    with device_lock("cpu", folder=tmp_path):
        outcome = supervisor.run(trial.id, 1, settings, cancel=[switch])

    assert (outcome is not None) == together


def test_lost_infrastructure_queues_the_trial_again(
    ledger: Ledger, sandbox: Sandbox, queue: Queue, tmp_path: Path
) -> None:
    trial = queue()
    (tmp_path / "jobs").write_text("in the way")
    supervisor = Supervisor(ledger, sandbox, tmp_path, owner="me", locks=tmp_path)

    with pytest.raises(InfrastructureError, match="cannot be used"):
        supervisor.run(trial.id, 1, SETTINGS)

    assert ledger.trial(trial.id).state == "QUEUED"


def test_the_cache_is_held_to_its_limit_after_a_trial(
    ledger: Ledger, sandbox: Sandbox, queue: Queue, tmp_path: Path
) -> None:
    old = StageCache(tmp_path / "cache" / "stages").get_or_make("0" * 64, lambda folder: None, "prune").folder
    os.utime(old / ENTRY, (1.0, 1.0))
    for limit, stays in ((None, True), (0, False)):
        supervisor = Supervisor(ledger, sandbox, tmp_path, owner="me", locks=tmp_path,
                                keeping=Keeping(cache_limit_bytes=limit))  # fmt: skip
        outcome = supervisor.run(queue(threads=1 + stays).id, 1, SETTINGS)
        assert outcome is not None and outcome.kind == "measured"
        assert old.exists() is stays


def test_bundles_are_compared_with_the_time_that_is_left(supervisor: Supervisor) -> None:
    found = supervisor.compare("search", ["nothing", "nothing"], SETTINGS, 7.0)

    assert isinstance(found, Comparison)
    assert found.seconds == (7.0, 7.0)
    assert len(found.log_medians[0]) == SETTINGS.protocol.rounds


def test_a_comparison_that_crashes_says_how(supervisor: Supervisor) -> None:
    found = supervisor.compare("search", ["segfault"], SETTINGS, 7.0)

    assert isinstance(found, Failure)
    assert found.kind == FailureKind.CRASHED


def test_a_comparison_can_be_cancelled(supervisor: Supervisor) -> None:
    stop = Cancellation()
    stop.set()

    assert supervisor.compare("search", ["hang"], SETTINGS, 7.0, cancel=(stop,)) is None


def test_a_profile_is_read_or_says_why_not(sandbox: Sandbox, tmp_path: Path) -> None:
    read = run_profile(sandbox, tmp_path, "")
    crashed = run_profile(sandbox, tmp_path, "segfault")

    assert read is not None and read.profile == PROFILE
    assert crashed is not None and crashed.outcome is not None and crashed.outcome.failure is not None
    assert crashed.outcome.failure.kind == FailureKind.CRASHED


def test_a_profile_can_be_cancelled(sandbox: Sandbox, tmp_path: Path) -> None:
    switch = Cancellation()
    switch.set()

    assert run_profile(sandbox, tmp_path, "hang", cancel=[switch]) is None


def test_the_environment_of_a_job_is_all_text(tmp_path: Path) -> None:
    environment = job_environment(tmp_path, 2)

    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert environment["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "cache" / "inductor")
