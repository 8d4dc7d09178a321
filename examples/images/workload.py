"""ResNet-8 on Fashion-MNIST: everything that a search needs to know about one model and its data."""

from functools import cache
from pathlib import Path

from fashion_mnist import load
from resnet8 import ResNet8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from evaluators import Workload

HERE = Path(__file__).parent


def build_model() -> nn.Module:
    model = ResNet8()
    model.load_state_dict(load_file(HERE / "resnet8.safetensors"))
    return model.eval()


@cache
def calibration_set() -> TensorDataset:
    return load(HERE / "data", "calibration")


@cache
def validation_set() -> TensorDataset:
    return load(HERE / "data", "validation")


@cache
def test_set() -> TensorDataset:
    return load(HERE / "data", "test")


@cache
def train_set() -> TensorDataset:
    return load(HERE / "data", "train")


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float()


workload = Workload(
    name="fashion-mnist-resnet8",
    model=build_model,
    calibration=calibration_set,
    validation=validation_set,
    test=test_set,
    train=train_set,
    metric=top1,
    loss=nn.functional.cross_entropy,
)
