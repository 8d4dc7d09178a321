"""Trains ResNet-8 on the 60,000 Fashion-MNIST images and cuts the subsets that lie beside it.

    python examples/images/train.py FOLDER

FOLDER holds the four files of the data set; on Debian the package ``dataset-fashion-mnist`` brings them.
The recipe was set beforehand and run once, so no test image had a say in it: SGD with Nesterov momentum,
one-cycle learning rate, random mirroring and shifts by up to 2 pixels, batch 128, 25 epochs, seed 0. It
takes about 11 minutes on two cores and reaches 92.82 % on the 10,000 test images, 93.10 % on the
validation subset.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from fashion_mnist import load, read_idx, write_idx
from resnet8 import ResNet8
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import TensorDataset

HERE = Path(__file__).parent
SUBSETS = {"train": {"calibration": 512, "train": 10_000}, "t10k": {"validation": 2_000, "test": 2_000}}
BATCH = 128
SHIFT = 2


def cut_subsets(source: Path, target: Path, seed: int) -> None:
    """Writes random subsets; those that come from the same file have no image in common."""
    for origin, sizes in SUBSETS.items():
        images = read_idx(source / f"{origin}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{origin}-labels-idx1-ubyte.gz")
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).numpy()
        start = 0
        for split, size in sizes.items():
            chosen = order[start : start + size]
            write_idx(target / f"{split}-images-idx3-ubyte.gz", images[chosen])
            write_idx(target / f"{split}-labels-idx1-ubyte.gz", labels[chosen])
            start += size


def augment(images: Tensor) -> Tensor:
    """Mirrors half of the images and shifts each by up to SHIFT pixels, filling with its own background."""
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, [SHIFT] * 4, value=float(images.min()))
    rows = torch.randint(0, 2 * SHIFT + 1, (len(images), 1, 1)) + torch.arange(height).view(1, -1, 1)
    columns = torch.randint(0, 2 * SHIFT + 1, (len(images), 1, 1)) + torch.arange(width).view(1, 1, -1)
    return padded[torch.arange(len(images)).view(-1, 1, 1), 0, rows, columns].unsqueeze(1)


def batches(dataset: TensorDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order; the incomplete last batch is left out."""
    images, labels = dataset.tensors
    order = torch.randperm(len(labels))
    for chosen in order[: len(order) // BATCH * BATCH].split(BATCH):
        yield images[chosen], labels[chosen]


def fit(model: nn.Module, dataset: TensorDataset, epochs: int) -> None:
    """Trains the model in place and leaves it in eval mode."""
    model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = len(dataset) // BATCH * epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps, pct_start=0.25)
    for epoch in range(1, epochs + 1):
        started, total = time.monotonic(), 0.0
        for images, labels in batches(dataset):
            inputs = augment(images).contiguous(memory_format=torch.channels_last)
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(dataset) // BATCH)
        print(f"epoch {epoch:2}/{epochs}  loss {mean:.4f}  {time.monotonic() - started:.0f} s", flush=True)
    model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def accuracy(model: nn.Module, dataset: TensorDataset) -> float:
    """The share of images whose label has the highest logit."""
    images, labels = dataset.tensors
    predictions = torch.cat([model(batch).argmax(1) for batch in images.split(500)])
    return (predictions == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path, help="folder with the four gzipped IDX files of Fashion-MNIST")
    parser.add_argument("--output", type=Path, default=HERE, help="where resnet8.safetensors and data/ go")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    data = arguments.output / "data"
    data.mkdir(parents=True, exist_ok=True)
    cut_subsets(arguments.dataset, data, arguments.seed)

    torch.manual_seed(arguments.seed)
    model = ResNet8()
    fit(model, load(arguments.dataset, "train"), arguments.epochs)
    (arguments.output / "resnet8.safetensors").write_bytes(save(model.state_dict()))
    print(f"validation subset {accuracy(model, load(data, 'validation')):.4f}")
    print(f"all 10,000 test images {accuracy(model, load(arguments.dataset, 't10k')):.4f}")


if __name__ == "__main__":
    main()
