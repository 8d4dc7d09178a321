"""Every pair of technique and backend is legal or refused with a reason, and what the space calls legal is legal."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.utils.data import Subset

from evaluators import registry
from evaluators.backends.eager import Eager
from evaluators.candidate import Candidate, Scalar, parse_candidate
from evaluators.errors import IllegalCandidateError
from evaluators.jobs import MeasureJob, PrepareJob, ProfileJob
from evaluators.joint_space import JointSpace
from evaluators.legality import NOT_ASKED, Pair, explain_legality
from evaluators.outcome import Constraint
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.run_job import run
from evaluators.space import Space, derive_space
from evaluators.target import Target, probe_target
from evaluators.workload import load_workload
from tests.search.factories import a_profile

ROOT = Path(__file__).resolve().parents[2]
RECURRENT = {"LSTM": 1, "Linear": 1}


def pairs_of(space: Space) -> tuple[Pair, ...]:
    return explain_legality(JointSpace({space.target.name: space}))


def of(profile: WorkloadProfile | None = None, target: Target | None = None, **restrictions: object) -> Space:
    return derive_space(profile or a_profile(), target or probe_target(), **restrictions)  # type: ignore[arg-type]


def _random(chance: random.Random, asked: dict[str, Scalar], name: str, parameter: Parameter) -> Scalar:
    asked[name] = chance.choice(parameter.values)
    return asked[name]


@pytest.mark.parametrize("profile", [a_profile(), a_profile(layers=RECURRENT, widths=())], ids=["images", "recurrent"])
def test_every_declared_scheme_and_structure_is_judged_on_every_backend(profile: WorkloadProfile) -> None:
    space = of(profile)

    pairs = pairs_of(space)

    judged = {(pair.backend, pair.kind, pair.technique): pair for pair in pairs if pair.kind in ("scheme", "pruning")}
    assert judged.keys() == {(backend, "scheme", scheme) for backend, scheme in registry.quantizers()} | {
        (backend, "pruning", structure) for backend in registry.backends() for structure in registry.pruners()
    }
    for (backend, kind, technique), pair in judged.items():
        offered = space.schemes.get(backend or "", ()) if kind == "scheme" else space.amounts
        assert pair.legal == (backend in space.schemes and technique in offered)
    assert all(pair.why for pair in pairs if not pair.legal)


def test_values_that_are_left_out_have_a_reason_and_the_others_are_those_of_the_space() -> None:
    space = of(a_profile(layers=RECURRENT, widths=()), only_backends=["eager"])

    pairs = [pair for pair in pairs_of(space) if pair.backend == "eager"]

    layout = next(pair for pair in pairs if pair.technique == "channels_last")
    assert (layout.kind, layout.legal, layout.values) == ("option", False, (True, False))
    assert "convolution" in (layout.why or "")
    offered = {(scheme, knob.name): knob.values for (_, scheme), knobs in space.knobs.items() for knob in knobs}
    legal = {tuple(pair.technique.split(".")): pair.values for pair in pairs if pair.kind == "knob" and pair.legal}
    assert legal == offered
    known = {f"{scheme}.{knob.name}" for (backend, scheme), item in registry.quantizers().items()
             if backend == "eager" and scheme in space.schemes["eager"] for knob in item.parameters}  # fmt: skip
    assert {pair.technique for pair in pairs if pair.kind == "knob"} >= known


def test_an_option_of_some_settings_says_which() -> None:
    if "openvino" not in (space := of(batch_sizes=[1, 4], threads=2)).schemes:
        pytest.skip("openvino is not installed")
    hint = next(pair for pair in pairs_of(space) if (pair.backend, pair.technique) == ("openvino", "performance_hint"))
    assert (hint.legal, hint.why) == (True, "only with 2 threads at batch size 4")


def test_a_backend_that_was_not_asked_for_is_refused_for_that() -> None:
    pairs = pairs_of(of(only_backends=["eager"]))
    assert {pair.why for pair in pairs if pair.backend == "coreml" and pair.kind == "scheme"} == {NOT_ASKED}


@pytest.mark.parametrize("owner", ["backends", "quantizers", "pruners"])
def test_reasons_are_of_parameters_that_are_declared(owner: str) -> None:
    for item in getattr(registry, owner)().values():
        declared = item.options if owner == "backends" else item.parameters
        assert set(item.left_out) <= {parameter.name for parameter in declared}, type(item).__name__


class Particular(Eager):
    """A backend one of whose values does not go with a scheme."""

    name = "particular"
    options = (Choice("mode", ("plain", "fast"), "fast", ""),)
    as_written = {"mode": "plain"}  # noqa: RUF012

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        return self.options

    def refuse_option(self, scheme: str, option: str, value: Scalar, target: str) -> str | None:
        return "it is never fast in fp32" if (scheme, value) == ("fp32", "fast") else None


@pytest.fixture
def particular(monkeypatch: pytest.MonkeyPatch) -> Space:
    known = {**registry.backends(), Particular.name: Particular()}
    quantizers = registry.quantizers()
    own = {(Particular.name, scheme): quantizers["eager", scheme] for scheme in ("fp32", "static_int8")}
    monkeypatch.setattr(registry, "backends", lambda: known)
    monkeypatch.setattr(registry, "quantizers", lambda: quantizers | own)
    monkeypatch.setattr(registry, "pruners", dict)
    return of(only_backends=[Particular.name], batch_sizes=[1], threads=1)


def test_a_value_that_does_not_go_with_a_scheme_is_no_candidate(particular: Space) -> None:
    found = list(particular.candidates())

    modes = {(each.quantization.scheme, each.runtime.knobs["mode"]) for each in found}
    assert modes == {("fp32", "plain"), ("static_int8", "plain"), ("static_int8", "fast")}
    assert particular.size == len({each.hash for each in found}) == len(found)
    assert all(particular.choices_of(each) is not None for each in found)
    assert particular.recipe(Particular.name, "fp32", 1).runtime.knobs == {"mode": "plain"}
    illegal = next(each for each in found if each.runtime.knobs["mode"] == "fast")
    illegal = illegal.model_copy(update={"quantization": next(e.quantization for e in found if "fp32" in e.label())})
    with pytest.raises(IllegalCandidateError):
        particular.choices_of(illegal)
    refused = [pair for pair in pairs_of(particular) if pair.technique == "fp32.mode"]
    assert [(pair.legal, pair.values, pair.why) for pair in refused] == [(False, ("fast",), "it is never fast in fp32")]
    names = {name: parameter.values for name, parameter in particular.dimensions()}
    assert (names["particular.fp32.mode"], names["particular.mode"]) == (("plain",), ("plain", "fast"))


def test_core_ml_does_not_offer_float32_on_the_neural_engine() -> None:
    mac = Target(name="apple-m2", processor="Apple M2", features=("fp16",), cores=8, memory_bytes=2**34,
                 system="Darwin arm64", installed={"coremltools": "9.0", "torch": "2.13.0"})  # fmt: skip
    space = of(target=mac, only_backends=["coreml"], batch_sizes=[1])
    units = {name: parameter.values for name, parameter in space.dimensions() if name.endswith("compute_units")}
    assert set(units["coreml.compute_units"]) - set(units["coreml.fp32.compute_units"]) == {"cpu_and_ne"}
    chance = random.Random(2)  # noqa: S311
    drawn = [space.walk(partial(_random, chance, {})) for _ in range(300)]
    seen = {(each.quantization.scheme, each.runtime.knobs["compute_units"]) for each in drawn}
    assert ("fp16", "cpu_and_ne") in seen and ("fp32", "cpu_and_ne") not in seen


@pytest.fixture
def trimmed(request: pytest.FixtureRequest) -> Iterator[str]:
    """The workload of an example with a few examples of each split: a space depends on the model, not on them."""
    example = request.param
    if example == "text" and not os.environ.get("PARETUNE_TEXT_ASSETS"):
        pytest.skip("the assets of the text example are not here: see examples/text/fetch.py")
    whole, module = load_workload(f"{ROOT / 'examples' / example / 'workload.py'}:workload"), ModuleType("trimmed")
    splits = {name: partial(_first, split) for name in ("calibration", "validation", "train", "test")
              if (split := getattr(whole, name)) is not None}  # fmt: skip
    module.workload = replace(whole, **splits)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield f"{module.__name__}:workload"
    del sys.modules[module.__name__]


def _first(split: Callable[[], Any]) -> Subset[Any]:
    return Subset(split(), range(32))


@pytest.mark.parametrize("trimmed", ["images", "motion", "text"], indirect=True)
def test_a_thousand_random_candidates_of_each_example_are_accepted(trimmed: str, tmp_path: Path) -> None:
    profile = run(ProfileJob(workload=trimmed, home=str(tmp_path)), lambda stage: None).profile
    assert profile is not None
    space, chance, seen = of(profile), random.Random(5), set()  # noqa: S311

    for _ in range(1000):
        asked: dict[str, Scalar] = {}
        drawn = space.walk(partial(_random, chance, asked))
        assert space.choices_of(drawn) == asked
        assert parse_candidate(drawn.canonical).hash == drawn.hash
        seen.add(drawn.hash)

    assert len(seen) > 500


def test_what_is_legal_is_built_and_passes_parity_or_fails_with_a_type(tmp_path: Path) -> None:
    home, profile = str(tmp_path), run(ProfileJob(workload=_tiny(), home=str(tmp_path)), lambda stage: None).profile
    assert profile is not None
    space, chance = of(profile, batch_sizes=[2, 4], threads=1), random.Random(7)  # noqa: S311
    for backend in [name for name in ("eager", "onnxruntime", "openvino") if name in space.schemes]:
        candidate = _drawn(space, chance, backend)
        prepared = run(PrepareJob(candidate=candidate, profile=profile, home=home), lambda stage: None)
        assert prepared.prepared is not None, (candidate, prepared.outcome and prepared.outcome.reason)
        nothing_is_as_small = (Constraint(metric="size_bytes", max=1),)
        job = MeasureJob(bundle=prepared.prepared.bundle, profile=profile, home=home, constraints=nothing_is_as_small)
        outcome = run(job, lambda stage: None).outcome
        assert outcome is not None and outcome.gate == "size_bytes", (candidate, outcome and outcome.reason)
        assert outcome.evidence.parity is not None


def _tiny() -> str:
    return f"{ROOT / 'tests' / 'tiny.py'}:workload"


def _drawn(space: Space, chance: random.Random, backend: str) -> Candidate:
    """Draw until a candidate is of this backend, compressed, and quick to recover."""
    while True:
        found = space.walk(partial(_random, chance, {}))
        if found.backend == backend and not found.is_unmodified_float and found.pruning.recovery_steps < 100:
            return found


def test_an_alignment_at_which_an_amount_removes_nothing_is_no_candidate() -> None:
    space = of(a_profile(widths=(16, 32, 64)), only_backends=["eager"], batch_sizes=[1], threads=1)

    alignments = {amount: dict(space.dimensions()).get(f"channel.{amount}.alignment") for amount in (0.1, 0.2, 0.5)}
    offered = {amount: found and found.values for amount, found in alignments.items()}

    assert offered == {0.1: (8,), 0.2: (8, 16), 0.5: None}
    chance = random.Random(1)  # noqa: S311
    drawn = [space.walk(partial(_random, chance, {})) for _ in range(2000)]
    seen = {
        (each.pruning.amount, each.pruning.knobs["alignment"]) for each in drawn if each.pruning.structure == "channel"
    }
    assert (0.2, 16) in seen and not seen & {(0.1, 16), (0.1, 32), (0.2, 32)}
    illegal = next(each for each in drawn if each.pruning.structure == "channel" and each.pruning.amount == 0.1)
    pruning = illegal.pruning.model_copy(update={"alignment": 32})
    with pytest.raises(IllegalCandidateError, match="is not in the space"):
        space.choices_of(illegal.model_copy(update={"pruning": pruning}))
    refused = [pair for pair in pairs_of(space) if pair.technique == "channel.0.2.alignment"]
    assert [(pair.legal, pair.values) for pair in refused] == [(False, (32,))]
    assert "20% of the channels at alignment 32 is nothing" in (refused[0].why or "")
