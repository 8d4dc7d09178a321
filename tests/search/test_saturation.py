"""Batch sizes: where throughput saturates, what is not tried for it, and what is refused before memory runs out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluators.candidate import Candidate
from evaluators.joint_space import JointSpace
from evaluators.outcome import Bucketing, Failure, FailureKind, Ratio
from evaluators.space import Space, derive_space
from evaluators.target import Accelerator
from search.foresight import Foresight
from search.progress import Silent
from search.proposals import Proposer
from search.result import TrialResult
from search.sampling import Sampler, Told
from search.saturation import curve_of, curves_of, points_of, predicted_bytes, saturation, show_saturation
from search.trial_loop import Session, TrialLoop
from search.wording import show_bucketing
from tests.search.factories import a_candidate, a_profile, a_result, a_search, a_spec, a_target, a_trial
from tests.search.test_trial_loop import Machine
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.settings import TrialSettings

GROWING = {1: 1000.0, 2: 1600.0, 4: 2200.0}
FLAT = {4: 2200.0, 8: 3000.0, 16: 3100.0, 32: 3050.0}


def measured(throughputs: dict[int, float], backend: str = "onnxruntime", **fields: Any) -> list[TrialResult]:
    """Trials of one curve, of which the times follow from their throughputs."""
    trials = []
    for number, (size, rate) in enumerate(throughputs.items()):
        candidate = a_candidate(backend, "static_int8", batch_size=size)
        trial = a_trial(number, candidate, p50=size / rate * 1e3)
        trials.append(trial.model_copy(update=fields))
    return trials


@pytest.mark.parametrize(
    ("throughputs", "found"),
    [
        (GROWING, None),
        (FLAT, (8, pytest.approx(0.0333, abs=1e-3))),
        ({8: 3000.0}, None),
        ({1: 1000.0, 8: 900.0, 16: 1500.0}, None),
        ({1: 1000.0, 2: 990.0, 4: 980.0}, (1, pytest.approx(-0.01))),
    ],
)
def test_a_batch_saturates_where_no_larger_one_gains_5_percent(
    throughputs: dict[int, float], found: tuple[int, float] | None
) -> None:
    assert saturation(points_of(measured(throughputs))) == found


def test_it_is_said_where_a_curve_saturates() -> None:
    (flat,), (growing,) = curves_of(measured(FLAT)), curves_of(measured(GROWING))
    assert show_saturation(flat) == "batch 8 is where it saturates: 16 gains 3%"
    assert show_saturation(growing) == "throughput still grows up to batch 4, the largest that was measured"


def test_each_model_and_backend_has_a_curve_of_its_own_and_what_was_disturbed_is_on_none() -> None:
    trials = [*measured(FLAT), *measured(GROWING, "openvino")]
    spoilt = a_trial(90, a_candidate("openvino", "static_int8", batch_size=64), p50=0.01, clean=False)

    curves = curves_of([*trials, spoilt])

    assert [(curve.backend, curve.saturates_at) for curve in curves] == [("onnxruntime", 8), ("openvino", None)]
    assert curve_of(trials[0], trials) == curves[0]
    assert curve_of(spoilt, [spoilt]) is None


@pytest.fixture(scope="module")
def space() -> Space:
    return _unpruned([1, 2, 4, 8, 16, 32])


def _unpruned(batch_sizes: list[int]) -> Space:
    space = derive_space(a_profile(), a_target(), only_backends=["eager"], threads=1, batch_sizes=batch_sizes)
    return replace(space, amounts={}, pruner_knobs={})


def flat_from_4(space: Space) -> Foresight:
    """Of every model without pruning, batches of 4 are as good as those of 8."""
    foresight = Foresight()
    for number, candidate in enumerate(space.candidates()):
        if candidate.batch_size <= 8:
            rate = 1000.0 * min(candidate.batch_size, 4)
            foresight.take(a_trial(number, candidate, p50=candidate.batch_size / rate * 1e3))
    return foresight


def test_a_larger_batch_than_saturates_is_proposed_only_where_nothing_else_is_left(space: Space) -> None:
    foresight = flat_from_4(space)
    known: dict[str, Told | None] = {
        each.hash: Told((1.0, 0.9), {"failed": 0.0}) for each in space.candidates() if each.batch_size < 16
    }
    left = space.recipe("eager", "fp32", 4)
    del known[left.hash]
    sampler = Sampler(JointSpace({space.target.name: space}), 0)

    first, second = sampler.ask(known, (), foresight.instead_of), None
    known[left.hash] = None
    second = sampler.ask(known, (), foresight.instead_of)

    assert first == left
    assert second is not None and second.batch_size in (16, 32)


def test_neighbours_of_the_best_beyond_saturation_are_left_out(space: Space) -> None:
    foresight, spec = flat_from_4(space), a_spec(objective="throughput")
    sampler = Sampler(JointSpace({space.target.name: space}), 0)
    proposer = Proposer(JointSpace({space.target.name: space}), spec, sampler, 0, foresight.instead_of)
    best = a_trial(1, space.recipe("eager", "fp32", 8), p50=0.5)

    found = [proposer._neighbour([best], {best.candidate.hash: None}, ()) for _ in range(30)]

    assert {each.batch_size for each in found if each is not None} <= {4, 8}
    assert foresight.instead_of(space.recipe("eager", "fp32", 16)) == space.recipe("eager", "fp32", 4).hash
    assert foresight.instead_of(space.recipe("eager", "fp32", 4)) is None


@pytest.mark.parametrize(
    ("measured", "size", "bytes_"),
    [({1: 110, 2: 120}, 8, 180), ({1: 110}, 8, None), ({4: 140, 1: 110}, 2, None), ({1: 120, 4: 110}, 8, 110)],
)
def test_memory_of_a_larger_batch_follows_a_line(measured: dict[int, int], size: int, bytes_: int | None) -> None:
    assert predicted_bytes(measured, size) == bytes_


def sized(size: int) -> Candidate:
    return a_candidate("onnxruntime", "static_int8", batch_size=size)


def test_a_batch_that_will_not_fit_is_refused_with_what_it_is_known_from() -> None:
    foresight = Foresight()
    for size in (1, 2):
        trial = a_trial(size, sized(size), p50=1.0)
        foresight.take(trial.model_copy(update={"peak_memory_bytes": 100_000_000 + size * 10_000_000}))

    assert foresight.refusal(sized(4), a_target(), 200_000_000) is None
    refused = foresight.refusal(sized(16), a_target(), 200_000_000)

    assert refused is not None and refused.failure is not None
    assert refused.failure.kind == FailureKind.OUT_OF_MEMORY
    assert refused.failure.reason == (
        "not tried: a batch of 16 would take about 260.00 MB, and there are 200.00 MB: batch 1 took 110.00 MB, "
        "batch 2 took 120.00 MB"
    )


def test_an_accelerator_has_the_memory_that_counts_there() -> None:
    foresight, card = Foresight(), Accelerator(name="H100", architecture="sm90", memory_bytes=500)
    for size in (1, 2):
        trial = a_trial(size, sized(size), p50=1.0)
        foresight.take(trial.model_copy(update={"peak_memory_bytes": 10**12, "device_memory_bytes": 100 * size}))
    target = a_target().model_copy(update={"accelerator": card})

    assert foresight.refusal(sized(4), target, 1) is None
    assert foresight.refusal(sized(8), target, None) is not None


def test_a_batch_larger_than_one_that_ran_out_of_memory_is_not_tried() -> None:
    foresight = Foresight()
    died = Failure(kind=FailureKind.OUT_OF_MEMORY, stage="latency", reason="no memory")
    foresight.take(a_trial(3, sized(8), failure=died))

    refused = foresight.refusal(sized(16), a_target(), None)

    assert refused is not None and "a batch of 8 ran out of memory (trial 3)" in str(refused.reason)
    assert foresight.refusal(sized(4), a_target(), None) is None


def test_a_refused_trial_ends_without_being_run_and_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hungry(Machine):
        """Each example takes 10 MB."""

        def _outcome(self, candidate: Candidate) -> Any:
            found = super()._outcome(candidate)
            taken = 100_000_000 + 10_000_000 * candidate.batch_size
            return found.model_copy(update={"evidence": found.evidence.model_copy(update={"peak_memory_bytes": taken})})

    spec, ledger = a_spec(trials=40, latency_budget_ms=500.0), Ledger.at(tmp_path)
    machine = Hungry(ledger, spec, 0)
    loop = a_loop(ledger, spec, machine, _unpruned([1, 2, 4, 64]), memory_limit_bytes=300_000_000)

    loop.run()

    trials = loop._session.trials()
    refused = [trial for trial in trials if trial.failure_kind == "out_of_memory"]
    assert len(trials) == 40 and refused
    assert {trial.candidate.batch_size for trial in refused} == {64}
    assert all("not tried: a batch of 64" in str(trial.reason) for trial in refused)


def a_loop(ledger: Ledger, spec: Any, machine: Machine, space: Space, **settings: Any) -> TrialLoop:
    record = ledger.create_search("w", spec.to_json())
    return TrialLoop(Session(
        record=record, spec=spec, space=JointSpace({space.target.name: space}),
        settings=TrialSettings(profile=a_profile(), constraints=spec.constraints, **settings), ledger=ledger,
        supervisor=machine, projection=_Nowhere(), progress=Silent(), stop=Cancellation(),  # type: ignore[arg-type]
        seconds_left=lambda: float("inf"), account=lambda: None, note=lambda text: None,
    ))  # fmt: skip


class _Nowhere:
    def deliver(self, *_: Any) -> bool:
        return True


def test_a_result_tells_its_curves_and_pages_draw_them() -> None:
    from search.batch_charts import batching_figure
    from search.story_charts import story_page

    trials = [*measured(FLAT), *measured(GROWING, "openvino")]
    result = a_result(trials)

    assert [curve.saturates_at for curve in result.curves] == [8, None]
    drawn = batching_figure(result.curves)
    assert [trace.name for trace in drawn.data] == [curve.label for curve in result.curves]
    assert list(drawn.data[0].marker.symbol) == ["circle", "diamond", "circle", "circle"]
    found, everything = a_search(60)
    assert found.curves and "Throughput over batch size" in story_page(found, everything)


def test_the_gain_of_buckets_is_said_in_words() -> None:
    gain = Ratio(value=1.6, ci95=(1.5, 1.7))
    found = Bucketing(edges=(32, 128), padding_share=0.1, plain_padding_share=0.42, gain=gain)
    said = show_bucketing(found)
    assert "1.6×" in said and "10% of positions are filling instead of 42%" in said and "32, 128" in said
