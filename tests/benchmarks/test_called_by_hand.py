"""The runtimes are called by hand with the settings that the backends make: else the comparison is of two settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.called_by_hand import BY_HAND, onnxruntime_session, openvino_settings
from evaluators import registry
from evaluators.backends.openvino_settings import settings_of
from evaluators.bundle import Manifest, read_manifest
from evaluators.target import probe_processor
from evaluators.testing import conformance
from evaluators.testing.cases import answer, build, load
from evaluators.testing.conformance import Case


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("by-hand")


def _bundle(backend: str, home: Path, threads: int = 1, workload: str = "images") -> tuple[Path, Manifest]:
    if (why := registry.backend(backend).unusable(probe_processor())) is not None:
        pytest.skip(why)
    bundle = build(Case(backend, "fp32", workload, 4, threads=threads), home)
    return bundle, read_manifest(bundle)


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_is_told_by_hand_what_the_backend_tells_it(threads: int, home: Path) -> None:
    _, manifest = _bundle("openvino", home, threads)

    assert openvino_settings(manifest) == settings_of(manifest.candidate)


@pytest.mark.parametrize("threads", [1, 2])
def test_onnxruntime_is_opened_by_hand_as_the_backend_opens_it(threads: int, home: Path) -> None:
    bundle, manifest = _bundle("onnxruntime", home, threads)
    runner: Any = load(bundle)

    ours, by_hand = (_facts(session) for session in (runner._session, onnxruntime_session(bundle, manifest)))

    assert ours == by_hand
    assert ours["intra_op_num_threads"] == str(threads)


def _facts(session: Any) -> dict[str, str]:
    options = session.get_session_options()
    names = [name for name in dir(options) if not name.startswith("_") and not callable(getattr(options, name))]
    return {"providers": str(session.get_providers())} | {name: str(getattr(options, name)) for name in names}


@pytest.mark.parametrize("backend", sorted(set(BY_HAND) - {"inductor"}))  # a package more would be compiled for seconds
@pytest.mark.parametrize("workload", ["images", "texts"])
def test_what_is_called_by_hand_answers_as_the_bundle_does(backend: str, workload: str, home: Path) -> None:
    bundle, manifest = _bundle(backend, home, workload=workload)
    (batch, *_) = conformance.inputs_of(Case(backend, "fp32", workload, 4))

    run, (prepared,) = BY_HAND[backend](bundle, manifest, [batch])
    found = run(prepared)

    wanted = answer(load(bundle), batch)
    arrays = _arrays(found, manifest)
    assert len(arrays) == len(wanted)
    for mine, theirs in zip(arrays, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def _arrays(found: Any, manifest: Manifest) -> list[np.ndarray]:
    if hasattr(found, "to_dict"):  # openvino's
        return [np.array(found[name]) for name in manifest.outputs.names]
    if isinstance(found, dict):
        found = [found[name] for name in manifest.outputs.names]
    items = found if isinstance(found, list | tuple) else [found]
    return [np.asarray(item) for item in items]
