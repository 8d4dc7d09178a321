"""Pruned models shrink, keep what they were, and come back from plan and weights as they were stored."""

from pathlib import Path

import pytest
import torch
from torch import nn

from evaluators.bundle import compressed_bytes, size_bytes
from evaluators.errors import UnsupportedError
from evaluators.pruners.channel import Channel, kept_width
from evaluators.pruners.data import PruningData
from evaluators.pruners.sparse_2_4 import Sparse24
from evaluators.pruners.unstructured import Unstructured
from evaluators.pruners.widths import kept_under, shares
from evaluators.stages.prepare import count_flops
from evaluators.stages.recover import distil
from evaluators.stages.restore import build_model, layer_sizes, restore_module, save_model
from tests import tiny


@pytest.mark.parametrize(
    ("width", "amount", "alignment", "kept"),
    [(64, 0.5, 8, 32), (64, 0.3, 8, 48), (32, 0.9, 8, 8), (16, 0.5, 32, 16), (24, 0.5, 16, 16), (10, 0.5, 8, 8)],
)
def test_widths_left_are_aligned_and_never_grow(width: int, amount: float, alignment: int, kept: int) -> None:
    assert kept_width(width, amount, alignment) == kept


def _pruned(amount: float = 0.5, alignment: int = 8) -> tuple[nn.Module, dict, torch.Tensor]:
    model, example = build_model(tiny.workload), torch.randn(2, 1, 12, 12)
    plan = Channel().prune(model, example, amount, {"alignment": alignment})
    return model, plan, example


def test_channels_really_go() -> None:
    model, plan, example = _pruned()
    original = build_model(tiny.workload)
    assert sum(p.numel() for p in model.parameters()) < 0.5 * sum(p.numel() for p in original.parameters())
    assert count_flops(model, example) < 0.5 * count_flops(original, example)
    assert model(example).shape == original(example).shape
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [16, 16]
    assert plan["removed"]


def test_a_pruned_model_is_rebuilt_from_the_users_code(tmp_path: Path) -> None:
    model, plan, example = _pruned()
    save_model(model, layer_sizes(build_model(tiny.workload)), plan, tmp_path)
    restored = restore_module(tiny.workload, tmp_path)
    assert torch.equal(restored(example), model(example))
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "plan.json"}


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn_scale", "random"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_channels_go_by_every_importance_and_scope(importance: str, scope: str) -> None:
    model, example = build_model(tiny.workload), torch.randn(2, 1, 12, 12)
    values = {"alignment": 8, "importance": importance, "scope": scope}
    plan = Channel().prune(model, example, 0.5, values, data=PruningData(tiny.workload))
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert sum(widths) == 32 and all(width % 8 == 0 and width > 0 for width in widths)
    assert plan["removed"] and model(example).shape == (2, 4)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def _gone(plan: dict, layer: str) -> list[int]:
    return sorted(next(indices for name, is_out, indices in plan["removed"] if is_out and name == layer))


def test_the_channels_that_the_batch_norm_switches_off_go() -> None:
    model, example = build_model(tiny.workload), torch.randn(2, 1, 12, 12)
    with torch.no_grad():
        model.features[1].weight[::2] = 0.001
    plan = Channel().prune(model, example, 0.5, {"alignment": 8, "importance": "bn_scale"})
    assert _gone(plan, "features.0") == list(range(0, 32, 2))


def test_large_weights_that_the_loss_does_not_feel_go_by_taylor_and_stay_by_magnitude() -> None:
    evens = {}
    for importance in ("taylor", "magnitude"):
        model, example = build_model(tiny.workload), torch.randn(2, 1, 12, 12)
        with torch.no_grad():
            model.head.weight[:, ::2] = 0.0
            model.features[3].weight[::2] *= 9.0
        values = {"alignment": 8, "importance": importance}
        plan = Channel().prune(model, example, 0.5, values, data=PruningData(tiny.workload))
        evens[importance] = sum(index % 2 == 0 for index in _gone(plan, "features.3"))
    assert evens["taylor"] >= 12, "the others are dead behind their activation"
    assert evens["magnitude"] == 0


def test_pruning_in_steps_lets_the_model_recover_between_them() -> None:
    model, example = build_model(tiny.workload), torch.randn(2, 1, 12, 12)
    seen = []

    def between(module: nn.Module) -> None:
        seen.append([layer.out_channels for layer in module.modules() if isinstance(layer, nn.Conv2d)])

    Channel().prune(model, example, 0.75, {"alignment": 8, "steps": 3}, between=between)
    assert seen == [[24, 24], [16, 16]]
    assert [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [8, 8]


@pytest.mark.parametrize(
    ("scores", "amount", "kept"),
    [
        ([[1.0] * 16, [9.0] * 16], 0.5, [8, 16]),
        ([list(range(32)), list(range(32))], 0.5, [16, 16]),
        ([], 0.5, []),
    ],
)
def test_under_one_limit_for_all_the_worse_group_loses_more(
    scores: list[list[float]], amount: float, kept: list[int]
) -> None:
    assert kept_under(scores, amount, 8) == kept


@pytest.mark.parametrize(("count", "values"), [(1, (0.5,)), (2, (0.5,)), (3, (0.3333, 0.6666)), (12, 4)])
def test_shares_remove_whole_things_and_never_all(count: int, values: tuple[float, ...] | int) -> None:
    found = shares(count, 4, "")
    assert len(found.values) == values if isinstance(values, int) else found.values == values
    removed = [max(1, round(float(value) * count)) for value in found.values]
    assert removed == list(range(1, len(removed) + 1))


def test_two_of_four_stay_zero_through_recovery() -> None:
    student, teacher = build_model(tiny.workload), build_model(tiny.workload)
    plan = Sparse24().prune(student, None, 0.5, {})
    distil(student, teacher, tiny.workload, steps=3, seed=0)
    assert plan["layers"] == ["features.3", "head"]
    for name in plan["layers"]:
        weight = student.get_submodule(name).weight
        assert ((weight.view(len(weight), -1, 4, *weight.shape[2:]) == 0).sum(2) == 2).all()


@pytest.mark.parametrize("importance", ["magnitude", "random"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_single_weights_go_by_every_importance_and_scope(importance: str, scope: str) -> None:
    model = build_model(tiny.workload)
    with torch.no_grad():
        model.head.weight *= 100
    Unstructured().prune(model, None, 0.5, {"importance": importance, "scope": scope})
    zeros = float((model.head.weight == 0).float().mean())
    assert zeros == pytest.approx(0.0 if (importance, scope) == ("magnitude", "global") else 0.5, abs=0.1)


def test_pruning_that_removes_nothing_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="nothing"):
        _pruned(amount=0.1, alignment=32)


def test_unstructured_pruning_sets_the_share_to_zero_and_recovery_keeps_it() -> None:
    student, teacher = build_model(tiny.workload), build_model(tiny.workload)
    Unstructured().prune(student, None, 0.5, {})

    def zeros() -> float:
        weights = [layer.weight for layer in student.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
        return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)

    assert zeros() == pytest.approx(0.5, abs=0.01)
    distil(student, teacher, tiny.workload, steps=5, seed=0)
    assert zeros() >= 0.49
    assert not student.training


def test_recovery_brings_a_pruned_model_closer_to_the_original_and_repeats_itself() -> None:
    teacher = build_model(tiny.workload)
    images = torch.stack([tiny.workload.validation()[i][0] for i in range(200)])

    def agreement(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(images).argmax(1) == teacher(images).argmax(1)).float().mean())

    students = [_pruned()[0] for _ in range(2)]
    before = agreement(students[0])
    for student in students:
        distil(student, teacher, tiny.workload, steps=60, seed=3)
    assert agreement(students[0]) > before
    assert torch.equal(students[0](images), students[1](images))


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    from dataclasses import replace

    model = Tied().eval()
    workload = replace(tiny.workload, model=Tied)
    save_model(model, layer_sizes(model), {}, tmp_path)
    restored = restore_module(workload, tmp_path)
    assert restored.a.weight is restored.b.weight
    x = torch.randn(2, 4)
    assert torch.equal(restored(x), model(x))


def test_zeros_among_weights_pay_in_compressed_size(tmp_path: Path) -> None:
    for name, amount in (("whole", 0.0), ("pruned", 0.8)):
        model = build_model(tiny.workload)
        if amount:
            Unstructured().prune(model, None, amount, {})
        (tmp_path / name).mkdir()
        save_model(model, layer_sizes(model), {}, tmp_path / name)
    assert size_bytes(tmp_path / "pruned") == size_bytes(tmp_path / "whole")
    assert compressed_bytes(tmp_path / "pruned") < 0.5 * compressed_bytes(tmp_path / "whole")
