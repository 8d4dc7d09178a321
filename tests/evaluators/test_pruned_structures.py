"""Hidden units, heads, inner units and blocks really go, what is left answers as it should, and it can be stored."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluators.errors import IntegrityError, UnsupportedError
from evaluators.profile import Prunable
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.depth import Depth, blocks_among
from evaluators.pruners.heads import Heads
from evaluators.pruners.hidden import Hidden
from evaluators.pruners.layers import SlimAttention, replace_layer
from evaluators.pruners.silencing import answers
from evaluators.stages.restore import layer_sizes, restore_module, save_model
from evaluators.structure import call
from tests import tiny

WIDTH = 16


class Recurrent(nn.Module):
    """A recurrent layer over steps of 3 features, and a head on the mean of its states."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.cell = kind(3, WIDTH, batch_first=True, **options)
        self.norm = nn.ReLU()
        self.head = nn.Linear(WIDTH * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, steps: Tensor) -> Tensor:
        return self.head(self.norm(self.cell(steps)[0].mean(1)))


class Attending(nn.Module):
    """Attention by linear layers, whose number of heads is an attribute, and a perceptron."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out, self.inner, self.outer = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.outer(nn.functional.gelu(self.inner(x)))


class WrittenDown(Attending):
    """The same, with the number of heads in its code."""

    def __init__(self) -> None:
        super().__init__()
        del self.num_heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (4, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        return x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """torch's own transformer encoder over padded sequences."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padding)[:, 0])


class Residual(nn.Module):
    """A residual block of convolutions; ``weight`` is the size of what it adds."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * self.second(torch.relu(self.first(x)))


class Deep(nn.Module):
    """A stem, three residual blocks, one block that is not residual, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(Residual(1.0), Residual(0.01), Residual(0.5))
        self.plain = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.plain(self.blocks(self.stem(x))).mean((2, 3)))


_NOISE = torch.Generator().manual_seed(7)
STEPS, TOKENS, IMAGES = (torch.randn(size, generator=_NOISE) for size in ((2, 7, 3), (2, 5, WIDTH), (2, 1, 6, 6)))
PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
HIDDEN = {"importance": "magnitude", "alignment": 8}
HEADS = {"importance": "magnitude", "perceptron_amount": 0.5}


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    return build().eval().requires_grad_(False)


def stored_and_restored(build: Callable[[], nn.Module], pruned: nn.Module, plan: dict, folder: Path) -> nn.Module:
    save_model(pruned, layer_sizes(made(build)), plan, folder)
    return restore_module(replace(tiny.workload, model=lambda: made(build)), folder)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


CASES: list[tuple[Pruner, Callable[[], nn.Module], object, float, dict, float]] = [
    (Hidden(), lambda: Recurrent(nn.LSTM), STEPS, 0.5, HIDDEN, 0.45),
    (Hidden(), lambda: Recurrent(nn.GRU, num_layers=2), STEPS, 0.5, HIDDEN, 0.4),
    (Hidden(), lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), STEPS, 0.5, HIDDEN, 0.4),
    (Hidden(), lambda: Recurrent(nn.RNN), STEPS, 0.5, HIDDEN, 0.5),
    (Heads(), Attending, TOKENS, 0.5, HEADS, 0.55),
    (Heads(), Encoder, (TOKENS, PADDING), 0.5, HEADS, 0.6),
    (Depth(), Deep, IMAGES, 0.3333, {}, 0.8),
    (Depth(), lambda: Encoder(5), (TOKENS, PADDING), 0.4, {}, 0.7),
]  # fmt: skip


@pytest.mark.parametrize(("pruner", "build", "example", "amount", "values", "left"), CASES)
def test_what_goes_makes_the_model_smaller_and_can_be_stored(
    pruner: Pruner, build: Callable[[], nn.Module], example: object, amount: float, values: dict, left: float,
    tmp_path: Path,
) -> None:  # fmt: skip
    module, original = made(build), made(build)
    plan = pruner.prune(module, example, amount, values)
    assert parameters(module) < left * parameters(original)
    assert call(module, example).shape == call(original, example).shape
    restored = stored_and_restored(build, module, plan, tmp_path)
    assert torch.equal(call(restored, example), call(module, example))


@pytest.mark.parametrize(("pruner", "build", "example", "amount", "values", "left"), CASES)
def test_looking_leaves_the_model_as_it_was(
    pruner: Pruner, build: Callable[[], nn.Module], example: object, amount: float, values: dict, left: float
) -> None:
    module, original = made(build), made(build)
    found = pruner.look(module, example)
    assert found is not None and found.sizes and found.why_not is None
    assert module.state_dict().keys() == original.state_dict().keys()
    before = original.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(call(module, example), call(original, example))


def test_the_least_important_hidden_units_go() -> None:
    module = made(lambda: Recurrent(nn.LSTM))
    with torch.no_grad():
        for weight in (module.cell.weight_ih_l0, module.cell.weight_hh_l0):
            weight.view(4, WIDTH, -1)[:, 1::2] *= 0.01
    plan = Hidden().prune(module, STEPS, 0.5, HIDDEN)
    assert plan["removed"]["cell"]["l0"] == list(range(1, WIDTH, 2))


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_head_that_nobody_reads_goes_first(importance: str) -> None:
    module = made(Attending)
    with torch.no_grad():
        module.out.weight[:, 4:8] *= 0.001
        for projection in (module.query, module.key, module.value):
            projection.weight[4:8] *= 0.01
    original = {name: tensor.clone() for name, tensor in answers(module, TOKENS).items()}
    dataset = [(torch.randn(5, WIDTH), torch.tensor(0)) for _ in range(8)]
    data = PruningData(replace(tiny.workload, train=lambda: dataset, loss=None))
    plan = Heads().prune(module, TOKENS, 0.25, {"importance": importance}, data=data)
    assert plan["heads"] == {"": [1]}
    assert (answers(module, TOKENS)["output"] - original["output"]).abs().max() < 0.01
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_attention_with_its_heads_written_down_is_refused_beforehand() -> None:
    found = Heads().look(made(WrittenDown), TOKENS)
    assert found is not None and "no attribute" in (found.why_not or "")
    with pytest.raises(UnsupportedError, match="no attribute"):
        Heads().prune(made(WrittenDown), TOKENS, 0.5, HEADS)


def test_code_that_counts_heads_elsewhere_is_found_out() -> None:
    class Elsewhere(Attending):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (4 / self.num_heads)

    with pytest.raises(UnsupportedError, match="does not follow"):
        Heads().prune(made(Elsewhere), TOKENS, 0.5, HEADS)


def test_states_that_are_normalized_together_cannot_lose_some() -> None:
    def build() -> nn.Module:
        module = Recurrent(nn.GRU)
        module.norm = nn.LayerNorm(WIDTH)
        return module

    found = Hidden().look(made(build), STEPS)
    assert found == Prunable(why_not="cell: no linear or recurrent layer reads its 16 units as they are")


def test_the_block_that_adds_least_goes_first() -> None:
    module = made(Deep)
    plan = Depth().prune(module, IMAGES, 0.6666, {})
    assert [name for name, _ in plan["removed"]] == ["blocks.1", "blocks.2"]
    assert plan["replaced"] == {"blocks.1": "passed_through", "blocks.2": "passed_through"}


def test_only_residual_blocks_can_go() -> None:
    assert Depth().look(made(Deep), IMAGES) == Prunable(sizes=(1, 1, 1))
    plain = nn.Sequential(nn.Conv2d(1, 8, 1), Deep().plain, nn.Flatten(), nn.Linear(288, 4))
    found = Depth().look(plain.eval(), IMAGES)
    assert found is not None and found.why_not is not None


@pytest.mark.parametrize(
    ("residual", "blocks"),
    [
        ({"layer": "Layer", "layer.attention": "Attention"}, ["layer"]),
        ({"stage": "Stage", "stage.0": "Block", "stage.1": "Block"}, ["stage.0", "stage.1"]),
        ({"stage": "Sequential", "stage.0": "Block"}, ["stage.0"]),
        ({"a": "Block", "ab": "Block"}, ["a", "ab"]),
    ],
)
def test_blocks_are_neither_stages_nor_parts(residual: dict[str, str], blocks: list[str]) -> None:
    assert blocks_among(residual) == blocks


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", [None, "boolean", "added"])
@pytest.mark.parametrize("padded", [True, False])
def test_slim_attention_answers_as_the_one_it_stands_for(batch_first: bool, mask: str | None, padded: bool) -> None:
    original = made(lambda: nn.MultiheadAttention(WIDTH, 4, batch_first=batch_first))
    hidden = torch.ones(5, 5).triu(1).bool()
    attn_mask = {None: None, "boolean": hidden, "added": torch.zeros(5, 5).masked_fill(hidden, -1e9)}[mask]
    given = {"attn_mask": attn_mask, "key_padding_mask": PADDING if padded else None}
    x = TOKENS if batch_first else TOKENS.transpose(0, 1)
    found, weights = SlimAttention(original)(x, x, x, **given)
    assert weights is None
    assert torch.allclose(found, original(x, x, x, need_weights=False, **given)[0], atol=1e-6)


def test_a_plan_cannot_put_attention_in_the_place_of_something_else() -> None:
    with pytest.raises(IntegrityError, match="a Linear: it cannot stand there"):
        replace_layer(made(Attending), "out", "slim_attention")
