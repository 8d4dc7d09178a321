"""A kept measurement, judged again, says what a measurement by the other protocol would have said."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.replay import time_twice
from evaluators.jobs import Protocol
from evaluators.timing.blocks import LocalCalls
from evaluators.timing.sequence import time_bundle

PROTOCOL = Protocol(max_foreign_load=1e9)


class Simulated:
    """A model and its reference on one simulated clock: their calls take random times, and nothing else does."""

    def __init__(self) -> None:
        self.now = 0.0
        random = np.random.default_rng(3)

        def calls(seconds: float) -> LocalCalls:
            def run(_: object) -> None:
                self.now += seconds * float(np.exp(0.05 * random.standard_normal()))

            return LocalCalls(run, [None], clock=lambda: self.now, used=lambda: 0.0)

        self.model, self.reference = calls(0.001), calls(0.003)


@pytest.mark.parametrize("budget_ms", [10.0, 1.07, 0.5])
def test_a_replayed_measurement_equals_one_by_the_same_protocol(budget_ms: float) -> None:
    kept, direct = Simulated(), Simulated()

    twice = time_twice(kept.model, kept.reference, PROTOCOL, budget_ms)

    expected = time_bundle(direct.model, direct.reference, PROTOCOL, budget_ms, clock=lambda: direct.now)
    unlike = {"seconds": 0.0}
    assert twice.sequential.model_copy(update=unlike) == expected.model_copy(update=unlike)
    assert not twice.fixed.decided_early
    assert twice.sequential.seconds <= twice.fixed.seconds


def test_a_measurement_far_from_its_budget_is_replayed_in_part() -> None:
    kept = Simulated()
    twice = time_twice(kept.model, None, PROTOCOL, 10.0)
    assert twice.sequential.decided_early
    assert twice.sequential.samples < twice.fixed.samples / 10
    assert twice.sequential.seconds < twice.fixed.seconds
