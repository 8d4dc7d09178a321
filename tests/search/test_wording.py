"""Sentences that people read."""

from __future__ import annotations

from evaluators.space import Exclusion
from search.wording import all_knobs, exclusion_notes, show_seconds, training_of
from tests.search.factories import a_candidate, a_trial


def test_what_the_hardware_lacks_is_one_note_and_other_reasons_are_a_note_each() -> None:
    notes = exclusion_notes(
        [
            Exclusion(what="openvino", why="openvino is not installed: pip install openvino"),
            Exclusion(what="eager fp16", why="cpu-avx2 has none of fp16"),
            Exclusion(what="eager weight_int8", why="the model has Conv2d layers"),
            Exclusion(what="openvino weight_int8", why="the model has Conv2d layers"),
            Exclusion(what="tensorrt", why="tensorrt serves cuda, and cpu-avx2 is cpu"),
        ],
        ["cpu-avx2"],
    )
    assert notes == [
        "left out: openvino: openvino is not installed: pip install openvino",
        "left out: eager weight_int8, openvino weight_int8: the model has Conv2d layers",
        "left out, not for cpu-avx2: eager fp16, tensorrt (paretune space says why)",
    ]
    assert exclusion_notes([], ["cpu-avx2"]) == []


def test_training_is_told_with_what_it_took_whoever_made_it() -> None:
    trained = {"qat": 8.0, "recover": 72.5}
    trial = a_trial(1, a_candidate("eager", "qat_int8", "channel", qat_steps=100))
    trial = trial.model_copy(update={"training_seconds": trained, "cached_stages": ("prune", "recover")})

    assert training_of(trial) == f"recover {show_seconds(72.5)}, answered from the cache; qat {show_seconds(8.0)}"
    assert training_of(trial, ("qat",)) == f"qat {show_seconds(8.0)}"
    assert training_of(a_trial(2)) == ""


def test_recovery_is_among_the_knobs_of_a_pruned_model_as_the_candidate_writes_it() -> None:
    pruned = a_candidate(structure="channel")
    labelled = pruned.model_copy(update={"pruning": pruned.pruning.model_copy(update={"recovery": "train"})})

    assert all_knobs(pruned) == {"recovery_steps": 200}
    assert all_knobs(labelled) == {"recovery": "train", "recovery_steps": 200}
    assert all_knobs(a_candidate()) == {}
