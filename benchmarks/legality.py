"""Are the candidates that the space calls legal really so? Many are drawn at random, and some of them are built.

    python -m benchmarks.legality --draws 1000 --sample 60 --keep legality.jsonl --minutes 8 --record

For each example workload: every draw must be accepted by the space, read back to the choices that made it, and keep its
hash through its JSON. The first distinct ones are prepared and compared with the original model in sandboxes, as a
search does; a limit that nothing keeps ends each trial at the gate right after parity. Asked: at least 98 % are built
and pass parity, or are rejected by a gate (parity is one), and no failure is without a type. With ``--keep`` it may be
interrupted and goes on. Exit code 0 if it holds, 1 if not, 3 where the sample is not done yet.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.attempts import Trials
from benchmarks.results import record
from evaluators.candidate import Candidate, Scalar, parse_candidate
from evaluators.outcome import Constraint, FailureKind, Outcome
from evaluators.parameters import Parameter
from evaluators.profile import WorkloadProfile
from evaluators.space import Space, derive_space
from evaluators.target import probe_target

ASKED = 0.98
BYTE = Constraint(metric="size_bytes", max=1)
"""No bundle is as small, so each trial ends at this gate, the first one after parity."""
GATES = (FailureKind.PARITY, FailureKind.NOT_FINITE)


@dataclass(frozen=True)
class Built:
    """How one legal candidate fared: ``built`` where it passed parity, else a gate or the kind of its failure."""

    example: str
    candidate: dict[str, Any]
    ended: str
    reason: str
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it was built and passed parity, or was rejected by a gate."""
        return self.ended == "built" or self.ended.startswith("gate: ")


def draw(space: Space, count: int, seed: int) -> list[Candidate]:
    """Return so many random candidates of a space, after asking it whether it accepts each.

    Raises:
        SystemExit: it does not, reads other choices back, or the hash does not survive the candidate's JSON.
    """
    chance = random.Random(seed)  # noqa: S311
    drawn = []
    for _ in range(count):
        asked: dict[str, Scalar] = {}

        def choose(name: str, parameter: Parameter, asked: dict[str, Scalar] = asked) -> Scalar:
            asked[name] = chance.choice(parameter.values)
            return asked[name]

        candidate = space.walk(choose)
        if space.choices_of(candidate) != asked or parse_candidate(candidate.canonical).hash != candidate.hash:
            raise SystemExit(f"{candidate.canonical} is not read back as it was drawn: {asked}")
        drawn.append(candidate)
    return drawn


def ended(outcome: Outcome) -> tuple[str, str]:
    """Return how a trial ended, and why."""
    if outcome.failure is not None:
        kind = str(outcome.failure.kind)
        named = f"gate: {kind}" if outcome.failure.kind in GATES else kind
        return named, f"{outcome.failure.stage}: {outcome.failure.reason}"
    if outcome.gate == BYTE.metric and outcome.evidence.parity is not None:
        return "built", f"{outcome.evidence.parity.sqnr_db:.1f} dB"
    return f"gate: {outcome.gate}", ""


def read(kept: Path | None) -> list[Built]:
    """Return what a file has of an earlier run."""
    if kept is None or not kept.exists():
        return []
    return [Built(**json.loads(line)) for line in kept.read_text().splitlines()]


def build_sample(
    example: str, chosen: Sequence[Candidate], profile: WorkloadProfile, trials: Trials, found: list[Built],
    given: argparse.Namespace, until: float,
) -> None:  # fmt: skip
    """Build what of the sample has not been yet, until the time is up."""
    known = {parse_candidate(each.candidate).hash for each in found if each.example == example}
    for candidate in chosen:
        if time.monotonic() > until:
            return
        if candidate.hash in known:
            continue
        begun = time.monotonic()
        how, why = ended(trials.run(candidate, profile, constraints=[BYTE], gates=True))
        built = Built(example, candidate.to_json(), how, why, round(time.monotonic() - begun, 1))
        found.append(built)
        if given.keep is not None:
            with given.keep.open("a") as kept:
                kept.write(json.dumps(asdict(built)) + "\n")
        print(f"{example} {candidate.label()}: {how} {why} ({built.seconds:g} s)", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sample", type=int, default=60, help="how many of them are built, for each example")
    parser.add_argument("--example", action="append", choices=("images", "motion", "text"), default=[])
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for each job of a trial")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; --keep goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="home whose stage cache is used, default a temporary one")
    parser.add_argument("--keep", type=Path, help="keep every outcome in this file, and go on after those it has")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts, until = report.machine(), time.monotonic() + 60 * given.minutes
    found, wanted, examples = read(given.keep), 0, given.example or ["images", "motion", "text"]
    scratch = tempfile.TemporaryDirectory(prefix="legality-")
    with scratch as folder, Trials(given.home or Path(folder), given.limit) as trials:
        for example in examples:
            profile = trials.profile(example)
            space = derive_space(profile, probe_target())
            drawn = draw(space, given.draws, given.seed)
            print(f"{example}: {given.draws} of {space.size:,} candidates drawn, all accepted", file=sys.stderr)
            chosen = list({each.hash: each for each in drawn}.values())[: given.sample]
            wanted += len(chosen)
            build_sample(example, chosen, profile, trials, found, given, until)
    return conclude([each for each in found if each.example in examples], wanted, given, facts)


def conclude(found: list[Built], wanted: int, given: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Write the section and say whether what was asked holds."""
    if len(found) < wanted:
        print(f"{len(found)} of {wanted} are done; run it again with the same --keep", file=sys.stderr)
        return 3
    good, untyped = sum(each.good for each in found), [each for each in found if each.ended == FailureKind.ERROR]
    holds = good >= ASKED * len(found) and not untyped
    rows = []
    for example in dict.fromkeys(each.example for each in found):
        mine = Counter(each.ended for each in found if each.example == example)
        rows.append(f"| {example} | {given.draws:,} | {sum(mine.values())} | {mine.pop('built', 0)} | "
                    f"{', '.join(f'{count} {how}' for how, count in sorted(mine.items())) or '–'} |")  # fmt: skip
    failures = [f"- {each.example} `{json.dumps(each.candidate)}`: {each.ended}: {each.reason}"
                for each in found if each.ended != "built"]  # fmt: skip
    text = "\n".join([
        f"## {facts['date']}: are legal candidates legal?, {facts['processor']}", "",
        f"`python -m benchmarks.legality {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        "| example | drawn, all accepted | of them tried | built and passed parity | the others |",
        "| --- | --- | --- | --- | --- |", *rows, "", *failures, "",
        f"- {good} of {len(found)} ({good / len(found):.1%}) were built and passed parity or were rejected by a gate "
        f"(asked: {ASKED:.0%}); {len(untyped)} failures without a type (asked: 0).",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
