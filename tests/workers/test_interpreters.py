"""Backends in interpreters of their own: what is refused, what they see of this one, and that jobs there are held."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from jobs_for_tests import MEASURED, PROFILE, RUNNER, candidate

from evaluators.errors import UsageError
from evaluators.interpreter import Interpreter
from evaluators.jobs import AnyJob, CompareJob, JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob, Sourced
from evaluators.outcome import FailureKind, Outcome
from evaluators.target import probe_processor
from tests.interpreters import make_interpreter, programs_of
from workers.asking import NEEDED, Answer, why_not
from workers.deaths import outcome_of_death
from workers.interpreters import Interpreters, OwnInterpreter, open_interpreters
from workers.ledger import Ledger
from workers.sandbox import Sandbox, SandboxResult
from workers.settings import TrialSettings
from workers.supervisor import Supervisor

HERE = (*sys.version_info[:2], 0)
NEWER = {"onnxruntime": "99.1"}
SETTINGS = TrialSettings(profile=PROFILE, trial_timeout_s=20.0)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_interpreter(tmp_path_factory.mktemp("environment"), versions=NEWER)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("code")


@pytest.fixture(scope="module")
def opened(python: Path, code: Path) -> Interpreters:
    return open_interpreters({"onnxruntime": str(python)}, code)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(python=(2, 7, 18)), "Python 2.7.18"),
        (Answer(python=HERE, installed=("0.0.1", "1.0")), "pip uninstall paretune"),
        (Answer(python=HERE, installed=("1.0",), missing=("scipy", "torch")), "pip install scipy torch"),
        (Answer(python=HERE, installed=("1.0",), error="ImportError: libcudart"), "libcudart"),
    ],
)
def test_an_interpreter_that_cannot_be_used_is_refused_with_what_to_do(answer: Answer, said: str) -> None:
    assert said in str(why_not(answer, "/opt/bin/python", "1.0"))
    assert why_not(Answer(python=HERE, installed=("1.0",)), "/opt/bin/python", "1.0") is None


def test_what_is_no_interpreter_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("print()")
    for python, said in (
        (tmp_path / "nothing", "does not exist"), (tmp_path, "is no file"), (text, "cannot be executed"),
        (Path("bin/python"), "absolute"), (Path("/bin/true"), "does not answer as a Python does"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"onnxruntime.*{said}"):
            open_interpreters({"onnxruntime": str(python)}, tmp_path / "code")
    with pytest.raises(UsageError, match="no backend 'onnx'; known are"):
        open_interpreters({"onnx": sys.executable}, tmp_path / "code")


def test_an_interpreter_without_packages_or_with_another_paretune_is_refused(tmp_path: Path) -> None:
    bare = make_interpreter(tmp_path / "bare", shared=False)
    other = make_interpreter(tmp_path / "other", shared=False, versions={"paretune": "0.0.1"})

    with pytest.raises(UsageError, match=f"lacks {', '.join(NEEDED)}.*{bare} -m pip install"):
        open_interpreters({"onnxruntime": str(bare)}, tmp_path / "code")
    with pytest.raises(UsageError, match=r"paretune 0\.0\.1 is installed there"):
        open_interpreters({"onnxruntime": str(other)}, tmp_path / "code")


def test_a_runtime_that_is_not_there_is_refused(python: Path, code: Path) -> None:
    beside = open_interpreters({"tensorrt": str(python)}, code)

    with pytest.raises(UsageError, match=f"tensorrt.*{python}, which has no torch-tensorrt"):
        beside.refuse_empty()


def test_a_backend_is_described_as_its_interpreter_sees_it(opened: Interpreters, python: Path) -> None:
    opened.refuse_empty()

    found = {report.name: report for report in opened.capabilities_of(probe_processor()).backends}
    assert found["onnxruntime"].usable and found["onnxruntime"].python == str(python)
    assert found["onnxruntime"].versions["onnxruntime"] == NEWER["onnxruntime"]
    assert found["eager"].python is None
    target = opened.capabilities_of(probe_processor()).target_of("onnxruntime")
    assert target.version_of("onnxruntime") == NEWER["onnxruntime"]
    assert target.fingerprint == probe_processor().fingerprint, "the hardware is the same"


def test_our_code_comes_along_and_nothing_else_that_is_installed_here(opened: Interpreters, python: Path) -> None:
    alone = subprocess.run([python, "-P", "-c", "import evaluators"], env={}, capture_output=True, check=False)
    assert alone.returncode != 0, "the interpreter has no paretune of its own"

    interpreter = opened.of("onnxruntime")
    assert interpreter is not None
    there = [name.name for entry in interpreter.path for name in Path(entry).glob("*.dist-info")]
    assert there == [f"paretune-{metadata.version('paretune')}.dist-info"]
    code = Path(interpreter.path[0])
    assert sorted(each.name for each in code.iterdir() if each.suffix != ".dist-info") == ["evaluators", "workers"]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(runner=RUNNER) as sandbox:
        yield sandbox


@pytest.fixture
def do(sandbox: Sandbox, opened: Interpreters, tmp_path: Path) -> Callable[..., SandboxResult]:
    def do(what: str, timeout_s: float = 20.0) -> SandboxResult:
        job = ProfileJob(workload=what, home=str(tmp_path))
        return sandbox.run(job, tmp_path / "job", timeout_s=timeout_s, memory_limit_bytes=2**30,
                           interpreter=opened.of("onnxruntime"))  # fmt: skip

    return do


def test_a_job_runs_in_the_interpreter(do: Callable[..., SandboxResult], python: Path, tmp_path: Path) -> None:
    ended = do("")

    facts = json.loads((tmp_path / "facts.json").read_text())
    assert ended.result is not None and facts["python"] == str(python)
    assert facts["threads"] == 1
    assert not [entry for entry in facts["env"]["PYTHONPATH"].split(os.pathsep) if entry.startswith(sys.prefix)]
    assert sys.platform != "linux" or programs_of(python) == ["workers.forkserver"], "one server, and no other program"


@pytest.mark.parametrize(
    ("what", "timeout_s", "kind"),
    [("segfault", 20.0, FailureKind.CRASHED), ("killed", 20.0, FailureKind.KILLED),
     ("family", 1.0, FailureKind.TIMED_OUT)],
)  # fmt: skip
def test_a_job_that_dies_there_is_an_outcome(
    do: Callable[..., SandboxResult], tmp_path: Path, what: str, timeout_s: float, kind: FailureKind
) -> None:
    ended = do(what, timeout_s)

    failure = outcome_of_death(ended).failure
    assert failure is not None and failure.kind == kind
    if what == "family":
        assert not [pid for pid in json.loads((tmp_path / "family.json").read_text()) if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory holds on Linux only")
def test_a_job_that_eats_all_memory_there_is_an_outcome(do: Callable[..., SandboxResult]) -> None:
    ended = do("hog")

    outcome = ended.result and ended.result.outcome
    assert outcome is not None and outcome.failure is not None
    assert outcome.failure.kind == FailureKind.OUT_OF_MEMORY


class Recorder(Sandbox):
    """Answers every job at once, and remembers which interpreter each was for."""

    def __init__(self, answers: dict[str, JobResult]) -> None:
        super().__init__(mode="spawn")
        self.answers, self.asked = answers, list[tuple[AnyJob, Interpreter | None]]()

    def run(self, job: AnyJob, folder: Path, *, timeout_s: float, **options: object) -> SandboxResult:
        self.asked.append((job, options.get("interpreter")))  # type: ignore[arg-type]
        return SandboxResult(
            result=self.answers[job.job], exit_code=0, signal=None, timed_out=False, cancelled=False, stage="act",
            seconds=1.0, log_tail="", peak_rss_bytes=1, timeout_s=timeout_s, memory_limit_bytes=None,
        )  # fmt: skip


ELSEWHERE = Interpreter(python="/opt/bin/python", path=("/code",))
SOURCED = Sourced(weights="w", versions={"torch": "2"}, stage_seconds={"read": 1.0, "prune": 2.0})
PREPARED = Prepared(bundle="b", stage_seconds={"read": 0.5, "build": 1.0})


def _supervised(ledger: Ledger, tmp_path: Path, recorder: Recorder, backend: str) -> tuple[Outcome | None, Supervisor]:
    own = Interpreters({backend: OwnInterpreter(interpreter=ELSEWHERE, reports={})})
    supervisor = Supervisor(ledger, recorder, tmp_path, owner="me", locks=tmp_path, interpreters=own)
    search = ledger.create_search("w.py:workload", {})
    trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
    return supervisor.run(trial.id, 1, SETTINGS), supervisor


def test_the_source_is_made_here_and_the_rest_of_a_trial_there(ledger: Ledger, tmp_path: Path) -> None:
    answers = {"source": JobResult(sourced=SOURCED), "prepare": JobResult(prepared=PREPARED),
               "measure": JobResult(outcome=MEASURED)}  # fmt: skip
    recorder = Recorder(answers)

    outcome, _ = _supervised(ledger, tmp_path, recorder, "eager")

    assert [(job.job, where) for job, where in recorder.asked] == [
        ("source", None), ("prepare", ELSEWHERE), ("measure", ELSEWHERE),
    ]  # fmt: skip
    prepare, measure = recorder.asked[1][0], recorder.asked[2][0]
    assert isinstance(prepare, PrepareJob) and prepare.sourced == SOURCED
    assert isinstance(measure, MeasureJob) and measure.yardstick is not None
    assert measure.yardstick.versions == SOURCED.versions
    assert measure.yardstick.interpreter.python == sys.executable, "the original runs where it always does"
    assert outcome is not None and outcome.stage_seconds == {"read": 1.5, "prune": 2.0, "build": 1.0}


def test_other_backends_stay_here(ledger: Ledger, tmp_path: Path) -> None:
    recorder = Recorder({"prepare": JobResult(prepared=PREPARED), "measure": JobResult(outcome=MEASURED)})

    _, supervisor = _supervised(ledger, tmp_path, recorder, "openvino")
    supervisor.compare("s", ["b"], SETTINGS, 1.0) if recorder.answers.setdefault("compare", JobResult()) else None

    assert [(job.job, where) for job, where in recorder.asked] == [
        ("prepare", None), ("measure", None), ("compare", None),
    ]  # fmt: skip
    compare = recorder.asked[-1][0]
    assert isinstance(compare, CompareJob) and compare.interpreters == {"openvino": ELSEWHERE}


def test_a_source_that_fails_ends_the_trial(ledger: Ledger, tmp_path: Path) -> None:
    recorder = Recorder({"source": JobResult()})

    outcome, _ = _supervised(ledger, tmp_path, recorder, "eager")

    assert outcome is not None and outcome.kind == "failed" and outcome.reproduce
    assert [job.job for job, _ in recorder.asked] == ["source"]


def test_nothing_of_this_interpreter_is_in_the_environment_of_another() -> None:
    given = {"PYTHONHOME": "/here", "PYTHONPATH": "/mine", "HOME": "/home/me"}

    assert ELSEWHERE.environment(given) == {"PYTHONPATH": "/code", "HOME": "/home/me"}
    assert os.environ.get("PATH") == ELSEWHERE.environment().get("PATH")
