"""A part of a fleet says that it works by touching a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evaluators.errors import UsageError
from workers.alive import touching


def test_the_file_is_there_from_the_start_and_touched_again(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    tell = touching(file)
    os.utime(file, (1, 1))
    tell()
    assert file.stat().st_mtime > 1


def test_without_a_file_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touching(None)()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--alive .*: No such file or directory"):
        touching(tmp_path / "missing" / "alive")
