"""What the tests of workers share: a sandbox whose jobs are made up, and an empty ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from jobs_for_tests import RUNNER, Clock

from workers.ledger import Ledger
from workers.sandbox import Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(runner=RUNNER) as sandbox:
        yield sandbox


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(tmp_path)) as ledger:
        yield ledger


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger_at_clock(ledger_url: str, clock: Clock) -> Iterator[Ledger]:
    """An empty ledger, on SQLite and on PostgreSQL, whose time is that of ``clock``."""
    with closing(Ledger(ledger_url, clock=clock)) as ledger:
        yield ledger
