"""Layers are ranked by what int8 in each of them costs, and the shares that make a difference are offered."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evaluators.candidate import Quantization
from evaluators.errors import UnsupportedError
from evaluators.jobs import SensitivityJob
from evaluators.registry import quantizers
from evaluators.run_job import run
from evaluators.sensitivity import LayerNoise, kept_count, ranked, worst
from evaluators.space import derive_space
from evaluators.stages.sensitivity import measure
from evaluators.target import Target, probe_target
from evaluators.testing import conformance
from tests.evaluators.spiked import SPOILT
from tests.search.factories import a_profile

SPIKED = "tests.evaluators.spiked:workload"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sensitivity")


def test_the_noisiest_layer_comes_first_and_of_equals_the_earlier() -> None:
    noises = [("a", 1e-4), ("b", 3e-4), ("c", 1e-4), ("d", 0.0)]

    layers = ranked(LayerNoise(name, "Linear", 8, noise) for name, noise in noises)

    assert [layer.name for layer in layers] == ["b", "a", "c", "d"]
    assert [round(layer.sqnr_db, 1) for layer in layers] == [35.2, 40.0, 40.0, 200.0]
    assert [round(layer.noise_share, 2) for layer in layers] == [0.6, 0.2, 0.2, 0.0]


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_a_layer_that_loses_the_outputs_is_the_worst(lost: float) -> None:
    layers = ranked([LayerNoise("a", "Linear", 8, 2.0), LayerNoise("b", "Linear", 8, lost)])

    assert (layers[0].name, layers[0].sqnr_db, layers[0].noise_share) == ("b", -200.0, 1.0)
    assert layers[1].noise_share == 0.0


@pytest.mark.parametrize(
    ("share", "layers", "kept"), [(0.0, 9, 0), (0.1, 4, 1), (0.1, 10, 1), (0.1, 11, 2), (0.25, 8, 2), (0.5, 5, 3)]
)
def test_a_share_keeps_at_least_what_it_says(share: float, layers: int, kept: int) -> None:
    assert kept_count(share, layers) == kept


def test_the_share_is_of_the_layers_that_the_quantizer_puts_into_int8() -> None:
    kinds = ["LSTM", "Linear", "LSTM", "Linear", "Linear", "Linear"]
    layers = ranked(LayerNoise(f"{i}", kind, 8, 1.0 / (i + 1)) for i, kind in enumerate(kinds))

    assert worst(layers, ("Linear",), 0.5) == ("1", "3")
    assert worst(layers, ("Linear", "LSTM"), 0.5) == ("0", "1", "2")


def test_the_layer_with_outliers_is_found_once_and_the_model_is_left_as_it_was(home: Path) -> None:
    job = SensitivityJob(profile=conformance.profile_of(SPIKED, home), home=str(home))
    measured = sorted((home / "cache" / "stages").rglob("sensitivity.json"))

    first, second = run(job, lambda _: None), run(job, lambda _: None)

    assert first.layers is not None
    assert first == second
    assert len(sorted((home / "cache" / "stages").rglob("sensitivity.json"))) == len(measured) + (not measured)
    assert {layer.name for layer in first.layers} == {"stem", "inner", "last", "wide", "head"}
    assert first.layers[0].name == SPOILT
    assert first.layers[0].sqnr_db < first.layers[1].sqnr_db - 10
    assert (first.layers[0].kind, first.layers[0].parameters) == ("Conv2d", 3 * 16 * 9 + 16)


class Recurrent(nn.Module):
    """An LSTM, a GRU and a linear layer that are called, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTM(4, 8, batch_first=True), nn.GRU(8, 8, batch_first=True)
        self.head, self.spare = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, series: Tensor) -> Tensor:
        logits: Tensor = self.head(self.gru(self.lstm(series)[0])[0][:, -1])
        return logits


def test_recurrent_layers_are_measured_and_one_that_is_never_called_makes_no_noise() -> None:
    torch.manual_seed(0)
    model, batches = Recurrent().eval(), [torch.randn(4, 6, 4) for _ in range(2)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    answers = [model(batch) for batch in batches]

    found = {layer.name: layer.noise for layer in measure(model, batches)}

    assert found.pop("spare") == 0.0
    assert all(0 < noise < 0.01 for noise in found.values())
    assert set(found) == {"lstm", "gru", "head"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(model(batch), answer) for batch, answer in zip(batches, answers, strict=True))


def test_a_packed_sequence_is_measured_too() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 8, batch_first=True)

        def forward(self, series: Tensor) -> Tensor:
            lengths = torch.full((len(series),), series.shape[1])
            last: Tensor = self.lstm(nn.utils.rnn.pack_padded_sequence(series, lengths, batch_first=True))[1][0][-1]
            return last

    torch.manual_seed(0)
    (layer,) = measure(Packed().eval(), [torch.randn(4, 6, 4)])

    assert 0 < layer.noise < 0.01


def test_a_layer_whose_input_hooks_cannot_see_is_a_reason() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, rows: Tensor) -> Tensor:
            logits: Tensor = self.head(input=rows)
            return logits

    with pytest.raises(UnsupportedError, match="by keyword"):
        measure(ByKeyword().eval(), [torch.randn(3, 4)])


def test_a_model_without_layers_to_measure_is_the_users_to_change(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators.stages.source.StagedSource.sensitivity", lambda self: ())

    answer = run(SensitivityJob(profile=conformance.profile_of(SPIKED, home), home=str(home)), lambda _: None)

    assert "has no Conv1d" in answer.problems[0].what
    assert "BatchNorm2d, Conv2d, Linear" in answer.problems[0].what


@pytest.mark.parametrize(
    ("layers", "offered"),
    [
        ({"Conv2d": 2, "Linear": 1, "LayerNorm": 9}, None),
        ({"Conv2d": 3, "Linear": 1}, (0.0, 0.1, 0.5)),
        ({"Conv2d": 9, "Linear": 1}, (0.0, 0.1, 0.25, 0.5)),
    ],
)
@pytest.mark.parametrize("backend", ["eager", "inductor", "onnxruntime", "openvino"])
def test_shares_that_keep_the_same_layers_are_offered_once(
    backend: str, layers: dict[str, int], offered: tuple[float, ...] | None
) -> None:
    known = ("torchao", "onnxruntime", "openvino", "nncf", "onnx", "onnxscript")
    target = Target(name="cpu-avx512_vnni", processor="", features=("avx512f", "avx512_vnni"), cores=2,
                    memory_bytes=8 * 10**9, system="Linux x86_64", installed=dict.fromkeys(known, "1"))  # fmt: skip

    knobs = quantizers()[backend, "static_int8"].parameters_for(a_profile(layers=layers), target)

    assert {knob.name: knob.values for knob in knobs}.get("float_share") == offered


def test_a_candidate_from_before_the_knob_is_the_one_that_keeps_nothing_in_float() -> None:
    space = derive_space(a_profile(layers={"Conv2d": 9, "Linear": 1}), probe_target(), only_backends=["eager"])
    recipe = space.recipe("eager", "static_int8", 1)
    other = recipe.model_copy(
        update={"quantization": Quantization(scheme="static_int8", **recipe.quantization.knobs, float_share=0.25)}
    )

    assert "float_share" not in recipe.quantization.knobs
    assert space.choices_of(recipe)["eager.static_int8.float_share"] == 0.0
    assert space.choices_of(other)["eager.static_int8.float_share"] == 0.25
