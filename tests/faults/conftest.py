"""What the tests of faults share: a fleet of two workers for each module, complete before every test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from scripts.servers import PostgreSql, Redis
from tests.conftest import present

pytest.register_assert_rewrite("tests.faults.fleet")

from tests.faults.fleet import Fleet  # noqa: E402 - what it asserts is shown in full

PAIR: Mapping[str, Mapping[str, Any]] = {"a": {}, "b": {}}


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """The fleet of a module; its variable WORKERS names other workers than two of the same kind."""
    with present(Redis) as broker:
        workers = getattr(request.module, "WORKERS", PAIR)
        fleet = Fleet(postgresql, broker, tmp_path_factory.mktemp("fleet"), workers)
        try:
            yield fleet
        finally:
            fleet.end()


@pytest.fixture
def fleet(running: Fleet) -> Iterator[Fleet]:
    """The fleet, whatever the test before has done to it; its jobs do nothing but nap."""
    running.order()
    running.complete()
    yield running
    running.order()
