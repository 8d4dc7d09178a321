"""Jobs of the fault tests, in their sandboxes: nap, write a bundle, time it, and misbehave where they are told to.

``orders.json`` in the home tells: ``{"seconds": 0.1, "1": "hang"}``, how long a job naps, and what measuring at batch
size 1 does. Every measurement leaves a line in ``intervals.jsonl``: on what, from when to when, and whether it had
company.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evaluators.cache import StageCache
from evaluators.candidate import Candidate
from evaluators.frozen import digest
from evaluators.jobs import CompareJob, Comparison, Job, JobResult, MeasureJob, Prepared, PrepareJob
from evaluators.outcome import AccuracyEvidence, Constraint, Evidence, LatencyEvidence, Outcome
from evaluators.verdicts import judge_all

RUNNER = "tests.faults.sandboxed:run"
PRELOADED = ("tests.faults.sandboxed",)
DEVICE = "PARETUNE_FAULTS_DEVICE"
JOB_SECONDS = 0.1
BUNDLE_BYTES = 256 * 2**10


def run(job: Job, report_stage: Callable[[str], None]) -> JobResult:
    """Do a job of the fault tests."""
    home = Path(job.home)
    orders = _orders(home)
    seconds = float(orders.get("seconds", JOB_SECONDS))
    cache = StageCache(home / "bundles")
    if isinstance(job, PrepareJob):
        report_stage("build")
        # Of this very attempt: no other one finds it.
        key = digest([job.candidate.hash, os.getpid(), time.monotonic_ns()])
        entry = cache.get_or_make(key, lambda folder: _build(folder, job.candidate, seconds))
        return JobResult(prepared=Prepared(bundle=f"sandboxed/{entry.key}", stage_seconds={"build": seconds}))
    if isinstance(job, CompareJob):
        report_stage("compare")
        with _measuring(home):
            time.sleep(seconds)
        return JobResult(comparison=compared([_candidate(cache, bundle).hash for bundle in job.bundles]))
    assert isinstance(job, MeasureJob), f"nobody asks these sandboxes for {job.job}"
    report_stage("latency")
    candidate = _candidate(cache, job.bundle)
    with _measuring(home):
        _act(str(orders.get(str(candidate.batch_size), "")))
        time.sleep(seconds)
    return JobResult(outcome=measured(candidate.hash, job.bundle, job.constraints))


def compared(keys: Sequence[str]) -> Comparison:
    """Return what timing candidates in turn finds: what measuring each of them found."""
    found = [measured(key, "", ()).evidence.latency for key in keys]
    levels = tuple((math.log(latency.p50) if latency else None,) * 8 for latency in found)
    return Comparison(latencies=tuple(found), log_medians=levels, seconds=(JOB_SECONDS,) * len(found))


def measured(key: str, bundle: str, constraints: tuple[Constraint, ...]) -> Outcome:
    """Return the outcome of a candidate: the same for the same one, whoever measures it and whenever."""
    slowness, chance = (int(digits, 16) / 16**8 for digits in (key[:8], key[8:16]))
    p50, accuracy = 0.2 + slowness, 0.9 + 0.015 * slowness + 0.005 * chance
    evidence = Evidence(
        latency=LatencyEvidence(
            percentile="p95", p50=p50, p90=p50, p95=p50, p99=p50, mean=p50, ci95=(p50, p50), bounds=(p50, p50),
            samples=900, processes=3, warmup_calls=60, load_seconds=0.03,
        ),
        throughput_per_s=1e3 / p50,
        accuracy=AccuracyEvidence(
            accuracy=accuracy, ci95=(accuracy - 0.01, accuracy + 0.01), drop=0.003, drop_ci95=(0.002, 0.004),
            drop_bounds=(0.002, 0.004), examples=100, of=100, metric="top1",
        ),
        size_bytes=int(1e5 * p50),
    )  # fmt: skip
    return Outcome(kind="measured", evidence=evidence, verdicts=judge_all(constraints, evidence), bundle=bundle)


def intervals(home: Path) -> list[dict[str, Any]]:
    """Return what was measured in a home so far: device, process, start and end, and whether it had company."""
    log = home / "intervals.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def damaged_bundles(home: Path) -> list[str]:
    """Return the bundles of a home, and what pretends to be one, that are not whole."""
    folders = [folder for folder in (home / "bundles").glob("*/*") if not folder.name.startswith(".")]
    cache, damaged = StageCache(home / "bundles"), []
    for folder in folders:
        try:
            size = (cache.get(folder.name, "it").folder / "model.bin").stat().st_size
        except Exception as error:
            damaged.append(f"{folder.name}: {error}")
        else:
            damaged += [] if size == BUNDLE_BYTES else [f"{folder.name}: {size} bytes"]
    return damaged


def _candidate(cache: StageCache, bundle: str) -> Candidate:
    entry = cache.get(Path(bundle).name, "the bundle")
    return Candidate.model_validate_json((entry.folder / "candidate.json").read_bytes())


def _orders(home: Path) -> dict[str, Any]:
    try:
        orders: dict[str, Any] = json.loads((home / "orders.json").read_text())
        return orders
    except FileNotFoundError:
        return {}


def _build(folder: Path, candidate: Candidate, seconds: float) -> None:
    """Write a bundle bit by bit, over the whole time, so that a fault finds it half-written."""
    (folder / "candidate.json").write_text(candidate.canonical)
    with (folder / "model.bin").open("wb", buffering=0) as model:
        for _ in range(8):
            model.write(os.urandom(BUNDLE_BYTES // 8))
            time.sleep(seconds / 8)


@contextmanager
def _measuring(home: Path) -> Iterator[None]:
    """Note a measurement, and whether another one is going on on the device."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ[DEVICE]
    with (home / f"{device.replace(':', '-')}.measured").open("w") as file:
        company = False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            company = True
        start = time.monotonic()
        if company:
            _note(home, device=device, start=start, end=start, company=True)
        yield
        _note(home, device=device, start=start, end=time.monotonic(), company=company)


def _note(home: Path, **facts: Any) -> None:
    log = os.open(home / "intervals.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(log, (json.dumps(facts | {"pid": os.getpid()}) + "\n").encode())
    os.close(log)


def _act(what: str) -> None:
    if what == "segfault":
        ctypes.string_at(0)
    elif what == "hang":
        time.sleep(600)
    elif what == "hog":
        hoard = [bytearray(32 * 2**20) for _ in range(1000)]
        raise AssertionError(f"{len(hoard)} blocks fit under the limit")
    elif what:
        raise AssertionError(f"nobody knows how to {what!r}")
