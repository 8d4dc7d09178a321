"""docs/commands.md shows a trial and names a result's fields as they are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from evaluators.outcome import Diagnosis, Operators, Ratio, Verdict
from search.result import LatencyResult, SearchResult, TrialResult

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "commands.md").read_text()


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    found = re.search(r"### TRIAL.*?```json\n(.*?)```", PAGE, re.S)
    assert found is not None
    trial: dict[str, Any] = json.loads(found[1])
    return trial


def test_the_example_is_a_trial_with_exactly_the_fields_that_trials_have(example: dict[str, Any]) -> None:
    assert list(example) == list(TrialResult.model_fields)
    assert TrialResult.model_validate_json(json.dumps(example)).to_json() == example


@pytest.mark.parametrize(
    ("path", "model"),
    [
        (("latency_ms",), LatencyResult),
        (("speedup",), Ratio),
        (("diagnosis",), Diagnosis),
        (("diagnosis", "operators", 0), Operators),
        (("verdicts", 0), Verdict),
    ],
)
def test_so_have_its_parts(example: dict[str, Any], path: tuple[str | int, ...], model: type[BaseModel]) -> None:
    part: Any = example
    for step in path:
        part = part[step]
    assert list(part) == list(model.model_fields)


@pytest.mark.parametrize("name", sorted({*SearchResult.model_fields, *TrialResult.model_fields}))
def test_every_field_of_a_result_is_on_the_page(name: str) -> None:
    assert re.search(rf"`{name}`|\"{name}\":", PAGE) is not None
