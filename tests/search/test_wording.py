"""Sentences that people read."""

from __future__ import annotations

from evaluators.space import Exclusion
from search.wording import exclusion_notes


def test_what_the_hardware_lacks_is_one_note_and_what_can_be_installed_a_note_each() -> None:
    notes = exclusion_notes(
        [
            Exclusion(what="openvino", why="openvino is not installed: pip install openvino"),
            Exclusion(what="eager fp16", why="cpu-avx2 has none of fp16"),
            Exclusion(what="tensorrt", why="tensorrt serves cuda, and cpu-avx2 is cpu"),
        ],
        ["cpu-avx2"],
    )
    assert notes == [
        "left out: openvino: openvino is not installed: pip install openvino",
        "left out, not for cpu-avx2: eager fp16, tensorrt (paretune space says why)",
    ]
    assert exclusion_notes([], ["cpu-avx2"]) == []
