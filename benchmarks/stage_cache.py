"""What does the stage cache save? One search of the image example, then the same again, and one at another batch size.

    python -m benchmarks.stage_cache --record

The second search runs in the same home: evaluations are answered by the ledger (decision 0007). Then the trials of the
first are run again, one by one, in a new home that has a copy of the first one's cache and nothing else: only stages
are answered, and every candidate is measured anew. (A search would try other candidates after a while, because what it
measures is not the same to the last digit.) The last search differs from the first in its batch sizes only, and has a
copy of its cache. Asked: 95 % of the stages of the second and the third are found done, the second takes at most 10 %
of the time of the first, and the last recovers and quantizes nothing again that the first did. About 15 minutes on 2
cores. Exit code 0 if it holds, 1 if not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import search
from benchmarks import report
from benchmarks.attempts import Trials, reference
from benchmarks.results import record
from search import api
from search.result import TrialResult, trial_result

STAGES = ("prune", "recover", "quantize", "build")
"""What is kept by content; everything after it is measured."""
WANTED_SHARE, WANTED_TIME = 0.95, 0.10


@dataclass(frozen=True)
class Stage:
    """One stage of one trial: was it found done? ``prefix`` names what it depends on besides the batch size."""

    name: str
    prefix: str
    cached: bool
    answered: bool


def stages_of(trials: Iterable[TrialResult]) -> list[Stage]:
    """Return the stages of trials that came so far; those of a trial that the ledger answered were not even asked."""
    found = []
    for trial in trials:
        candidate = trial.candidate
        model = candidate.pruning.model_dump_json()
        for name in STAGES:
            if name not in trial.stage_seconds or (name == "recover" and not candidate.pruning.recovery_steps):
                continue
            quantized = f"{candidate.backend} {candidate.quantization.model_dump_json()} " if name != "recover" else ""
            answered = trial.answered_by is not None
            found.append(Stage(name, f"{quantized}{model}", answered or name in trial.cached_stages, answered))
    return found


def share(stages: Sequence[Stage]) -> float:
    """Return the share of stages that were found done."""
    return sum(stage.cached for stage in stages) / max(1, len(stages))


def run_again(earlier: Sequence[Stage], later: Sequence[Stage]) -> list[Stage]:
    """Return recoveries and quantizations that were done although an earlier search had done the same."""
    known = {(stage.name, stage.prefix) for stage in earlier}
    return [stage for stage in later if stage.name in ("recover", "quantize") and not stage.cached
            and (stage.name, stage.prefix) in known]  # fmt: skip


def timed_search(home: Path, batch_size: int, trials: int) -> tuple[list[TrialResult], float]:
    """Run a search; return its trials and the seconds it took."""
    begun = time.monotonic()
    found = search.run(reference("images"), home=home, objective="latency", batch_size=[batch_size], threads=1,
                       max_accuracy_drop=0.01, trials=trials)  # fmt: skip
    return api.trials(found.search, home), time.monotonic() - begun


def run_alone(home: Path, trials: Sequence[TrialResult]) -> tuple[list[TrialResult], float]:
    """Run trials again without a ledger; return how they went, and the seconds it took."""
    with Trials(home, 600.0) as means:
        profile, again, begun = means.profile("images"), [], time.monotonic()
        for trial in trials:
            limits = [verdict.constraint for verdict in trial.verdicts]
            outcome = means.run(trial.candidate, profile, constraints=limits, gates=trial.outcome == "rejected")
            again.append(trial_result(trial.number, trial.candidate, trial.source, "DONE", outcome))
        return again, time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--other-batch-size", type=int, default=16)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts = report.machine()
    rows: list[tuple[str, list[TrialResult], float]] = []
    with tempfile.TemporaryDirectory(prefix="stage-cache-") as scratch:
        home, alone, other = (Path(scratch) / name for name in ("first", "alone", "other"))
        rows.append(("first", *timed_search(home, given.batch_size, given.trials)))
        for copy in (alone, other):
            shutil.copytree(home / "cache", copy / "cache")
        rows.append(("the same again", *timed_search(home, given.batch_size, given.trials)))
        rows.append(("its trials, only stages answered", *run_alone(alone, rows[0][1])))
        rows.append(("another batch size", *timed_search(other, given.other_batch_size, given.trials)))
    return conclude(rows, given, facts)


def conclude(rows: list[tuple[str, list[TrialResult], float]], given: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Write the section and say whether what was asked holds."""
    found = {name: stages_of(trials) for name, trials, _ in rows}
    seconds = {name: took for name, _, took in rows}
    again = run_again(found["first"], found["another batch size"])
    time_share = seconds["the same again"] / seconds["first"]
    holds = (
        share(found["the same again"]) >= WANTED_SHARE and time_share <= WANTED_TIME
        and share(found["its trials, only stages answered"]) >= WANTED_SHARE and not again
    )  # fmt: skip
    lines = []
    for name, trials, took in rows:
        stages, answered = found[name], sum(trial.answered_by is not None for trial in trials)
        made = Counter(stage.name for stage in stages if not stage.cached)
        lines.append(
            f"| {name} | {len(trials)} | {answered} | {share(stages):.1%} of {len(stages)} | "
            f"{', '.join(f'{made[each]} {each}' for each in STAGES if made[each]) or 'none'} | {took:.0f} | "
            f"{took / seconds['first']:.1%} |"
        )
    text = "\n".join([
        f"## {facts['date']}: what the stage cache saves, {facts['processor']}", "",
        f"`python -m benchmarks.stage_cache {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        "| search | trials | answered by the ledger | stages found done | stages made | seconds | of the first |",
        "| --- | --- | --- | --- | --- | --- | --- |", *lines, "",
        f"- Batch size {given.batch_size}, then {given.other_batch_size}: {len(again)} recoveries and quantizations "
        "were done again that the first search had done (asked: 0).",
        f"- The same again: {time_share:.1%} of the time (asked: at most {WANTED_TIME:.0%}).",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
