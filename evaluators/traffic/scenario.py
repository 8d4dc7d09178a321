"""The server scenario of a search: what a candidate does for the traffic, with the window and instances that suit it.

Service times are measured, window and number of processes are chosen by simulation, and the verdict is drawn from a
real load test; only what the simulation puts far over the budget is spared one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from evaluators.candidate import Candidate
from evaluators.jobs import Protocol
from evaluators.outcome import Evidence, ServerEvidence
from evaluators.target import device_of
from evaluators.traffic.arrivals import poisson_arrivals
from evaluators.traffic.instance import Instance, InstanceRequest
from evaluators.traffic.load import find_highest, run_test
from evaluators.traffic.observed import QUANTILES, Observed, seconds_for, summarize
from evaluators.traffic.predicting import REQUESTS, best_serving, predicted_rate, predicted_seconds, windows_ms
from evaluators.traffic.requests import write_rows
from evaluators.traffic.server import BundleServer, started
from evaluators.traffic.values import Examples, LoadTest, ServerProtocol
from evaluators.traffic.window import Batching, simulate
from evaluators.verdicts import judge_all

HOPELESS = 1.5
"""A candidate whose simulated percentile is over the budget by this factor is not put under load."""
IDLE_SHARE = 1 / 256
"""Without a rate, the budget must be kept at least at this share of what the instances could do."""
MOST_INSTANCES, MOST_ACCELERATOR_INSTANCES = 16, 2


def instance_counts(asked: int | None, threads: int, device: str, cores: int) -> tuple[int, ...]:
    """Return how many processes may serve: what was asked for, else powers of two as far as processors reach."""
    if asked is not None:
        return (asked,)
    most = min(MOST_INSTANCES, max(1, cores // threads)) if device == "cpu" else MOST_ACCELERATOR_INSTANCES
    return tuple(sorted({2**power for power in range(most.bit_length()) if 2**power <= most} | {most}))


def counts_for(server: ServerProtocol, candidate: Candidate) -> tuple[int, ...]:
    """Return how many processes may serve a candidate on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return instance_counts(server.instances, candidate.runtime.threads, device_of(candidate.target), cores)


@contextmanager
def instances_for(protocol: Protocol, candidate: Candidate) -> Iterator[list[Instance]]:
    """Start the processes that the server scenario may need, none where a search has another scenario."""
    count = 0 if protocol.server is None else max(counts_for(protocol.server, candidate))
    with started(count) as instances:
        yield instances


def measure_server(
    protocol: Protocol, server: ServerProtocol, candidate: Candidate, bundle: Path, workload: str,
    instances: Sequence[Instance], *, gates: bool, seed: int = 0,
) -> ServerEvidence:  # fmt: skip
    """Put a built bundle under load, with the window and as many of the started ``instances`` as suit the traffic.

    With ``gates``, what the simulation finds hopeless is not put under load: its evidence says ``simulated``.

    Raises:
        InstanceDiedError: a process that served the bundle failed.
    """
    test = LoadTest(
        budget_ms=server.budget_ms, percentile=protocol.percentile, confidence=protocol.confidence, seed=seed,
        max_foreign_load=protocol.max_foreign_load, most_seconds=server.most_seconds,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="paretune-server-") as scratch:
        rows = Path(scratch) / "rows.npz"
        write_rows(Examples(workload=workload), rows)
        request = InstanceRequest(bundle=str(bundle), rows=str(rows), queue=f"{scratch}/queue", trusted=True)
        serving = BundleServer(instances, request, Batching(candidate.batch_size, 0.0, test.timeout_s))
        serving.load(1)
        service_s = serving.service_seconds()
        choices = choices_of(server, candidate, counts_for(server, candidate), test.timeout_s)
        quantile, budget_s = QUANTILES[test.percentile], test.budget_ms / 1e3
        batching, count, _ = best_serving(service_s, choices, budget_s, quantile, server.rate_per_s)
        gate = server.rate_per_s or IDLE_SHARE * count * candidate.batch_size / float(np.mean(service_s))
        if gates and predicted_seconds(service_s, batching, count, gate, quantile) > HOPELESS * budget_s:
            return simulated(service_s, batching, count, gate, test)
        serving.batching = batching
        serving.load(count)
        start = predicted_rate(service_s, batching, count, budget_s, quantile) or gate
        return _under_load(serving, server, test, start)


def choices_of(
    server: ServerProtocol, candidate: Candidate, counts: Sequence[int], timeout_s: float
) -> list[tuple[Batching, int]]:
    """Return every window with every number of instances that may suit a candidate, the plainest first."""
    asked = server.window_ms
    windows = windows_ms(server.budget_ms, candidate.batch_size) if asked is None else (asked,)
    return [(Batching(candidate.batch_size, window / 1e3, timeout_s), count) for count in counts for window in windows]


def simulated(
    service_s: Sequence[float], batching: Batching, instances: int, rate_per_s: float, test: LoadTest
) -> ServerEvidence:
    """Return what the simulation says at a rate, as evidence that says so."""
    arrivals = poisson_arrivals(rate_per_s, REQUESTS / rate_per_s, test.seed).tolist()
    latencies = simulate(arrivals, service_s, batching, instances)
    lost, nothing = latencies >= test.timeout_s, np.zeros(0)
    seen = Observed(latencies=latencies, dropped=lost, failed=np.zeros(len(lost), dtype=bool), elapsed=arrivals[-1],
                    batch_sizes=nothing, call_s=nothing, batching=batching, instances=instances)  # fmt: skip
    everything = test.model_copy(update={"lead_in_seconds": 0.0})
    return summarize(seen, arrivals, rate_per_s, everything, simulated=True)


def _under_load(serving: BundleServer, server: ServerProtocol, test: LoadTest, start: float) -> ServerEvidence:
    """Test the rate that was asked for; look for the highest where none was, or where that is wanted as well."""

    def look(start: float) -> ServerEvidence:
        return find_highest(serving, start, test, step_seconds=server.step_seconds,
                            second_look_seconds=server.seconds)[1]  # fmt: skip

    if server.rate_per_s is None:
        return look(start)
    seconds = seconds_for(server.rate_per_s, test, server.seconds)
    found = run_test(serving, server.rate_per_s, test, seconds=seconds)
    [verdict] = judge_all((test.constraint,), Evidence(server=found))
    if not server.find_rate or verdict.status != "pass":
        return found
    further = look(max(start, server.rate_per_s))
    sustained = max(further.sustained_per_s or 0.0, server.rate_per_s)
    return found.model_copy(update={"sustained_per_s": sustained, "seconds": found.seconds + further.seconds})
