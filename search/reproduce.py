"""Reproduce: run one trial again, in the foreground, beside the search's records."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from evaluators.outcome import Outcome
from evaluators.target import probe_target
from search.result import TrialResult, trial_result
from search.spec import SearchSpec
from workers.interpreters import Interpreters
from workers.ledger import Ledger
from workers.records import SearchRecord, TrialRecord
from workers.sandbox import Sandbox
from workers.settings import TrialSettings, default_memory_limit
from workers.supervisor import Supervisor, run_profile


def reproduce_trial(
    record: SearchRecord, trial: TrialRecord, home: Path, show: Callable[[str], None],
    interpreters: Interpreters | None = None,
) -> TrialResult:  # fmt: skip
    """Run ``trial``'s candidate under its search's settings, ``show`` its log, and return how it ended this time.

    A scratch ledger holds it, so the search's own records stay as they are; stages that were cached stay cached.

    Raises:
        UsageError: the trial is of another target than this machine has.
    """
    spec = SearchSpec.model_validate(record.spec)
    target = probe_target(trial.candidate.target)
    with Sandbox() as sandbox:
        if record.profile is None:
            outcome = _read_again(sandbox, record, spec, home)
        else:
            settings = TrialSettings(
                profile=record.profile, constraints=spec.constraints, protocol=spec.protocol, seed=spec.seed,
                trial_timeout_s=spec.trial_timeout_s, memory_limit_bytes=spec.memory_limit_bytes,
            ).on(target)  # fmt: skip
            outcome = _run_again(sandbox, trial, settings, record, home, show, interpreters)
    if outcome is not None and outcome.failure is not None and outcome.failure.details:
        show(outcome.failure.details)
    return trial_result(trial.number, trial.candidate, trial.source, "DONE", outcome)


def _run_again(
    sandbox: Sandbox, trial: TrialRecord, settings: TrialSettings, record: SearchRecord, home: Path,
    show: Callable[[str], None], interpreters: Interpreters | None,
) -> Outcome | None:  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="paretune-") as scratch:
        ledger = Ledger.at(Path(scratch))
        try:
            search = ledger.create_search(record.workload, record.spec)
            again = ledger.add_trial(search.id, trial.candidate, trial.source, trial.evaluation_key, gates=trial.gates)
            supervisor = Supervisor(ledger, sandbox, home, interpreters=interpreters)
            # Nothing where the job was killed from outside: it is tried once more.
            outcome = supervisor.run(again.id, 1, settings) or supervisor.run(again.id, 2, settings)
            for log in sorted((home / "jobs" / search.id).rglob("log.txt")):
                show(log.read_text(errors="replace").rstrip())
            return outcome
        finally:
            ledger.close()


def _read_again(sandbox: Sandbox, record: SearchRecord, spec: SearchSpec, home: Path) -> Outcome | None:
    answer = run_profile(sandbox, home, record.workload, seed=spec.seed, timeout_s=spec.trial_timeout_s,
                         memory_limit_bytes=spec.memory_limit_bytes or default_memory_limit())  # fmt: skip
    return answer.outcome if answer else None
