"""What only fresh processes tell: round trips, threads that work, time limits, and inputs that break the contract."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluators.bundle import read_manifest
from evaluators.errors import IntegrityError, UnsupportedError
from evaluators.jobs import PrepareJob
from evaluators.target import device_of
from evaluators.testing.cases import (
    Batch,
    Case,
    NonconformingError,
    Outputs,
    UnavailableError,
    answer,
    build,
    candidate_of,
    inputs_of,
    load,
    profile_of,
)
from evaluators.testing.computing import same, single_on_two_threads
from evaluators.testing.fresh import fresh_folder, run_fresh
from evaluators.testing.probes import REFUSED, TO_REFUSE

TIMEOUT_S = 300.0
LIMIT_S = 0.5
"""The time limit that is put on a build. It may end before; what it built is then run without end."""


@dataclass(frozen=True)
class Elsewhere:
    """What a process that built nothing found in a bundle: outputs, imported modules, answers of the probes."""

    outputs: list[Outputs]
    modules: frozenset[str]
    probes: dict[str, Any]


def run_elsewhere(bundle: Path, batches: Sequence[Batch], folder: Path, *, probe: bool = False) -> list[Outputs]:
    """Load a bundle in a process of its own and return its outputs; ``folder`` gets ``modules.json``, what it imported.

    With ``probe``, also ``probes.json`` (see ``evaluators.testing.probes``).

    Raises:
        NonconformingError: the process failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {f"{i:03d}/{name}": array for i, batch in enumerate(batches) for name, array in batch.items()}
    np.savez(folder / "inputs.npz", **arrays)  # type: ignore[arg-type]
    arguments = [str(bundle), str(folder), *(["--probe"] if probe else [])]
    ended = run_fresh("evaluators.testing.elsewhere", arguments, TIMEOUT_S)
    if ended.code and (folder / "probes.json").exists():
        known = json.loads((folder / "probes.json").read_text())
        probing = next((name for name, found in known.items() if found == "began"), "nothing")
        raise NonconformingError(f"its process ended while probed for {probing!r}, {ended.why}: {ended.said}")
    if ended.code:
        raise NonconformingError(f"{bundle.name} fails in another process, {ended.why}: {ended.said}")
    with np.load(folder / "outputs.npz", allow_pickle=False) as stored:
        outputs: list[Outputs] = [[] for _ in batches]
        for key in sorted(stored.files):
            outputs[int(key.split("/")[0])].append(stored[key])
    return outputs


def modules_of(folder: Path) -> set[str]:
    """Return the names of the modules that ``run_elsewhere`` imported."""
    return set(json.loads((folder / "modules.json").read_text()))


@cache
def elsewhere(case: Case, home: Path, *, probe: bool) -> Elsewhere:
    """Run a copy of the case's bundle, at another place and in a process that built nothing."""
    bundle, folder = build(case, home), fresh_folder(home, "elsewhere")
    moved = folder / bundle.name
    shutil.copytree(bundle, moved)
    outputs = run_elsewhere(moved, inputs_of(case), folder, probe=probe)
    probes = json.loads((folder / "probes.json").read_text()) if probe else {}
    return Elsewhere(outputs, frozenset(modules_of(folder)), probes)


def check_round_trip(case: Case, home: Path) -> None:
    """Another process, which built nothing, gets the same outputs from the bundle in another folder."""
    runner = load(build(case, home))
    mine = [answer(runner, batch) for batch in inputs_of(case)]
    if not same(elsewhere(case, home, probe=case.scheme == "fp32").outputs, mine):
        raise NonconformingError("another process gets other outputs from the same bundle")


def check_threads(case: Case, home: Path) -> None:
    """No more threads work than the candidate says: one of one, at most two of two."""
    target = candidate_of(case, profile_of(case.reference, home)).target
    if device_of(target) != "cpu":
        raise UnavailableError(f"threads of the processor are not what computes on {target}")
    for asked in (case, single_on_two_threads(case)):
        found = elsewhere(asked, home, probe=True).probes["threads"]
        if not 1 <= found <= asked.threads:
            raise NonconformingError(f"with threads={asked.threads}, {found} threads work")


def check_inputs(case: Case, home: Path) -> None:
    """NaN ends no process, and inputs that break the contract are refused with a typed error."""
    found = elsewhere(case, home, probe=True).probes
    for name in TO_REFUSE:
        if not found[name].startswith(REFUSED):
            told = "they must be refused with an error of evaluators.errors; Structure.check does that"
            raise NonconformingError(f"inputs of kind {name!r} were not refused but {found[name]}; {told}")


def check_integrity(case: Case, home: Path) -> None:
    """A bundle with a file that was altered, cut short or taken away is refused before the runtime sees it."""
    bundle = build(case, home)
    names = sorted(read_manifest(bundle).files)
    if not names:
        raise NonconformingError("the bundle holds no file: a deployment would have nothing to ship")
    for name in names:
        for damage in (_flip, _cut, _remove) if (bundle / name).stat().st_size else (_remove,):
            copy = fresh_folder(home, "damaged") / "bundle"
            shutil.copytree(bundle, copy)
            damage(copy / name)
            try:
                load(copy)
            except IntegrityError:
                shutil.rmtree(copy.parent)
                continue
            raise NonconformingError(f"a bundle whose {name} was damaged ({damage.__name__[1:]}) was loaded")


def check_unsupported(case: Case, home: Path) -> None:
    """A model that cannot be built is refused beforehand with a reason, or its build raises ``UnsupportedError``."""
    branching = replace(case, workload="branching")
    try:
        bundle = build(branching, home)
    except (UnavailableError, UnsupportedError) as reason:
        if not str(reason).strip():
            raise NonconformingError("a model that cannot be built is refused without a reason") from reason
        return
    runner = load(bundle)
    for batch in inputs_of(branching):
        answer(runner, batch)


def check_time_limit(case: Case, home: Path) -> None:
    """A build or a run that takes too long can be killed, and nothing that it started is left."""
    profile = profile_of(case.reference, home)
    candidate = candidate_of(replace(case, batch_size=case.batch_size + 1), profile)  # a build that no cache answers
    folder = fresh_folder(home, "endless")
    job = PrepareJob(candidate=candidate, profile=profile, home=str(home))
    (folder / "job.json").write_text(job.model_dump_json())
    mark = folder / "began"
    arguments = [str(folder / "job.json"), str(mark)]
    ended = run_fresh("evaluators.testing.endless", arguments, LIMIT_S, due=mark.exists, patience_s=TIMEOUT_S)
    if not ended.killed:
        raise NonconformingError(f"the process ended before its time limit, {ended.why}: {ended.said}")
    if not mark.exists():
        raise NonconformingError(f"the build did not begin within {TIMEOUT_S:.0f} s: {ended.said}")
    if ended.survivors:
        raise NonconformingError(f"after the kill there still runs: {'; '.join(ended.survivors)}")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _remove(path: Path) -> None:
    path.unlink()
