"""Workloads that were uploaded: brought, checked before they are unpacked, loaded from there, or refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from jobs_for_tests import PROFILE, candidate

from evaluators.errors import UploadRefusedError, WorkloadError
from evaluators.outcome import FailureKind
from evaluators.workload import UNPACKED, absolute_reference, archive_of, load_workload
from tests.conftest import ROOT
from workers import uploads
from workers.keeping import Keeping, keep_store
from workers.ledger import Ledger
from workers.sandbox import Sandbox
from workers.settings import TrialSettings
from workers.store import Store, StoreUnreachableError
from workers.supervisor import Supervisor, run_profile
from workers.uploads import bring_workload, unpacked_folder, upload

CODE = """
from pathlib import Path
from evaluators import Workload
from paretune_test_sibling import NAME

workload = Workload(name=NAME + (Path(__file__).parent / "data.txt").read_text(), model=None, calibration=None,
                    validation=None)
"""


@pytest.fixture(autouse=True)
def nothing_checked_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_checked", {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    keep_store(tmp_path / "home", str(tmp_path / "store"))
    return tmp_path / "home"


@pytest.fixture
def reference(tmp_path: Path, store: Store) -> str:
    """A workload with a sibling and data that was uploaded; its folder is gone."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "workload.py").write_text(CODE)
    (folder / "paretune_test_sibling.py").write_text("NAME = 'uploaded '")
    (folder / "data.txt").write_text("with data")
    found = upload(f"{folder}/workload.py:workload", store)
    folder.rename(tmp_path / "gone")
    return found


def unpacked(home: Path, reference: str) -> Path:
    return unpacked_folder(home) / (archive_of(reference) or "")


def blob(tmp_path: Path, reference: str) -> Path:
    sha = archive_of(reference) or ""
    return tmp_path / "store" / "files" / sha[:2] / sha


def test_it_is_named_by_its_hash_and_loads_with_siblings_and_data(home: Path, reference: str, tmp_path: Path) -> None:
    sha = hashlib.sha256(blob(tmp_path, reference).read_bytes()).hexdigest()
    assert reference == f"archive:{sha}/workload.py:workload" == absolute_reference(reference)

    bring_workload(reference, home)

    program = f"from evaluators import load_workload; print(load_workload({reference!r}).name)"
    environment = os.environ | {UNPACKED: str(unpacked_folder(home)), "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False,
                               cwd=tmp_path, env=environment)  # fmt: skip
        assert ended.stdout == "uploaded with data\n", ended.stderr
    assert not list(unpacked(home, reference).rglob("*.pyc")), "it stays as it was checked"


def test_it_is_fetched_once_and_looked_at_once_by_every_process(
    home: Path, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring_workload(reference, home)
    blob(tmp_path, reference).unlink()
    bring_workload(reference, home)
    uploads._checked.clear()
    bring_workload(reference, home)
    monkeypatch.setattr(uploads, "content_digest", lambda folder: pytest.fail("looked at twice"))
    bring_workload(reference, home)


def test_what_was_changed_since_is_replaced(home: Path, reference: str) -> None:
    bring_workload(reference, home)
    folder = unpacked(home, reference)
    for change in ("altered", "added", "linked"):
        folder.chmod(0o755)
        (folder / "workload.py").chmod(0o644)
        if change == "altered":
            (folder / "workload.py").write_text("evil = 1")
        elif change == "added":
            (folder / "paretune_test_sibling.pyc").write_bytes(b"x")
        else:
            (folder / "link").symlink_to("/etc/passwd")
        uploads._checked.clear()
        bring_workload(reference, home)
        assert sorted(os.listdir(folder)) == ["data.txt", "paretune_test_sibling.py", "workload.py"], change
        assert (folder / "workload.py").read_text() == CODE


def test_the_hash_is_checked_before_anything_is_unpacked(
    home: Path, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "unpack", lambda *_: pytest.fail("unpacked before it was checked"))
    stored = blob(tmp_path, reference)
    stored.write_bytes(stored.read_bytes().replace(b"uploaded ", b"exchanged"))
    with pytest.raises(UploadRefusedError, match="damaged"):
        bring_workload(reference, home)
    assert not unpacked(home, reference).exists()


def test_a_hostile_archive_of_the_right_hash_is_refused(home: Path, store: Store, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("workload.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(UploadRefusedError, match="no plain file"):
        bring_workload(f"archive:{store.put_file(tmp_path / 'a.tar')}/workload.py:workload", home)


@pytest.mark.parametrize(
    ("named", "why"),
    [
        (f"archive:{'0' * 64}/w.py:w", "not in the store"),
        ("archive:../../etc/w.py:w", "names no archive"),
        (f"archive:{'A' * 64}/w.py:w", "names no archive"),
    ],
)
def test_what_is_not_there_is_refused(home: Path, named: str, why: str) -> None:
    with pytest.raises(UploadRefusedError, match=why):
        bring_workload(named, home)


def test_without_a_store_it_is_said_what_is_missing(tmp_path: Path, reference: str) -> None:
    with pytest.raises(UploadRefusedError, match="--store URL"):
        bring_workload(reference, tmp_path / "alone")


def test_a_store_that_is_away_is_no_refusal(home: Path, reference: str, tmp_path: Path) -> None:
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StoreUnreachableError):
        bring_workload(reference, home)


def test_other_workloads_are_left_alone(tmp_path: Path) -> None:
    for named in ("path/to/file.py:workload", "package.module:workload"):
        bring_workload(named, tmp_path / "nothing", allowed=False)
    assert not (tmp_path / "nothing").exists()


def test_many_bring_one_at_once(home: Path, reference: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: bring_workload(reference, home), range(12)))
    assert (unpacked(home, reference) / "workload.py").read_text() == CODE


def test_a_trial_of_an_uploaded_workload_ends_as_refused_where_uploads_are_off(
    ledger: Ledger, sandbox: Sandbox, home: Path, reference: str
) -> None:
    profile = PROFILE.model_copy(update={"reference": reference})
    search = ledger.create_search(reference, {})
    trials = [ledger.add_trial(search.id, candidate(number), "sampled", "key") for number in range(2)]
    settings = TrialSettings(profile=profile, trial_timeout_s=20.0)

    off = Supervisor(ledger, sandbox, home, locks=home, keeping=Keeping(uploads=False))
    refused = off.run(trials[0].id, 1, settings)
    assert refused is not None and refused.failure is not None and refused == ledger.trial(trials[0].id).outcome
    assert refused.failure.kind == FailureKind.REFUSED and "uploads are turned off here" in refused.failure.reason

    on = Supervisor(ledger, sandbox, home, locks=home)
    measured = on.run(trials[1].id, 1, settings)
    assert measured is not None and measured.kind == "measured"
    assert (unpacked(home, reference) / "workload.py").is_file()


def test_nobody_reads_an_uploaded_workload_where_uploads_are_off(sandbox: Sandbox, home: Path, reference: str) -> None:
    with pytest.raises(UploadRefusedError, match="turned off"):
        run_profile(sandbox, home, reference, uploads=False)


def test_whoever_loads_what_is_not_unpacked_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for where in (None, str(tmp_path)):
        monkeypatch.delenv(UNPACKED, raising=False)
        if where:
            monkeypatch.setenv(UNPACKED, where)
        with pytest.raises(WorkloadError, match=f"not unpacked.*set {UNPACKED}"):
            load_workload(f"archive:{'0' * 64}/w.py:w")
