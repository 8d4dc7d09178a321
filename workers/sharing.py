"""Sharing: what a home gives to its fleet's store and takes from it — bundles, and results of stages.

A job knows nothing of it: what it will want is fetched before it, and what it made is put afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from evaluators.bundle import is_named_after, read_manifest
from evaluators.cache import ENTRY, is_whole
from evaluators.candidate import Candidate
from evaluators.errors import DamagedError, InfrastructureError, IntegrityError, UsageError
from evaluators.frozen import digest
from evaluators.profile import WorkloadProfile
from workers.in_use import using
from workers.keeping import open_store
from workers.store import Store, StoreUnreachableError

BUNDLES, STAGES = "bundles", "stages"

RETRY_PAUSES_S = (1.0, 4.0, 10.0)
"""How long is waited before each new try to put the bundle of a trial that has been measured."""

_BUNDLE = re.compile(r"bundles/[A-Za-z0-9_]+/[0-9a-f]{16}-[0-9a-f]{32}")
_STAGE = re.compile(r"[0-9a-f]{64}")

_MODEL = ("pruning",)
_TRAINING = "qat_steps"
_EXPORT = (*_MODEL, "batch_size")
_QUANTIZED = (*_EXPORT, "quantization", "backend", "target")
_BUILT = (*_QUANTIZED, "runtime")
DEPENDS: dict[str, tuple[str, ...]] = {
    "prune": _MODEL, "recover": _MODEL, "counts": _MODEL, "sensitivity": _MODEL, "reference": ("batch_size",),
    "export": _EXPORT, "onnx": _EXPORT, "quantize": _QUANTIZED, "build": _BUILT, "qat": (*_MODEL, _TRAINING),
}  # fmt: skip
"""What of a candidate the result of a stage depends on, at most: where to look for it; its key decides."""


def topics(candidate: Candidate, profile: WorkloadProfile, seed: int) -> dict[str, str]:
    """Return for each stage under which topic its results are noted in the store: equal where they may be the same."""
    facts = candidate.to_json()
    facts[_TRAINING] = candidate.quantization.knobs.get(_TRAINING)
    return {
        stage: digest([stage, profile.fingerprint, seed, {part: facts[part] for part in parts}])
        for stage, parts in DEPENDS.items()
    }


class Sharing:
    """What one home shares. Without a store everything stays where it is.

    Args:
        home: the folder of bundles and cache.
        store: what is shared; the one that the home keeps in mind, see ``Sharing.of``.
        say: told of what could not be shared, and of what was damaged.
    """

    def __init__(self, home: Path, store: Store | None, say: Callable[[str], None] = lambda text: None) -> None:
        self._home, self._store, self._say = home.resolve(), store, say
        self._noted: set[tuple[str, str]] = set()

    @classmethod
    def of(cls, home: Path, say: Callable[[str], None] = lambda text: None) -> Sharing:
        """Share what ``home`` shares."""
        return cls(home, open_store(home), say)

    def keep_bundle(self, folder: str, given_up: Callable[[float], bool]) -> str:
        """Put a bundle of this home into the store, and return what every home of the fleet finds it by.

        Args:
            given_up: sleeps for so many seconds where the store is away, and returns True to give up.

        Raises:
            StoreUnreachableError: it could not be put.
        """
        path = Path(folder)
        name = path.relative_to(self._home).as_posix() if path.is_relative_to(self._home) else ""
        if self._store is None or not _BUNDLE.fullmatch(name):
            return folder
        for pause in (*RETRY_PAUSES_S, None):
            try:
                self._store.put_folder(BUNDLES, name.removeprefix("bundles/"), path)
                break
            except StoreUnreachableError as error:
                self._say(str(error))
                if pause is None or given_up(pause):
                    raise
        return name

    def bundle(self, reference: str) -> Path:
        """Return the folder of a bundle in this home; it is fetched where another home built it.

        Raises:
            DamagedError: what is in the store is not what was built.
            UsageError: the store does not have it.
            StoreUnreachableError: it could not be fetched.
        """
        folder = self._home / reference
        if folder.is_dir() or self._store is None or not _BUNDLE.fullmatch(reference):
            return folder

        def check(fetched: Path) -> None:
            found = read_manifest(fetched).digest
            if not is_named_after(folder.name, found):
                raise IntegrityError(f"bundle {folder.name} has the digest {found[:32]}")

        with using(self._home):
            fetched = self._store.fetch_folder(BUNDLES, reference.removeprefix("bundles/"), folder, check)
        if not fetched:
            raise UsageError(f"bundle {reference} is neither in {self._home} nor in the store {self._store.url}; "
                             "run its trial again: paretune reproduce SEARCH TRIAL")  # fmt: skip
        return folder

    def has_bundle(self, reference: str) -> bool:
        """Whether a bundle is in this home, or can be fetched; not while the store is away."""
        if (self._home / reference).is_dir():
            return True
        if self._store is None or not _BUNDLE.fullmatch(reference):
            return False
        try:
            return self._store.holds(BUNDLES, reference.removeprefix("bundles/"))
        except StoreUnreachableError as error:
            self._say(str(error))
            return False

    def fetch_stages(self, wanted: Mapping[str, str]) -> int:
        """Fetch what was noted at these topics (by stage) into the stage cache; return how many entries that were.

        What is missing or damaged is made by the job, so nothing of it is an error.
        """
        if self._store is None:
            return 0
        fetched = 0
        try:
            for topic in wanted.values():
                for key in self._store.hints(topic):
                    fetched += _STAGE.fullmatch(key) is not None and self._fetch_stage(self._store, key)
        except InfrastructureError as error:
            self._say(f"stages of others are not used: {error}")
        return fetched

    def give_stages(self, entries: Mapping[str, str], noted_at: Mapping[str, str]) -> None:
        """Put entries of the stage cache (by key, each with its stage) into the store, noted at the stages' topics."""
        if self._store is None:
            return
        try:
            for key, stage in entries.items():
                topic = noted_at.get(stage)
                if topic is None or (topic, key) in self._noted:
                    continue
                if self._store.holds(STAGES, key) or self._put_stage(self._store, key):
                    self._store.add_hint(topic, key)
                    self._noted.add((topic, key))
        except (InfrastructureError, IntegrityError) as error:
            self._say(f"what was made is not shared: {error}")

    def _put_stage(self, store: Store, key: str) -> bool:
        if not is_whole(self._entry(key)):
            return False
        store.put_folder(STAGES, key, self._entry(key))
        return True

    def _fetch_stage(self, store: Store, key: str) -> bool:
        entry = self._entry(key)
        if (entry / ENTRY).exists():  # the job looks whether it is whole
            return False

        def check(fetched: Path) -> None:
            if not is_whole(fetched):
                raise IntegrityError("it is no entry of a stage cache")

        try:
            return store.fetch_folder(STAGES, key, entry, check)
        except DamagedError as error:
            self._say(f"{error}; it is made again")
            return False

    def _entry(self, key: str) -> Path:
        return self._home / "cache" / "stages" / key[:2] / key
