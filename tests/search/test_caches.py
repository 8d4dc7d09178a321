"""``paretune cache``: what a home keeps, and what leaves it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from evaluators.bundle import MANIFEST, read_manifest
from evaluators.cache import ENTRY
from evaluators.errors import UsageError
from search import api, caches
from search.spec import load_cache_limit
from tests.conftest import Finished, paretune
from workers.in_use import using
from workers.keeping import DEFAULT_CACHE_BYTES


@pytest.fixture
def home(tiny_search: Finished, tmp_path: Path) -> Path:
    """A copy of the home of a finished search, everything in it used long ago, with a bundle that nobody names."""
    copy = tmp_path / "home"
    shutil.copytree(tiny_search.home, copy)
    stray = next((copy / "bundles" / "eager").iterdir())
    shutil.copytree(stray, stray.with_name("0123456789abcdef-" + "0" * 32))
    for name in (ENTRY, MANIFEST):
        for path in copy.rglob(name):
            os.utime(path, (1000.0, 1000.0))
    return copy


def bundles(home: Path) -> set[str]:
    return {path.name for path in (home / "bundles").glob("*/*")}


def test_ls_shows_stages_bundles_and_the_rest(home: Path) -> None:
    answer = paretune("cache", "ls", "--home", str(home), "--json")
    assert answer.code == 0, answer.stderr
    rows = {(row["what"], row["name"]): row for row in answer.json["rows"]}
    assert {("stage", "prune"), ("stage", "quantize"), ("stage", "build"), ("bundle", "eager")} <= rows.keys()
    eager = rows["bundle", "eager"]
    assert eager["entries"] == eager["named"] + 1 and eager["last_used"] == 1000.0
    assert answer.json["limit_bytes"] == DEFAULT_CACHE_BYTES
    assert 0 < answer.json["evictable_bytes"] < sum(row["size_bytes"] for row in rows.values())

    shown = paretune("cache", "ls", "--home", str(home))
    assert shown.code == 0 and "quantize" in shown.stdout and "the limit is 20" in shown.stdout


def test_gc_leaves_what_trials_name_and_the_next_search_makes_the_rest_again(home: Path, tiny_search: Finished) -> None:
    before = bundles(home)
    asked = ("cache", "gc", "--home", str(home), "--max-size", "0", "--json")
    planned = paretune(*asked, "--dry-run")
    assert planned.code == 0 and planned.json["dry_run"] and bundles(home) == before

    done = paretune(*asked)
    assert {each["path"] for each in done.json["left"]} == {each["path"] for each in planned.json["left"]}
    assert done.json["kept_bytes"] == 0 and done.json["left_bytes"] == planned.json["left_bytes"] > 0
    assert before - bundles(home) == {"0123456789abcdef-" + "0" * 32}
    assert not list((home / "cache" / "stages").rglob(ENTRY))
    for trial in api.trials("tiny", home):
        if trial.bundle is not None:
            read_manifest(home / "bundles" / Path(trial.bundle).parent.name / Path(trial.bundle).name)


def test_gc_leaves_what_a_running_trial_may_use(home: Path) -> None:
    entry = next((home / "cache" / "stages").rglob(ENTRY))
    with using(home):
        os.utime(entry)
        report = caches.collect(home, 0)
        assert report.in_use_since is not None and entry.exists() and len(report.left) > 3
    assert [each.path for each in caches.collect(home, 0).left] == [str(entry.parent)]


def test_a_certificate_keeps_its_bundle(home: Path) -> None:
    stray = "0123456789abcdef-" + "0" * 32
    with api.open_ledger(home) as ledger:
        ledger.certify("model", 1, "d" * 64, {"bundle": f"/gone/home/bundles/eager/{stray}"})
    caches.collect(home, 0)
    assert stray in bundles(home)


def test_without_a_limit_nothing_leaves(home: Path) -> None:
    report = caches.collect(home, None)
    assert report.left == () and report.kept_bytes > 0


@pytest.mark.parametrize(
    ("given", "file", "found"),
    [
        (None, None, DEFAULT_CACHE_BYTES),
        (None, "cache: {max_size: 5GB}", 5 * 10**9),
        (None, "cache: {max-size: none}", None),
        ("1GB", "cache: {max_size: 5GB}", 10**9),
        ("none", None, None),
        ("0", None, 0),
    ],
)
def test_the_limit_comes_from_flag_or_environment_then_file_then_default(
    tmp_path: Path, given: str | None, file: str | None, found: int | None
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(file or "trials: 3")
    assert load_cache_limit(given, config if file else None) == found


@pytest.mark.parametrize(
    ("given", "file", "why"),
    [
        ("large", None, "'large' is not a size"),
        (None, "cache: 5GB", "cache: {max_size: 20GB}"),
        (None, "cache: {size: 5GB}", "cache: {max_size: 20GB}"),
        (None, "cache: {max_size: much}", "'much' is not a size"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(tmp_path: Path, given: str | None, file: str | None, why: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(file or "trials: 3")
    with pytest.raises(UsageError, match=why):
        load_cache_limit(given, config if file else None)
