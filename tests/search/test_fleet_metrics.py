"""What a fleet counts is there for Prometheus to scrape, and its logs say of what they speak, without passwords."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evaluators.errors import InfrastructureError, UsageError
from evaluators.jobs import MeasureJob
from scripts.servers import wait_until
from search import coordinator, fleet_loop
from search.cli.logs import LogFormat, log_to, without_passwords
from search.coordinator import FleetMeans
from search.fleet_gauges import FleetGauges
from search.presence import Presence
from search.service import Service
from tests.conftest import command
from tests.faults.coordinating import NoProjection, submit
from tests.faults.sleeping import ROOT, TARGET, SleepingSandbox, capabilities
from workers.doorbell import Doorbell
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.metrics import Metrics
from workers.sandbox import AnyJob
from workers.worker import Worker

TRIALS = 4


def scraped(port: int) -> dict[str, float]:
    """Return the samples of an endpoint by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


@contextmanager
def thread(run: object, leave: Cancellation) -> Iterator[None]:
    running = threading.Thread(target=run)  # type: ignore[arg-type]
    running.start()
    try:
        yield
    finally:
        leave.set()
        running.join(30)
        assert not running.is_alive()


@contextmanager
def served(metrics: Metrics) -> Iterator[int]:
    with metrics.served("127.0.0.1", 0) as port:
        yield port


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.at(tmp_path / "home")
    yield ledger
    ledger.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "Projection", NoProjection)
    monkeypatch.setattr(fleet_loop, "LOOK_SECONDS", 0.05)


def worker(ledger: Ledger, home: Path, sandbox: SleepingSandbox, **more: object) -> Worker:
    return Worker(ledger, sandbox, home, capabilities(), name="w", device="sleep:w", locks=home, **more)  # type: ignore[arg-type]


def test_a_coordinator_and_a_worker_can_be_scraped_while_a_search_runs(
    ledger: Ledger, tmp_path: Path, quick: None
) -> None:
    here, there, leave, drain, log = Metrics(), Metrics(), Cancellation(), Cancellation(), io.StringIO()
    presence = Presence(ledger)
    here.add(FleetGauges(ledger, presence))
    say = log_to(log, LogFormat.JSON, part="coordinator")
    means = FleetMeans(SleepingSandbox(0.02), leave, None, presence=presence, meter=here)
    service = Service(ledger, tmp_path, means, say)
    mine = worker(ledger, tmp_path, SleepingSandbox(0.02), meter=there, say=log_to(log, LogFormat.JSON, part="worker"))
    with served(here) as port, served(there) as other:
        search = submit(ledger, TRIALS, name="s")
        with thread(lambda: mine.run(drain, drain), drain):
            with thread(service.run, leave):
                wait_until(lambda: ledger.search(search.id).status == "finished", 40)
            coordinated, worked = scraped(port), scraped(other)
    ended = f'paretune_trials_total{{failure="",outcome="measured",target="{TARGET}"}}'
    assert (coordinated[ended], worked[ended]) == (TRIALS, TRIALS)
    assert coordinated[f'paretune_stage_seconds_count{{stage="build",target="{TARGET}"}}'] == TRIALS
    assert coordinated[f'paretune_stage_seconds_sum{{stage="build",target="{TARGET}"}}'] == pytest.approx(0.1 * TRIALS)
    assert coordinated[f'paretune_queue_depth{{target="{TARGET}"}}'] == 0
    assert coordinated[f'paretune_devices{{state="idle",target="{TARGET}"}}'] == 1
    assert coordinated[f'paretune_devices{{state="busy",target="{TARGET}"}}'] == 0
    assert coordinated["paretune_outbox_depth"] >= TRIALS, "nobody has told MLflow"
    assert coordinated["paretune_ledger_up"] == 1
    assert worked[f'paretune_device_busy{{device="sleep:w",target="{TARGET}"}}'] == 0

    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    of_trials = [line for line in lines if "trial" in line]
    assert {(line["part"], line["search"], line["trial"]) for line in of_trials} == {
        (part, search.id, number) for part in ("coordinator", "worker") for number in range(TRIALS)
    }
    assert {line["attempt"] for line in of_trials} == {1}
    assert all({"event", "timestamp", "level"} <= line.keys() for line in lines)


def test_what_waits_is_counted_and_a_ledger_that_is_gone_is_said(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    metrics.add(FleetGauges(ledger, Presence(ledger)))
    search = ledger.create_search("w.py:w", {})
    from tests.search.factories import a_candidate

    trials = [ledger.add_trial(search.id, a_candidate(batch_size=size), "sampled", "key") for size in (1, 2, 4)]
    ledger.claim(trials[0].id, 1, "somewhere:1:1", 60)
    with served(metrics) as port:
        assert scraped(port)[f'paretune_queue_depth{{target="{a_candidate().target}"}}'] == 2

        def gone() -> dict[str, int]:
            raise InfrastructureError("the database is gone")

        monkeypatch.setattr(ledger, "waiting_for", gone)
        found = scraped(port)
    assert found["paretune_ledger_up"] == 0
    assert not any(name.startswith("paretune_queue") for name in found)


def test_a_lease_that_was_lost_is_counted_by_the_worker_that_comes_too_late(
    ledger: Ledger, tmp_path: Path, quick: None
) -> None:
    class Robbed(SleepingSandbox):
        """Takes so long over the first measurement that the trial is given to somebody else."""

        robbed = False

        def run(self, job: AnyJob, *args: object, **more: object) -> object:  # type: ignore[override]
            if isinstance(job, MeasureJob) and not self.robbed:
                self.robbed = True
                assert len(ledger.requeue_lost(search.id, lambda owner: False)) == 1
            return super().run(job, *args, **more)  # type: ignore[arg-type]

    metrics, leave, drain = Metrics(), Cancellation(), Cancellation()
    search = submit(ledger, 2)
    service = Service(ledger, tmp_path, FleetMeans(SleepingSandbox(0.02), leave), lambda text: None)
    mine = worker(ledger, tmp_path, Robbed(0.02), meter=metrics)
    with (
        served(metrics) as port,
        thread(lambda: mine.run(drain, drain), drain),
        thread(service.run, leave),
    ):
        wait_until(lambda: ledger.search(search.id).status == "finished", 40)
        found = scraped(port)
    assert found[f'paretune_leases_lost_total{{target="{TARGET}"}}'] == 1
    assert found[f'paretune_trials_total{{failure="",outcome="measured",target="{TARGET}"}}'] == 2


def test_a_trial_that_is_rung_for_again_is_counted(ledger: Ledger) -> None:
    class Silent:
        def ring(self, target: str, trial_id: str) -> None:
            pass

    from tests.search.factories import a_candidate

    metrics, now = Metrics(), [0.0]
    target = a_candidate().target
    trial = ledger.add_trial(ledger.create_search("w.py:w", {}).id, a_candidate(), "sampled", "key")
    doorbell = Doorbell(Silent(), lambda: [target], print, again_s=10.0, clock=lambda: now[0], meter=metrics)
    with served(metrics) as port:
        doorbell.ring([trial])
        assert f'paretune_rung_again_total{{target="{target}"}}' not in scraped(port)
        now[0] = 11.0
        doorbell.ring([trial])
        assert scraped(port)[f'paretune_rung_again_total{{target="{target}"}}'] == 1


def test_a_port_that_is_taken_is_refused() -> None:
    with served(Metrics()) as port:
        second = Metrics().served("127.0.0.1", port)
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 is taken"):
            second.__enter__()


def test_the_command_opens_its_port_on_this_machine_and_logs_objects(tmp_path: Path) -> None:
    asked = command("coordinator", "--home", str(tmp_path), "--metrics-port", "0")
    with subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:  # fmt: skip
        assert process.stderr is not None
        try:
            first = json.loads(process.stderr.readline())
            assert (first["part"], first["level"]) == ("coordinator", "info")
            port = int(re.fullmatch(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", first["event"])[1])  # type: ignore[index]
            assert json.loads(process.stderr.readline())["event"].startswith("coordinates the searches of")
            wait_until(lambda: "paretune_searches" in scraped(port), 30)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("postgresql://me:secret@db/paretune failed", "postgresql://me:***@db/paretune failed"),
        ("redis://:se@cret@queue:6379/0 is gone", "redis://:***@queue:6379/0 is gone"),
        ("postgresql://db/x?user=me&password=secret&a=b", "postgresql://db/x?user=me&password=***&a=b"),
        ("see http://127.0.0.1:8000/metrics and me@here", "see http://127.0.0.1:8000/metrics and me@here"),
    ],
)
def test_passwords_stay_out_of_logs(said: str, logged: str) -> None:
    stream = io.StringIO()
    log_to(stream, LogFormat.JSON)(said)
    assert json.loads(stream.getvalue())["event"] == logged == without_passwords(said)
