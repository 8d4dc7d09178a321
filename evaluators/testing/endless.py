"""Build a candidate and run it for ever: ``python -m evaluators.testing.endless JOB MARK``. Something must end it.

JOB is a file with a ``PrepareJob`` as JSON; MARK appears when the build begins.
"""

from __future__ import annotations

import sys
from pathlib import Path

from evaluators.jobs import PrepareJob
from evaluators.stages.clock import StageClock
from evaluators.stages.prepare import prepare
from evaluators.stages.source import StagedSource  # noqa: F401 - everything is imported before the mark appears
from evaluators.testing.cases import load
from evaluators.timing.stand import real_batches
from evaluators.workload import load_workload


def main(job: Path, mark: Path) -> None:
    """Never return."""
    asked = PrepareJob.model_validate_json(job.read_bytes())

    def began(stage: str) -> None:
        if stage == "build":
            mark.touch()

    bundle = Path(prepare(asked, StageClock(began)).bundle)
    runner, workload = load(bundle), load_workload(asked.profile.reference)
    from evaluators.batching import as_arrays

    prepared = runner.prepare(as_arrays(real_batches(workload, asked.candidate.batch_size, 1)[0]))
    while True:
        runner.run(prepared)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
