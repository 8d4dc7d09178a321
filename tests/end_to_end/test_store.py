"""A fleet whose homes share nothing but a ledger and a store: real processes, a workload that was uploaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.fleet import part
from scripts.servers import PostgreSql, wait_until
from tests.conftest import TINY, paretune

SETTINGS = ("--backend", "eager", "--batch-size", "4", "--threads", "1", "--latency-budget", "1s",
            "--max-accuracy-drop", "0.2", "--trials", "4")  # fmt: skip


@dataclass(frozen=True)
class Searched:
    """A search that is over: who took part, and what came of it."""

    folder: Path
    result: dict[str, Any]

    def at(self, who: str) -> tuple[str, str]:
        """Return the flag that names somebody's home."""
        return ("--home", str(self.folder / who))

    def bundles(self, who: str) -> set[str]:
        return {path.name for path in (self.folder / who / "bundles").glob("*/*")}


@pytest.fixture(scope="module")
def searched(postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    """User, coordinator and worker have a home each; the workload's folder is gone once the search was submitted."""
    folder = tmp_path_factory.mktemp("homes")
    project = folder / "project"
    project.mkdir()
    shutil.copy(TINY.partition(":")[0], project / "models_of_mine.py")
    (project / "w.py").write_text("from models_of_mine import workload\n")
    shared = ("--fleet", postgresql.new_ledger(), "--store", str(folder / "store"))

    def at(who: str) -> tuple[str, ...]:
        return ("--home", str(folder / who), *shared)

    with part("worker", *at("worker")), part("coordinator", *at("coordinator")):
        wait_until(lambda: any(each["present"] for each in _workers(*at("user"))), 120)
        left = paretune("search", f"{project}/w.py:workload", *at("user"), *SETTINGS, "--name", "left", "--detach",
                        "--json")  # fmt: skip
        assert left.code == 0, left.stderr
        shutil.rmtree(project)
        followed = paretune("resume", "left", "--home", str(folder / "user"), "--json")
    assert followed.code == 0, followed.stderr
    yield Searched(folder, followed.json)


def test_the_worker_ran_the_uploaded_workload(searched: Searched) -> None:
    result = searched.result
    assert result["workload"].startswith("archive:") and result["workload"].endswith("/w.py:workload")
    assert result["trials"]["measured"] == result["trials"]["total"] > 1, result
    assert result["best"]["bundle"].startswith("bundles/eager/"), "found from every home"
    assert searched.bundles("worker") and not searched.bundles("user")


def test_whoever_asks_for_a_bundle_fetches_it_with_the_code_that_it_needs(searched: Searched) -> None:
    number = searched.result["best"]["number"]
    ran = paretune("bundle", "run", f"left:{number}", "--workload", searched.result["workload"], "--examples", "32",
                   *searched.at("user"), "--json")  # fmt: skip
    assert ran.code == 0 and ran.json["rows"] == 32, ran.stderr
    assert searched.bundles("user") == {Path(searched.result["best"]["bundle"]).name}


def test_the_coordinators_home_promotes_what_the_worker_built(searched: Searched) -> None:
    promoted = paretune("promote", "left", "--as", "tiny@champion", *searched.at("coordinator"), "--json")
    assert promoted.code == 0, promoted.stderr + promoted.stdout
    assert promoted.json["status"] == "promoted"


def test_what_the_worker_made_is_not_made_again_in_another_home(searched: Searched) -> None:
    number = searched.result["best"]["number"]
    stages = searched.folder / "coordinator" / "cache" / "stages"
    before = set(stages.glob("??/*"))
    again = paretune("reproduce", "left", str(number), *searched.at("coordinator"), "--json")
    assert {"prune", "quantize", "build"} <= set(again.json["trial"]["cached_stages"]), again
    assert len(set(stages.glob("??/*")) - before) >= 3, "they were not there before"


def test_a_bundle_that_was_damaged_in_the_store_is_refused(searched: Searched) -> None:
    trials = paretune("trials", "left", *searched.at("user"), "--json").json["trials"]
    other = next(trial for trial in trials if Path(trial["bundle"]).name not in searched.bundles("user"))
    for path in (searched.folder / "store" / "files").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused = paretune("bundle", "verify", f"left:{other['number']}", *searched.at("user"), "--json")
    assert refused.code == 5 and "damaged" in refused.json["error"]["message"], refused
    assert Path(other["bundle"]).name not in searched.bundles("user")


def _workers(*at: str) -> list[dict[str, Any]]:
    """Return the workers of a fleet; none while its ledger is being made."""
    return list(paretune("fleet", *at, "--json").json.get("workers", ()))
