"""``python -m evaluators``: exit codes, JSON alone on standard output, and what is said to wrong input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluators import __main__ as command
from evaluators import registry
from evaluators.candidate import Candidate
from evaluators.errors import InfrastructureError, UsageError
from evaluators.jobs import JobResult
from evaluators.outcome import Outcome
from evaluators.profile import WorkloadProfile
from evaluators.target import probe_target, probe_targets
from evaluators.testing.suite import Result
from tests.conftest import ROOT, TINY

Captured = pytest.CaptureFixture[str]
NOISY = """
import os
from tests.tiny import *
import tests.tiny as tiny
from evaluators import Workload

def build_model():
    print("a model is built", flush=True)
    os.system("echo from a child")
    return tiny.build_model()

workload = Workload(name="noisy", model=build_model, calibration=tiny.workload.calibration,
                    validation=tiny.workload.validation, metric=tiny.top1)
broken = Workload(name="broken", model=lambda: None, calibration=tiny.workload.calibration,
                  validation=tiny.workload.validation)
"""


def run(capfd: Captured, *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    code = command.main(arguments)
    said = capfd.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("home"))


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    path = tmp_path / "noisy.py"
    path.write_text(NOISY)
    return path


def test_a_candidate_is_measured_and_its_outcome_is_all_of_standard_output(
    noisy: Path, home: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)
    candidate = json.dumps({"target": probe_target().name, "backend": "eager", "batch_size": 2})

    code, out, err = run(capfd, "measure", f"{noisy}:workload", candidate, "--percentile", "p50", "--home", home)

    assert code == 0, err
    outcome = Outcome.model_validate_json(out)
    assert (outcome.kind, outcome.failure) == ("measured", None)
    assert outcome.evidence.latency is not None and outcome.evidence.accuracy is not None
    assert "a model is built" in err and "from a child" in err
    assert {"prune", "build", "latency", "accuracy"} <= set(err.split())


def test_a_profile_is_json(home: str, capfd: Captured) -> None:
    code, out, err = run(capfd, "profile", TINY, "--home", home)

    assert code == 0, err
    profile = WorkloadProfile.model_validate_json(out)
    assert profile.layers["Conv2d"] == 2


def test_a_candidate_that_fails_is_an_outcome_with_code_4(home: str, capfd: Captured) -> None:
    candidate = json.dumps({"target": probe_target().name, "backend": "eager", "quantization": {"scheme": "int2"}})

    code, out, _ = run(capfd, "measure", TINY, candidate, "--home", home)

    outcome = Outcome.model_validate_json(out)
    assert (code, outcome.kind) == (4, "failed")
    assert outcome.failure is not None and outcome.failure.kind == "unsupported"
    assert "eager has no scheme 'int2'" in outcome.failure.reason


@pytest.mark.parametrize("what", ["measure", "profile"])
def test_a_workload_that_breaks_its_contract_is_bad_usage(
    what: str, noisy: Path, home: str, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)

    code, out, err = run(capfd, what, f"{noisy}:broken", "--home", home)

    assert (code, out) == (2, "")
    assert "error: " in err and "model" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("measure", "nowhere.py:workload"), "nowhere.py' does not exist"),
        (("measure", TINY, "nowhere.json"), "'nowhere.json' is neither a JSON file nor JSON"),
        (("measure", TINY, '{"backend": "eager"'), "error: "),
        (("measure", TINY, '{"backend": "eager"}'), "target"),
        (("measure", TINY, '{"target": "CPU", "backend": "eager", "bach_size": 4}'), "bach_size"),
        (("measure", TINY, '{"target": "CPU", "backend": "quick"}'), "there is no backend 'quick'; known are"),
        (("measure", TINY, '{"target": "cuda-sm999", "backend": "eager"}'), "has no target 'cuda-sm999'; it has"),
        (("measure", TINY, '{"target": "CPU", "backend": "tensorrt"}'), "cannot be used: tensorrt serves cuda"),
        (("conformance", "--backend", "quick"), "there is no backend 'quick'; known are"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_without_a_traceback(
    arguments: tuple[str, ...], says: str, home: str, capfd: Captured
) -> None:
    given = tuple(each.replace('"CPU"', json.dumps(probe_target().name)) for each in arguments)

    code, out, err = run(capfd, *given, *(("--home", home) if given[0] == "measure" else ()))

    assert (code, out) == (2, "")
    assert says in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [(), ("measure",), ("mesure", TINY), ("measure", TINY, "--percentile", "p42"), ("targets", "--fast")]
)
def test_flags_that_nobody_knows_are_bad_usage(arguments: tuple[str, ...], capfd: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(arguments)

    assert ended.value.code == 2
    assert capfd.readouterr().err.startswith("usage: python -m evaluators")


def test_an_error_around_the_candidate_keeps_its_own_code(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs() -> Any:
        raise InfrastructureError("NVML gave no answer within 20 s: the NVIDIA driver hangs")

    monkeypatch.setattr(command, "probe_targets", hangs)

    assert run(capfd, "targets") == (3, "", "error: NVML gave no answer within 20 s: the NVIDIA driver hangs\n")


def test_without_torch_the_reason_is_said_before_anything_is_tried(
    capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)

    for arguments in (("measure", TINY), ("profile", TINY), ("conformance",)):
        code, out, err = run(capfd, *arguments)
        assert (code, out) == (2, "")
        assert err == f"error: torch is not installed for {sys.executable}: pip install torch\n"


def test_targets_are_told_by_a_program_that_imports_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}

    ended = subprocess.run([sys.executable, "-m", "evaluators", "targets"], env=environment, cwd=tmp_path,
                           capture_output=True, text=True, timeout=60, check=False)  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    (first, *_) = told["targets"]
    assert (told["schema_version"], first["name"]) == (1, probe_target(probe_targets()[0].name).name)
    assert first["fingerprint"] == probe_targets()[0].fingerprint
    assert set(first["backends"]) == set(registry.backends())
    assert first["backends"]["tensorrt"].startswith("tensorrt serves cuda")


def test_without_a_candidate_it_is_eager_as_written_on_this_machine() -> None:
    assert command.read_candidate(None) == Candidate(target=probe_target().name, backend="eager")


def test_a_candidate_is_read_from_a_file_as_from_text(tmp_path: Path) -> None:
    text = '{"target": "cuda-sm90", "backend": "eager", "runtime": {"cuda_graphs": true}}'
    (tmp_path / "candidate.json").write_text(text)

    assert command.read_candidate(str(tmp_path / "candidate.json")) == command.read_candidate(f"  {text}")
    with pytest.raises(UsageError, match="neither a JSON file nor JSON"):
        command.read_candidate(str(tmp_path))


@pytest.mark.parametrize(("status", "code"), [("passed", 0), ("unavailable", 0), ("failed", 4)])
def test_the_suite_ends_in_4_only_where_a_case_failed(
    status: str, code: int, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def run_suite(backend: str | None, home: Path) -> list[Result]:
        asked.append(backend)
        assert home.is_dir()
        print("a library says something")
        known = {"backend": "eager", "scheme": "fp32", "seconds": 0.126}
        return [Result(case="eager-fp32", check="parity", status="passed", **known),
                Result(case="eager-fp32", check="threads", status=status, reason="because", **known)]  # fmt: skip

    monkeypatch.setattr("evaluators.testing.suite.run_suite", run_suite)

    found, out, _ = run(capfd, "conformance", "--backend", "eager", "--json")
    assert (found, asked) == (code, ["eager"])
    rows = json.loads(out)["results"]
    assert rows[1] == {"case": "eager-fp32 threads", "status": status, "reason": "because", "seconds": 0.13}

    found, out, err = run(capfd, "conformance")
    assert (found, asked[1]) == (code, None)
    lines = out.splitlines()
    assert lines[1].split() == [status, "eager-fp32", "threads", "0.13", "s", "because"]
    assert f"1 {status}" in lines[2] or (status == "passed" and lines[2] == "2 passed, 0 failed, 0 unavailable")
    assert "a library says something" in err and "a library" not in out


def test_a_profile_job_that_dies_inside_is_an_outcome(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """``run`` answers with a failed outcome instead of a profile; it goes out as what it is."""
    failed = Outcome.model_validate(
        {"kind": "failed", "failure": {"kind": "error", "stage": "profile", "reason": "KeyError: 'x'", "details": ""},
         "stage_seconds": {}}
    )  # fmt: skip
    monkeypatch.setattr(command, "run", lambda job, show: JobResult(outcome=failed))

    code, out, _ = run(capfd, "measure", TINY)
    assert (code, json.loads(out)["failure"]["reason"]) == (4, "KeyError: 'x'")

    code, out, err = run(capfd, "profile", TINY)
    assert (code, out) == (2, "") and "error: KeyError: 'x'" in err
