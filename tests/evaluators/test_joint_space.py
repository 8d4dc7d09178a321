"""Several targets are one tree whose first choice is the target; each keeps a space of its own."""

from __future__ import annotations

import random
from functools import partial

import pytest

from evaluators.candidate import Scalar
from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.errors import IllegalCandidateError, UsageError
from evaluators.joint_space import JointSpace, derive_joint_space
from evaluators.parameters import Parameter
from evaluators.profile import WorkloadProfile
from evaluators.space import derive_space
from evaluators.target import Target, probe_processor
from tests.search.factories import a_profile


def machine(
    name: str, cores: int = 2, *, without: tuple[str, ...] = (), features: tuple[str, ...] = ()
) -> Capabilities:
    """Return what a machine like this one could run, under another name and without some distributions."""
    told = capabilities_of(probe_processor())
    installed = {each: version for each, version in (told.target.installed or {}).items() if each not in without}
    target = Target(name=name, processor="p", features=features, cores=cores, memory_bytes=2**33, system="s",
                    installed=installed)  # fmt: skip
    backends = tuple(
        report.model_copy(update={"usable": False, "reason": f"{report.name} is missing there"})
        if report.name in without else report
        for report in told.backends
    )  # fmt: skip
    return Capabilities(target=target, backends=backends)


def joint(
    *machines: Capabilities, profile: WorkloadProfile | None = None, **restrictions: object
) -> JointSpace:  # fmt: skip
    offered = {each.target.name: each for each in machines}
    return derive_joint_space(profile or a_profile(), offered, **restrictions)  # type: ignore[arg-type]


BIG, SMALL = machine("cpu-avx2", 8), machine("cpu-arm64", 2, without=("openvino",), features=("neon",))


def _note(asked: dict[str, Scalar], chance: random.Random, name: str, parameter: Parameter) -> Scalar:
    asked[name] = chance.choice(parameter.values)
    return asked[name]


@pytest.fixture(scope="module")
def both() -> JointSpace:
    return joint(BIG, SMALL)


def test_every_walk_is_legal_on_its_target_and_read_back(both: JointSpace) -> None:
    chance = random.Random(0)  # noqa: S311
    seen = set()
    for _ in range(300):
        asked: dict[str, Scalar] = {}
        found = both.walk(partial(_note, asked, chance))
        seen.add(found.target)
        assert both.choices_of(found) == asked
        assert both.of(found.target).choices_of(found)
    assert seen == {"cpu-avx2", "cpu-arm64"}


def test_a_choice_that_targets_offer_alike_has_one_name_and_the_others_are_their_targets_own(both: JointSpace) -> None:
    dimensions = dict(both.dimensions())
    assert both.dimensions()[0][0] == "target"
    assert dimensions["cpu-avx2.threads"].values == (1, 2, 4, 8)
    assert dimensions["cpu-arm64.threads"].values == (1, 2)
    assert {"batch_size", "pruning", "eager.scheme"} <= set(dimensions)
    assert "openvino" in dimensions["cpu-avx2.backend"].values
    assert "openvino" not in dimensions["cpu-arm64.backend"].values


def test_the_size_is_that_of_all_targets_and_every_candidate_comes_once() -> None:
    hardly_prunable = a_profile(layers={"Conv2d": 1}, widths=())
    small = joint(BIG, SMALL, profile=hardly_prunable, only_backends=["eager"], batch_sizes=[1, 8], threads=1)
    found = [candidate.hash for candidate in small.candidates()]
    assert len(found) == len(set(found)) == small.size == sum(part.size for part in small.parts.values())


def test_one_target_is_a_space_with_plain_names() -> None:
    alone = joint(BIG)
    plain = derive_space(a_profile(), BIG.target, capabilities=BIG)
    assert alone.dimensions() == plain.dimensions()
    assert alone.size == plain.size


def test_another_machine_decides_what_it_can_run_and_not_this_one() -> None:
    without = joint(machine("cpu-avx2", without=("openvino", "onnx")))
    assert "openvino" not in without.of("cpu-avx2").schemes
    excluded = {item.what: item.why for item in without.exclusions}
    assert excluded["openvino"] == "openvino is missing there"
    unknown = BIG.model_copy(update={"backends": tuple(each for each in BIG.backends if each.name != "inductor")})
    assert "does not know it" in {item.what: item.why for item in joint(unknown).exclusions}["inductor"]


def test_what_is_left_out_on_one_target_only_says_on_which(both: JointSpace) -> None:
    assert "openvino on cpu-arm64" in {item.what for item in both.exclusions}


def test_a_backend_that_was_asked_for_must_run_somewhere() -> None:
    asked = joint(BIG, SMALL, only_backends=["openvino", "eager"])
    assert set(asked.of("cpu-arm64").schemes) == {"eager"}
    with pytest.raises(UsageError, match="can be used on cpu-arm64: openvino: openvino is missing there"):
        joint(BIG, SMALL, only_backends=["openvino"])


def test_a_candidate_of_a_target_that_was_not_asked_for_is_illegal(both: JointSpace) -> None:
    candidate = next(both.candidates()).model_copy(update={"target": "cuda-sm90"})
    with pytest.raises(IllegalCandidateError, match="no target 'cuda-sm90'; it has cpu-avx2, cpu-arm64"):
        both.choices_of(candidate)


def test_a_backend_in_an_interpreter_of_its_own_has_the_schemes_and_versions_of_that_one() -> None:
    there = machine("cpu-avx2", without=("nncf",)).target.installed or {}
    own = [
        report.model_copy(update={"python": "/opt/bin/python", "installed": there | {"openvino": "99.1"}})
        if report.name == "openvino" else report
        for report in BIG.backends
    ]  # fmt: skip

    space = derive_space(a_profile(), BIG.target, capabilities=BIG.model_copy(update={"backends": tuple(own)}))

    plain = derive_space(a_profile(), BIG.target, capabilities=BIG)
    assert "static_int8" in plain.schemes["openvino"] and "static_int8" not in space.schemes["openvino"]
    assert space.schemes["onnxruntime"] == plain.schemes["onnxruntime"]
    assert space.target_of("openvino").version_of("openvino") == "99.1"
    assert space.target_of("onnxruntime") == BIG.target
