"""Who is there is read once for all searches of a process, and what a worker told of its machine once for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.target import probe_processor
from search.fleet import Fleet
from search.presence import Presence
from workers.ledger import Ledger

TARGET = probe_processor().name


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(tmp_path)) as ledger:
        yield ledger


def told(cores: int = 2) -> Capabilities:
    found = capabilities_of(probe_processor())
    return found.model_copy(update={"target": found.target.model_copy(update={"cores": cores})})


def register(ledger: Ledger, name: str, cores: int = 2) -> None:
    ledger.register_worker(f"{name}:1:1", name, name, 1, told(cores), "cpu")


def test_searches_share_what_was_read_a_moment_ago(ledger: Ledger, tmp_path: Path) -> None:
    now = [0.0]
    presence = Presence(ledger, clock=lambda: now[0])
    one, other = (Fleet(ledger, tmp_path, (TARGET,), {}, presence) for _ in range(2))
    register(ledger, "a")
    assert one.present(1.0) == {TARGET: 1}
    register(ledger, "b")
    assert other.present(1.0) == {TARGET: 1}, "read a moment ago, by another search"
    assert other.present() == {TARGET: 2}, "it is read anew where that is asked for"
    ledger.end_worker("a:1:1")
    now[0] = 1.0
    assert one.present(1.0) == {TARGET: 1}


def test_what_a_worker_told_is_read_once_and_again_when_it_comes_anew(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    presence, read, original = Presence(ledger), list[str](), ledger.workers
    monkeypatch.setattr(ledger, "workers", lambda ids: read.extend(ids) or original(ids))
    register(ledger, "a", cores=2)
    first = presence.workers()
    register(ledger, "b", cores=2)
    assert [worker.id for worker in presence.workers()] == ["a:1:1", "b:1:1"]
    presence.workers()
    assert read == ["a:1:1", "b:1:1"]
    register(ledger, "a", cores=64)
    (again,) = (worker for worker in presence.workers() if worker.id == "a:1:1")
    assert again.fingerprint != first[0].fingerprint
