"""docs/techniques.md is written from what is kept, and has a row for everything that the registry has."""

from __future__ import annotations

import pytest

from benchmarks import techniques
from evaluators import registry

PAGE = techniques.PAGE.read_text()


def test_the_tables_are_those_of_what_was_measured() -> None:
    assert techniques.filled(PAGE, techniques.read()) == PAGE, "run python -m benchmarks.techniques --write"


@pytest.mark.parametrize("example", techniques.SETTINGS)
def test_every_scheme_and_structure_has_a_row_and_every_backend_a_column(example: str) -> None:
    section = PAGE.split(f"<!-- {example} -->")[1].split("<!-- end -->")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| `")]
    schemes = {f"`{scheme}`" for _, scheme in registry.quantizers()}
    assert set(rows) == schemes | {f"`{structure}` pruning" for structure in registry.pruners()}
    head = next(line for line in section.splitlines() if line.startswith("| technique"))
    assert all(f"`{backend}`" in head for backend in registry.backends())


def test_a_cell_shows_what_was_measured_or_the_number_of_its_reason() -> None:
    measured = {"speedup": [2.0, 1.9, 2.1], "size_bytes": 50, "drop": 0.001, "clean": True, "p50_ms": 1.0}
    cells = {
        "fp32 on eager": measured | {"size_bytes": 100, "speedup": None, "drop": 0.0},
        "static_int8 on eager": measured,
        "fp32 on openvino": {"refused": "it | is not installed"},
        "static_int8 on openvino": {"failed": "unsupported: no"},
        "static_int8 on inductor": measured | {"clean": False, "speedup": None},
    }

    shown = techniques.table("images", {"images": {"cells": cells, "machine": "A machine."}})

    assert "| **2.00×** (1.90–2.10)<br>size 0.50<br>drop +0.0010 |" in shown
    assert "| 1×<br>size 1.00<br>drop +0.0000 |" in shown
    assert "refused (1)" in shown and "\n1. it / is not installed" in shown
    assert "failed (2)" in shown and "| –<br>size –<br>drop +0.0010<br>disturbed |" in shown and "not measured" in shown


def test_a_page_without_the_place_of_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="0 places for the table 'motion'"):
        techniques.filled(PAGE.replace("<!-- motion -->", ""), {})
