"""Timing in blocks: warm-up, looks, foreign load, references, and comparisons in rounds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from evaluators.interpreter import this_interpreter
from evaluators.jobs import Protocol
from evaluators.timing.blocks import Block, LocalCalls, WarmUp
from evaluators.timing.comparison import compare, levels_of, turns_of
from evaluators.timing.contention import Usage, usage, waited_share
from evaluators.timing.nursery import Nursery
from evaluators.timing.sequence import Trace, bounds_of, summarize, time_bundle
from evaluators.timing.stand import Stand, StandDiedError, StandRequest
from tests.conftest import TINY

QUIET = Protocol(max_foreign_load=1e9)


class Machine:
    """A clock that only moves when a call takes time; calls take ``seconds`` times the machine's slowness."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slowness = 1.0

    def __call__(self) -> float:
        return self.now

    def model(self, seconds: float, noise: float = 0.0, seed: int = 0) -> LocalCalls:
        random = np.random.default_rng(seed)

        def run(_: object) -> None:
            self.now += seconds * self.slowness * float(np.exp(noise * random.standard_normal()))

        return LocalCalls(run, [None], clock=self)


class Scripted:
    """A model whose blocks are given: seconds of a call, and how long its threads waited."""

    def __init__(self, call: Callable[[], float], waited: Callable[[], float], dies_after: int | None = None) -> None:
        self._call, self._waited, self._left = call, waited, dies_after

    def warm_up(self) -> WarmUp:
        return WarmUp(10, settled=True, call_seconds=self._call())

    def block(self, seconds: float) -> Block:
        if self._left is not None:
            if self._left == 0:
                raise StandDiedError("gone")
            self._left -= 1
        return Block(np.full(max(1, round(seconds / self._call())), self._call()), self._waited())

    def close(self) -> None:
        pass


def test_warm_up_ends_when_calls_take_equally_long_and_says_when_they_never_did() -> None:
    steady = Machine()
    assert steady.model(0.001).warm_up().settled

    growing = Machine()
    calls = LocalCalls(lambda _: setattr(growing, "now", growing.now * 1.1 + 0.001), [None], clock=growing)
    found = calls.warm_up()
    assert not found.settled
    assert found.calls > 20


class Threads:
    """Two threads compute every call, and one of them spins for some looks at the clock of processors afterwards."""

    def __init__(self, seconds: float, spins: int) -> None:
        self.now = self.used = 0.0
        self.calls = 0
        self._seconds, self._spins, self._left = seconds, spins, 0

    def __call__(self) -> float:
        return self.now

    def processors(self) -> float:
        self._left -= 1
        self.used += 0.001 * (self._left >= 0)
        return self.used

    def model(self) -> LocalCalls:
        def run(_: object) -> None:
            self.calls += 1
            self.now += self._seconds
            self.used += 2 * self._seconds
            self._left = self._spins

        return LocalCalls(run, [None], clock=self, used=self.processors)


@pytest.mark.parametrize("spins", [2, 40])
def test_a_block_ends_when_its_threads_no_longer_spin(spins: int) -> None:
    threads = Threads(0.001, spins)
    threads.model().block(0.05)
    before = threads.used
    assert threads.processors() == before


def test_a_block_ends_though_its_threads_never_rest() -> None:
    assert len(Threads(0.001, 10**9).model().block(0.01).seconds) == 10


def test_the_first_calls_of_a_block_do_not_count_and_are_more_with_several_threads() -> None:
    machine, threads = Machine(), Threads(0.001, 0)
    alone, both = machine.model(0.001), threads.model()
    for model in (alone, both):
        model.warm_up()
    begun, calls = machine.now, threads.calls
    assert len(alone.block(0.02).seconds) == pytest.approx(20, abs=1)
    assert machine.now - begun == pytest.approx(0.022, abs=0.0015)
    assert len(both.block(0.02).seconds) == pytest.approx(20, abs=1)
    assert threads.calls - calls == pytest.approx(30, abs=2)


def test_calls_that_take_long_all_count() -> None:
    machine = Machine()
    model = machine.model(0.3)
    model.warm_up()
    begun = machine.now
    model.block(0.05)
    assert machine.now - begun == pytest.approx(0.3)


def test_a_candidate_far_from_its_budget_is_decided_at_the_first_look() -> None:
    for budget_ms, within in ((10.0, True), (0.1, False)):
        machine = Machine()
        evidence = time_bundle(machine.model(0.001, 0.05), None, QUIET, budget_ms, clock=machine)
        assert evidence.decided_early
        assert evidence.samples < 400
        assert evidence.bounds is not None
        assert (evidence.bounds[1] <= budget_ms) == within


def test_a_candidate_at_its_budget_is_timed_until_the_last_look() -> None:
    machine = Machine()
    noise = 0.05
    limit_ms = 1.0 * float(np.exp(noise * 1.6449))
    evidence = time_bundle(machine.model(0.001, noise), None, QUIET, limit_ms, clock=machine)
    assert not evidence.decided_early
    assert evidence.samples >= 0.9 * QUIET.looks[-1] / 0.001
    assert evidence.bounds is not None
    assert evidence.bounds[0] < limit_ms < evidence.bounds[1]


def test_a_slow_beginning_of_a_machine_that_drifts_decides_nothing_near_the_budget() -> None:
    """The first second is 15 % slower than the rest: too slow as far as it goes, well within the budget in the end."""
    machine = Machine()

    def drifting() -> float:
        machine.slowness = 1.15 if machine.now < 1.0 else 1.0
        return machine.now

    machine.slowness = 1.15
    model = machine.model(0.001, 0.01)
    patient = time_bundle(model, None, QUIET, 1.12, clock=drifting)
    assert not patient.decided_early
    assert patient.seconds > 3

    machine = Machine()
    machine.slowness = 1.15
    hasty = QUIET.model_copy(update={"drift": 0.0})
    assert time_bundle(machine.model(0.001, 0.01), None, hasty, 1.12, clock=drifting).decided_early


def test_slow_calls_go_on_until_their_percentile_is_supported_or_patience_ends() -> None:
    machine = Machine()
    assert time_bundle(machine.model(0.3), None, QUIET, 301.0, clock=machine).p95 is not None
    machine = Machine()
    impatient = time_bundle(machine.model(10.0), None, QUIET, 10_001.0, clock=machine)
    assert impatient.p95 is None
    assert impatient.value == pytest.approx(10_000)


def test_a_hopeless_slow_candidate_is_given_up_after_a_few_calls() -> None:
    machine = Machine()
    assert time_bundle(machine.model(1.0, 0.01), None, QUIET, 5.0, clock=machine).samples <= 4


def test_drift_of_the_machine_cancels_in_the_ratio_to_the_reference() -> None:
    machine = Machine()
    model, reference = machine.model(0.001, 0.02, 1), machine.model(0.004, 0.02, 2)
    original = machine.__class__.__call__

    def drifting(self: Machine) -> float:
        self.slowness = 1 + 0.3 * np.sin(self.now)
        return original(self)

    machine_type = type("Drifting", (Machine,), {"__call__": drifting})
    machine.__class__ = machine_type
    evidence = time_bundle(model, reference, QUIET.model_copy(update={"looks": (4.0,)}), None, clock=machine)
    assert evidence.speedup is not None
    assert evidence.speedup.value == pytest.approx(4.0, rel=0.02)
    assert evidence.speedup.ci95[0] <= 4.0 <= evidence.speedup.ci95[1]


def test_a_reference_that_dies_costs_the_ratio_alone() -> None:
    model = Scripted(lambda: 0.001, lambda: 0.0)
    evidence = time_bundle(model, Scripted(lambda: 0.002, lambda: 0.0, dies_after=1), QUIET, 5.0)
    assert evidence.speedup is None
    assert evidence.p50 == pytest.approx(1.0)


def test_blocks_beside_other_programs_are_timed_again_and_counted() -> None:
    waits = iter([0.5, 0.0] * 10_000)
    evidence = time_bundle(Scripted(lambda: 0.001, lambda: next(waits)), None, Protocol(), 5.0)
    assert evidence.clean
    assert evidence.polluted >= 5
    assert evidence.samples >= 250


def test_a_measurement_that_never_gets_the_processor_is_marked_and_ends() -> None:
    evidence = time_bundle(Scripted(lambda: 0.001, lambda: 0.5), None, Protocol(pollution_seconds=1.0), 5.0)
    assert not evidence.clean
    assert evidence.polluted == pytest.approx(1.0 / Protocol().block_seconds, abs=2)


def test_waiting_is_counted_against_the_wall_clock() -> None:
    assert waited_share(Usage(1.0, 2.0), Usage(1.5, 2.25), 1.0) == pytest.approx(0.25)
    assert waited_share(Usage(1.0, None), Usage(1.5, 2.0), 1.0) == 0.0
    crowded = waited_share(Usage(1.0, 2.0, 10.0), Usage(3.0, 3.0, 12.0), 1.0)
    assert crowded == 0.0, "its own threads waited for each other: nobody else ran"
    beside = waited_share(Usage(1.0, 2.0, 10.0), Usage(1.5, 2.5, 11.5), 1.0)
    assert beside == pytest.approx(0.5)
    before, begun = usage(), time.process_time()
    while time.process_time() < begun + 0.05:
        pass
    assert usage().running > before.running


def test_percentiles_that_the_samples_cannot_support_are_left_out() -> None:
    trace = Trace(blocks=[Block(np.linspace(0.001, 0.002, 100), 0.0)])
    evidence = summarize(trace, Protocol(percentile="p99"), WarmUp(10, settled=True, call_seconds=0.001), 1.0)
    assert evidence.p50 == pytest.approx(1.5)
    assert evidence.p99 is None
    assert evidence.value == evidence.ci95[1] == pytest.approx(2.0)


def test_where_calls_depend_on_each_other_the_bound_comes_from_batches() -> None:
    random = np.random.default_rng(0)
    spells = [0.001 * (1.4 if block == 7 else 1.0) * np.exp(0.01 * random.standard_normal(20)) for block in range(10)]
    (_, high), bounded = bounds_of(spells, Protocol())
    assert bounded
    assert 1.0 < high < 3.0, "from batches of calls"
    (_, high), bounded = bounds_of([np.array([0.001, 0.0014])], Protocol())
    assert not bounded, "two calls bound no p95"


def test_a_comparison_cancels_drift_and_keeps_the_order_of_its_bundles() -> None:
    slowness = iter(np.exp(0.3 * np.sin(np.arange(100_000) / 7)))

    def model(seconds: float) -> Callable[[], Scripted]:
        return lambda: Scripted(lambda: seconds * next(slowness), lambda: 0.0)

    found = compare([model(0.001), model(0.002)], Protocol(), 60.0)
    assert [len(medians) for medians in found.log_medians] == [Protocol().rounds] * 2, "told apart without more"
    differences = [b - a for a, b in zip(*found.log_medians, strict=True) if a is not None and b is not None]
    assert float(np.median(differences)) == pytest.approx(np.log(2), abs=0.02)
    assert all(latency is not None and latency.processes == Protocol().rounds for latency in found.latencies)


def test_a_bundle_that_dies_in_a_comparison_is_left_out_and_the_others_go_on() -> None:
    sound = lambda: Scripted(lambda: 0.001, lambda: 0.0)  # noqa: E731
    dying = lambda: Scripted(lambda: 0.001, lambda: 0.0, dies_after=3)  # noqa: E731
    found = compare([sound, dying, sound], Protocol(), 60.0)
    assert [latency is None for latency in found.latencies] == [False, True, False]
    assert len(found.log_medians[0]) == Protocol().rounds


def test_a_comparison_ends_with_its_time() -> None:
    machine = Machine()

    class Slow(Scripted):
        def block(self, seconds: float) -> Block:
            machine.now += 1.0
            return super().block(seconds)

    found = compare([lambda: Slow(lambda: 0.001, lambda: 0.0)], Protocol(), 20.0, clock=machine)
    assert 3 <= len(found.log_medians[0]) <= 5


def test_models_that_are_hard_to_tell_apart_get_more_rounds_and_equal_ones_end_when_that_is_known() -> None:
    random = np.random.default_rng(0)

    def model(seconds: float, noise: float) -> Callable[[], Scripted]:
        return lambda: Scripted(lambda: seconds * float(np.exp(noise * random.standard_normal())), lambda: 0.0)

    noisy = compare([model(0.009, 0.5), model(0.009, 0.5)], Protocol(), 60.0)
    assert len(noisy.log_medians[0]) == Protocol().most_rounds
    steady = compare([model(0.009, 0.001), model(0.009, 0.001)], Protocol(), 60.0)
    assert len(steady.log_medians[0]) == Protocol().rounds


def test_what_a_turn_has_in_common_is_no_part_of_a_level() -> None:
    drift = np.array([0.0, 0.4, -0.3, 0.1, 2.0])
    quick, slow = drift + 1.0, drift + 1.5
    assert levels_of([quick, slow]) == pytest.approx((quick_level := levels_of([quick])[0], quick_level + 0.5))
    gap = [*slow[:2], float("nan"), *slow[3:]]
    found = levels_of([list(quick), gap, []])
    assert found[0] is not None and found[1] is not None
    assert found[1] - found[0] == pytest.approx(0.5)
    assert found[2] is None
    assert levels_of([[], []]) == (None, None)


def test_a_round_has_as_many_turns_as_its_time_allows_and_never_fewer_than_four() -> None:
    assert turns_of(0.001, Protocol()) == 20
    assert turns_of(0.05, Protocol()) == 4
    assert turns_of(5.0, Protocol()) == 4


def test_stands_end_in_any_order() -> None:
    stands = [Stand(StandRequest(workload=TINY, batch_size=2)) for _ in range(2)]
    started = {child.pid for child in psutil.Process().children()}
    for stand in stands:
        stand.close()
    left = started & {child.pid for child in psutil.Process().children()}
    assert len(started) - len(left) >= 2, "both ended, though the second held a copy of the first one's pipe"


def test_a_stand_times_the_original_model_in_a_process_of_its_own() -> None:
    with Stand(StandRequest(workload=TINY, batch_size=2)) as stand:
        assert stand.warm_up().calls > 0
        assert len(stand.block(0.01).seconds) >= 1


def test_a_nursery_makes_one_stand_after_the_other_in_fresh_processes(capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = StandRequest(workload=TINY, batch_size=2), StandRequest(workload=f"{os.devnull}.py:nothing")
    pids = set()
    with Nursery(this_interpreter()) as nursery:
        for _ in range(2):
            stand = nursery.stand(good)
            assert stand.warm_up().calls > 0 and len(stand.block(0.01).seconds) >= 1
            (program,) = [each for each in psutil.Process().children() if "evaluators.timing.nursery" in each.cmdline()]
            (process,) = program.children()
            pids.add(process.pid)
            stand.close()
        stand = nursery.stand(bad)
        with pytest.raises(StandDiedError, match="WorkloadError"):
            stand.warm_up()
        stand.close()
        stand = nursery.stand(good)
        stand.warm_up()
        (process,) = program.children()
        process.kill()
        with pytest.raises(StandDiedError, match="ended by itself"):
            stand.block(0.01)
    assert len(pids) == 2 and not program.is_running()
    capfd.readouterr()


def test_a_stand_that_cannot_load_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with Stand(StandRequest(workload=f"{os.devnull}.py:nothing")) as stand, pytest.raises(StandDiedError):
        stand.warm_up()
    capfd.readouterr()
