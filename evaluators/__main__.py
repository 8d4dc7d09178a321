"""paretune's evaluators on a bare machine, without ledger or search: ``python -m evaluators COMMAND``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from evaluators import registry
from evaluators.candidate import Candidate, parse_candidate
from evaluators.diagnosis.streams import STDERR, STDOUT, redirected
from evaluators.errors import ParetuneError, UsageError
from evaluators.jobs import JobResult, MeasureJob, PrepareJob, ProfileJob, Protocol
from evaluators.run_job import run
from evaluators.target import probe_target, probe_targets
from evaluators.workload import absolute_reference

_WORKLOAD = "path/to/file.py:attribute or package.module:attribute"

Answer = tuple[int, str]
"""An exit code, and what goes to standard output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 if it succeeded, 2 if what was given cannot be used, 4 if the candidate or a case failed.

    Other errors have their own codes (``evaluators.errors``). Standard output holds the answer alone: what libraries
    and user's code print goes to standard error.
    """
    given = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Answer] = given.command
    try:
        with redirect_stdout(sys.stderr), redirected(STDOUT, STDERR):
            code, answer = command(given)
    except (ParetuneError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, ParetuneError) else 2
    if answer:
        print(answer)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m evaluators", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    measure = commands.add_parser("measure", help="build and measure one candidate; prints its outcome as JSON")
    measure.add_argument("workload", help=_WORKLOAD)
    measure.add_argument(
        "candidate", nargs="?", help="a JSON file, or JSON itself, as a trial shows it; eager fp32 at batch 1 without"
    )
    measure.add_argument("--percentile", default="p95", choices=("p50", "p90", "p95", "p99"))
    measure.set_defaults(command=_measure)

    profile = commands.add_parser("profile", help="read the facts of a workload; prints them as JSON")
    profile.add_argument("workload", help=_WORKLOAD)
    profile.set_defaults(command=_profile)

    targets = commands.add_parser("targets", help="what this machine offers, and which backends run on it, as JSON")
    targets.set_defaults(command=_targets)

    conformance = commands.add_parser("conformance", help="run the suite that every backend must pass, without pytest")
    conformance.add_argument("--backend", help="only this one")
    conformance.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    conformance.set_defaults(command=_conformance)

    for command in (measure, profile):
        command.add_argument("--home", default=".paretune", help="folder for caches and bundles")
    return parser


def _measure(given: argparse.Namespace) -> Answer:
    _require_torch()
    candidate = read_candidate(given.candidate)
    protocol = Protocol(percentile=given.percentile)
    answer = evaluate(absolute_reference(given.workload), candidate, _home(given), protocol)
    if answer.outcome is None:
        return _tell_problems(answer)
    return 0 if answer.outcome.kind == "measured" else 4, answer.outcome.model_dump_json(indent=2)


def _profile(given: argparse.Namespace) -> Answer:
    _require_torch()
    answer = run(ProfileJob(workload=absolute_reference(given.workload), home=_home(given)), _show)
    if answer.profile is None:
        return _tell_problems(answer)
    return 0, answer.profile.model_dump_json(indent=2)


def _targets(given: argparse.Namespace) -> Answer:
    found = [
        {**target.to_json(), "device": target.device, "fingerprint": target.fingerprint,
         "backends": {name: backend.unusable(target) for name, backend in registry.backends().items()}}
        for target in probe_targets()
    ]  # fmt: skip
    return 0, json.dumps({"schema_version": 1, "targets": found}, indent=2)


def _conformance(given: argparse.Namespace) -> Answer:
    _require_torch()
    from evaluators.testing.suite import run_suite

    if given.backend is not None:
        registry.backend(given.backend)
    with tempfile.TemporaryDirectory() as scratch:
        results = run_suite(given.backend, home=Path(scratch))
    rows = [{"case": f"{each.case} {each.check}", "status": each.status, "reason": each.reason,
             "seconds": round(each.seconds, 2)}
            for each in results]  # fmt: skip
    text = json.dumps({"schema_version": 1, "results": rows}, indent=2) if given.json else table(rows)
    return 4 if any(row["status"] == "failed" for row in rows) else 0, text


def _require_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise UsageError(f"torch is not installed for {sys.executable}: pip install torch")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return results as lines of text, and below them how many ended how."""
    width = max((len(row["case"]) for row in rows), default=0)
    lines = [f"{row['status']:<11}  {row['case']:<{width}}  {row['seconds']:7.2f} s  {row['reason'] or ''}".rstrip()
             for row in rows]  # fmt: skip
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "unavailable")}
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in counts.items())])


def read_candidate(given: str | None) -> Candidate:
    """Read a candidate from a JSON file or from JSON text; without either, eager fp32 at batch 1 on this machine.

    Raises:
        UsageError: the file cannot be read.
    """
    if given is None:
        return Candidate(target=probe_target().name, backend="eager")
    if given.lstrip().startswith("{"):
        return parse_candidate(given)
    try:
        return parse_candidate(Path(given).read_text())
    except OSError as error:
        raise UsageError(f"{given!r} is neither a JSON file nor JSON: {error}") from error


def evaluate(workload: str, candidate: Candidate, home: str, protocol: Protocol) -> JobResult:
    """Profile, prepare and measure in this process; the first job that fails is the answer.

    Raises:
        UsageError: this machine has no such target or backend, or the backend cannot be used.
    """
    if (why := registry.backend(candidate.backend).unusable(probe_target(candidate.target))) is not None:
        raise UsageError(f"backend {candidate.backend} cannot be used: {why}")
    profiled = run(ProfileJob(workload=workload, home=home), _show)
    if profiled.profile is None:
        return profiled
    prepared = run(PrepareJob(candidate=candidate, profile=profiled.profile, home=home), _show)
    if prepared.prepared is None:
        return prepared
    bundle = prepared.prepared.bundle
    job = MeasureJob(bundle=bundle, profile=profiled.profile, home=home, constraints=(), protocol=protocol)
    return run(job, _show)


def _home(given: argparse.Namespace) -> str:
    return str(Path(given.home).resolve())


def _tell_problems(answer: JobResult) -> Answer:
    if answer.outcome is not None and answer.outcome.reason:
        print(f"error: {answer.outcome.reason}", file=sys.stderr)
    for problem in answer.problems:
        print(f"error: {problem.what}", file=sys.stderr)
    return 2, ""


def _show(stage: str) -> None:
    print(stage, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
