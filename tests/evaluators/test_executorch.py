"""executorch beyond the conformance suite: threads, what is left to its own kernels, and where Core ML's part runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluators.backends.executorch import _use_threads
from evaluators.bundle import read_manifest
from evaluators.diagnosis.executorch import Delegation, Operator, diagnosis
from evaluators.errors import UnsupportedError
from evaluators.quantizers.executorch import ExecuTorchFloat32
from evaluators.registry import backend
from evaluators.target import Target
from evaluators.testing import conformance
from evaluators.testing.conformance import Case


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("executorch")


def test_operators_that_no_library_took_are_counted_and_named() -> None:
    taken = Operator(kind="convolution", precision="int8", library="xnnpack")
    left = Operator(kind="gelu", precision="fp32", library="portable")

    told = diagnosis(Delegation(operators=(taken, taken, taken, left)), "static_int8")

    assert told.notes == ("1 of 4 operators (25%) are left to ExecuTorch's own kernels: gelu (1)",)
    assert (told.quantized_share, told.fallbacks) == (1.0, 0)


def test_a_pool_that_does_not_take_the_threads_asked_for_is_refused() -> None:
    deaf = SimpleNamespace(_unsafe_reset_threadpool=lambda threads: None, _threadpool_get_thread_count=lambda: 7)

    with pytest.raises(UnsupportedError, match="7 threads after 2 were asked for"):
        _use_threads(deaf, 2)


@pytest.mark.parametrize(
    ("system", "delegates"), [("Linux x86_64", ("xnnpack",)), ("Darwin arm64", ("xnnpack", "coreml"))]
)
def test_core_mls_delegate_is_offered_on_macos_only(system: str, delegates: tuple[str, ...], home: Path) -> None:
    target = Target(name="cpu-arm64", processor="", features=("neon",), cores=4, memory_bytes=2**33, system=system)
    profile = conformance.profile_of("evaluators.testing.workloads:images", home)

    (knob,) = ExecuTorchFloat32().parameters_for(profile, target)

    assert knob.values == delegates


def test_a_quantized_program_is_xnnpacks_and_runs_in_the_threads_asked_for(home: Path) -> None:
    pytest.importorskip("executorch")
    from executorch.extension.pybindings import portable_lib

    bundle = conformance.build(Case("executorch", "static_int8", "images", 4), home)
    manifest = read_manifest(bundle)
    runtime = manifest.candidate.runtime.model_copy(update={"threads": 2})
    asked = manifest.model_copy(update={"candidate": manifest.candidate.model_copy(update={"runtime": runtime})})
    runner = backend("executorch").load(bundle, asked)
    told = backend("executorch").diagnose(runner, bundle, asked, {})

    assert portable_lib._threadpool_get_thread_count() == 2
    assert told.quantized_share == 1.0
    assert told.fallbacks == 0
