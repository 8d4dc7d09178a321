"""Recovery is a rung of a ladder: named once, repeatable, priced, shared by all that quantize its result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.candidate import Candidate, Pruning, Quantization, Recovery
from evaluators.errors import NotFiniteError, TooSlowError, UnsupportedError
from evaluators.jobs import Prepared, PrepareJob, ProfileJob
from evaluators.outcome import FailureKind
from evaluators.parameters import Choice, check_values, combinations, defaults
from evaluators.profile import WorkloadProfile
from evaluators.pruners.recovery import recovery_for
from evaluators.pruners.unstructured import Unstructured
from evaluators.run_job import kind_of, run
from evaluators.space import derive_space
from evaluators.stages import sourcing
from evaluators.stages.recover import recover
from evaluators.stages.restore import build_model
from evaluators.stages.training import TIMED_STEPS, Course, Pace
from evaluators.target import probe_target
from tests import tiny
from tests.search.factories import a_profile

LABELLED = replace(tiny.workload, loss=nn.functional.cross_entropy)
RUNGS: list[tuple[Recovery, int]] = [("bn", 0), ("distil", 6), ("train", 6)]


def _pruned() -> nn.Module:
    model = build_model(LABELLED)
    Unstructured().prune(model, None, 0.5, {})
    return model


def test_a_candidate_from_before_there_was_a_ladder_is_the_same_one() -> None:
    given: dict[str, Any] = {"structure": "channel", "amount": 0.5, "alignment": 8, "recovery_steps": 150}

    assert Pruning(**given).to_json() == given
    assert Pruning(**given, recovery="distil") == Pruning(**given)
    assert Pruning(**given, recovery="train").to_json() == {**given, "recovery": "train"}


def test_a_candidate_without_steps_did_not_recover() -> None:
    pruning = Pruning(structure="channel", amount=0.5)

    assert (pruning.recovery, "recovery" in pruning.to_json()) == ("none", False)
    assert Pruning.model_validate(pruning.to_json() | {"recovery": "bn"}).to_json()["recovery"] == "bn"


@pytest.mark.parametrize(("how", "steps"), [("none", 50), ("bn", 50), ("distil", 0), ("train", 0)])
def test_steps_are_for_what_trains_and_for_nothing_else(how: Recovery, steps: int) -> None:
    with pytest.raises(ValueError, match=f"recovery '{how}'"):
        Pruning(structure="channel", amount=0.5, recovery=how, recovery_steps=steps)


def test_steps_are_asked_for_where_something_trains() -> None:
    profile = a_profile(layers={"Conv2d": 3, "BatchNorm2d": 3, "Linear": 1}, has_train=True, has_loss=True)
    space = derive_space(profile, probe_target(), only_backends=["eager"], batch_sizes=[1], threads=1)
    chance = random.Random(1)  # noqa: S311

    drawn = [space.walk(lambda _, knob: chance.choice(knob.values)) for _ in range(2000)]
    seen = {(c.pruning.recovery, c.pruning.recovery_steps) for c in drawn if c.pruning.amount}

    trained = {(how, steps) for how in ("distil", "train") for steps in (50, 150, 500)}
    assert seen == {("none", 0), ("bn", 0)} | trained


@pytest.mark.parametrize(
    ("facts", "missing"),
    [
        ({"layers": {"Linear": 2}, "has_train": True, "has_loss": True}, {"bn"}),
        ({"layers": {"BatchNorm1d": 2}, "has_train": False, "has_loss": True}, {"train"}),
        ({"layers": {"BatchNorm1d": 2}, "has_train": True, "has_loss": False}, {"train"}),
    ],
)
def test_a_rung_that_a_workload_cannot_step_on_is_not_offered(facts: dict[str, Any], missing: set[str]) -> None:
    ladder = recovery_for(a_profile(**facts))[0]

    assert set(ladder.values) == {"none", "bn", "distil", "train"} - missing
    assert ladder.default == "distil"


def test_a_knob_that_makes_no_difference_has_no_value() -> None:
    how = Choice("how", ("quick", "slow"), "quick", "")
    steps = Choice("steps", (1, 2, 3), 2, "", when=("how", ("slow",)))
    other = Choice("other", (True, False), True, "")

    assert defaults([how, steps, other]) == {"how": "quick", "other": True}
    assert combinations([how, steps, other]) == 2 * (1 + 3)
    assert check_values([how, steps], {"how": "quick"}, "thing") is None
    assert check_values([how, steps], {"how": "slow", "steps": 3}, "thing") is None
    assert "needs a value for 'steps'" in str(check_values([how, steps], {"how": "slow"}, "thing"))
    assert "makes no difference" in str(check_values([how, steps], {"how": "quick", "steps": 3}, "thing"))


@pytest.mark.parametrize(("how", "steps"), RUNGS)
def test_the_same_recovery_gives_the_same_weights_bit_for_bit(how: Recovery, steps: int) -> None:
    teacher, before = build_model(LABELLED), _pruned().state_dict()
    found = []
    for _ in range(2):
        student = _pruned()
        torch.rand(7)  # what others draw makes no difference
        recover(student, teacher, LABELLED, how, steps, seed=5)
        found.append(student.state_dict())

    assert all(torch.equal(found[0][name], found[1][name]) for name in before)
    assert any(not torch.equal(found[0][name], before[name]) for name in before)


def test_statistics_are_those_of_the_pruned_model_and_no_weight_changes() -> None:
    student, before = _pruned(), _pruned()
    recover(student, build_model(LABELLED), LABELLED, "bn", 0, seed=0)

    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), before.parameters(), strict=True))
    images = torch.stack([LABELLED.train()[i][0] for i in range(256)])  # type: ignore[misc]
    with torch.no_grad():
        seen = student.features[0](images)
    assert torch.allclose(student.features[1].running_mean, seen.mean((0, 2, 3)), atol=1e-4)
    assert not any(layer.training for layer in student.modules())


def _ignorant() -> nn.Module:
    """Return a model that finds all classes equally likely."""
    model = build_model(LABELLED)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model


def test_labels_alone_are_learnt_where_the_recovery_is_to_train() -> None:
    images, labels = (torch.stack([pair[i] for pair in LABELLED.train()]) for i in (0, 1))  # type: ignore[misc]
    student, teacher = _ignorant(), _ignorant()

    recover(student, teacher, LABELLED, "train", 40, seed=0)

    with torch.no_grad():  # to imitate the teacher, the student would have had nothing to learn
        lost, ignorant = (float(nn.functional.cross_entropy(model(images), labels)) for model in (student, teacher))
    assert lost < ignorant - 0.01


@pytest.mark.parametrize("lacks", [{"loss": None}, {"train": None}])
def test_labels_cannot_be_trained_on_without_a_loss_and_a_train_split(lacks: dict[str, None]) -> None:
    with pytest.raises(UnsupportedError, match=next(iter(lacks))):
        recover(_pruned(), build_model(LABELLED), replace(LABELLED, **lacks), "train", 5, seed=0)


def test_statistics_cannot_be_estimated_where_there_are_none() -> None:
    with pytest.raises(UnsupportedError, match="no batch norm"):
        recover(nn.Linear(2, 2), nn.Linear(2, 2), LABELLED, "bn", 0, seed=0)


def test_training_that_diverges_is_a_typed_end() -> None:
    broken = replace(tiny.workload, loss=lambda outputs, labels: outputs.sum() * float("nan"))

    with pytest.raises(NotFiniteError, match="recovery diverged: the loss became nan at step 1") as caught:
        recover(_pruned(), build_model(broken), broken, "distil", 5, seed=0)
    assert kind_of(caught.value) is FailureKind.NOT_FINITE


def _pace(limit_s: float | None, ends_s: list[float]) -> Pace:
    clock = iter([0.0, *ends_s])
    return Pace(Course("recovery", 100, 1e-3, 0, limit_s), lambda: next(clock))


def test_what_would_take_too_long_is_refused_after_its_first_steps() -> None:
    pace = _pace(limit_s=60.0, ends_s=[5.0, 6.0, 7.0])
    for _ in range(TIMED_STEPS - 1):
        pace.step()

    with pytest.raises(
        TooSlowError, match=r"100 steps would take about 100 s here, 1 s each, .* at most 60 steps"
    ) as caught:
        pace.step()
    assert kind_of(caught.value) is FailureKind.TIMED_OUT


@pytest.mark.parametrize("limit_s", [None, 101.0])
def test_what_fits_runs_to_its_end_and_is_not_looked_at_again(limit_s: float | None) -> None:
    pace = _pace(limit_s, ends_s=[5.0, 6.0, 7.0])
    for _ in range(100):
        pace.step()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=f"{tiny.__file__}:workload", home=str(home)), lambda stage: None)
    assert answer.profile is not None
    return answer.profile


def _prepared(home: Path, profile: WorkloadProfile, backend: str, scheme: str, batch_size: int, **job: Any) -> Prepared:
    pruning = Pruning(structure="unstructured", amount=0.5, recovery_steps=8)
    quantizer = derive_space(profile, probe_target(), only_backends=[backend])
    quantization = quantizer.recipe(backend, scheme, batch_size).quantization
    candidate = Candidate(target=probe_target().name, backend=backend, quantization=quantization, pruning=pruning,
                          batch_size=batch_size)  # fmt: skip
    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home), **job), lambda stage: None)
    assert answer.prepared is not None, answer.outcome
    return answer.prepared


def test_one_recovery_serves_all_quantizations_backends_and_batch_sizes_and_tells_its_price(
    home: Path, profile: WorkloadProfile
) -> None:
    first = _prepared(home, profile, "eager", "fp32", 1)
    others = [
        _prepared(home, profile, "eager", "static_int8", 1),
        _prepared(home, profile, "onnxruntime", "dynamic_int8", 1),
        _prepared(home, profile, "onnxruntime", "fp32", 4),
    ]

    assert "recover" not in first.cached_stages
    assert first.training_seconds["recover"] > 0
    for other in others:
        assert "recover" in other.cached_stages
        assert other.training_seconds == pytest.approx(first.training_seconds, abs=1e-3)


def test_a_recovery_that_takes_most_of_a_trials_time_is_a_typed_end(tmp_path: Path, profile: WorkloadProfile) -> None:
    candidate = Candidate(target=probe_target().name, backend="eager", quantization=Quantization(),
                          pruning=Pruning(structure="unstructured", amount=0.5, recovery_steps=500))  # fmt: skip
    job = PrepareJob(candidate=candidate, profile=profile, home=str(tmp_path), time_limit_s=1e-3)

    outcome = run(job, lambda stage: None).outcome

    assert outcome is not None and outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.stage) == (FailureKind.TIMED_OUT, "recover")
    assert outcome.failure.reason.startswith("recovery of 500 steps would take about")


class InRounds(Unstructured):
    """Prunes in two rounds."""

    def steps(self, values: dict[str, Any]) -> int:
        return 2

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Any], *,
        data: Any = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        super().prune(module, example, amount / 2, values)
        if between is not None:
            between(module)
        return super().prune(module, example, amount, values)


def test_a_model_that_is_pruned_in_rounds_recovers_between_them(
    tmp_path: Path, profile: WorkloadProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    recovered: list[tuple[Recovery, int]] = []

    def noting(student: Any, teacher: Any, workload: Any, how: Recovery, steps: int, *rest: Any) -> None:
        recovered.append((how, steps))

    monkeypatch.setattr(sourcing, "pruners", lambda: {"unstructured": InRounds()})
    monkeypatch.setattr("evaluators.stages.recover.recover", noting)

    def weights(pruning: Pruning) -> sourcing.Sourcing:
        clock = sourcing.StageClock(lambda stage: None)
        found = sourcing.Sourcing(tiny.workload, profile, sourcing.StageCache(tmp_path), clock, 0)
        found.weights(Candidate(target="cpu", backend="eager", pruning=pruning))
        return found

    given: dict[str, Any] = {"structure": "unstructured", "amount": 0.5}
    weights(Pruning(**given))
    assert recovered == []
    priced = weights(Pruning(**given, recovery_steps=50)).clock
    assert recovered == [("distil", 25), ("distil", 50)]
    assert set(priced.training) == {"prune", "recover"}
    weights(Pruning(**given, recovery="bn"))
    assert recovered[2:] == [("bn", 0), ("bn", 0)]
