"""docs/space.md holds every backend, option, scheme and knob as they are declared, because it is written from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from evaluators import registry

ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("space_tables", ROOT / "scripts" / "space_tables.py")
assert _SPEC is not None and _SPEC.loader is not None
space_tables = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(space_tables)
PAGE = space_tables.PAGE.read_text()


def test_the_tables_are_those_of_the_declarations() -> None:
    assert space_tables.filled(PAGE) == PAGE, "run python scripts/space_tables.py"


@pytest.mark.parametrize("backend", sorted(registry.backends()))
def test_every_scheme_option_and_knob_of_a_backend_has_its_row(backend: str) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith(f"| `{backend}` |")]
    knobs = [(scheme, knob) for (owner, scheme), item in registry.quantizers().items() if owner == backend
             for knob in item.parameters]  # fmt: skip

    for scheme in (scheme for owner, scheme in registry.quantizers() if owner == backend):
        assert any(f"| `{scheme}`" in row for row in rows), scheme
    for option in registry.backend(backend).options:
        assert any(f"| `{option.name}` |" in row for row in rows), option.name
    for scheme, knob in knobs:
        assert any(scheme in row and f"| `{knob.name}` |" in row for row in rows), (scheme, knob.name)


def test_a_page_without_the_place_of_a_table_is_refused() -> None:
    with pytest.raises(SystemExit, match="0 places for the table 'knobs'"):
        space_tables.filled(PAGE.replace("<!-- knobs -->", ""))
