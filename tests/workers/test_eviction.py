"""What leaves a cache that is too large: what was used longest ago, and never what somebody needs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evaluators.cache import ENTRY, StageCache
from tests.conftest import ROOT
from workers.archive import digest_file, pack, unpack
from workers.eviction import Kept, chosen_to_leave, evict, hold_limit, kept_stages
from workers.in_use import oldest_use, using
from workers.uploads import unpacked_folder


def kept(name: str, last_used: float, size_bytes: int = 10, named: bool = False) -> Kept:
    return Kept(path=name, what="stage", stage="prune", size_bytes=size_bytes, last_used=last_used, named=named)


OLD, MIDDLE, NEW = kept("old", 1000.0), kept("middle", 2000.0), kept("new", 3000.0)


@pytest.mark.parametrize(
    ("limit", "since", "leaves"),
    [
        (30, None, []),
        (29, None, ["old"]),
        (10, None, ["old", "middle"]),
        (0, None, ["old", "middle", "new"]),
        (0, 2500.0, ["old", "middle"]),
        (0, 2030.0, ["old"]),  # used within the minute that clocks may be apart
        (0, 10.0, []),
    ],
)
def test_used_longest_ago_first_and_nothing_that_a_trial_may_use(
    limit: int, since: float | None, leaves: list[str]
) -> None:
    assert [each.path for each in chosen_to_leave([NEW, OLD, MIDDLE], limit, since)] == leaves


def test_what_is_named_stays_and_does_not_count() -> None:
    named = kept("named", 1.0, size_bytes=1000, named=True)
    assert chosen_to_leave([named, OLD], 10, None) == []
    assert chosen_to_leave([named, OLD], 9, None) == [OLD]


def a_thousand_bytes(folder: Path) -> None:
    (folder / "x").write_bytes(b"x" * 1000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with three entries of a thousand bytes and more, used one after the other, long ago."""
    cache = StageCache(tmp_path / "cache" / "stages")
    for number, stage in enumerate(("prune", "quantize", "build")):
        entry = cache.get_or_make(str(number) * 64, a_thousand_bytes, stage)
        os.utime(entry.folder / ENTRY, (1000.0 + number, 1000.0 + number))
    return tmp_path


def stages(home: Path) -> list[str]:
    return sorted(each.stage for each in kept_stages(home))


def test_a_cache_is_held_to_its_limit(home: Path) -> None:
    assert hold_limit(home, None) == [] and hold_limit(home, 10_000) == []
    (gone,) = hold_limit(home, 3000)
    assert gone.stage == "prune" and gone.size_bytes > 1000 and not Path(gone.path).exists()
    assert stages(home) == ["build", "quantize"]
    assert not list(home.rglob(".leaving-*"))


def test_an_entry_that_is_asked_for_was_used_now(home: Path) -> None:
    StageCache(home / "cache" / "stages").get_or_make("0" * 64, lambda folder: pytest.fail("made again"), "prune")
    hold_limit(home, 3000)
    assert stages(home) == ["build", "prune"]


def test_a_running_trial_keeps_what_it_used(home: Path) -> None:
    with using(home):
        StageCache(home / "cache" / "stages").get_or_make("0" * 64, lambda folder: pytest.fail("made again"), "prune")
        assert len(hold_limit(home, 0)) == 2
        assert stages(home) == ["prune"]
    assert oldest_use(home) is None
    hold_limit(home, 0)
    assert stages(home) == []


def test_the_dead_use_nothing(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from workers.in_use import using\n"
        "with using(Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(home)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}) as user:  # fmt: skip
        assert user.stdout is not None and user.stdout.readline() == "in\n"
        begun = oldest_use(home)
        assert begun is not None and abs(begun - time.time()) < 60
        user.kill()
        user.wait()
    assert oldest_use(home) is None
    assert not list((home / "cache" / "in-use").iterdir())


def test_what_is_used_while_it_leaves_is_put_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = kept_stages(home)
    first = next(each for each in everything if each.stage == "prune")
    os.utime(Path(first.path) / ENTRY)  # after it was looked at, before it left
    assert evict(home, everything, 3000) == []
    assert stages(home) == ["build", "prune", "quantize"] and not list(home.rglob(".leaving-*"))


def test_an_unpacked_workload_leaves_with_its_digest(home: Path, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "w.py").write_text("x")
    pack(tmp_path / "project", tmp_path / "a.tar")
    folder = unpacked_folder(home) / ("f" * 64)
    unpack(tmp_path / "a.tar", folder)
    os.utime(digest_file(folder), (1.0, 1.0))
    everything = kept_stages(home)
    (gone,) = evict(home, everything, sum(each.size_bytes for each in everything) - 1)
    assert (gone.what, gone.path) == ("workload", str(folder))
    assert not folder.exists() and not digest_file(folder).exists()


def test_what_was_never_finished_leaves_in_its_turn(home: Path) -> None:
    left = home / "cache" / "stages" / "00" / ".making-x"
    left.mkdir()
    a_thousand_bytes(left)
    os.utime(left, (1.0, 1.0))
    assert "unfinished" in stages(home)
    (gone,) = hold_limit(home, sum(each.size_bytes for each in kept_stages(home)) - 1)
    assert gone.path == str(left) and not left.exists()


def test_an_entry_without_a_readable_list_is_shown_as_damaged(home: Path) -> None:
    (home / "cache" / "stages" / "00" / ("0" * 64) / ENTRY).write_text("{")
    assert stages(home) == ["build", "damaged", "quantize"]
