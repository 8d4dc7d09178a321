"""Is the joint search's best model at least as fast as the fastest that one gets by calling each runtime by hand?

    python benchmarks/against_by_hand.py --batch-size 1 --threads 1

Both sides run on this machine in this run: the contenders of ``by_hand.py`` are built, the search is run, and then all
of them and the search's best bundle are timed in turn, each time in a fresh process, through one timing function. Then
the best, the fastest contenders and eager fp32 are timed block by block in turn, in fresh processes for every round, so
that what drifts on the machine is common to them. Exit code 0 if the best model is at least as fast as the fastest
contender within the accuracy limit, up to 1 %, and reaches the goal over eager fp32; 1 if not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report
from results import record

if TYPE_CHECKING:
    from by_hand import Ready, Setting

    from search.result import SearchResult, TrialResult

HERE = Path(__file__).resolve().parent
WORKLOAD = f"{HERE.parent / 'examples' / 'images' / 'workload.py'}:workload"
SEARCH = "search"
WARMUP_CALLS, WARMUP_SECONDS = 50, 0.5
CALLS, SECONDS = 300, 1.0
TIMING_BATCHES = 32
PROCESS_TIMEOUT_S = 900
DUEL_SECONDS = 600.0
QUIET = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "NNCF_CI": "1", "TF_BUILD": "1", "HF_HUB_OFFLINE": "1"}
"""No pool of compilers and no telemetry beside what is being timed."""


def time_calls(ready: Ready, setting: Setting) -> dict[str, float]:
    """Time single calls on real batches, after warm-up: at least 300 of them and at least 1 s."""
    import numpy as np

    batches = [ready.prepare(images) for images, _ in islice(setting.batches("validation"), TIMING_BATCHES)]

    def calls(least: int, seconds: float) -> list[int]:
        samples: list[int] = []
        end = time.perf_counter() + seconds
        while len(samples) < least or time.perf_counter() < end:
            batch = batches[len(samples) % len(batches)]
            begun = time.perf_counter_ns()
            ready.run(batch)
            samples.append(time.perf_counter_ns() - begun)
        return samples

    calls(WARMUP_CALLS, WARMUP_SECONDS)
    gc.collect()
    gc.disable()
    samples = calls(CALLS, SECONDS)
    p50, p95 = np.percentile(samples, [50, 95]) / 1e6
    return {"p50_ms": float(p50), "p95_ms": float(p95), "calls": len(samples)}


def accuracy(ready: Ready, setting: Setting) -> float:
    """Score the whole validation split with the example's own metric."""
    import torch
    from by_hand import example

    correct, total = 0.0, 0
    for images, labels in setting.batches("validation"):
        logits = torch.from_numpy(ready.logits(ready.run(ready.prepare(images)))[: len(labels)])
        correct += example.top1(logits, torch.from_numpy(labels)).sum().item()
        total += len(labels)
    return correct / total


def load_bundle(folder: Path) -> Ready:
    """Load what the search built, through the backend that it names."""
    from by_hand import Ready

    from evaluators import registry
    from evaluators.bundle import open_bundle

    manifest = open_bundle(folder, trusted=True)
    runner = registry.backend(manifest.candidate.backend).load(folder, manifest)
    name = manifest.inputs.names[0]
    return Ready(lambda images: runner.prepare({name: images}), runner.run, lambda raw: runner.outputs(raw)[0])


def work(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do one thing with one contender; runs in a process of its own."""
    import by_hand
    import torch

    torch.set_num_threads(arguments.threads)
    phase, name, folder = arguments.worker
    setting = by_hand.Setting(arguments.batch_size, arguments.threads, Path(folder))
    bundle = arguments.bundle
    if phase == "duel":
        return duel(json.loads(name), setting, bundle, arguments.duel_rounds)
    contender = by_hand.Contender(lambda _: load_bundle(bundle)) if name == SEARCH else by_hand.CONTENDERS[name]
    if phase == "time":
        return time_calls(contender.load(setting), setting)
    begun = time.monotonic()
    contender.build(setting)
    ready = contender.load(setting)
    built = time.monotonic() - begun
    return {"accuracy": accuracy(ready, setting), "build_seconds": built}


def duel(names: list[str], setting: Setting, bundle: Path, rounds: int) -> dict[str, Any]:
    """Time contenders block by block in turn; returns, by name, the logarithm of the p50 in ms of every round."""
    import by_hand

    from evaluators.jobs import Protocol
    from evaluators.timing.blocks import LocalCalls
    from evaluators.timing.comparison import compare
    from evaluators.timing.stand import Stand, StandRequest

    def start(name: str) -> Stand:
        def load(_: StandRequest) -> LocalCalls:
            import torch

            torch.set_num_threads(setting.threads)
            ready = load_bundle(bundle) if name == SEARCH else by_hand.CONTENDERS[name].load(setting)
            images = (images for images, _ in islice(setting.batches("validation"), TIMING_BATCHES))
            return LocalCalls(ready.run, [ready.prepare(batch) for batch in images])

        return Stand(StandRequest(workload=WORKLOAD), load)

    found = compare([partial(start, name) for name in names], Protocol(rounds=rounds), DUEL_SECONDS)
    latencies = {name: latency for name, latency in zip(names, found.latencies, strict=True) if latency is not None}
    return {
        "log_medians": dict(zip(names, found.log_medians, strict=True)),
        "p50_ms": {name: latency.p50 for name, latency in latencies.items()},
        "p95_ms": {name: latency.p95 for name, latency in latencies.items()},
        "polluted": sum(latency.polluted for latency in latencies.values()),
    }


def in_fresh_process(arguments: argparse.Namespace, phase: str, name: str, folder: Path) -> dict[str, Any]:
    """Run ``work`` in a fresh process; one that fails or dies gives ``{"error": reason}``."""
    answer, log = folder / "answer.json", folder / "log.txt"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--worker", phase, name, str(folder)]
    command += ["--batch-size", str(arguments.batch_size), "--threads", str(arguments.threads)]
    command += ["--bundle", str(arguments.bundle)] if arguments.bundle else []
    command += ["--duel-rounds", str(arguments.duel_rounds)]
    pinned = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(arguments.threads))
    environment = {**os.environ, **QUIET, **pinned, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    try:
        with log.open("w") as output:
            ended = subprocess.run(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, timeout=PROCESS_TIMEOUT_S
            )
    except subprocess.TimeoutExpired:
        return {"error": f"{phase} took more than {PROCESS_TIMEOUT_S} s"}
    if not answer.exists():
        return {"error": f"{phase} ended its process with code {ended.returncode}"}
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def write_answer(arguments: argparse.Namespace) -> None:
    """Run ``work`` and leave what it found, or why it failed, where the parent reads it."""
    try:
        found = work(arguments)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}
        sys.excepthook(type(error), error, error.__traceback__)
    (Path(arguments.worker[2]) / "answer.json").write_text(json.dumps(found))


class Lines:
    """Progress of the search, a line for each trial on stderr."""

    def started(self, number: int, label: str) -> None:
        """Say nothing."""

    def finished(self, trial: TrialResult, counts: Any, best: TrialResult | None) -> None:
        """Say how it ended."""
        say(f"trial {report.trial_line(trial)}")

    def note(self, text: str) -> None:
        """Pass it on."""
        say(text)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_search(arguments: argparse.Namespace, home: Path) -> tuple[SearchResult, list[TrialResult]]:
    """Run the joint search through the public API."""
    import search
    from search import api

    result = search.run(
        WORKLOAD, home=home, progress=Lines(), objective="latency", batch_size=[arguments.batch_size],
        threads=arguments.threads, trials=arguments.trials, max_accuracy_drop=arguments.max_accuracy_drop,
        seed=arguments.seed,
    )  # fmt: skip
    return result, api.trials(result.search, home)


def build_all(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """Build and score every contender; one that fails is a row with its reason."""
    import by_hand

    rows = {}
    for name in by_hand.CONTENDERS:
        if name == by_hand.EAGER or any(word in name for word in arguments.only.split(",")):
            rows[name] = in_fresh_process(arguments, "build", name, folder)
            say(f"by hand: {name}: {rows[name]}")
    return rows


def time_all(arguments: argparse.Namespace, rows: dict[str, dict[str, Any]], folder: Path) -> None:
    """Time every row that was built, one after the other and all of them again, and add the medians to the rows."""
    for number in range(arguments.rounds):
        for name, row in rows.items():
            if "accuracy" in row:
                say(f"round {number + 1} of {arguments.rounds}: {name}")
                row.setdefault("rounds", []).append(in_fresh_process(arguments, "time", name, folder))
    for row in rows.values():
        measured = [timing for timing in row.get("rounds", []) if "error" not in timing]
        if measured:
            row |= {key: statistics.median(timing[key] for timing in measured) for key in ("p50_ms", "p95_ms")}
        elif row.get("rounds"):
            row["error"] = row["rounds"][0]["error"]


def compare(arguments: argparse.Namespace, home: Path, folder: Path) -> dict[str, Any]:
    """Build by hand, search, time both in turn; return everything that was found."""
    import by_hand

    facts = report.machine()
    rows = build_all(arguments, folder)
    result, trials = run_search(arguments, home)
    if result.best is not None and result.best.bundle is not None:
        arguments.bundle = Path(result.best.bundle)
        rows[SEARCH] = in_fresh_process(arguments, "build", SEARCH, folder)
    time_all(arguments, rows, folder)
    rivals = report.rivals(rows, by_hand.EAGER, SEARCH, arguments.max_accuracy_drop)
    say(f"in turn, block by block: {', '.join(rivals)}")
    found = in_fresh_process(arguments, "duel", json.dumps(rivals), folder) if SEARCH in rivals else {}
    verdict = report.judge(rows, found, by_hand.EAGER, SEARCH, arguments.max_accuracy_drop, arguments.goal)
    return {
        "machine": facts,
        "command": " ".join(["python", "benchmarks/against_by_hand.py", *sys.argv[1:]]),
        "batch_size": arguments.batch_size, "threads": arguments.threads, "rounds": arguments.rounds, "duel": found,
        "rows": rows, "verdict": verdict, "search": report.search_facts(result),
        "trials": [trial.to_json() for trial in trials], "trial_lines": [report.trial_line(trial) for trial in trials],
    }  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3, help="how often all are timed in turn; medians are shown")
    parser.add_argument("--duel-rounds", type=int, default=12, help="fresh processes of each in the last comparison")
    parser.add_argument("--max-accuracy-drop", type=float, default=0.01)
    parser.add_argument("--goal", type=float, default=5.0, help="least speed-up of the best model over eager fp32")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--only", default="", metavar="WORDS", help="only contenders with one of these in their names")
    parser.add_argument("--home", type=Path, help="keep the search here instead of in a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if arguments.worker:
        write_answer(arguments)
        return 0
    with tempfile.TemporaryDirectory(prefix="against-by-hand-") as scratch:
        folder = Path(scratch) / "by_hand"
        folder.mkdir()
        found = compare(arguments, arguments.home or Path(scratch) / "home", folder)
    text = report.markdown(found, SEARCH)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))
    record(text, keep=arguments.record)
    return 0 if found["verdict"]["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
