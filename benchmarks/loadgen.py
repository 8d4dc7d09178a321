"""Does an independent instrument agree? The p90 of paretune and that of MLPerf LoadGen, of the same bundles.

    python benchmarks/loadgen.py

Builds bundles of the image example as a trial builds them, then times each with both, in turn: every bundle is loaded
by two fresh processes, one measures with paretune's own timing, the other is driven by LoadGen's SingleStream scenario,
and slices of the one alternate with slices of the other. Exit code 0 if the median ratio of every bundle that LoadGen
can judge, at least one of each backend, is within 5 % of 1, else 1.
Needs paretune[benchmarks,inductor,onnxruntime,openvino] and a C++ compiler.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from agreement import Pair, Reading, Report, Row, line_of, p90_ms_of
from results import record

from evaluators.target import probe_target

HERE = Path(__file__).resolve().parent
WORKLOAD = f"{HERE.parent / 'examples' / 'images' / 'workload.py'}:workload"
BACKENDS, SCHEMES = ("eager", "inductor", "onnxruntime", "openvino"), ("fp32", "static_int8")
QUERIES = 100
"""At least so many calls in a slice; LoadGen's early stopping needs 64 for a p90."""
BATCHES = 16
WARMUP_SECONDS = 0.1
ATTEMPTS = 2
"""Disturbed pairs of slices are taken again, up to so many times as many in all."""
TIMEOUT_S = 120

Run = Callable[[Any], Any]


@dataclass(frozen=True)
class Subject:
    """A built bundle and the file with its batches of real inputs; without a bundle, calls that do nothing."""

    label: str
    batches: Path | None = None
    bundle: Path | None = None
    error: str | None = None


def build(home: Path, batch_sizes: Sequence[int], threads: int, backends: Sequence[str]) -> list[Subject]:
    """Build the known-good candidate of every backend and scheme through the jobs of a trial."""
    from evaluators.jobs import PrepareJob, ProfileJob
    from evaluators.run_job import run
    from evaluators.space import derive_space

    answer = run(ProfileJob(workload=WORKLOAD, home=str(home)), lambda _: None)
    if (profile := answer.profile) is None:
        raise RuntimeError(f"the image example cannot be profiled: {answer.outcome or answer.problems}")
    space = derive_space(profile, probe_target(), threads=threads)
    subjects = []
    for size, name, scheme in itertools.product(batch_sizes, backends, SCHEMES):
        candidate = space.recipe(name, scheme, size, threads)
        print(f"building {candidate.label()}", file=sys.stderr)
        answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda _: None)
        if answer.prepared is None:
            reason = answer.outcome.reason if answer.outcome else None
            subjects.append(Subject(candidate.label(), error=reason or "it was not built"))
            continue
        batches = real_batches(home / f"batches-{size}.npz", size)
        subjects.append(Subject(candidate.label(), batches, Path(answer.prepared.bundle)))
    return subjects


def real_batches(path: Path, batch_size: int) -> Path:
    """Write 16 batches of the example's validation inputs to ``path``, ``INDEX/NAME`` for each array."""
    import numpy as np

    from evaluators.batching import as_arrays, example_batches
    from evaluators.workload import load_workload

    workload = load_workload(WORKLOAD)
    source = itertools.islice(example_batches(workload.validation(), workload.collate, batch_size), BATCHES)
    arrays = {f"{i}/{name}": array for i, (inputs, _, _) in enumerate(source)
              for name, array in as_arrays(inputs).items()}  # fmt: skip
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def load(subject: Subject) -> tuple[Run, list[Any]]:
    """Load a bundle as a deployment does and prepare its batches."""
    if subject.bundle is None or subject.batches is None:
        return (lambda _: None), [None] * BATCHES
    import numpy as np

    from evaluators import registry
    from evaluators.bundle import open_bundle

    manifest = open_bundle(subject.bundle, trusted=True)
    runner = registry.backend(manifest.candidate.backend).load(subject.bundle, manifest)
    batches: dict[str, dict[str, Any]] = {}
    with np.load(subject.batches, allow_pickle=False) as stored:
        for key, array in stored.items():
            index, _, name = key.partition("/")
            batches.setdefault(index, {})[name] = array
    return runner.run, [runner.prepare(batch) for batch in batches.values()]


def paretune_p90_ms(run: Run, prepared: Sequence[Any], seconds: float) -> float:
    """Time ``seconds`` of calls as a trial does."""
    from evaluators.jobs import Protocol
    from evaluators.timing.blocks import LocalCalls
    from evaluators.timing.sequence import time_bundle

    protocol = Protocol(percentile="p90", looks=(seconds,), pollution_seconds=seconds)
    return time_bundle(LocalCalls(run, prepared), None, protocol).value


def loadgen_p90_ms(run: Run, prepared: Sequence[Any], seconds: float) -> float:
    """Let LoadGen issue queries one after the other for ``seconds``, after a warm-up, which it leaves to the system."""
    import mlperf_loadgen as lg

    calls, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < WARMUP_SECONDS:
        run(prepared[calls % len(prepared)])
        calls += 1
    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = round(seconds * 1e3), QUERIES
    # LoadGen lays out its queries beforehand: half the time that a call takes gives it enough of them.
    settings.single_stream_expected_latency_ns = max(1, round(WARMUP_SECONDS / calls / 2 * 1e9))

    # Each Python object made for a query would count as latency: the fast interface passes plain integers.
    response = lg.QuerySampleResponse(0, 0, 0)
    responses, complete = [response], lg.QuerySamplesComplete

    def issue(ids: Sequence[int], indices: Sequence[int]) -> None:
        for query, index in zip(ids, indices, strict=True):
            run(prepared[index])
            response.id = query
            complete(responses)

    def ignore(*_: Any) -> None:
        """Nothing to flush, nothing to load: the batches are in memory."""

    system = lg.ConstructFastSUT(issue, ignore)
    library = lg.ConstructQSL(len(prepared), len(prepared), ignore, ignore)
    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.enable_trace, log.log_output.outdir = False, folder
        lg.StartTestWithLogSettings(system, library, settings, log, str(Path(folder) / "audit.config"))
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    lg.DestroyQSL(library)
    lg.DestroyFastSUT(system)
    return p90_ms_of(summary)


INSTRUMENTS: dict[str, Callable[[Run, Sequence[Any], float], float]] = {
    "paretune": paretune_p90_ms,
    "loadgen": loadgen_p90_ms,
}


def serve(link: Connection, instrument: str, subject: Subject) -> None:
    """Load a bundle in this process and measure a slice of it whenever asked: seconds come in, readings go out."""
    from evaluators.timing.contention import usage, waited_share

    run, prepared = load(subject)
    link.send(None)
    while (seconds := link.recv()) is not None:
        before, begun = usage(), time.perf_counter()
        p90_ms = INSTRUMENTS[instrument](run, prepared, seconds)
        link.send(Reading(p90_ms, waited_share(before, usage(), time.perf_counter() - begun)))


@contextmanager
def measuring(instrument: str, subject: Subject) -> Iterator[Callable[[float], Reading]]:
    """Have a fresh process load the bundle and return what measures a slice of so many seconds there."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, instrument, subject))
    process.start()
    theirs.close()

    def answer() -> Any:
        if not ours.poll(TIMEOUT_S):
            raise TimeoutError(f"{instrument} gave no answer for {TIMEOUT_S} s")
        return ours.recv()

    def measure(seconds: float) -> Reading:
        ours.send(seconds)
        reading: Reading = answer()
        return reading

    try:
        answer()
        yield measure
        ours.send(None)
        process.join(TIMEOUT_S)
    finally:
        process.kill()
        process.join()


def alternate(subject: Subject, rounds: tuple[int, int], slices: int, seconds: float) -> Row:
    """Time a bundle with both instruments in turn; each round has two fresh processes and ``slices`` pairs.

    Where a process's memory lies makes it faster or slower by percents: rounds are added, up to the second number of
    ``rounds``, until the pairs surely say whether the two agree.

    The instrument that goes first changes with every pair. Disturbed pairs are taken again.
    """
    if subject.error is not None:
        return Row(subject.label, error=subject.error)
    pairs: list[Pair] = []
    try:
        for number in range(rounds[1]):
            if number >= rounds[0] and Row(subject.label, tuple(pairs)).sure:
                break
            with ExitStack() as stack:
                measure = {name: stack.enter_context(measuring(name, subject)) for name in INSTRUMENTS}
                taken: list[Pair] = []
                while sum(not p.disturbed for p in taken) < slices and len(taken) < ATTEMPTS * slices:
                    order = list(measure) if len(taken) % 2 else list(reversed(measure))
                    readings = {name: measure[name](seconds) for name in order}
                    taken.append(Pair(**readings))
                pairs += taken
    except (EOFError, OSError) as error:
        return Row(subject.label, tuple(pairs), error=f"{type(error).__name__}: {error or 'its process died'}")
    return Row(subject.label, tuple(pairs))


def overhead_ms(seconds: float) -> float:
    """Return what LoadGen and its Python callback add to a call: its p90 of calls that do nothing."""
    with measuring("loadgen", Subject("nothing")) as measure:
        return statistics.median(measure(seconds).p90_ms for _ in range(5))


def main() -> int:
    """Run the comparison and print its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, action="append", help="may be given again; default 1 and 8")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="may be given again; default all")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of fresh processes for each bundle, at least")
    parser.add_argument("--most-rounds", type=int, default=12, help="where the two are not surely alike or unlike")
    parser.add_argument("--slices", type=int, default=4, help="pairs of slices in each round")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a slice")
    parser.add_argument("--home", type=Path, help="keep bundles here; otherwise they are built anew and dropped")
    parser.add_argument("--record", action="store_true", help="append the report to RESULTS.md")
    given = parser.parse_args()
    rounds = (given.rounds, max(given.rounds, given.most_rounds))
    began, load_before = time.monotonic(), os.getloadavg()[0]
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads))
    os.environ.update(pinned, TORCHINDUCTOR_COMPILE_THREADS="1", NNCF_CI="1", TF_BUILD="1", HF_HUB_OFFLINE="1")
    with ExitStack() as stack:
        home = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadgen-")))
        home.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            sizes, names = given.batch_size or (1, 8), given.backend or BACKENDS
            subjects = pool.submit(build, home.resolve(), sizes, given.threads, names).result()
        rows = []
        for subject in subjects:
            print(f"timing {subject.label}", file=sys.stderr)
            rows.append(alternate(subject, rounds, given.slices, given.seconds))
            print(line_of(rows[-1], 0.0), file=sys.stderr)
        command = " ".join(["python benchmarks/loadgen.py", *sys.argv[1:]])
        report = Report(rows, overhead_ms(given.seconds), rounds, given.seconds, command,
                        time.monotonic() - began, load_before)  # fmt: skip
    record(report.markdown(), keep=given.record)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
