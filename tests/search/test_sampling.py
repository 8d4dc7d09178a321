"""The sampler: what it suggests is what Optuna suggests, and it goes on when it has seen more than it is shown."""

from __future__ import annotations

import random

import optuna
import pytest

from evaluators.candidate import Candidate
from evaluators.joint_space import JointSpace
from evaluators.space import Space, derive_space
from search import lessons, sampling
from search.lessons import Told, best, kept
from search.proposals import Neighbours, neighbours
from search.sampling import Sampler
from tests.search.factories import a_profile, a_target


@pytest.fixture(scope="module")
def space() -> Space:
    return derive_space(a_profile(), a_target())


def told(random_: random.Random) -> Told:
    values = (random_.random(), random_.random()) if random_.random() < 0.8 else None
    return Told(
        values, {"latency_p95_ms": random_.random() - 0.7, "accuracy_drop": random_.random() - 0.7, "failed": 0}
    )


def searched(sampler: Sampler, space: Space, known: dict[str, Told | None], asks: int) -> list[Candidate]:
    """Tell 40 random candidates, then ask and tell with four running at a time."""
    random_, asked, running = random.Random(7), list[Candidate](), list[Candidate]()  # noqa: S311

    def tell(candidate: Candidate) -> None:
        known[candidate.hash] = found = told(random_)
        sampler.tell(candidate, found)

    while len(known) < 40:
        candidate = space.walk(lambda _, parameter: random_.choice(parameter.values))
        if candidate.hash not in known:
            tell(candidate)
    for _ in range(asks):
        found = sampler.ask(known)
        assert found is not None and found.hash not in known
        known[found.hash] = None
        asked.append(found)
        running.append(found)
        if len(running) > 4:
            tell(running.pop(0))
    return asked


def test_what_is_suggested_is_what_optuna_suggests(space: Space) -> None:
    joint = JointSpace({space.target.name: space})
    ours, plain = Sampler(joint, 3), Sampler(joint, 3)
    tpe = optuna.samplers.TPESampler(seed=3, multivariate=True, group=True, constant_liar=True)
    plain._study = optuna.create_study(directions=["minimize", "maximize"], sampler=tpe)
    assert searched(ours, space, {}, 25) == searched(plain, space, {}, 25)


def test_a_sampler_that_has_seen_much_is_shown_the_best_and_the_latest_and_goes_on(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "BEST_KEPT", 8)
    monkeypatch.setattr(lessons, "LATEST_KEPT", 12)
    monkeypatch.setattr(sampling, "MOST_SHOWN", 30)
    known: dict[str, Told | None] = {}
    sampler = Sampler(JointSpace({space.target.name: space}), 0)

    asked = searched(sampler, space, known, 30)

    assert len({candidate.hash for candidate in asked}) == 30
    finished = [trial for trial in sampler._study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert 12 <= len(finished) <= 30
    assert sum(trial.state.name == "RUNNING" for trial in sampler._study.trials) == 4, (
        "what runs is still kept away from"
    )


def test_the_best_are_kept_as_tpe_ranks_them_and_the_latest_with_them() -> None:
    everything = {
        "dominated": Told((2.0, 0.5), {"l": -1.0}), "front": Told((1.0, 0.9), {"l": -1.0}),
        "far": Told((0.1, 0.9), {"l": 3.0}), "pruned": Told(None, {"l": 0.0}), "near": Told((0.1, 0.9), {"l": 0.1}),
    }  # fmt: skip
    assert best(everything, 5) == ["front", "dominated", "pruned", "near", "far"]
    late = {str(number): Told(None, {"l": 5.0}) for number in range(lessons.LATEST_KEPT + 200)}
    chosen = kept(everything | late)
    assert chosen[:5] == list(everything), "the best of all, in the order in which they were told"
    assert chosen[-lessons.LATEST_KEPT :] == list(late)[-lessons.LATEST_KEPT :]
    assert len(chosen) == lessons.BEST_KEPT + lessons.LATEST_KEPT


def test_neighbours_are_worked_out_once_and_those_that_were_tried_are_left_out(space: Space) -> None:
    joint = JointSpace({space.target.name: space})
    start, told = space.as_written("eager", 1), set[str]()
    every, kept_ones = neighbours(joint, start), Neighbours(joint)
    assert kept_ones.unseen(start, told) == every
    for name, found in every.items():
        told |= {each.hash for each in found}
        assert name not in kept_ones.unseen(start, told)
    assert kept_ones.unseen(start, told) == {}
    assert kept_ones.of(start) is kept_ones.of(start)
