"""No example is in two splits: overlap is found by content and told with indices, repeats are counted."""

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from evaluators import contract
from evaluators.contract import check_duplicates, check_overlap, hash_examples

SPLITS = ("calibration", "train", "validation", "test")


def _split(seed: int, count: int) -> TensorDataset:
    images = torch.rand((count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, torch.zeros(count))


def _with(split: TensorDataset, *others: tuple[TensorDataset, int]) -> TensorDataset:
    """Append examples of other splits, under another label."""
    images = torch.stack([other.tensors[0][index] for other, index in others])
    return TensorDataset(torch.cat([split.tensors[0], images]), torch.ones(len(split) + len(others)))


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(SPLITS, 2)))
def test_splits_that_share_an_example_are_an_error_that_names_it_where_one_is_scored(first: str, second: str) -> None:
    splits = {name: _split(seed, 20) for seed, name in enumerate(SPLITS)}
    splits[second] = _with(splits[second], (splits[first], 7))
    problems = check_overlap({name: hash_examples(split) for name, split in splits.items()})
    if {first, second} == {"calibration", "train"}:
        assert problems == [], "neither is scored on"
        return
    (problem,) = problems
    assert problem.level == "error"
    assert problem.what == f"1 example of {first} is in {second} as well (4.8% of it): {first}[7] = {second}[20]"


def test_of_many_shared_examples_all_are_counted_and_three_are_named() -> None:
    train = _split(1, 30)
    test = _with(_split(2, 6), *((train, index) for index in (9, 4, 21, 2)))
    (problem,) = check_overlap({"train": hash_examples(train), "test": hash_examples(test)})
    assert problem.what == (
        "4 examples of train are in test as well (40.0% of it): "
        "train[2] = test[9], train[4] = test[7], train[9] = test[6], …"
    )


def test_disjoint_splits_are_no_problem() -> None:
    hashes = {name: hash_examples(_split(seed, 20)) for seed, name in enumerate(SPLITS)}
    assert check_overlap(hashes) == check_duplicates(hashes) == []


def test_repeats_within_a_split_are_a_warning_with_their_count() -> None:
    split = _split(1, 10)
    (problem,) = check_duplicates({"validation": hash_examples(_with(split, (split, 3), (split, 3)))})
    assert problem.level == "warning"
    assert problem.what.startswith("2 examples of validation repeat an earlier one: validation[10] = validation[3], ")


def test_of_a_large_split_a_fixed_sample_is_read_and_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "HASHED_EXAMPLES", 10)
    large, small = hash_examples(_split(1, 1000)), hash_examples(_split(1, 5))
    assert len(large.indices) == len(set(large.indices)) == 10
    assert (large.indices[0], large.indices[-1]) == (0, 999)
    (problem,) = check_overlap({"train": large, "validation": small})
    assert problem.what.endswith("(looked at 10 of the 1,000 examples of train)")


def test_the_digest_of_a_split_stands_for_inputs_and_targets() -> None:
    split = _split(1, 10)
    other_targets = TensorDataset(split.tensors[0], torch.ones(10))
    other_inputs = TensorDataset(split.tensors[0] + 1e-6, split.tensors[1])
    digests = {hash_examples(dataset).digest for dataset in (split, other_targets, other_inputs, _split(1, 9))}
    assert len(digests) == 4
    assert hash_examples(_split(1, 10)).digest == hash_examples(split).digest


def test_inputs_are_compared_with_shape_and_name() -> None:
    flat = [({"a": torch.zeros(4)}, 0)]
    for other in ({"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4, dtype=torch.int32)}):
        assert hash_examples(flat).inputs != hash_examples([(other, 0)]).inputs
    assert hash_examples(flat).inputs == hash_examples([({"a": torch.from_numpy(np.zeros(4, np.float32))}, 1)]).inputs
