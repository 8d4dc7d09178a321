"""An LSTM on the motion of a smartwatch: which of seven shoulder exercises is it? Subjects were never seen before."""

from functools import cache
from pathlib import Path

from lstm import MotionLSTM
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from watch import EXERCISES, load

from evaluators import Workload

HERE = Path(__file__).parent


def build_model() -> nn.Module:
    model = MotionLSTM(len(EXERCISES))
    model.load_state_dict(load_file(HERE / "lstm.safetensors"))
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


def top1(logits: Tensor, exercises: Tensor) -> Tensor:
    return (logits.argmax(1) == exercises).float()


workload = Workload(
    name="watch-motion-lstm",
    model=build_model,
    calibration=calibration_set,
    validation=validation_set,
    test=test_set,
    train=train_set,
    metric=top1,
    loss=nn.functional.cross_entropy,
)
