"""The doorbell rings once for each attempt, again where nobody hears, and outlasts a broker that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from jobs_for_tests import candidate

from evaluators.errors import InfrastructureError
from workers.doorbell import PAUSE_SECONDS, Doorbell
from workers.ledger import Ledger
from workers.records import TrialRecord


class Bell:
    """Notes who was rung for; ``broken`` makes it fail."""

    def __init__(self) -> None:
        self.rung: list[str] = []
        self.broken = False

    def ring(self, target: str, trial_id: str) -> None:
        if self.broken:
            raise InfrastructureError("the broker is gone")
        self.rung.append(f"{target}:{trial_id.partition('/')[2]}")

    def heard(self) -> list[str]:
        heard, self.rung = self.rung, []
        return heard


class Scene:
    def __init__(self, bell: Bell | None) -> None:
        self.now, self.idle, self.said = 0.0, ["cpu"], list[str]()
        self.doorbell = Doorbell(bell, lambda: self.idle, self.said.append, again_s=10.0, clock=lambda: self.now)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def scene(bell: Bell) -> Scene:
    return Scene(bell)


@pytest.fixture
def trials(ledger: Ledger) -> list[TrialRecord]:
    search = ledger.create_search("w.py:workload", {})
    return [ledger.add_trial(search.id, candidate(number), "sampled", "key") for number in range(2)]


def test_each_attempt_is_rung_for_once(bell: Bell, scene: Scene, trials: list[TrialRecord], ledger: Ledger) -> None:
    scene.doorbell.ring(trials)
    scene.doorbell.ring(trials)
    assert bell.heard() == ["cpu:0", "cpu:1"]

    ledger.claim(trials[0].id, 1, "me", 60)
    scene.doorbell.ring([ledger.trial(trials[0].id), trials[1]])
    assert bell.heard() == []
    ledger.release(trials[0].id, 1, "me")
    scene.doorbell.ring([ledger.trial(trials[0].id), trials[1]])
    assert bell.heard() == ["cpu:0"], "it is queued again, as another attempt"


def test_a_trial_that_waits_beside_an_idle_worker_is_rung_for_again(
    bell: Bell, scene: Scene, trials: list[TrialRecord]
) -> None:
    scene.doorbell.ring(trials)
    bell.heard()
    scene.now, scene.idle = 11.0, []
    scene.doorbell.ring(trials)
    assert bell.heard() == [], "all workers are busy"
    scene.idle = ["cpu"]
    scene.doorbell.ring(trials)
    scene.doorbell.ring(trials)
    assert bell.heard() == ["cpu:0", "cpu:1"]
    scene.now = 22.0
    scene.doorbell.ring(trials[1:])
    assert bell.heard() == ["cpu:1"]


def test_a_broker_that_is_gone_is_said_once_and_rung_again_later(
    bell: Bell, scene: Scene, trials: list[TrialRecord]
) -> None:
    bell.broken = True
    for scene.now in (0.0, 0.5, PAUSE_SECONDS + 0.1):
        scene.doorbell.ring(trials)
    assert scene.said == ["the broker is gone; trials wait in the ledger meanwhile"]
    bell.broken = False
    scene.doorbell.ring(trials)
    assert bell.heard() == [], "it is left alone for a moment"
    scene.now += PAUSE_SECONDS
    scene.doorbell.ring(trials)
    assert bell.heard() == ["cpu:0", "cpu:1"]
    assert scene.said[1:] == ["the broker can be reached again"]


def test_without_a_bell_nobody_is_rung(trials: list[TrialRecord], tmp_path: Path) -> None:
    scene = Scene(None)
    scene.doorbell.ring(trials)
    assert scene.said == []
