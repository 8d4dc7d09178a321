"""The shared store gives back exactly what was put into it, or nothing."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evaluators.errors import DamagedError, IntegrityError, UsageError
from tests.conftest import ROOT
from workers.store import Store, StoreUnreachableError, shown


@pytest.fixture(params=["directory", "memory", "told"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store: here, in memory, and where PARETUNE_TEST_STORE says, such as s3://bucket."""
    if request.param == "directory":
        return str(tmp_path / "store")
    if request.param == "told" and "PARETUNE_TEST_STORE" not in os.environ:
        pytest.skip("PARETUNE_TEST_STORE names no store")
    return f"{os.environ['PARETUNE_TEST_STORE'] if request.param == 'told' else 'memory:/'}/{secrets.token_hex(8)}"


@pytest.fixture
def store(url: str) -> Store:
    return Store(url)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files, one of them twice."""
    made = tmp_path / "made"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "a.bin").write_bytes(b"a" * 3_000_000)
    (made / "deep" / "er" / "b.txt").write_text("b")
    (made / "twin.txt").write_text("b")
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(store: Store, under: str) -> list[str]:
    return [path for path in store._files.find(store._root) if f"/{under}/" in f"/{path}"]


def alter(store: Store, path: str, content: bytes) -> None:
    store._files.pipe_file(path, content)


def test_a_folder_comes_back_as_it_was(store: Store, url: str, folder: Path, tmp_path: Path) -> None:
    assert not store.holds("things", "x/1")
    store.put_folder("things", "x/1", folder)

    assert store.holds("things", "x/1")
    assert Store(url).fetch_folder("things", "x/1", tmp_path / "home" / "fetched")
    assert files(tmp_path / "home" / "fetched") == files(folder)
    assert len(objects(store, "files")) == 2, "the same content is kept once"
    assert not objects(store, "parts")
    assert os.listdir(tmp_path / "home") == ["fetched"], "nothing is left beside it"


def test_what_was_put_first_stays(store: Store, folder: Path, tmp_path: Path) -> None:
    store.put_folder("things", "1", folder)
    (folder / "twin.txt").write_text("other")
    store.put_folder("things", "1", folder)

    assert store.fetch_folder("things", "1", tmp_path / "fetched")
    assert (tmp_path / "fetched" / "twin.txt").read_text() == "b"


def test_of_nothing_nothing_comes(store: Store, tmp_path: Path) -> None:
    assert store.fetch_folder("things", "1", tmp_path / "fetched") is False
    assert store.fetch_file("0" * 64, tmp_path / "file") is False
    assert store.hints("topic") == ()
    assert not (tmp_path / "fetched").exists() and not (tmp_path / "file").exists()


def test_an_upload_that_ends_halfway_is_nothing(
    store: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, count = Store._put, iter(range(100))

    def dies(self: Store, source: Path, path: str, *, replace: bool = False) -> None:
        if next(count) == 2:
            raise KeyboardInterrupt
        put(self, source, path, replace=replace)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Store, "_put", dies)
        store.put_folder("things", "1", folder)

    assert objects(store, "files") and not store.holds("things", "1")
    assert store.fetch_folder("things", "1", tmp_path / "fetched") is False
    store.put_folder("things", "1", folder)
    assert store.fetch_folder("things", "1", tmp_path / "fetched")


@pytest.mark.parametrize("damage", ["altered", "shorter", "gone", "no list", "foreign list"])
def test_what_is_damaged_is_never_used_and_can_be_put_anew(
    store: Store, folder: Path, tmp_path: Path, damage: str
) -> None:
    store.put_folder("things", "1", folder)
    content = max(objects(store, "files"), key=lambda path: store._files.info(path)["size"])
    if damage == "gone":
        store._files.rm_file(content)
    elif "list" in damage:
        (listed,) = objects(store, "folders")
        alter(store, listed, b"{" if damage == "no list" else b'{"files": {"../a": "' + b"0" * 64 + b'"}}')
    else:
        alter(store, content, (b"b" if damage == "altered" else b"a") * (3_000_000 if damage == "altered" else 7))
    (tmp_path / "home").mkdir()

    with pytest.raises(DamagedError, match="things 1 is damaged, and was taken out of the store"):
        store.fetch_folder("things", "1", tmp_path / "home" / "fetched")

    assert os.listdir(tmp_path / "home") == []
    assert not store.holds("things", "1")
    store.put_folder("things", "1", folder)
    assert store.fetch_folder("things", "1", tmp_path / "home" / "fetched")
    assert files(tmp_path / "home" / "fetched") == files(folder)


@pytest.mark.parametrize(
    "text",
    [
        b'{"files": {"/etc/passwd": "%s"}}' % (b"0" * 64), b'{"files": {"a/../../b": "%s"}}' % (b"0" * 64),
        b'{"files": {"a": "../../secret"}}', b'{"files": {"a": 7}}', b'{"files": {}}', b'{"files": []}', b"[]",
        b"[" * 10_000, b'{"files": {"a": "%s", "A": "%s"}}' % (b"0" * 64, b"1" * 64), b"\xff",
    ],
)  # fmt: skip
def test_a_list_that_nobody_of_us_wrote_is_refused(store: Store, folder: Path, tmp_path: Path, text: bytes) -> None:
    store.put_folder("things", "1", folder)
    alter(store, objects(store, "folders")[0], text)
    with pytest.raises(DamagedError):
        store.fetch_folder("things", "1", tmp_path / "home" / "fetched")


def test_a_check_refuses_what_it_does_not_like(store: Store, folder: Path, tmp_path: Path) -> None:
    store.put_folder("things", "1", folder)

    def check(fetched: Path) -> None:
        assert files(fetched) == files(folder)
        raise IntegrityError("not what it should be")

    with pytest.raises(DamagedError, match="not what it should be"):
        store.fetch_folder("things", "1", tmp_path / "fetched", check)
    assert not (tmp_path / "fetched").exists()


def test_something_else_in_its_place_is_replaced_and_the_same_is_left_alone(
    store: Store, folder: Path, tmp_path: Path
) -> None:
    store.put_folder("things", "1", folder)
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    (fetched / "a.bin").write_text("half of it")
    assert store.fetch_folder("things", "1", fetched)
    assert files(fetched) == files(folder)

    before = (fetched / "a.bin").stat().st_ino
    assert store.fetch_folder("things", "1", fetched)
    assert (fetched / "a.bin").stat().st_ino == before


def test_links_are_not_put(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(IntegrityError, match="link"):
        store.put_folder("things", "1", folder)
    assert not store.holds("things", "1")


def test_many_put_one_key_at_once(url: str, folder: Path, tmp_path: Path) -> None:
    if url.startswith("memory:"):
        pytest.skip("what is written in memory is seen while it is written")

    def put_and_fetch(number: int) -> dict[str, bytes]:
        mine = Store(url)
        mine.put_folder("things", "1", folder)
        mine.put_file(folder / "a.bin")
        assert mine.fetch_folder("things", "1", tmp_path / f"fetched-{number % 3}")
        return files(tmp_path / f"fetched-{number % 3}")

    with ThreadPoolExecutor(8) as pool:
        assert all(found == files(folder) for found in pool.map(put_and_fetch, range(16)))


def test_processes_put_one_key_at_once_and_one_is_killed(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from workers.store import Store\n"
        "store = Store(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "store.put_folder('things', '1', Path(sys.argv[2]))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "store"), str(folder)], cwd=ROOT, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
        for _ in range(3)
    ]  # fmt: skip
    for each in started:
        assert each.stdout is not None and each.stdout.readline() == "ready\n"
    for each in started:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    started[0].kill()
    assert [each.wait(60) for each in started][1:] == [0, 0]

    assert Store(str(tmp_path / "store")).fetch_folder("things", "1", tmp_path / "fetched")
    assert files(tmp_path / "fetched") == files(folder)


def test_files_are_found_by_their_hash(store: Store, folder: Path, tmp_path: Path) -> None:
    sha = store.put_file(folder / "a.bin")
    assert store.fetch_file(sha, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (folder / "a.bin").read_bytes()

    alter(store, objects(store, "files")[0], b"x")
    with pytest.raises(DamagedError, match="has the hash"):
        store.fetch_file(sha, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert store.fetch_file(sha, tmp_path / "again") is False, "taken out"


def test_hints_are_sets(store: Store) -> None:
    for key in ("b", "a", "b"):
        store.add_hint("topic", key)
    assert store.hints("topic") == ("a", "b")


@pytest.mark.parametrize("key", ["../up", "/abs", "a/b/c", "", ".hidden", "a//b", "a b"])
def test_keys_that_lead_elsewhere_are_refused(store: Store, folder: Path, key: str) -> None:
    with pytest.raises(UsageError, match="no key"):
        store.put_folder("things", key, folder)


@pytest.mark.parametrize(("url", "advice"), [("nonsense://x/y", "name a directory"), ("memory://", "names no folder")])
def test_urls_that_cannot_be_used_are_refused(url: str, advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        Store(url)


def test_a_store_that_is_away_is_said_to_be(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    away = Store(str(tmp_path / "file" / "store"))
    for act in _acts(away, folder, tmp_path):
        with pytest.raises(StoreUnreachableError, match="cannot be used"):
            act()


def _acts(store: Store, folder: Path, tmp_path: Path) -> list[Callable[[], object]]:
    return [
        lambda: store.put_folder("things", "1", folder),
        lambda: store.holds("things", "1"),
        lambda: store.fetch_folder("things", "1", tmp_path / "fetched"),
        lambda: store.put_file(folder / "a.bin"),
        lambda: store.hints("topic"),
    ]


def test_passwords_are_not_shown() -> None:
    assert shown("s3://key:secret@bucket/folder") == "s3://***@bucket/folder"
    assert Store("memory://plain/folder").url == "memory://plain/folder"
