"""The space holds every legal candidate once, refuses the others with a reason, and reads candidates back."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import registry
from evaluators.backends.eager import Eager
from evaluators.candidate import Candidate, Pruning, Scalar
from evaluators.errors import IllegalCandidateError, UsageError
from evaluators.parameters import Parameter
from evaluators.profile import Prunable
from evaluators.space import Space, derive_space, thread_counts
from evaluators.target import Target, probe_target
from tests.search.factories import a_profile


def _space(**restrictions: object) -> Space:
    return derive_space(a_profile(), probe_target(), **restrictions)  # type: ignore[arg-type]


def test_enumeration_counts_what_size_says_and_repeats_nothing() -> None:
    small = a_profile(layers={"Linear": 1}, widths=(8, 8))  # a larger space takes minutes to walk through
    space = derive_space(small, probe_target(), only_backends=["eager"], batch_sizes=[1, 4], threads=1)
    hashes = [candidate.hash for candidate in space.candidates()]
    assert len(hashes) == space.size
    assert len(set(hashes)) == space.size


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_every_candidate_reads_back_to_the_choices_that_made_it(random: object) -> None:
    space = _space()
    asked = {}

    def choose(name: str, parameter: object) -> object:
        asked[name] = random.choice(parameter.values)  # type: ignore[attr-defined]
        return asked[name]

    candidate = space.walk(choose)  # type: ignore[arg-type]
    assert space.choices_of(candidate) == asked


def test_a_candidate_with_a_knob_that_nobody_declares_is_refused() -> None:
    space = _space(only_backends=["eager"])
    foreign = Candidate(target=space.target.name, backend="eager", pruning=Pruning(structure="channel", amount=0.5))
    with pytest.raises(IllegalCandidateError):
        space.choices_of(foreign)


def test_a_candidate_from_before_a_knob_is_the_same_one() -> None:
    space = _space(only_backends=["eager"], batch_sizes=[1], threads=1)
    old = space.recipe("eager", "fp32", 1, structure="channel", amount=0.5, alignment=8, recovery_steps=150)
    choices = space.choices_of(old)
    assert (choices["channel.importance"], choices["channel.steps"]) == ("magnitude", 1)

    def again(name: str, parameter: Parameter) -> Scalar:
        return choices[name]

    assert space.walk(again) == old
    choices["channel.importance"] = "taylor"
    assert space.walk(again).pruning.knobs == {"alignment": 8, "importance": "taylor"}


def test_what_was_found_in_the_model_decides_which_structures_there_are() -> None:
    found = {"depth": Prunable(sizes=(1, 1)), "hidden": Prunable(why_not="the model has no LSTM")}
    space = derive_space(a_profile(prunable=found), probe_target())
    assert space.amounts["depth"].values == (0.5,)
    why = {item.what: item.why for item in space.exclusions}
    assert why["hidden pruning"] == "the model has no LSTM"
    assert "profile it again" in why["heads pruning"]
    assert "sparse_2_4" in why["sparse_2_4 pruning"]


def test_a_recipe_is_a_candidate_of_the_space() -> None:
    space = _space()
    for backend, schemes in space.schemes.items():
        for scheme in schemes:
            assert space.choices_of(space.recipe(backend, scheme, 1))


def test_a_model_without_wide_layers_is_not_pruned_by_channels() -> None:
    space = derive_space(a_profile(widths=(8, 8)), probe_target())
    assert "channel" not in space.amounts
    assert any(item.what == "channel pruning" and "8" in item.why for item in space.exclusions)


def test_asking_for_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="eager"):
        _space(only_backends=["abacus"])


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_threads_are_powers_of_two_and_all_cores(cores: int, counts: tuple[int, ...]) -> None:
    assert thread_counts(cores) == counts


def test_one_alignment_only_leaves_out_what_makes_no_difference() -> None:
    space = derive_space(a_profile(widths=(16, 16)), probe_target(), only_backends=["eager"])
    values = [parameter.values for name, parameter in space.dimensions() if name == "channel.alignment"]
    assert values == [(8,)]
    prunings = {c.pruning for c in itertools.islice(space.candidates(), 5000)}
    assert all(p.knobs["alignment"] == 8 for p in prunings if p.structure == "channel")


class SetsItsThreads(Eager):
    """A backend that sets its threads itself."""

    name = "sets-its-threads"
    own_threads = ("cpu",)


@pytest.fixture
def one_that_sets_its_threads(monkeypatch: pytest.MonkeyPatch) -> str:
    known = {**registry.backends(), SetsItsThreads.name: SetsItsThreads()}
    quantizers = registry.quantizers()
    monkeypatch.setattr(registry, "backends", lambda: known)
    monkeypatch.setattr(
        registry, "quantizers", lambda: quantizers | {(SetsItsThreads.name, "fp32"): quantizers["eager", "fp32"]}
    )
    return SetsItsThreads.name


def test_a_backend_that_sets_its_threads_itself_is_offered_one_number_of_them(one_that_sets_its_threads: str) -> None:
    target = probe_target().model_copy(update={"cores": 4})
    small = a_profile(layers={"Conv2d": 3}, widths=(8, 8))  # fewer candidates to walk through
    space = derive_space(small, target, only_backends=["eager", one_that_sets_its_threads], batch_sizes=[1])

    threads = {
        name: {each.runtime.threads for each in space.candidates() if each.backend == name} for name in space.schemes
    }

    assert threads == {"eager": {1, 2, 4}, one_that_sets_its_threads: {1}}
    assert space.size == len({each.hash for each in space.candidates()})
    assert space.as_written(one_that_sets_its_threads, 1, threads=4).runtime.threads == 1
    assert space.as_written("eager", 1, threads=4).runtime.threads == 4


def test_a_backend_that_sets_its_threads_itself_is_left_out_where_others_are_asked_for(
    one_that_sets_its_threads: str,
) -> None:
    space = _space(threads=2)
    assert one_that_sets_its_threads not in space.schemes
    assert any("ask for 1 thread instead of 2" in item.why for item in space.exclusions)
    assert one_that_sets_its_threads in _space(threads=1).schemes


def test_core_ml_is_offered_one_number_of_threads() -> None:
    mac = Target(name="apple-m2", processor="Apple M2", features=("fp16",), cores=8, memory_bytes=2**34,
                 system="Darwin arm64", installed={"coremltools": "9.0", "torch": "2.13.0"})  # fmt: skip
    space = derive_space(a_profile(), mac, batch_sizes=[1])
    assert (space.threads_of("coreml"), space.threads_of("eager")) == ((1,), (1, 2, 4, 8))
