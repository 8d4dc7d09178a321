"""Probes: what a loaded bundle does with threads, and with inputs that break the contract. Each may end the process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Batch = Mapping[str, Array]

WATCHED_SECONDS = 0.6
SETTLING_SECONDS = 0.2
WORKING_SHARE = 0.1
"""A thread works that gains at least this share of what the busiest one gains; dispatching a call is no work."""


class Runs(Protocol):
    """A loaded bundle, as ``evaluators.backends.base.Runner``; that module is heavier than a probe should be."""

    def prepare(self, batch: Batch) -> Any:
        """Turn named arrays into what the runtime takes."""

    def run(self, prepared: Any) -> Any:
        """Run one batch."""

    def outputs(self, raw: Any) -> list[Array]:
        """Turn what ``run`` returned into arrays."""


def probe_all(runner: Runs, batch: Batch, report: Path) -> None:
    """Write what each probe found into ``report``; a probe that ended the process is the one without an answer."""
    found: dict[str, Any] = {}
    for name, probe in PROBES.items():
        found[name] = "began"
        report.write_text(json.dumps(found))
        found[name] = probe(runner, batch)
        report.write_text(json.dumps(found))


def working_threads(runner: Runs, batch: Batch) -> int:
    """Count the threads of this process that work while the bundle runs."""
    import psutil

    prepared, process = runner.prepare(batch), psutil.Process()

    def run_for(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            runner.run(prepared)

    def seconds_by_thread() -> dict[int, float]:
        return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}

    run_for(SETTLING_SECONDS)
    before = seconds_by_thread()
    run_for(WATCHED_SECONDS)
    return count_working({key: value - before.get(key, 0.0) for key, value in seconds_by_thread().items()})


def count_working(gained: Mapping[int, float]) -> int:
    """Count the threads that gained a real share of processor time; ``gained`` is in seconds by thread."""
    most = max(gained.values(), default=0.0)
    return sum(seconds > 0 and seconds >= WORKING_SHARE * most for seconds in gained.values())


def answer_to_nan(runner: Runs, batch: Batch) -> str:
    """Say what becomes of NaN: answered or refused are both right."""
    spoilt = {name: np.full_like(a, np.nan) if a.dtype.kind == "f" else a for name, a in batch.items()}
    return _outcome(lambda: runner.outputs(runner.run(runner.prepare(spoilt))))


def answer_to_other_rank(runner: Runs, batch: Batch) -> str:
    """Say what becomes of inputs with one axis more than the manifest declares."""
    return _outcome(lambda: runner.outputs(runner.run(runner.prepare({k: a[..., None] for k, a in batch.items()}))))


def answer_to_other_batch(runner: Runs, batch: Batch) -> str:
    """Say what becomes of a batch with one example more than the bundle serves."""
    longer = {name: np.concatenate([array, array[:1]]) for name, array in batch.items()}
    return _outcome(lambda: runner.outputs(runner.run(runner.prepare(longer))))


def answer_to_other_type(runner: Runs, batch: Batch) -> str:
    """Say what becomes of text in place of numbers."""
    return _outcome(lambda: runner.outputs(runner.run(runner.prepare({k: a.astype("U8") for k, a in batch.items()}))))


def answer_to_missing(runner: Runs, batch: Batch) -> str:
    """Say what becomes of a batch without its first input."""
    first = next(iter(batch))
    return _outcome(lambda: runner.outputs(runner.run(runner.prepare({k: a for k, a in batch.items() if k != first}))))


def _outcome(call: Callable[[], object]) -> str:
    from evaluators.errors import ParetuneError

    try:
        call()
    except ParetuneError as error:
        return f"{REFUSED}, {type(error).__name__}: {error}"[:300]
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"[:300]
    return "answered"


REFUSED = "refused"
PROBES: dict[str, Callable[[Runs, Batch], Any]] = {
    "threads": working_threads,
    "nan": answer_to_nan,
    "missing": answer_to_missing,
    "other_type": answer_to_other_type,
    "other_rank": answer_to_other_rank,
    "other_batch": answer_to_other_batch,
}
TO_REFUSE = ("missing", "other_type", "other_rank", "other_batch")
"""Probes whose inputs break the contract of the bundle and must be refused."""
