"""What the programs of an interpreter import: our own source first, and never a part of another's packages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

import evaluators
from evaluators.interpreter import this_interpreter, users_path


def test_our_own_source_is_found_though_a_users_folder_has_the_same_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "__init__.py").write_text("raise ImportError('somebody else')")
    monkeypatch.syspath_prepend(str(tmp_path))
    here = this_interpreter()
    command = [here.python, "-P", "-c", "import evaluators; print(evaluators.__file__)"]

    found = subprocess.run(command, env=here.environment(), capture_output=True, text=True, check=True)

    assert Path(found.stdout.strip()) == Path(str(evaluators.__file__))
    assert str(tmp_path) in here.path


def test_a_part_of_an_installed_package_is_no_folder_of_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = Path(np.__file__).parent / "lib"
    monkeypatch.syspath_prepend(str(part))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) in users_path()
    assert str(part) not in users_path()
