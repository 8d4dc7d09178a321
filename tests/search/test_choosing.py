"""What is tried next, and what is best: sampler, proposals, front and baselines."""

from collections.abc import Sequence
from math import prod

import pytest

from evaluators.joint_space import JointSpace
from evaluators.outcome import Ratio
from evaluators.space import Space, derive_space
from evaluators.target import probe_target
from search.front import best_trial, nearest_trials, objective_value, pareto_front, undecided_trials
from search.proposals import Proposer, neighbours
from search.result import FinalRow, Finals, SearchResult, TrialResult
from search.sampling import Sampler, Told
from search.spec import SearchSpec
from search.view import count_trials, find_baseline, find_best_float, relaxation, speedup
from tests.search.factories import a_candidate, a_profile, a_result, a_spec, a_trial


@pytest.fixture
def space() -> Space:
    return derive_space(a_profile(), probe_target(), only_backends=["eager"], threads=1)


def _joint(*spaces: Space) -> JointSpace:
    return JointSpace({space.target.name: space for space in spaces})


def _measured(number: int, candidate: object, p50: float, accuracy: float, spec: SearchSpec) -> TrialResult:
    return a_trial(number, candidate, p50=p50, accuracy=accuracy, constraints=spec.constraints)  # type: ignore[arg-type]


def test_the_sampler_never_gives_a_known_candidate_and_ends_when_all_are_known(space: Space) -> None:
    small = derive_space(a_profile(layers={}, widths=()), probe_target(), only_backends=["eager"], batch_sizes=[1],
                         threads=1)  # fmt: skip
    sampler, known = Sampler(_joint(small), seed=0), {}
    while (candidate := sampler.ask(known)) is not None:
        assert candidate.hash not in known
        known[candidate.hash] = told = Told((1.0, 0.9), {"latency_p95_ms": -0.5, "failed": 0.0})
        sampler.tell(candidate, told)
    assert len(known) == small.size


def test_the_same_seed_asks_for_the_same_candidates(space: Space) -> None:
    def sequence(seed: int) -> list[str]:
        sampler, known = Sampler(_joint(space), seed), {}
        for i in range(15):
            candidate = sampler.ask(known)
            assert candidate is not None
            known[candidate.hash] = Told((float(i % 5), 0.9), {"latency_p95_ms": 0.0})
            sampler.tell(candidate, known[candidate.hash])
        return list(known)

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_the_sampler_turns_away_from_what_fails(space: Space) -> None:
    sampler, known = Sampler(_joint(space), seed=0), {}
    for _ in range(40):
        candidate = sampler.ask(known)
        assert candidate is not None
        bad = candidate.pruning.structure == "channel"
        told = Told(None, {"failed": 1.0}) if bad else Told((1.0, 0.9), {"failed": 0.0})
        known[candidate.hash] = told
        sampler.tell(candidate, told)
    late = []
    for _ in range(20):
        candidate = sampler.ask(known)
        assert candidate is not None
        late.append(candidate.pruning.structure == "channel")
        known[candidate.hash] = None
    ways = {name: prod(len(each.values) for each in (space.amounts[name], *knobs))
            for name, knobs in space.pruner_knobs.items()}  # fmt: skip
    assert sum(late) / len(late) < ways["channel"] / (1 + sum(ways.values()))


def test_neighbours_differ_in_one_choice_and_are_legal(space: Space) -> None:
    start = space.recipe("eager", "static_int8", 8, structure="channel", amount=0.5, alignment=8, recovery_steps=150)
    found = neighbours(_joint(space), start)
    assert {"pruning", "batch_size", "channel.amount", "eager.scheme"} <= set(found)
    assert [c.batch_size for c in found["batch_size"]][:2] in ([4, 16], [16, 4])
    for name, candidates in found.items():
        for candidate in candidates:
            choices = space.choices_of(candidate)
            kept = {k: v for k, v in space.choices_of(start).items() if k in choices and k != name}
            assert all(choices[k] == v for k, v in kept.items())


def test_baselines_and_recipes_come_first_and_references_last(space: Space) -> None:
    spec = a_spec(trials=20)
    proposer = Proposer(_joint(space), spec, Sampler(_joint(space), 0), 0)
    first = proposer.next([], {}, 20)
    assert first is not None and first.source == "baseline" and first.candidate.is_unmodified_float
    assert not first.gates
    best = _measured(3, space.recipe("eager", "static_int8", 16), 0.5, 0.92, spec)
    told = {best.candidate.hash: Told((0.5, 0.92), {})}
    last = proposer.next([best], told, 1)
    assert last is not None
    assert (last.source, last.candidate.batch_size, last.candidate.is_unmodified_float) == ("reference", 16, True)


def _brute_force_front(trials: Sequence[TrialResult]) -> set[int]:
    points = {t.number: (objective_value(t, "latency", "p95"), t.accuracy) for t in trials if t.feasible}
    return {n for n, (x, y) in points.items()
            if not any((a <= x and b >= y) and (a < x or b > y) for a, b in points.values())}  # fmt: skip


def test_the_front_is_what_nothing_else_beats() -> None:
    spec = a_spec(latency_budget_ms=100.0, max_accuracy_drop=0.5)
    values = [(3, 0.9), (2, 0.8), (1, 0.85), (4, 0.91), (5, 0.91), (2.5, 0.86), (1.5, 0.85)]
    trials = [_measured(i, a_candidate("eager", batch_size=i + 1), p, a, spec) for i, (p, a) in enumerate(values)]
    front = pareto_front(trials, "latency", "p95")
    assert {t.number for t in front} == _brute_force_front(trials)
    assert best_trial(front) is front[0]
    assert objective_value(front[0], "latency", "p95") == min(objective_value(t, "latency", "p95") for t in trials)


def test_infeasible_trials_are_never_on_the_front_and_the_nearest_is_named() -> None:
    spec = a_spec(latency_budget_ms=0.001)
    trials = [_measured(i, a_candidate("eager", batch_size=i + 1), 1.0 + i, 0.92, spec) for i in range(3)]
    assert pareto_front(trials, "latency", "p95") == []
    nearest = nearest_trials(trials)
    assert nearest[0].number == 0
    latency = nearest[0].latency_ms
    assert latency is not None and latency.bounds is not None
    assert relaxation(nearest[0], spec).limits == {"latency_p95_ms": pytest.approx(latency.bounds[1])}


def test_baseline_and_best_float_stand_at_the_batch_size_of_the_best() -> None:
    spec = a_spec(latency_budget_ms=100.0)
    trials = [
        _measured(0, a_candidate("eager"), 1.0, 0.923, spec),
        _measured(1, a_candidate("eager", batch_size=8), 8.0, 0.923, spec),
        _measured(2, a_candidate("onnxruntime", batch_size=8), 4.0, 0.923, spec),
        _measured(3, a_candidate("onnxruntime", "static_int8", batch_size=8), 2.0, 0.92, spec),
    ]
    best = trials[3]
    baseline, best_float = find_baseline(trials, best), find_best_float(trials, best, spec)
    assert (baseline and baseline.number, best_float and best_float.number) == (1, 2)
    assert speedup(baseline, best, "p50") == pytest.approx(4.0)
    assert find_baseline(trials, None) == trials[0]


def test_an_undecided_trial_is_never_the_best_however_fast() -> None:
    spec = a_spec()
    trials = [a_trial(0, p50=0.4), a_trial(1, p50=0.1, accuracy=0.914), a_trial(2, p50=0.2, accuracy=0.912)]
    assert [trial.verdict for trial in trials] == ["pass", "undecided", "undecided"]
    result = a_result(trials, spec)
    assert [trial.number for trial in result.front] == [0]
    assert [trial.number for trial in result.undecided] == [1]
    assert (result.status, result.trials.undecided, count_trials(trials).undecided) == ("feasible", 2, 2)


def test_the_undecided_within_the_limits_come_best_first_and_those_without_a_clean_time_last() -> None:
    slow, fast = a_trial(0, p50=0.6, accuracy=0.914), a_trial(1, p50=0.3, accuracy=0.914)
    unclean, outside = a_trial(2, p50=0.1, clean=False), a_trial(3, p50=0.1, accuracy=0.9125)
    assert outside.undecided
    found = undecided_trials([unclean, slow, fast, outside], "throughput", "p95", count=9)
    assert [trial.number for trial in found] == [1, 0, 2]
    assert [trial.number for trial in undecided_trials([unclean, slow, fast], "latency", "p95", count=2)] == [1, 0]


def test_where_nothing_is_feasible_the_undecided_are_the_nearest() -> None:
    trials = [a_trial(0, accuracy=0.9105, gates=False), a_trial(1, accuracy=0.9115), a_trial(2, accuracy=0.914)]
    assert [trial.verdict for trial in trials] == ["fail", "undecided", "undecided"]
    result = a_result(trials)
    assert (result.status, result.exit_code) == ("infeasible", 4)
    assert [trial.number for trial in result.nearest] == [2, 1, 0]


def test_a_relaxed_limit_is_one_that_would_surely_be_kept() -> None:
    spec = a_spec(min_accuracy=0.915)
    trial = a_trial(1, accuracy=0.914, constraints=spec.constraints, gates=False)
    relaxed = relaxation(trial, spec).limits
    assert set(relaxed) == {"accuracy_drop", "accuracy"}
    looser = a_spec(max_accuracy_drop=relaxed["accuracy_drop"], min_accuracy=relaxed["accuracy"])
    assert a_trial(1, accuracy=0.914, constraints=looser.constraints).feasible


def test_a_time_beside_other_programs_decides_nothing() -> None:
    spec = a_spec(latency_budget_ms=None)
    clean, disturbed = (a_trial(i, p50=1.0 - i / 2, clean=not i, constraints=spec.constraints) for i in range(2))
    assert disturbed.feasible and disturbed.latency_ms is not None
    assert objective_value(disturbed, "latency", "p95") is None
    assert objective_value(disturbed, "throughput", "p95") is None
    assert objective_value(disturbed, "size", "p95") == disturbed.size_bytes
    assert pareto_front([clean, disturbed], "latency", "p95") == [clean]
    budget = a_spec(latency_budget_ms=0.01)
    judged = a_trial(2, clean=False, constraints=budget.constraints)
    assert judged.undecided
    assert relaxation(judged, budget).unknown == ("latency_p95_ms",)


def test_what_other_programs_spoiled_is_counted() -> None:
    trials = [a_trial(0, polluted=3), a_trial(1, clean=False, polluted=7), a_trial(2, polluted=5, answered_by="x/1")]
    result = a_result(trials)
    assert (result.polluted, result.never_clean) == (10, 1)


def test_a_speed_up_has_an_interval_only_where_the_two_were_timed_in_turn() -> None:
    trials = [
        a_trial(0, a_candidate(), p50=1.0, accuracy=0.923, gates=False),
        a_trial(1, a_candidate("onnxruntime"), p50=0.6, accuracy=0.923, gates=False),
        a_trial(2, p50=0.4),
    ]
    plain = a_result(trials)
    assert (plain.speedup, plain.speedup_ci95, plain.speedup_over_float_ci95) == (2.5, None, None)
    rows = (
        FinalRow(trial=2, label="best", p50_ms=0.41, percentile_ms=0.44),
        FinalRow(trial=0, label="eager", p50_ms=0.99, percentile_ms=1.1, over_best=Ratio(value=2.4, ci95=(2.3, 2.5))),
    )
    timed = a_result(trials, finals=Finals(best=2, rows=rows, rounds=7, seconds=9.0))
    assert (timed.speedup, timed.speedup_ci95) == (2.4, (2.3, 2.5))
    assert (timed.speedup_over_float, timed.speedup_over_float_ci95) == (1.5, None)
    of_another = a_result(trials, finals=Finals(best=1, rows=rows, rounds=7, seconds=9.0))
    assert (of_another.speedup, of_another.speedup_ci95) == (2.5, None)


def test_the_best_float_is_one_that_was_measured_alone() -> None:
    spec = a_spec()
    disturbed = a_trial(0, a_candidate("openvino"), p50=0.2, clean=False, gates=False)
    alone = a_trial(1, a_candidate("onnxruntime"), p50=0.3, gates=False)
    assert find_best_float([disturbed, alone], None, spec) == alone
    assert find_best_float([disturbed], None, spec) == disturbed


def test_a_result_of_an_earlier_version_can_still_be_read() -> None:
    result = a_result([a_trial(0), a_trial(1, accuracy=0.9)])
    known = result.to_json()
    for name in ("undecided", "polluted", "never_clean", "confidence", "finals", "speedup_ci95"):
        del known[name]
    for name in ("undecided", "speedup", "accuracy_examples", "diagnosis", "energy_j", "device_memory_bytes"):
        del known["best"][name]
    for name in ("bounds", "samples", "processes", "polluted", "clean"):
        del known["best"]["latency_ms"][name]
    assert SearchResult.model_validate(known).best is not None
