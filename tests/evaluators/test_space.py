"""The space holds every legal candidate once, refuses the others with a reason, and reads candidates back."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.candidate import Candidate, Pruning
from evaluators.errors import IllegalCandidateError, UsageError
from evaluators.space import Space, derive_space, thread_counts
from evaluators.target import probe_target
from tests.search.factories import a_profile


def _space(**restrictions: object) -> Space:
    return derive_space(a_profile(), probe_target(), **restrictions)  # type: ignore[arg-type]


def test_enumeration_counts_what_size_says_and_repeats_nothing() -> None:
    space = _space(only_backends=["eager"], batch_sizes=[1, 4], threads=1)
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
