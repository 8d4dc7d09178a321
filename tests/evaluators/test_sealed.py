"""The sealed test split: only the one that was there when the search began is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.contract import hash_examples
from evaluators.errors import IntegrityError, WorkloadError
from evaluators.jobs import SealedJob
from evaluators.profile import WorkloadProfile
from evaluators.stages.clock import StageClock
from evaluators.stages.sealed import score_sealed
from evaluators.structure import Structure, TensorSpec
from evaluators.workload import load_workload
from tests.conftest import TINY

_TENSOR = Structure(style="tensor", tensors=(TensorSpec(name="x", dtype="float32", shape=(None, 4)),))


def a_job(reference: str, **digests: str) -> SealedJob:
    profile = WorkloadProfile(
        name="tiny", reference=reference, model_digest="0", data_digests=digests, metric_digest="0", parameters=1,
        size_bytes=1, flops=None, inputs=_TENSOR, outputs=_TENSOR, layers={}, widths=(), exportable=None,
        dynamic_batch=True, has_train=False, accuracy=1.0, examples=1, calibration_examples=1, scored_by="top1",
        per_example=True,
    )  # fmt: skip
    return SealedJob(bundle="nowhere", profile=profile, home="nowhere", constraints=())


def score(job: SealedJob) -> None:
    score_sealed(job, StageClock(lambda stage: None))


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    """Of the splits of the tiny workload as they are."""
    workload = load_workload(TINY)
    assert workload.test is not None
    return {"validation": hash_examples(workload.validation()).digest, "test": hash_examples(workload.test()).digest}


@pytest.mark.parametrize("split", ["validation", "test"])
def test_another_split_than_the_search_knew_is_not_scored(digests: dict[str, str], split: str) -> None:
    with pytest.raises(IntegrityError, match=f"the {split} split of tiny has the digest .* restore it"):
        score(a_job(TINY, **{**digests, split: "0" * 64}))


def test_a_test_split_that_was_added_after_the_search_is_not_scored(digests: dict[str, str]) -> None:
    with pytest.raises(IntegrityError, match="the test split of tiny was added after the search"):
        score(a_job(TINY, validation=digests["validation"]))


def test_the_splits_are_checked_before_the_bundle_is_loaded(digests: dict[str, str]) -> None:
    with pytest.raises(IntegrityError, match="bundle nowhere"):
        score(a_job(TINY, **digests))


def test_a_workload_that_has_lost_its_split_is_told(tmp_path: Path) -> None:
    file = tmp_path / "without_test.py"
    file.write_text(
        f"from dataclasses import replace\nfrom evaluators.workload import load_workload\n"
        f"workload = replace(load_workload({TINY!r}), test=None)\n"
    )
    with pytest.raises(WorkloadError, match="has no test split"):
        score(a_job(f"{file}:workload", test="0" * 64))
