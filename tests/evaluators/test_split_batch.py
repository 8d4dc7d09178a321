"""onnxruntime's threads on a share of the batch each: the same answers, put together again, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evaluators.backends.onnxruntime import SplitRunner, refuse_split
from evaluators.backends.shares import shares_of
from evaluators.bundle import read_manifest
from evaluators.candidate import Candidate, Runtime
from evaluators.space import derive_space, values_of
from evaluators.standalone import standalone_of
from evaluators.standalone.runtimes import onnxruntime as standalone
from evaluators.target import probe_target
from evaluators.testing import conformance
from evaluators.testing.cases import answer, load
from evaluators.testing.computing import check_batch_invariance, check_parity, check_repeatable
from evaluators.testing.conformance import Case
from tests.search.factories import a_profile

pytest.importorskip("onnxruntime")
SPLIT = Case("onnxruntime", "fp32", "images", 4, knob=("split_batch", True), threads=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("split")


def _candidate(batch_size: int, threads: int, **knobs: object) -> Candidate:
    runtime = Runtime.model_validate({"threads": threads, **knobs})
    return Candidate(target="cpu-avx2", backend="onnxruntime", batch_size=batch_size, runtime=runtime)


@pytest.mark.parametrize("check", [check_parity, check_repeatable, check_batch_invariance])
def test_shares_compute_what_the_model_computes(check: object, home: Path) -> None:
    check(SPLIT, home)  # type: ignore[operator]


def test_inputs_that_vary_and_several_outputs_are_put_together_again(home: Path) -> None:
    texts = replace(SPLIT, workload="texts")
    check_parity(texts, home)
    assert isinstance(load(conformance.build(texts, home)), SplitRunner)


def test_exported_code_splits_the_batch_too(home: Path) -> None:
    bundle = conformance.build(SPLIT, home)
    manifest = read_manifest(bundle)
    told = standalone_of(manifest.candidate)
    assert not isinstance(told, str)
    (batch, *_) = conformance.inputs_of(SPLIT)

    settings = told.settings(manifest.candidate)
    call = standalone.load(bundle, settings, manifest.to_json())

    assert (settings["shares"], settings["threads"]) == (2, 1)
    for mine, theirs in zip(call(batch), answer(load(bundle), batch), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("candidate", "exported_for", "why"),
    [
        (_candidate(8, 2, split_batch=True), None, None),
        (_candidate(8, 1), None, None),
        (_candidate(3, 2, split_batch=True), None, "no equal shares for 2 threads"),
        (_candidate(8, 1, split_batch=True), None, "no equal shares for 1 threads"),
        (_candidate(8, 2, split_batch=True), 8, "exported for batches of 8"),
        (_candidate(8, 2, split_batch=True, provider="coreml"), None, "provider coreml has threads of its own"),
    ],
)
def test_what_cannot_be_split_is_refused(candidate: Candidate, exported_for: int | None, why: str | None) -> None:
    found = refuse_split(candidate, exported_for)
    assert found is None if why is None else found is not None and why in found


def test_splitting_is_asked_only_where_shares_are_equal() -> None:
    space = derive_space(a_profile(), probe_target(), only_backends=["onnxruntime"], batch_sizes=[1, 3, 4], threads=2)

    asked = {
        candidate.batch_size
        for candidate in (space.recipe("onnxruntime", "fp32", size) for size in space.batch_sizes)
        if "onnxruntime.split_batch" in values_of(candidate)
    }

    assert asked == {4}
    assert shares_of(space.recipe("onnxruntime", "fp32", 4)) == 1
