"""Validation is scored in a fair order, as far as a verdict needs it, and compared with the original by example."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from evaluators import corpus
from evaluators.jobs import MeasureJob, ProfileJob, Protocol
from evaluators.outcome import AccuracyEvidence, Constraint, Evidence
from evaluators.profile import WorkloadProfile
from evaluators.run_job import run
from evaluators.stages.accuracy import resamples_within, score_bundle
from evaluators.verdicts import judge_all
from evaluators.workload import Workload

CLASSES, EXAMPLES = 3, 2000
NUMBER = CLASSES


@cache
def _points(seed: int, count: int) -> TensorDataset:
    """Points by class, sorted; the last of their coordinates is a number in [0, 1) that the model does not look at."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) * CLASSES // count
    points = torch.rand((count, CLASSES + 1), generator=generator)
    points[torch.arange(count), labels] += 0.6
    return TensorDataset(points, labels)


class Nearest(nn.Module):
    def forward(self, points: Tensor) -> Tensor:
        return points[:, :CLASSES] * 1.0


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float()


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0] - logits.mean(1)


def micro() -> MulticlassAccuracy:
    return MulticlassAccuracy(CLASSES, average="micro")


def macro_f1() -> MulticlassF1Score:
    return MulticlassF1Score(CLASSES)


points = Workload(
    name="points",
    model=lambda: Nearest().eval(),
    calibration=lambda: _points(1, 60),
    validation=lambda: _points(2, EXAMPLES),
    metric=top1,
)
margins = replace(points, name="margins", metric=margin)
whole = replace(points, name="whole", metric=micro)
scored_by_f1 = replace(points, name="f1", metric=macro_f1)
unscored = replace(points, name="unscored", metric=None)

Change = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Bundle:
    """A bundle that answers like the original, but for what ``change`` makes of (inputs, logits)."""

    def __init__(self, change: Change = lambda inputs, logits: logits) -> None:
        self._change = change
        self.batches: list[int] = []

    def prepare(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        (inputs,) = batch.values()
        self.batches.append(len(inputs))
        return inputs

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return self._change(prepared, prepared[:, :CLASSES].copy())

    def outputs(self, raw: np.ndarray) -> list[np.ndarray]:
        return [raw]


def wrong_on(share: float) -> Bundle:
    """Answer this share of the examples, drawn at random, with another class."""
    return Bundle(lambda inputs, logits: np.where(inputs[:, NUMBER:] < share, np.roll(logits, 1, 1), logits))


def wrong_on_the_last_class() -> Bundle:
    def change(inputs: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.where(logits.argmax(1, keepdims=True) == CLASSES - 1, np.roll(logits, 1, 1), logits)

    return Bundle(change)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile_of(home: Path) -> Callable[[str], WorkloadProfile]:
    @cache
    def profile(name: str) -> WorkloadProfile:
        found = run(ProfileJob(workload=f"{__name__}:{name}", home=str(home)), lambda stage: None).profile
        assert found is not None
        return found

    return profile


Score = Callable[..., AccuracyEvidence]


@pytest.fixture
def scored(home: Path, profile_of: Callable[[str], WorkloadProfile]) -> Score:
    """Score a bundle on one of this module's workloads; the clock stands still unless each reading adds seconds."""

    def score(bundle: Bundle, name: str = "points", *, seconds: float = 0.0, batch_size: int = 8, **job: Any) -> Any:
        limits = job.pop("constraints", (Constraint(metric="accuracy_drop", max=0.05),))
        asked = MeasureJob(bundle="", profile=profile_of(name), home=str(home), constraints=limits, **job)
        clock = itertools.count(0.0, seconds).__next__ if seconds else lambda: 0.0
        return score_bundle(bundle, globals()[name], asked, batch_size, clock=clock)

    return score


def _verdict(evidence: AccuracyEvidence, limit: float = 0.05) -> str:
    return judge_all([Constraint(metric="accuracy_drop", max=limit)], Evidence(accuracy=evidence))[0].status


def test_a_hopeless_bundle_is_given_up_at_the_first_look(scored: Score) -> None:
    evidence = scored(wrong_on(0.5))
    assert evidence.examples == 256
    assert not evidence.complete
    assert _verdict(evidence) == "fail"


def test_a_bundle_that_is_surely_within_is_passed_early_only_where_the_rest_takes_long(scored: Score) -> None:
    slow, quick = scored(Bundle(), seconds=10.0), scored(Bundle())
    assert (slow.complete, quick.complete) == (False, True)
    assert _verdict(slow) == _verdict(quick) == "pass"


def test_a_bundle_near_its_limit_is_scored_to_the_end(scored: Score) -> None:
    evidence = scored(wrong_on(0.06), seconds=10.0)
    assert evidence.complete
    assert _verdict(evidence, limit=evidence.drop) == "undecided"


@pytest.mark.parametrize(
    "asked",
    [
        {"gates": False},
        {"constraints": ()},
        {"constraints": (Constraint(metric="latency_p95_ms", max=5),)},
    ],
    ids=["no gates", "no limits", "no limit on accuracy"],
)
def test_all_is_scored_where_nothing_would_stop_the_trial(scored: Score, asked: dict[str, Any]) -> None:
    evidence = scored(wrong_on(0.5), **asked)
    assert (evidence.examples, evidence.of) == (EXAMPLES, EXAMPLES)


def test_one_limit_that_is_surely_missed_is_enough(scored: Score) -> None:
    limits = (Constraint(metric="accuracy_drop", max=1.0), Constraint(metric="accuracy", min=0.99))
    assert scored(wrong_on(0.3), constraints=limits).examples == 256


def test_a_split_sorted_by_class_does_not_mislead_an_early_look(scored: Score) -> None:
    early, full = scored(wrong_on_the_last_class()), scored(wrong_on_the_last_class(), gates=False)
    assert early.examples == 256
    low, high = early.drop_bounds or (0.0, 0.0)
    assert low < full.drop < high
    assert full.drop > 0.25


def test_higher_confidence_looks_longer_and_has_wider_bounds(scored: Score) -> None:
    bundle, sure = wrong_on(0.15), Protocol(confidence=0.9999)
    assert scored(bundle, protocol=sure).examples > scored(bundle).examples
    usual, wide = scored(bundle, gates=False), scored(bundle, gates=False, protocol=sure)
    assert usual.drop_bounds and wide.drop_bounds
    assert wide.drop_bounds[0] < usual.drop_bounds[0] < usual.drop_bounds[1] < wide.drop_bounds[1]
    assert wide.drop_ci95 == usual.drop_ci95


def test_every_call_has_exactly_the_batch_size(scored: Score) -> None:
    bundle = Bundle()
    assert scored(bundle, batch_size=300, gates=False).examples == EXAMPLES
    assert bundle.batches == [300] * 7


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_examples_are_paired_whatever_the_batch_size(scored: Score, batch_size: int) -> None:
    evidence = scored(wrong_on(0.1), batch_size=batch_size, gates=False)
    logits, labels = (tensor.numpy() for tensor in _points(2, EXAMPLES).tensors)
    before = logits[:, :CLASSES].argmax(1)
    after = np.where(logits[:, NUMBER] < 0.1, (before + 1) % CLASSES, before)
    assert evidence.drop == pytest.approx(((before == labels) * 1.0 - (after == labels)).mean())
    assert evidence.accuracy == pytest.approx((after == labels).mean())
    assert evidence.method == "paired proportions (MOVER)"


def test_real_scores_are_compared_by_pairs(scored: Score) -> None:
    evidence = scored(Bundle(lambda inputs, logits: logits * 0.99), "margins", gates=False)
    assert evidence.method == "paired t"
    assert evidence.ci95 and evidence.drop_ci95
    assert np.diff(evidence.drop_ci95)[0] < np.diff(evidence.ci95)[0] / 5


def test_agreement_is_a_drop_from_the_original_itself(scored: Score) -> None:
    same, other = scored(Bundle(), "unscored", gates=False), scored(wrong_on(0.1), "unscored", gates=False)
    assert (same.accuracy, same.drop) == (1.0, 0.0)
    assert same.drop_bounds == pytest.approx((-(1 - 0.05 ** (1 / EXAMPLES)), 1 - 0.05 ** (1 / EXAMPLES)))
    assert other.drop == pytest.approx(1 - other.accuracy) == pytest.approx(0.1, abs=0.03)
    assert other.metric == "agreement"


def test_a_metric_of_the_whole_has_the_interval_of_the_examples_where_it_is_their_mean(scored: Score) -> None:
    one_by_one, together = scored(wrong_on(0.1), gates=False), scored(wrong_on(0.1), "whole", gates=False)
    assert (together.method or "").startswith("paired bootstrap")
    assert (together.accuracy, together.drop) == pytest.approx((one_by_one.accuracy, one_by_one.drop), abs=1e-6)
    assert together.drop_bounds and one_by_one.drop_bounds and together.bounds and one_by_one.bounds
    width = one_by_one.drop_bounds[1] - one_by_one.drop_bounds[0]
    assert together.drop_bounds == pytest.approx(one_by_one.drop_bounds, abs=0.1 * width)
    assert together.bounds == pytest.approx(one_by_one.bounds, abs=0.1 * (one_by_one.bounds[1] - one_by_one.bounds[0]))


def test_a_metric_of_the_whole_without_any_change_is_not_certain(scored: Score) -> None:
    evidence = scored(Bundle(), "scored_by_f1", gates=False)
    assert evidence.drop == pytest.approx(0, abs=1e-6)
    assert evidence.drop_bounds
    assert 0 < evidence.drop_bounds[1] < 5 / EXAMPLES


def test_a_metric_of_the_whole_is_looked_at_early_only_where_the_rest_takes_long(scored: Score) -> None:
    assert scored(wrong_on(0.5), "scored_by_f1", seconds=10.0).examples == 256
    assert scored(wrong_on(0.5), "scored_by_f1").complete


def test_answers_too_large_to_keep_are_compared_by_groups(
    scored: Score, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = scored(wrong_on(0.1), "scored_by_f1", gates=False)
    monkeypatch.setattr(corpus, "KEPT_BYTES", 100)
    profile = run(ProfileJob(workload=f"{__name__}:scored_by_f1", home=str(tmp_path)), lambda stage: None).profile
    assert profile is not None
    job = MeasureJob(bundle="", profile=profile, home=str(tmp_path), constraints=(), gates=False)
    grouped = score_bundle(wrong_on(0.1), scored_by_f1, job, 7)
    assert grouped.method == "paired jackknife, 20 groups"
    assert (grouped.accuracy, grouped.drop) == pytest.approx((kept.accuracy, kept.drop), abs=1e-6)
    assert grouped.drop_ci95 and kept.drop_ci95
    assert 0.5 < np.diff(grouped.drop_ci95)[0] / np.diff(kept.drop_ci95)[0] < 2


@pytest.mark.parametrize(("seconds", "resamples"), [(0.0, 400), (0.003, 400), (0.005, 200), (0.02, 50), (0.04, 0)])
def test_resamples_are_as_many_as_there_is_time_for(seconds: float, resamples: int) -> None:
    assert resamples_within(seconds, limit_s=3.0) == resamples
