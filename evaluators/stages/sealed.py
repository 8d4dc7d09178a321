"""The sealed test split: scored once a bundle is to be promoted, through that bundle, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluators.bundle import open_bundle
from evaluators.contract import hash_examples
from evaluators.errors import IntegrityError, WorkloadError
from evaluators.jobs import MeasureJob, SealedJob
from evaluators.outcome import Evidence, Outcome
from evaluators.registry import backend as find_backend
from evaluators.stages.accuracy import score_bundle
from evaluators.stages.clock import StageClock
from evaluators.verdicts import judge_all
from evaluators.workload import Workload, load_workload


def score_sealed(job: SealedJob, clock: StageClock) -> Outcome:
    """Score all of the test split through the bundle, against the original on the same examples, and judge it.

    Raises:
        WorkloadError: the workload has no test split.
        IntegrityError: the bundle is not what was built, or test or validation are not what the search knew.
        NotFiniteError: a score is NaN or infinite.
    """
    with clock.stage("read"):
        workload = load_workload(job.profile.reference)
        if workload.test is None:
            raise WorkloadError(f"workload {workload.name} has no test split; give Workload(test=…) and search again")
        _check_split(workload, "validation", workload.validation, job)
        test_digest = _check_split(workload, "test", workload.test, job)
    with clock.stage("load"):
        folder = Path(job.bundle)
        manifest = open_bundle(folder, trusted=True)  # the caller has compared its digest with what was measured
        runner = find_backend(manifest.candidate.backend).load(folder, manifest)
    with clock.stage("accuracy"):
        # Scoring knows one split: the test split stands in its place, under its own digest.
        sealed = replace(workload, validation=workload.test)
        digests = {**job.profile.data_digests, "validation": test_digest}
        profile = job.profile.model_copy(update={"data_digests": digests})
        measuring = MeasureJob(bundle=job.bundle, profile=profile, home=job.home, constraints=job.constraints,
                               protocol=job.protocol, gates=False)  # fmt: skip
        accuracy = score_bundle(runner, sealed, measuring, manifest.candidate.batch_size, manifest.buckets)
    evidence = Evidence(accuracy=accuracy)
    limits = [limit for limit in job.constraints if limit.metric in ("accuracy", "accuracy_drop")]
    return Outcome(kind="measured", evidence=evidence, verdicts=judge_all(limits, evidence),
                   stage_seconds=clock.seconds, bundle=str(folder))  # fmt: skip


def _check_split(workload: Workload, split: str, factory: Callable[[], Any], job: SealedJob) -> str:
    """Return the digest of a split after checking that it is the one that was there when the search began."""
    known, found = job.profile.data_digests.get(split), hash_examples(factory()).digest
    if known is None:
        raise IntegrityError(
            f"the {split} split of {workload.name} was added after the search, so nothing shows that it was kept "
            "apart; search again with it"
        )
    if found != known:
        raise IntegrityError(
            f"the {split} split of {workload.name} has the digest {found[:16]}, and had {known[:16]} when the search "
            "began; restore it, or search again"
        )
    return found
