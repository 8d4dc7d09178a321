"""Homes that share a store: bundles are found from everywhere, results of stages are made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_for_tests import PROFILE

from evaluators.bundle import bundle_name, read_manifest
from evaluators.cache import StageCache
from evaluators.candidate import Candidate, Pruning, Quantization, Runtime
from evaluators.errors import DamagedError, UsageError
from tests.security import good
from workers import sharing
from workers.sharing import DEPENDS, Sharing, topics
from workers.store import Store, StoreUnreachableError

HASH = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def one(tmp_path: Path, store: Store) -> Sharing:
    return Sharing(tmp_path / "one", store)


@pytest.fixture
def other(tmp_path: Path, store: Store, said: list[str]) -> Sharing:
    return Sharing(tmp_path / "other", store, said.append)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a trial of home ``one`` has built."""
    folder = tmp_path / "one" / "bundles" / "onnxruntime" / "making"
    folder.mkdir(parents=True)
    good.onnx_bundle(folder)
    manifest = good.sealed(folder, "onnxruntime")
    return folder.rename(folder.with_name(bundle_name(HASH, manifest.digest)))


def never(seconds: float) -> bool:
    raise AssertionError(f"nothing to wait {seconds} s for")


def test_a_bundle_of_one_home_is_found_from_another(one: Sharing, other: Sharing, bundle: Path, tmp_path: Path) -> None:
    reference = one.keep_bundle(str(bundle), never)

    assert reference == f"bundles/onnxruntime/{bundle.name}"
    assert one.bundle(reference) == bundle
    assert other.has_bundle(reference) and not (tmp_path / "other" / reference).exists()
    fetched = other.bundle(reference)
    assert fetched == tmp_path / "other" / reference
    assert read_manifest(fetched) == read_manifest(bundle)


def test_without_a_store_everything_stays_where_it_is(tmp_path: Path, bundle: Path) -> None:
    alone = Sharing.of(tmp_path / "one")
    assert alone.keep_bundle(str(bundle), never) == str(bundle)
    assert alone.bundle(str(bundle)) == bundle and alone.has_bundle(str(bundle))
    assert not alone.has_bundle("bundles/eager/none")
    alone.give_stages({"0" * 64: "prune"}, {"prune": "topic"})
    assert alone.fetch_stages({"prune": "topic"}) == 0


def test_a_bundle_that_nobody_has_is_said_to_be_missing(other: Sharing) -> None:
    with pytest.raises(UsageError, match=r"neither in .* nor in the store .* paretune reproduce"):
        other.bundle(f"bundles/eager/{HASH}-{'0' * 32}")


@pytest.mark.parametrize("reference", ["bundles/../../etc/x", "/nowhere/bundles/x", "bundles/eager/short"])
def test_only_names_of_bundles_are_looked_up_in_the_store(other: Sharing, store: Store, reference: str) -> None:
    assert not other.has_bundle(reference)
    assert not other.bundle(reference).exists()


def test_another_bundle_under_the_name_is_refused(store: Store, other: Sharing, bundle: Path, tmp_path: Path) -> None:
    name = f"onnxruntime/{HASH}-{'1' * 32}"
    store.put_folder("bundles", name, bundle)
    with pytest.raises(DamagedError, match="has the digest"):
        other.bundle(f"bundles/{name}")
    assert not (tmp_path / "other" / "bundles" / name).exists()


def test_a_bundle_with_an_altered_file_is_refused_though_its_list_agrees(
    store: Store, other: Sharing, bundle: Path, tmp_path: Path
) -> None:
    forged = tmp_path / "forged"
    shutil.copytree(bundle, forged)
    (forged / "model.onnx").write_bytes(b"evil")
    store.put_folder("bundles", f"onnxruntime/{bundle.name}", forged)
    with pytest.raises(DamagedError, match=r"model\.onnx altered"):
        other.bundle(f"bundles/onnxruntime/{bundle.name}")


def test_a_damaged_bundle_is_whole_again_once_its_builder_puts_it_anew(
    one: Sharing, other: Sharing, bundle: Path, tmp_path: Path
) -> None:
    reference = one.keep_bundle(str(bundle), never)
    for content in (tmp_path / "store" / "files").rglob("*"):
        if content.is_file():
            content.write_bytes(content.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedError, match="taken out"):
        other.bundle(reference)
    one.keep_bundle(str(bundle), never)
    assert read_manifest(other.bundle(reference)) == read_manifest(bundle)


@pytest.mark.parametrize("comes_back", [True, False])
def test_an_outage_is_waited_for_a_while(
    one: Sharing, store: Store, bundle: Path, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    waited: list[float] = []
    put = Store.put_folder

    def away(self: Store, *args: object) -> None:
        if comes_back and len(waited) == 2:
            return put(self, *args)  # type: ignore[arg-type]
        raise StoreUnreachableError("away")

    def given_up(seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(Store, "put_folder", away)
    if comes_back:
        assert store.holds("bundles", one.keep_bundle(str(bundle), given_up).removeprefix("bundles/"))
    else:
        with pytest.raises(StoreUnreachableError):
            one.keep_bundle(str(bundle), given_up)
        assert tuple(waited) == sharing.RETRY_PAUSES_S
    with pytest.raises(StoreUnreachableError):  # whoever gives up does not wait
        waited.clear()
        comes_back = False
        one.keep_bundle(str(bundle), lambda seconds: True)


def make(text: str, made: list[str]) -> Callable[[Path], None]:
    def into(folder: Path) -> None:
        made.append(text)
        (folder / "content").write_text(text)

    return into


KEY = "ab" * 32
TOPICS = {"prune": "p" * 64, "build": "b" * 64}


def cache(tmp_path: Path, home: str) -> StageCache:
    return StageCache(tmp_path / home / "cache" / "stages")


def test_what_one_home_made_another_does_not_make_again(one: Sharing, other: Sharing, tmp_path: Path) -> None:
    made: list[str] = []
    mine = cache(tmp_path, "one")
    mine.get_or_make(KEY, make("pruned", made), "prune")
    one.give_stages(mine.used, TOPICS)

    assert other.fetch_stages({"prune": "q" * 64}) == 0, "noted elsewhere"
    assert other.fetch_stages(TOPICS) == 1
    assert other.fetch_stages(TOPICS) == 0, "it is there already"
    entry = cache(tmp_path, "other").get_or_make(KEY, make("pruned", made), "prune")
    assert entry.hit and made == ["pruned"] and (entry.folder / "content").read_text() == "pruned"


def test_a_damaged_entry_is_reported_taken_out_and_made_again(
    one: Sharing, other: Sharing, tmp_path: Path, store: Store, said: list[str]
) -> None:
    made: list[str] = []
    mine, theirs = cache(tmp_path, "one"), cache(tmp_path, "other")
    mine.get_or_make(KEY, make("pruned", made), "prune")
    one.give_stages(mine.used, TOPICS)
    for content in (tmp_path / "store" / "files").rglob("*"):
        if content.is_file() and content.read_text() == "pruned":
            content.write_text("prunes")

    assert other.fetch_stages(TOPICS) == 0
    (told,) = said
    assert "is damaged, and was taken out of the store" in told and told.endswith("it is made again")
    entry = theirs.get_or_make(KEY, make("pruned", made), "prune")
    assert not entry.hit and made == ["pruned", "pruned"]
    other.give_stages(theirs.used, TOPICS)
    shutil.rmtree(tmp_path / "one")
    assert one.fetch_stages(TOPICS) == 1


def test_an_entry_that_is_damaged_here_is_not_given(one: Sharing, tmp_path: Path, store: Store) -> None:
    mine = cache(tmp_path, "one")
    entry = mine.get_or_make(KEY, make("pruned", []), "prune")
    (entry.folder / "content").write_text("half")
    one.give_stages(mine.used, TOPICS)
    assert not store.holds("stages", KEY) and store.hints(TOPICS["prune"]) == ()


def test_an_outage_of_the_store_costs_nothing_but_the_sharing(tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("no folder")
    cut_off = Sharing(tmp_path / "one", Store(str(tmp_path / "file" / "store")), said.append)
    mine = cache(tmp_path, "one")
    mine.get_or_make(KEY, make("pruned", []), "prune")
    assert cut_off.fetch_stages(TOPICS) == 0
    cut_off.give_stages(mine.used, TOPICS)
    assert ["not used" in said[0], "not shared" in said[1]] == [True, True]


def test_topics_are_shared_by_candidates_with_the_same_beginning() -> None:
    pruned = Pruning(structure="channel", amount=0.5)
    base = Candidate(target="cpu", backend="eager", pruning=pruned, batch_size=4)

    def same(**change: object) -> set[str]:
        mine, theirs = (topics(each, PROFILE, 0) for each in (base, base.model_copy(update=change)))
        return {stage for stage in DEPENDS if mine[stage] == theirs[stage]}

    assert same() == set(DEPENDS)
    assert same(runtime=Runtime(threads=2)) == set(DEPENDS) - {"build"}
    assert same(quantization=Quantization(scheme="bf16")) == set(DEPENDS) - {"build", "quantize"}
    assert same(backend="onnxruntime") == set(DEPENDS) - {"build", "quantize"}
    assert same(batch_size=8) == {"prune", "recover", "counts", "sensitivity", "qat"}
    trained = [Quantization(scheme="qat_int8", qat_steps=steps) for steps in (100, 300)]
    assert "qat" not in same(quantization=trained[0])
    assert same(pruning=Pruning()) == {"reference"}
    assert not set(topics(base, PROFILE, 0).values()) & set(topics(base, PROFILE, 1).values())
