"""``paretune bundle``: what it shows, what it refuses, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TINY, Finished, paretune
from tests.security import good


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    good.onnx_bundle(folder)
    good.sealed(folder, "onnxruntime")
    return folder


def test_a_bundle_is_inspected_and_verified_until_a_file_changes(bundle: Path) -> None:
    assert paretune("bundle", "inspect", str(bundle), "--json").json["manifest"]["schema_version"] == 2
    assert paretune("bundle", "verify", str(bundle), "--json").json["portable"] is True

    (bundle / "model.onnx").write_bytes(b"something else")
    refused = paretune("bundle", "verify", str(bundle), "--json")
    assert refused.code == 5 and "model.onnx altered" in refused.json["error"]["message"]
    assert paretune("bundle", "inspect", str(bundle)).code == 0, "it only reads what the bundle says of itself"


def test_a_bundle_runs_on_a_file_and_writes_what_came_out(bundle: Path, tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    np.savez(inputs, input=np.ones((3, 4), np.float32))
    ran = paretune("bundle", "run", str(bundle), "--input", str(inputs), "-o", str(outputs), "--json")

    assert ran.code == 0 and (ran.json["rows"], ran.json["calls"]) == (3, 3), ran.stderr
    np.testing.assert_allclose(np.load(outputs)["output"], np.full((3, 3), 4.0))


def test_inputs_of_another_shape_are_bad_usage(bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", input=np.ones((3, 5), np.float32))
    answer = paretune("bundle", "run", str(bundle), "--input", str(tmp_path / "in.npz"))
    assert answer.code == 2 and "(3, 5)" in answer.stderr


def test_a_trial_of_this_home_is_run_and_scored_by_its_number(tiny_search: Finished) -> None:
    # The baseline is eager: it runs the workload's code, which a bundle of one's own home may do.
    reference = f"tiny:{tiny_search.result['baseline']['number']}"
    ran = paretune("bundle", "run", reference, "--home", str(tiny_search.home), "--workload", TINY, "--json")
    assert ran.code == 0, ran.stderr
    assert ran.json["agreement"] == 1.0 and ran.json["score"] == ran.json["original_score"]


def test_a_stranger_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    good.eager_bundle(tmp_path)
    good.sealed(tmp_path, "eager")
    np.savez(tmp_path.parent / "in.npz", input=np.ones((1, 4), np.float32))
    answer = paretune("bundle", "run", str(tmp_path), "--input", str(tmp_path.parent / "in.npz"))
    assert answer.code == 5 and "runs code of its own" in answer.stderr
