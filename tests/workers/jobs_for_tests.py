"""A runner that does as told, and the values that the tests of the workers are made of.

What a job does is the name in ``ProfileJob.workload``, or the ``prepare`` and ``measure`` knobs of a candidate.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluators.candidate import Candidate, Runtime
from evaluators.capabilities import BackendReport, Capabilities
from evaluators.jobs import CompareJob, Comparison, Job, JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob
from evaluators.outcome import Evidence, Outcome
from evaluators.profile import WorkloadProfile
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Target

RUNNER = "jobs_for_tests:run"

TENSOR = Structure(style="tensor", tensors=(TensorSpec(name="x", dtype="float32", shape=(None, 4)),))

PROFILE = WorkloadProfile(
    name="tiny",
    reference="tiny.py:workload",
    model_digest="m",
    data_digests={"validation": "v"},
    metric_digest="s",
    parameters=4,
    size_bytes=16,
    flops=4,
    inputs=TENSOR,
    outputs=TENSOR,
    layers={"Linear": 1},
    widths=(),
    exportable=None,
    dynamic_batch=True,
    has_train=False,
    accuracy=0.9,
    examples=100,
    calibration_examples=10,
    scored_by="accuracy",
    per_example=True,
)

MEASURED = Outcome(kind="measured", evidence=Evidence(size_bytes=16))
REJECTED = Outcome(kind="rejected", gate="latency")


def capabilities(target: str = "cpu", cores: int = 2) -> Capabilities:
    """Return what a machine with one backend tells of itself."""
    found = Target(name=target, processor="p", features=(), cores=cores, memory_bytes=2**33, system="s", installed={})
    backend = BackendReport(name="eager", usable=True, reason=None, versions={}, schemes=("fp32",))
    return Capabilities(target=found, backends=(backend,))


CAPABILITIES = capabilities()


def candidate(number: int = 0, **knobs: Any) -> Candidate:
    """Return one of many distinct candidates, with knobs that tell its jobs what to do."""
    runtime = Runtime.model_validate({"threads": 1, **knobs})
    return Candidate(target="cpu", backend="eager", batch_size=number + 1, runtime=runtime)


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(job: Job, report_stage: Callable[[str], None]) -> JobResult:
    """Do what the job says, and answer with where and how it was done."""
    report_stage("act")
    facts = {"clock": time.monotonic(), "pid": os.getpid(), "env": dict(os.environ), "modules": sorted(sys.modules),
             "python": sys.executable, "path": sys.path}  # fmt: skip
    if isinstance(job, ProfileJob):
        act(job.workload, Path(job.home))
        facts["threads"] = len(os.listdir("/proc/self/task"))
        (Path(job.home) / "facts.json").write_text(json.dumps(facts))
        return JobResult(profile=PROFILE)
    if isinstance(job, PrepareJob):
        knobs = job.candidate.runtime.knobs
        act(str(knobs.get("prepare", "")), Path(job.home))
        bundle = json.dumps({"act": knobs.get("measure", ""), "env": os.environ["OMP_NUM_THREADS"]})
        if knobs.get("prepare") == "reject":
            return JobResult(outcome=REJECTED)
        made = Prepared(
            bundle=bundle, stage_seconds={"build": 1.0}, cached_stages=("prune",), training_seconds={"recover": 60.0}
        )
        return JobResult(prepared=made)
    if isinstance(job, CompareJob):
        act(Path(job.bundles[0]).name, Path(job.home))
        rounds = job.protocol.rounds
        many = len(job.bundles)
        found = Comparison(
            latencies=(None,) * many, log_medians=((0.0,) * rounds,) * many, seconds=(job.seconds,) * many
        )
        return JobResult(comparison=found)
    assert isinstance(job, MeasureJob)
    act(json.loads(job.bundle)["act"], Path(job.home))
    size = int(os.environ["OMP_NUM_THREADS"])
    evidence = Evidence(size_bytes=size)
    return JobResult(outcome=Outcome(kind="measured", evidence=evidence, stage_seconds={"latency": 2.0}))


def act(what: str, home: Path) -> None:
    """Behave as well or as badly as told."""
    if what == "segfault":
        ctypes.string_at(0)
    elif what == "abort":
        os.abort()
    elif what == "bad_alloc":
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr)
        os.abort()
    elif what == "hang":
        note_pid(home)
        hang_in_here()
    elif what == "hog":
        hoard = [bytearray(32 * 2**20) for _ in range(1000)]
        raise AssertionError(f"{len(hoard)} blocks fit under the limit")
    elif what == "torch_hog":
        import torch

        torch.ones(2**34)
    elif what.startswith("exit"):
        sys.exit(int(what.removeprefix("exit")))
    elif what == "raise":
        raise ValueError("no such layer")
    elif what == "killed":
        os.kill(os.getpid(), 9)
    elif what == "terminated":
        os.kill(os.getpid(), 15)
    elif what == "killed_once":
        if not (home / "killed").exists():
            (home / "killed").touch()
            os.kill(os.getpid(), 9)
    elif what == "disk_full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.bin")
    elif what in ("family", "orphans"):
        grandchildren(home)
        if what == "family":
            time.sleep(60)
    elif what.startswith("meet"):
        (home / str(os.getpid())).touch()
        while len(list(home.iterdir())) < int(what.removeprefix("meet")):
            time.sleep(0.02)
    elif what.startswith("sleep"):
        time.sleep(float(what.removeprefix("sleep")))
    elif what not in ("", "nothing", "reject"):
        raise AssertionError(f"nobody knows how to {what!r}")


def hang_in_here() -> None:
    """Never answer."""
    time.sleep(600)


def note_pid(home: Path) -> None:
    """Leave this process's id where a test finds it."""
    part = home / "pid.part"
    part.write_text(str(os.getpid()))
    part.replace(home / "pid")


def grandchildren(home: Path) -> None:
    """Start a process in the job's group, one in a session of its own, and one whose parent is dead already."""
    sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    orphan = f"import subprocess as s; print(s.Popen({sleeper!r}, start_new_session=True, stdout=s.DEVNULL).pid)"
    pids = [subprocess.Popen(sleeper).pid, subprocess.Popen(sleeper, start_new_session=True).pid]
    made = subprocess.run([sys.executable, "-S", "-c", orphan], stdout=subprocess.PIPE, check=True)
    pids += [int(made.stdout), os.getpid()]
    part = home / "family.part"
    part.write_text(json.dumps(pids))
    part.replace(home / "family.json")


def together(*work: Callable[[], object]) -> None:
    """Do several things at the same time, each in a thread, and fail if one of them raises."""
    start = threading.Barrier(len(work))
    errors: list[BaseException] = []

    def run(one: Callable[[], object]) -> None:
        start.wait()
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def wait_for_file(path: Path) -> None:
    """Block until a file has content."""
    until(lambda: path.exists() and bool(path.read_text()), seconds=20.0)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Block until something holds, and fail where it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
