"""Tiny workloads with fixed weights: images (a residual CNN), texts of varying length (attention), series (LSTM).

And ``branching``, which no compiler can capture: its control flow depends on its data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, TensorDataset

from evaluators.workload import Workload

CLASSES = 8
WORDS, LONGEST, WIDTH, HEADS = 64, 24, 32, 4
STEPS, SENSORS = 12, 6


class ResidualNet(nn.Module):
    """(N, 3, 16, 16) to (N, CLASSES): two convolutions with a shortcut, a third one, a pool and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm, self.stem_relu = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.inner, self.inner_norm, self.inner_relu = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.last, self.last_relu = nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_norm(self.stem(images)))
        x = self.inner_relu(self.inner_norm(self.inner(x)) + x)
        x = self.last_relu(self.last(x))
        logits: Tensor = self.head(torch.flatten(self.pool(x), 1))
        return logits


class TextNet(nn.Module):
    """Tokens and mask (N, L) int64, L up to 24, to logits (N, CLASSES) and an embedding (N, WIDTH)."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Parameter(torch.zeros(LONGEST, WIDTH))
        self.query, self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attended, self.attended_norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.gelu, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.words(tokens) + self.positions[: tokens.size(1)]
        heads = [part(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        present = mask.bool()[:, None, None, :]
        context = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=present)
        x = self.attended_norm(x + self.attended(context.transpose(1, 2).flatten(2)))
        x = self.norm(x + self.narrow(self.gelu(self.wide(x))))
        weight = mask.unsqueeze(2).to(x.dtype)
        embedding = (x * weight).sum(1) / weight.sum(1)
        return {"logits": self.head(embedding), "embedding": embedding}


class SeriesNet(nn.Module):
    """(N, STEPS, SENSORS) to (N, CLASSES): one LSTM layer, its mean over the steps, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(SENSORS, WIDTH, batch_first=True), nn.Linear(WIDTH, CLASSES)

    def forward(self, series: Tensor) -> Tensor:
        steps, _ = self.lstm(series)
        logits: Tensor = self.head(torch.mean(steps, 1))
        return logits


class BranchingNet(nn.Module):
    """(N, SENSORS) to (N, CLASSES): doubles what it is given where that sums to more than zero."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(SENSORS, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.head(rows * 2 if rows.sum() > 0 else rows)
        return logits


def _fixed(model: nn.Module) -> nn.Module:
    """Give a model weights that depend on nothing but this code, of the size that training starts from."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(values * (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(values * 0.1 + float(name.endswith("norm.weight")))
    return model.eval()


class _Texts(Dataset[Any]):
    """Random documents of 4 to 24 tokens."""

    def __init__(self, seed: int, count: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, LONGEST + 1, (count,), generator=generator)
        self._tokens = [torch.randint(1, WORDS, (int(length),), generator=generator) for length in lengths]

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        tokens = self._tokens[index]
        return {"tokens": tokens, "mask": torch.ones_like(tokens)}, tokens[0] % CLASSES


def _collate(examples: list[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    inputs = {
        name: pad_sequence([example[name] for example, _ in examples], batch_first=True) for name in ("tokens", "mask")
    }
    return inputs, torch.stack([target for _, target in examples])


def _noise(seed: int, count: int, *shape: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    return TensorDataset(torch.randn((count, *shape), generator=generator), labels)


def _top1(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.argmax(1) == targets).float()


def _top1_of_logits(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return _top1(outputs["logits"], targets)


images = Workload(
    name="conformance-images",
    model=lambda: _fixed(ResidualNet()),
    calibration=lambda: _noise(1, 64, 3, 16, 16),
    validation=lambda: _noise(2, 64, 3, 16, 16),
    metric=_top1,
)
texts = Workload(
    name="conformance-texts",
    model=lambda: _fixed(TextNet()),
    calibration=lambda: _Texts(1, 64),
    validation=lambda: _Texts(2, 64),
    metric=_top1_of_logits,
    collate=_collate,
)
series = Workload(
    name="conformance-series",
    model=lambda: _fixed(SeriesNet()),
    calibration=lambda: _noise(1, 64, STEPS, SENSORS),
    validation=lambda: _noise(2, 64, STEPS, SENSORS),
    metric=_top1,
)
branching = Workload(
    name="conformance-branching",
    model=lambda: _fixed(BranchingNet()),
    calibration=lambda: _noise(1, 64, SENSORS),
    validation=lambda: _noise(2, 64, SENSORS),
    metric=_top1,
)
