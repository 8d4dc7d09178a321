"""Metrics score what they are given: examples one by one, a whole split, or any part of it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from evaluators.batching import example_batches, fair_order
from evaluators.corpus import Corpus, take
from evaluators.errors import NotFiniteError, WorkloadError
from evaluators.scoring import Scorer
from evaluators.structure import Structure, TensorSpec
from tests import tiny

LOGITS = Structure(style="tensor", tensors=(TensorSpec(name="output", dtype="float32", shape=(None, 3)),))
VARYING = Structure(style="tensor", tensors=(TensorSpec(name="output", dtype="float32", shape=(None, None, 3)),))


def _answers(seed: int, count: int) -> tuple[np.ndarray, torch.Tensor]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 3)).astype(np.float32), torch.from_numpy(random.integers(0, 3, count))


def _filled(count: int, batch: int, structure: Structure = LOGITS) -> tuple[Corpus, np.ndarray, torch.Tensor]:
    logits, labels = _answers(0, count)
    corpus = Corpus(lambda: MulticlassAccuracy(3, average="micro"), structure, count)
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        corpus.add([logits[part]], labels[part])
    return corpus, logits, labels


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_corpus_scores_any_of_its_examples(batch: int) -> None:
    corpus, logits, labels = _filled(100, batch)
    right = logits.argmax(1) == labels.numpy()
    drawn = np.array([3, 3, 3, 50, 99])
    assert corpus.value() == pytest.approx(right.mean())
    assert corpus.over(drawn, drawn) == pytest.approx(right[drawn].mean())
    assert corpus.over(drawn, drawn, [np.eye(3, dtype=np.float32)[labels]]) == 1.0


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_corpus_without_rows_scores_all_but_each_group(batch: int) -> None:
    corpus, logits, labels = _filled(100, batch, VARYING)
    right = (logits.argmax(1) == labels.numpy()).reshape(20, 5)
    assert corpus.rows() is None
    without = corpus.without_groups()
    assert without is not None
    assert without == pytest.approx([np.delete(right, group, 0).mean() for group in range(20)])


def test_states_that_cannot_be_merged_give_no_groups() -> None:
    class Plain:
        def __init__(self) -> None:
            self.total, self.count = 0.0, 0

        def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
            self.total, self.count = self.total + float(outputs.sum()), self.count + len(outputs)

        def compute(self) -> float:
            return self.total / self.count

    corpus = Corpus(Plain, VARYING, 40)
    corpus.add([_answers(0, 40)[0]], torch.zeros(40))
    assert np.isfinite(corpus.value())
    assert corpus.without_groups() is None


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (torch.arange(5), torch.tensor([4, 0])),
        ([10, 11, 12, 13, 14], [14, 10]),
        ({"a": [1, 2, 3, 4, 5]}, {"a": [5, 1]}),
        (((1, 2, 3),), ((1, 2, 3),)),
        (([1, 2, 3, 4, 5], ["a", "b", "c", "d", "e"]), ([5, 1], ["e", "a"])),
    ],
)
def test_targets_of_any_structure_are_taken_by_example(targets: Any, expected: Any) -> None:
    taken = take(targets, np.array([4, 0]))
    assert torch.equal(taken, expected) if isinstance(expected, torch.Tensor) else taken == expected


@pytest.mark.parametrize(
    ("metric", "error"),
    [
        (lambda outputs, targets: outputs[:, 0] * float("nan"), NotFiniteError),
        (lambda outputs, targets: outputs, WorkloadError),
        (lambda: "no metric", WorkloadError),
    ],
)
def test_a_metric_that_breaks_its_contract_is_refused(metric: Any, error: type[Exception]) -> None:
    logits, labels = _answers(0, 4)
    with pytest.raises(error):
        scorer = Scorer(replace(tiny.workload, metric=metric), LOGITS, 4)
        scorer.add([logits], labels, 4)
        scorer.scores()


def test_repeats_that_fill_up_a_batch_do_not_count() -> None:
    scorer = Scorer(replace(tiny.workload, metric=lambda: MeanOfFirst()), LOGITS, 3)
    scorer.add([np.array([[1.0, 0, 0], [2.0, 0, 0], [9.0, 0, 0]], np.float32)], torch.zeros(3), real=2)
    assert scorer.scores().mean == 1.5
    assert scorer.scores().examples == 2


class MeanOfFirst(MeanMetric):
    def update(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        super().update(outputs[:, 0])


def test_the_fair_order_is_a_permutation_that_depends_on_the_data_alone() -> None:
    order = fair_order(1000, "digest")
    assert sorted(order.tolist()) == list(range(1000))
    assert np.array_equal(order, fair_order(1000, "digest"))
    assert not np.array_equal(order, fair_order(1000, "another"))
    assert abs(order[:250].mean() - 499.5) < 4 * 1000 / np.sqrt(12 * 250)


def test_batches_follow_the_order_and_fill_up_with_their_last_example() -> None:
    dataset = [(torch.tensor([float(i)]), i) for i in range(5)]
    batches = list(example_batches(dataset, None, 2, order=np.array([4, 2, 0, 1, 3])))
    assert [targets.tolist() for _, targets, _ in batches] == [[4, 2], [0, 1], [3, 3]]
    assert [real for *_, real in batches] == [2, 2, 1]
