"""What a home shares with a fleet, and how a workload's file comes to the machines that run its trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.errors import UsageError
from search.fleet_api import goes_by_upload
from tests.conftest import paretune
from workers.keeping import STORE, keep_store, kept_store

FILE, MODULE, UPLOADED = "/a/w.py:w", "package.module:w", f"archive:{'0' * 64}/w.py:w"


@pytest.mark.parametrize(
    ("reference", "asked", "has_store", "uploads", "goes"),
    [
        (FILE, None, True, True, True),
        (FILE, None, False, True, False),
        (FILE, None, True, False, False),
        (FILE, "path", True, True, False),
        (FILE, "upload", True, True, True),
        (MODULE, None, True, True, False),
        (MODULE, "path", True, True, False),
        (UPLOADED, None, True, True, False),
    ],
)
def test_a_file_is_uploaded_where_there_is_a_store_unless_told_otherwise(
    reference: str, asked: str | None, has_store: bool, uploads: bool, goes: bool
) -> None:
    assert goes_by_upload(reference, asked, has_store=has_store, uploads=uploads) is goes


@pytest.mark.parametrize(
    ("reference", "asked", "has_store", "uploads", "why"),
    [
        (FILE, "upload", False, True, "--store URL"),
        (FILE, "upload", True, False, "turned off"),
        (MODULE, "upload", True, True, "no path of a file"),
        (FILE, "mail", True, True, "'path' or 'upload'"),
    ],
)
def test_an_upload_that_cannot_be_is_refused(
    reference: str, asked: str, has_store: bool, uploads: bool, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        goes_by_upload(reference, asked, has_store=has_store, uploads=uploads)


def test_a_home_keeps_its_store_in_mind_readable_by_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keep_store(tmp_path / "home", "shared")
    keep_store(tmp_path / "home", str(tmp_path / "shared"))
    assert kept_store(tmp_path / "home") == str(tmp_path / "shared")
    assert (tmp_path / "home" / STORE).stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="shares another store"):
        keep_store(tmp_path / "home", "memory://other/place")


def test_a_store_that_cannot_be_used_is_refused_and_not_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    answer = paretune("search", "w.py:w", "--home", str(home), "--store", "nonsense://x/y", "--json")
    assert answer.code == 2 and "nonsense" in answer.json["error"]["message"]
    assert kept_store(home) is None


def test_how_a_workload_comes_is_a_question_of_fleets_only(tmp_path: Path) -> None:
    answer = paretune("search", "w.py:w", "--home", str(tmp_path), "--workload-from", "upload")
    assert answer.code == 2 and "--workload-from are for a fleet" in answer.stderr
