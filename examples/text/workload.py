"""MiniLM with a linear head on Reuters R8: batches of variable length. Run fetch.py once before."""

from functools import cache

from minilm import Classifier, load_encoder
from reuters import TOPICS, Documents, asset, collate, load
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators import Workload


def build_model() -> nn.Module:
    model = Classifier(load_encoder(asset("minilm.safetensors")), len(TOPICS))
    model.head.load_state_dict(load_file(asset("head.safetensors")))
    return model.eval()


@cache
def calibration_set() -> Documents:
    return load("calibration")


@cache
def validation_set() -> Documents:
    return load("validation")


@cache
def test_set() -> Documents:
    return load("test")


@cache
def train_set() -> Documents:
    return load("train")


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float()


workload = Workload(
    name="reuters-r8-minilm",
    model=build_model,
    calibration=calibration_set,
    validation=validation_set,
    test=test_set,
    train=train_set,
    metric=top1,
    loss=nn.functional.cross_entropy,
    collate=collate,
)
