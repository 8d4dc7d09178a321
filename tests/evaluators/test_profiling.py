"""Every breach of the workload contract is found and said in words; facts are read as they are."""

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from evaluators.errors import WorkloadError
from evaluators.jobs import JobResult, ProfileJob
from evaluators.outcome import FailureKind
from evaluators.run_job import run
from evaluators.workload import Workload, load_workload, reference_of
from tests import tiny


@pytest.fixture
def profiled(tmp_path: Path) -> Iterator[Callable[[Workload], JobResult]]:
    """Profile a workload object as if it lived in a module of its own."""
    module = types.ModuleType("workload_under_test")
    sys.modules[module.__name__] = module

    def profile(workload: Workload) -> JobResult:
        module.workload = workload  # type: ignore[attr-defined]
        job = ProfileJob(workload=f"{module.__name__}:workload", home=str(tmp_path))
        return run(job, lambda stage: None)

    yield profile
    del sys.modules[module.__name__]


def _with_nan() -> nn.Module:
    model = tiny.build_model()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    return model


def _empty() -> TensorDataset:
    return TensorDataset(torch.zeros(0, 1, 12, 12), torch.zeros(0))


def _narrow() -> TensorDataset:
    return TensorDataset(torch.randn(8, 2, 12, 12), torch.zeros(8, dtype=torch.long))


def _noise() -> TensorDataset:
    return TensorDataset(torch.randn(1000, 1, 12, 12), torch.zeros(1000, dtype=torch.long))


def _first_of_validation() -> Subset:
    return Subset(tiny.workload.validation(), [0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": lambda: tiny.build_model().train()}, "training mode"),
        ({"model": _with_nan}, "'head.weight' holds 1 NaN"),
        ({"model": lambda: "not a model"}, "must return an nn.Module"),
        ({"validation": _empty}, "validation split is empty"),
        ({"calibration": _empty}, "calibration split is empty"),
        ({"validation": lambda: iter([])}, "without length or indexing"),
        ({"validation": lambda: [torch.zeros(1, 12, 12)]}, "not a pair"),
        ({"validation": lambda: [("text", 0)]}, "must be a tensor"),
        ({"validation": _narrow}, "cannot take a batch of its own validation data"),
        ({"calibration": tiny.workload.test}, "of calibration are in test"),
        ({"validation": tiny.workload.calibration}, "of calibration are in validation"),
        ({"train": lambda: ConcatDataset([_noise(), _first_of_validation()])}, "train[1000] = validation[0]"),
        ({"metric": lambda outputs, labels: (outputs.argmax(1) == labels).float().mean()}, "one score per example"),
        ({"metric": lambda outputs, labels: outputs}, "one score per example"),
        ({"metric": lambda outputs, labels: 1 / 0}, "metric failed"),
        ({"collate": lambda examples: examples[0][0]}, "must return"),
    ],
)
def test_a_breach_of_the_contract_is_a_problem_in_words(
    profiled: Callable[[Workload], JobResult], change: dict, words: str
) -> None:
    answer = profiled(replace(tiny.workload, **change))
    assert answer.profile is None
    assert words in " ".join(problem.what for problem in answer.problems), answer


def test_a_model_that_returns_nan_is_a_typed_failure(profiled: Callable[[Workload], JobResult]) -> None:
    class NotANumber(tiny.Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float("nan")

    answer = profiled(replace(tiny.workload, model=lambda: NotANumber().eval()))
    assert answer.outcome is not None
    assert answer.outcome.failure is not None
    assert answer.outcome.failure.kind == FailureKind.NOT_FINITE


def test_repeated_examples_are_a_warning_and_the_profile_is_made(profiled: Callable[[Workload], JobResult]) -> None:
    validation = ConcatDataset([tiny.workload.validation(), _first_of_validation()])
    profile = profiled(replace(tiny.workload, validation=lambda: validation)).profile
    assert profile is not None
    (problem,) = profile.problems
    assert problem.level == "warning"
    assert problem.what == "1 example of validation repeats an earlier one: validation[200] = validation[0]"


def test_facts_are_read_from_model_and_data(profiled: Callable[[Workload], JobResult]) -> None:
    profile = profiled(tiny.workload).profile
    assert profile is not None
    assert profile.parameters == sum(p.numel() for p in tiny.build_model().parameters())
    assert profile.accuracy == 1.0
    assert profile.inputs.tensors[0].shape == (None, 1, 12, 12)
    assert profile.outputs.tensors[0].shape == (None, 4)
    assert profile.dynamic_batch
    assert profile.exportable is None
    assert profile.widths == (32, 32)


def test_lengths_that_vary_are_dynamic_axes(profiled: Callable[[Workload], JobResult]) -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).mean(1)

    def rows(seed: int) -> list[tuple[torch.Tensor, int]]:
        generator = torch.Generator().manual_seed(seed)
        return [(torch.randn((3 + i % 5, 3), generator=generator), 0) for i in range(40)]

    def pad(examples: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = nn.utils.rnn.pad_sequence([item for item, _ in examples], batch_first=True)
        return inputs, torch.tensor([label for _, label in examples])

    model = Mean().eval()
    workload = Workload(name="varies", model=lambda: model, calibration=lambda: rows(1), validation=lambda: rows(2),
                        metric=tiny.top1, collate=pad)  # fmt: skip
    profile = profiled(workload).profile
    assert profile is not None
    assert profile.inputs.tensors[0].shape == (None, None, 3)


def test_the_same_workload_has_the_same_fingerprint_and_another_model_another(
    profiled: Callable[[Workload], JobResult],
) -> None:
    first, second = profiled(tiny.workload).profile, profiled(tiny.workload).profile
    changed = tiny.build_model()
    with torch.no_grad():
        changed.head.bias += 1
    other = profiled(replace(tiny.workload, model=lambda: changed)).profile
    assert first and second and other
    assert first.fingerprint == second.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nonsense", "not of the form"),
        ("missing.py:workload", "does not exist"),
        ("no_such_module_here:workload", "cannot be imported"),
        (f"{tiny.__file__}:nothing", "no attribute 'nothing'; its workloads are \\['workload'\\]"),
        (f"{tiny.__file__}:Tiny", "not a Workload"),
    ],
)
def test_a_reference_that_leads_nowhere_says_why(reference: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        load_workload(reference)


def test_a_workload_object_is_found_by_the_name_it_was_defined_under() -> None:
    assert reference_of(tiny.workload) == "tests.tiny:workload"
    with pytest.raises(WorkloadError, match="top level"):
        reference_of(replace(tiny.workload))
