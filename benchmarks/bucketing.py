"""What do batches from buckets of similar length gain over batches as examples come?

    PARETUNE_TEXT_ASSETS=... python benchmarks/bucketing.py --record

A model of the text example on each backend runs the same documents in batches as they come, each filled up to its
longest, and in batches from 4 and 8 buckets, filled up to their edges. The two take turns call by call, in a process
of its own for each backend; a round is all documents both ways. The edges are chosen from calibration, the documents
are validation's. Asked: at least 1.3 times the documents per second on every backend, with the whole interval, for the
best number of buckets. Exit code 0 if that holds and every document got its own answer, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import report
from bundles import HERE, Workshop
from results import record

from evaluators.batching import as_arrays, example_batches, first_rows
from evaluators.bucketing import batch_of, buckets_of, joined, planned, row_lengths
from evaluators.bundle import open_bundle
from evaluators.lengths import Buckets, Lengths
from evaluators.registry import backend
from evaluators.statistics import compare_rounds
from evaluators.timing.gain import filling_share
from evaluators.workload import load_workload

ASKED = 1.3
TEXT = f"{HERE.parent / 'examples' / 'text' / 'workload.py'}:workload"
DIFFERENCE = 2e-2
"""Answers of two batchings differ by no more than this, relative to the largest: kernels round by shape."""


def measure(bundle: Path, lengths: Lengths, counts: list[int], examples: int, rounds: int) -> list[dict[str, Any]]:
    """Time one bundle both ways in this process, for each number of buckets."""
    manifest = open_bundle(bundle, trusted=True)
    runner, size = backend(manifest.candidate.backend).load(bundle, manifest), manifest.candidate.batch_size
    workload = load_workload(manifest.workload)
    source = example_batches(workload.validation(), workload.collate, size)
    parts = [(as_arrays(inputs), real) for inputs, _, real in islice(source, -(-examples // size))]
    plain = [arrays for arrays, _ in parts]
    found = []
    for count in counts:
        buckets = buckets_of(lengths, count)
        if buckets is None:
            raise SystemExit("the workload has no buckets")
        rows = joined([first_rows(arrays, real) for arrays, real in parts], buckets)
        batches = planned(row_lengths(rows, buckets), buckets.edges, size)
        bucketed = [batch_of(rows, batch, size, buckets) for batch in batches]
        ways = [[runner.prepare(batch) for batch in way] for way in (plain, bucketed)]
        answers = [
            np.concatenate([runner.outputs(runner.run(one))[0] for one in way])[: len(row_lengths(rows, buckets))]
            for way in ways
        ]
        places = np.argsort(np.concatenate([batch.rows for batch in batches]))
        difference = float(np.abs(answers[1][places] - answers[0]).max() / np.abs(answers[0]).max())
        ratios = [_round(runner.run, ways, number) for number in range(rounds)]
        found.append(_told(count, buckets, plain, bucketed, difference, ratios, len(places)))
    return found


def _round(run: Any, ways: list[list[Any]], number: int) -> tuple[float, float]:
    """Return the seconds of all documents as they come and from buckets, call by call in turn."""
    spent = [0.0, 0.0]
    first = number % 2
    for pair in zip(*ways, strict=True):
        for way in (first, 1 - first):
            begun = time.perf_counter()
            run(pair[way])
            spent[way] += time.perf_counter() - begun
    return spent[0], spent[1]


def _told(
    count: int, buckets: Buckets, plain: list[Any], bucketed: list[Any], difference: float,
    rounds: list[tuple[float, float]], examples: int,
) -> dict[str, Any]:  # fmt: skip
    gain, interval = compare_rounds([math.log(before / after) for before, after in rounds])
    return {
        "buckets": count, "edges": list(buckets.edges), "difference": difference, "gain": gain, "ci95": interval,
        "filling": [filling_share(plain, buckets), filling_share(bucketed, buckets)],
        "per_s": [examples / float(np.median([taken[way] for taken in rounds])) for way in (0, 1)],
    }  # fmt: skip


def table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write a row for each bundle and number of buckets."""
    lines = ["| bundle | buckets | filling, plain → buckets | documents/s, plain → buckets | gain (95 %) | edges |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for label, rows in found.items():
        for row in rows:
            filling, rates = row["filling"], row["per_s"]
            lines.append(
                f"| {label} | {row['buckets']} | {filling[0]:.0%} → {filling[1]:.0%} | {rates[0]:.1f} → {rates[1]:.1f} "
                f"| {row['gain']:.2f} ({row['ci95'][0]:.2f} to {row['ci95'][1]:.2f}) | "
                f"{', '.join(map(str, row['edges']))} |"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default=TEXT)
    parser.add_argument("--only", nargs="+", default=["eager fp32", "onnxruntime fp32", "openvino fp32"])
    parser.add_argument("--buckets", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--record", action="store_true", help="append the result to RESULTS.md")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        asked = json.loads(given.measure)
        lengths = Lengths.model_validate(asked["lengths"])
        with os.fdopen(os.dup(1), "w") as answer:
            os.dup2(2, 1)
            told = measure(Path(asked["bundle"]), lengths, given.buckets, given.examples, given.rounds)
            json.dump(told, answer)
        return 0
    before, found = report.machine(), dict[str, list[dict[str, Any]]]()
    with tempfile.TemporaryDirectory(prefix="bucketing-") as scratch:
        workshop = Workshop(Path(scratch), given.threads)
        try:
            wanted = [(name, scheme) for name, scheme in (text.split() for text in given.only)]
            built = workshop.build(wanted, given.batch_size, given.workload)
        finally:
            workshop.close()
        for each in built:
            print(f"measuring {each.candidate.label()}", file=sys.stderr)
            if each.profile.lengths is None or each.profile.lengths.option is None:
                raise SystemExit(f"{given.workload} has no buckets: {each.profile.lengths}")
            asked = json.dumps({"bundle": each.bundle, "lengths": each.profile.lengths.to_json()})
            command = [sys.executable, __file__, "--measure", asked, "--examples", str(given.examples), "--rounds",
                       str(given.rounds), "--buckets", *map(str, given.buckets)]  # fmt: skip
            ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[each.candidate.label()] = json.loads(ended.stdout)
    best = {label: max(rows, key=lambda row: row["gain"]) for label, rows in found.items()}
    own = all(row["difference"] <= DIFFERENCE for rows in found.values() for row in rows)
    holds = own and all(row["ci95"][0] >= ASKED for row in best.values())
    lines = [
        f"## {before['date']}: batches from buckets of similar length, {before['processor']}", "",
        f"`python benchmarks/bucketing.py {' '.join(sys.argv[1:])}`", "", report.machine_line(before), "",
        f"Batches of {given.batch_size} documents, {given.examples} documents of validation, {given.threads} thread"
        f"{'s' * (given.threads > 1)}, {given.rounds} rounds.", "", *table(found), "",
        *(f"- {label}: {row['gain']:.2f}× with {row['buckets']} buckets (asked: {ASKED})."
          for label, row in best.items()),
        f"- Every document got its own answer: {'yes' if own else 'no'} (largest relative difference "
        f"{max(row['difference'] for rows in found.values() for row in rows):.1e}).",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ]  # fmt: skip
    record("\n".join(lines), keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
