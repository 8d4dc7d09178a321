"""Programs and packages as they are built: sound they go through the gate; damaged they are refused, or end in a job.

Damage that whoever did it did not seal again is found by its hash. Whoever seals it gets to the contents, and from
there into the sandbox at most.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from evaluators import registry
from evaluators.bundle import MANIFEST, open_bundle, read_manifest
from evaluators.bundle.manifest import parse_manifest
from evaluators.bundle.tree import file_hashes
from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError
from evaluators.jobs import MeasureJob, PrepareJob, ProfileJob
from evaluators.outcome import Constraint, FailureKind, Outcome
from evaluators.profile import WorkloadProfile
from evaluators.run_job import run
from evaluators.target import probe_target
from tests.conftest import ROOT
from workers.deaths import outcome_of_death
from workers.sandbox import Sandbox

MODELS = {"executorch": "model.pte", "inductor": "model.pt2"}
LOADED = 5
"""So many damaged files of each kind that pass the gate are loaded, each in a process of its own."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=f"{ROOT / 'tests' / 'security' / 'small.py'}:workload", home=str(home)), print)
    assert answer.profile is not None, answer
    return answer.profile


@pytest.fixture(scope="module", params=MODELS)
def built(request: pytest.FixtureRequest, home: Path, profile: WorkloadProfile) -> Path:
    """Return a bundle of each backend, as a trial builds it."""
    if (why := registry.backend(request.param).unusable(probe_target())) is not None:
        pytest.skip(why)
    job = PrepareJob(candidate=Candidate(target=probe_target().name, backend=request.param), profile=profile,
                     home=str(home))  # fmt: skip
    answer = run(job, lambda stage: None)
    assert answer.prepared is not None, answer
    return Path(answer.prepared.bundle)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def measured(sandbox: Sandbox, home: Path, profile: WorkloadProfile, tmp_path: Path) -> Callable[[Path], Outcome]:
    """Measure a bundle as a trial does, up to parity, which is followed by a gate that nothing passes."""

    def measured(bundle: Path) -> Outcome:
        smallest = Constraint(metric="size_bytes", max=1)
        job = MeasureJob(bundle=str(bundle), profile=profile, home=str(home), constraints=(smallest,))
        ended = sandbox.run(job, tmp_path / "job", timeout_s=60)
        if ended.result is None:
            return outcome_of_death(ended)
        assert ended.result.outcome is not None
        return ended.result.outcome

    return measured


def model_of(bundle: Path) -> Path:
    return bundle / MODELS[read_manifest(bundle, verify=False).candidate.backend]


def damaged(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield a file cut off at many places, and with one bit turned over at many more."""
    total = len(content)
    for length in sorted({0, 1, 4, 8, 31, 32, 40, total // 4, total // 2, total - 22, total - 8, total - 1}):
        yield f"cut to {length}", content[:length]
    chosen = np.random.default_rng(0)
    for _ in range(60):
        place, bit = int(chosen.integers(total)), int(chosen.integers(8))
        turned = bytes([content[place] ^ (1 << bit)])
        yield f"bit {bit} of byte {place}", content[:place] + turned + content[place + 1 :]


def copied(bundle: Path, into: Path, content: bytes, *, sealed: bool) -> Path:
    """Copy a bundle with another model file; ``sealed`` makes its manifest say the new hash."""
    if into.exists():
        shutil.rmtree(into)
    shutil.copytree(bundle, into)
    model_of(into).write_bytes(content)
    if sealed:
        manifest = parse_manifest((into / MANIFEST).read_bytes())
        (into / MANIFEST).unlink()
        files = file_hashes(into)
        (into / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json())
    return into


def test_what_a_trial_builds_goes_through_the_gate_and_is_measured(
    built: Path, measured: Callable[[Path], Outcome]
) -> None:
    native = built.parent.name == "inductor"

    assert open_bundle(built, trusted=True).candidate.backend == built.parent.name
    if native:
        with pytest.raises(IntegrityError, match="native code that inductor compiled"):
            open_bundle(built)
    else:
        assert open_bundle(built).files.keys() == {"model.pte", "delegation.json"}
    outcome = measured(built)
    assert (outcome.kind, outcome.gate) == ("rejected", "size_bytes"), outcome
    assert outcome.evidence.parity is not None


def test_damage_is_found_by_its_hash_wherever_it_is(built: Path, tmp_path: Path) -> None:
    for what, content in damaged(model_of(built).read_bytes()):
        bundle = copied(built, tmp_path / "bundle", content, sealed=False)
        with pytest.raises(IntegrityError, match="altered"):
            open_bundle(bundle, trusted=True)
            pytest.fail(f"{what} was not found")


def test_a_file_that_is_cut_off_is_refused_whoever_sealed_it(built: Path, tmp_path: Path) -> None:
    name, content = model_of(built).name, model_of(built).read_bytes()
    for what, short in damaged(content):
        if len(short) < len(content):
            with pytest.raises(IntegrityError, match=name):
                open_bundle(copied(built, tmp_path / "bundle", short, sealed=True), trusted=True)
                pytest.fail(f"{what} was not found")


def test_what_passes_the_gate_damaged_ends_in_an_outcome(
    built: Path, tmp_path: Path, measured: Callable[[Path], Outcome]
) -> None:
    passed: list[tuple[str, bytes]] = []
    for what, content in damaged(model_of(built).read_bytes()):
        bundle = copied(built, tmp_path / "bundle", content, sealed=True)
        try:
            open_bundle(bundle, trusted=True)
        except IntegrityError:
            continue
        passed.append((what, content))

    for what, content in passed[:: max(1, len(passed) // LOADED)][:LOADED]:
        outcome = measured(copied(built, tmp_path / "bundle", content, sealed=True))

        harmless = (outcome.kind, outcome.gate) == ("rejected", "size_bytes")
        typed = outcome.failure is not None and outcome.failure.kind in FailureKind and outcome.failure.reason
        assert harmless or typed, (what, outcome)
    assert measured(built).kind == "rejected", "the sandbox goes on with the next job"
