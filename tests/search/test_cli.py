"""The command line: exit codes, what reaches stdout, and one sentence per mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import search
from evaluators.errors import InfrastructureError, IntegrityError, UsageError
from evaluators.legality import Pair
from evaluators.profile import Problem
from evaluators.sensitivity import LayerNoise, ranked
from evaluators.space import Exclusion
from evaluators.target import Accelerator
from search.api import (
    BackendReport,
    CheckReport,
    DimensionReport,
    DoctorReport,
    SpaceReport,
    StatusReport,
    TargetReport,
    WorkerReport,
)
from search.cli import main
from search.cli.app import app
from search.cli.output import console
from search.sensitivity import SensitivityReport
from search.spec import SearchSpec
from tests.search.factories import a_profile, a_result, a_search, a_spec, a_target, a_trial
from workers.keeping import Keeping
from workers.lease import Cancellation

COMMANDS = {
    "doctor", "check", "space", "sensitivity", "search", "status", "trials", "explain", "front", "report", "resume",
    "cancel", "reproduce", "ui", "worker", "coordinator", "beat", "fleet",
    "promote", "rollback", "history", "export", "diff", "reconcile", "revalidate", "loadtest",
}  # fmt: skip
WORKLOAD = "model.py:workload"


class Spoken:
    """What one run of the command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.out)
        return value


Run = Callable[..., Spoken]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PARETUNE_") or name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, its stdout and stderr read from the file descriptors."""

    def command(*arguments: str) -> Spoken:
        code = main(arguments)
        return Spoken(code, *capfd.readouterr())

    return command


def a_status(status: str) -> StatusReport:
    """Return how far a search is."""
    result, spec = a_search(12)[0], a_spec()
    return StatusReport(
        search=result.search, name=result.name, workload=WORKLOAD, spec=spec, status=status, created_at=1.8e9,
        elapsed_s=75.0, trials_wanted=spec.trials, result=result,
    )  # fmt: skip


class FakeApi:
    """Answers as ``search.api`` does, without running anything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer: Any = a_search(12)[0]
        self.state = a_status("running")
        self.noise: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(*arguments: Any, **named: Any) -> Any:
            self.asked.append((name, *arguments, *named.values()))
            if name in ("status", "cancel") and not isinstance(self.answer, BaseException):
                return self.state
            self.noise()
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        return ask


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    fake = FakeApi()
    monkeypatch.setitem(sys.modules, "search.api", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(search, "api", fake, raising=False)
    (tmp_path / ".paretune").mkdir()
    yield fake


def one_error_line(spoken: Spoken) -> str:
    """Return the only line of stderr, which must be an error without a traceback."""
    (line,) = spoken.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in spoken.err + spoken.out
    return line


def test_help_lists_every_command_and_the_exit_codes(run: Run) -> None:
    spoken = run("--help")

    assert spoken.code == 0
    assert set(re.findall(r"^│ (\w+) ", spoken.out, re.M)) >= COMMANDS
    assert all(code in " ".join(spoken.out.split()) for code in ("130 interrupted", "5 integrity", "4 nothing"))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_shows_a_worked_example(run: Run, command: str) -> None:
    spoken = run(command, "--help")

    assert spoken.code == 0
    assert f"paretune {command}" in spoken.out.split("╰")[-1]
    assert {"--json", "--home"} <= set(re.findall(r"--[a-z-]+", spoken.out))


def test_help_states_the_defaults_of_the_spec(run: Run) -> None:
    text = " ".join(run("search", "--help").out.replace("│", " ").split())

    spec = SearchSpec(workload=WORKLOAD)
    seconds = f"{spec.trial_timeout_s:g}s"
    for stated in (spec.trials, seconds, spec.percentile, spec.confidence, spec.max_accuracy_drop, spec.seed):
        assert f"(default {stated})" in text


def test_every_setting_of_the_spec_has_a_flag(run: Run) -> None:
    offered = set(re.findall(r"--[a-z-]+", run("search", "--help").out))

    unit = re.compile(r"_(per_s|ms|s|bytes)$")
    wanted = {"--" + unit.sub("", field).replace("_", "-") for field in SearchSpec.model_fields if field != "workload"}
    assert wanted <= offered


def test_no_command_shows_the_help_and_is_a_usage_error(run: Run) -> None:
    spoken = run()

    assert spoken.code == 2
    assert "Usage: paretune" in spoken.out


def test_version(run: Run) -> None:
    assert re.fullmatch(r"paretune \d+\.\d+\.\d+\S*\n", run("--version").out)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from search.cli import main; codes = [main(['--help']), main(['search', '--help'])];"
        "heavy = {'torch', 'numpy', 'mlflow', 'optuna', 'sqlalchemy', 'yaml', 'plotly', 'evaluators'};"
        "print(codes, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[0, 0] []"


def test_search_passes_every_flag_on(run: Run, api: FakeApi, tmp_path: Path) -> None:
    given = (
        "search model.py:workload --latency-budget 5ms --max-accuracy-drop 0.02 --min-accuracy 0.9 --max-size 1MB "
        "--target cpu-arm64=0.12 --backend eager,onnxruntime --backend openvino --batch-size 8,1 --threads 2 "
        "--objective latency --percentile p99 --confidence 99% "
        "--trials 7 --timeout 10m --trial-timeout 1m --memory-limit 4GB --seed 3 --name night --json"
    )
    run(*shlex.split(given))

    (called, spec, home, *_) = api.asked[-1]
    assert (called, home) == ("run_spec", tmp_path / ".paretune")
    assert spec == SearchSpec(
        workload=WORKLOAD, latency_budget_ms=5, max_accuracy_drop=0.02, min_accuracy=0.9, max_size_bytes=10**6,
        target=("cpu-arm64=0.12",), backend=("eager", "onnxruntime", "openvino"), batch_size=(1, 8), threads=2,
        objective="latency", percentile="p99", confidence=0.99, trials=7, timeout_s=600, trial_timeout_s=60,
        memory_limit_bytes=4 * 10**9, seed=3, name="night",
    )  # fmt: skip


def test_flag_beats_environment_beats_file(
    run: Run, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "search.yaml").write_text(f"workload: {WORKLOAD}\ntrials: 1\nseed: 1\nlatency-budget: 1ms\n")
    monkeypatch.setenv("PARETUNE_TRIALS", "2")
    monkeypatch.setenv("PARETUNE_SEED", "2")
    monkeypatch.setenv("PARETUNE_HOME", str(tmp_path / "elsewhere"))

    run("search", "--config", "search.yaml", "--trials", "3")

    ((_, spec, home, *_),) = api.asked
    assert (spec.workload, spec.trials, spec.seed, spec.latency_budget_ms) == (WORKLOAD, 3, 2, 1.0)
    assert home == tmp_path / "elsewhere"


@pytest.mark.parametrize(("status", "code"), [("feasible", 0), ("infeasible", 4), ("interrupted", 130)])
@pytest.mark.parametrize("command", [("search", WORKLOAD), ("resume", "latest")])
def test_the_exit_code_says_how_the_search_ended(
    run: Run, api: FakeApi, command: tuple[str, ...], status: str, code: int
) -> None:
    spec = a_spec(latency_budget_ms=1e-4) if status == "infeasible" else a_spec()
    api.answer = a_search(12, spec=spec, interrupted=status == "interrupted")[0]

    spoken = run(*command)

    assert spoken.code == code
    assert "Traceback" not in spoken.err
    assert api.answer.name in spoken.out
    assert ("paretune resume" in spoken.out) == (status == "interrupted")


def test_json_is_the_result_and_nothing_else_reaches_stdout(run: Run, api: FakeApi) -> None:
    def noise() -> None:
        print("from Python")
        os.write(1, b"from a C library\n")
        subprocess.run(["sh", "-c", "echo from a child"], check=True)

    api.noise = noise
    spoken = run("search", WORKLOAD, "--json")

    assert spoken.json == api.answer.to_json()
    assert spoken.json["schema_version"] == 1
    assert spoken.out.count("\n") == 1
    assert all(f"from {source}" in spoken.err for source in ("Python", "a C library", "a child"))


def test_stdout_works_again_after_json(run: Run, api: FakeApi) -> None:
    run("search", WORKLOAD, "--json")

    assert api.answer.name in run("search", WORKLOAD).out


def test_no_terminal_no_colours(run: Run, api: FakeApi) -> None:
    spoken = run("search", WORKLOAD)

    assert "\x1b" not in spoken.out + spoken.err


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console(terminal).is_terminal

    monkeypatch.setenv(variable, value)

    assert not console(terminal).is_terminal


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no search is called 'x'; there is night"), 2, "no search is called 'x'; there is night"),
        (InfrastructureError("the disk is full"), 3, "the disk is full"),
        (IntegrityError("model.onnx is not what was measured"), 5, "model.onnx is not what was measured"),
        (PermissionError(13, "Permission denied", "/x"), 3, "Permission denied: '/x'"),
        (KeyError("lost"), 1, "internal: KeyError: 'lost'"),
        (SystemExit(0), 1, "the code that it ran called sys.exit"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (UsageError("two\nlines [red]and markup[/red]"), 2, "two lines [red]and markup[/red]"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(
    run: Run, api: FakeApi, error: BaseException, code: int, said: str
) -> None:
    api.answer = error

    spoken = run("trials", "x")
    as_json = run("trials", "x", "--json")

    assert said in one_error_line(spoken)
    assert spoken.out == ""
    assert (spoken.code, as_json.code) == (code, code)
    assert as_json.json["schema_version"] == 1
    assert as_json.json["error"]["code"] == code
    assert said in as_json.json["error"]["message"]
    one_error_line(as_json)


def test_an_internal_error_leaves_its_traceback_in_a_file(
    run: Run, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    api.answer = KeyError("lost")

    line = one_error_line(run("trials", "x"))

    (log,) = tmp_path.glob("paretune-error-*.txt")
    assert str(log) in line
    assert "KeyError: 'lost'" in log.read_text()


def test_debug_shows_the_traceback(run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_DEBUG", "1")
    api.answer = UsageError("wrong")

    spoken = run("trials", "x")

    assert spoken.code == 2
    assert "Traceback" in spoken.err
    assert spoken.err.splitlines()[-1] == "error: wrong"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("search", "no workload was given"),
        ("search model.py:w --latency-budget '5 parsecs'", "'5 parsecs' is not a duration"),
        ("search model.py:w --max-size huge", "'huge' is not a size"),
        ("search model.py:w --max-accuracy-drop 2", "max_accuracy_drop: must be less than or equal to 1"),
        ("search model.py:w --max-accuracy-drop little", "'--max-accuracy-drop'"),
        ("search model.py:w --trials -3", "trials: must be greater than or equal to 1 (got -3)"),
        ("search model.py:w --trials many", "'--trials'"),
        ("search model.py:w --timeout -1s", "timeout: '-1s' is not a duration"),
        ("search model.py:w --objective speed", "must be 'latency', 'throughput', 'size' or 'cost' (got 'speed')"),
        ("search model.py:w --percentile p80", "must be 'p50', 'p90', 'p95' or 'p99'"),
        ("search model.py:w --batch-size 1,0", "batch size 0 must lie between"),
        ("search model.py:w --batch-size 1,,2", "--batch-size '1,,2' has an empty part"),
        ("search model.py:w --backend ''", "--backend '' has an empty part"),
        ("search model.py:w --threads 0", "threads: must be greater than"),
        ("search model.py:w --name 'a b'", "name: use letters, digits"),
        ("search model.py:w --name ''", "name: use letters, digits"),
        ("search model.py:w --config none.yaml", "config file none.yaml cannot be read"),
        ("search model.py:w --config typo.yaml", "did you mean 'latency_budget'?"),
        ("search model.py:w --home file.txt", "file.txt is a file; name another with --home"),
        ("search model.py:w --home file.txt/below", "file.txt is a file; name another with --home"),
        ("search model.py:w --bugdet 5ms", "--bugdet"),
        ("search model.py:w other.py:w", "other.py:w"),
        ("searhc model.py:w", "searhc"),
        ("space model.py:w --latency-budget 5ms", "--latency-budget"),
        ("check model.py:w --backend eager", "--backend"),
        ("trials", "Missing argument 'SEARCH'"),
        ("trials latest --config typo.yaml", "config file typo.yaml has no setting"),
        ("doctor --config typo.yaml", "config file typo.yaml has no setting"),
        ("status --home nowhere", "nowhere does not exist, so it holds no search"),
        ("front latest --home nowhere", "nowhere does not exist"),
        ("reproduce latest", "Missing argument 'TRIAL'"),
        ("reproduce latest seven", "TRIAL"),
        ("reproduce latest -- -1", "TRIAL"),
        ("ui --home empty", "has no MLflow store"),
        ("ui --port 70000", "--port"),
    ],
)
def test_a_mistake_is_named_and_nothing_runs(run: Run, api: FakeApi, tmp_path: Path, arguments: str, said: str) -> None:
    (tmp_path / "typo.yaml").write_text("latency_bugdet: 5ms\n")
    (tmp_path / "file.txt").write_text("")
    (tmp_path / "empty").mkdir()

    spoken = run(*shlex.split(arguments))

    assert spoken.code == 2
    assert said in one_error_line(spoken)
    assert spoken.out == ""
    assert api.asked == []


def test_a_usage_error_is_json_too(run: Run) -> None:
    spoken = run("search", WORKLOAD, "--bugdet", "5ms", "--json")

    assert spoken.code == 2
    assert spoken.json["error"]["code"] == 2
    assert "--bugdet" in spoken.json["error"]["message"]


def test_a_mistyped_variable_is_refused(run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_LATENCY_BUGDET", "5ms")

    spoken = run("search", WORKLOAD)

    assert spoken.code == 2
    assert "did you mean PARETUNE_LATENCY_BUDGET" in one_error_line(spoken)


def test_looking_at_a_search_makes_no_folder(run: Run, api: FakeApi, tmp_path: Path) -> None:
    run("status", "--home", "nowhere")
    run("search", WORKLOAD, "--dry-run", "--bugdet")

    assert not (tmp_path / "nowhere").exists()


def test_trials_and_front(run: Run, api: FakeApi) -> None:
    result, trials = a_search(12)
    api.answer = trials

    listed = run("trials", "night", "--json").json
    shown = run("trials", "night")
    api.answer = result
    front = run("front", "night", "--json").json

    assert listed == {"schema_version": 1, "search": api.state.search, "trials": [trial.to_json() for trial in trials]}
    assert shown.code == 0
    assert trials[0].candidate.backend in shown.out
    assert front == {
        "schema_version": 1,
        "search": result.search,
        "front": [trial.to_json() for trial in result.front],
    }
    assert run("front", "night").code == 0


@pytest.mark.parametrize(("facts", "code"), [({}, 0), ({"p50": 40.0}, 4), ({"accuracy": 0.914}, 4)])
def test_reproduce_answers_with_the_trial(run: Run, api: FakeApi, facts: dict[str, Any], code: int) -> None:
    api.answer = a_trial(7, **facts)

    spoken = run("reproduce", "night", "7", "--json")

    assert spoken.code == code
    assert spoken.json["trial"] == api.answer.to_json()
    assert run("reproduce", "night", "7").code == code


def test_cancel_and_report(run: Run, api: FakeApi, tmp_path: Path) -> None:
    api.answer = tmp_path / "front.html"

    cancelled = run("cancel", "night", "--json").json
    assert (cancelled["search"], cancelled["cancel_requested"]) == (api.state.search, True)
    assert "paretune resume fashion-cpu" in run("cancel", "night").out
    assert run("report", "night", "-o", "front.html").out.strip() == str(tmp_path / "front.html")
    assert ("report", "night", tmp_path / ".paretune", Path("front.html")) in api.asked


@pytest.mark.parametrize("status", ["running", "finished", "interrupted", "cancelled"])
def test_status_says_how_far_a_search_is(run: Run, api: FakeApi, status: str) -> None:
    api.state, api.answer = a_status(status), [a_status(status), a_status("finished")]

    one, all_ = run("status", "night"), run("status")

    assert (one.code, all_.code) == (0, 0)
    assert status in one.out
    assert "1 min 15 s" in one.out
    assert f"{api.state.result.trials.total}/40" in one.out
    assert all_.out.count("fashion-cpu") == 2
    assert run("status", "night", "--json").json == {"schema_version": 1, **api.state.to_json()}
    assert len(run("status", "--json").json["searches"]) == 2


def test_status_shows_what_is_undecided_and_what_other_programs_spoiled(run: Run, api: FakeApi) -> None:
    result = a_result([a_trial(5, accuracy=0.914, polluted=3)])
    api.state = a_status("running").model_copy(update={"result": result})
    api.answer = [api.state]

    one, all_ = run("status", "night").out, run("status").out

    assert "1/40, 1 measured, 1 undecided" in one
    assert re.search(r"undecided #5 +0\.90 pp drop \(0\.70 to 1\.10 pp\), limit 1\.00 pp", one)
    assert "3 blocks repeated, 0 trials never clean" in " ".join(one.split())
    assert "– (1 undecided)" in all_


def test_status_of_an_empty_home(run: Run, api: FakeApi) -> None:
    api.answer = []

    assert run("status").out == "no search yet\n"
    assert run("status", "--json").json == {"schema_version": 1, "searches": []}


@pytest.mark.parametrize(("usable", "code"), [(True, 0), (False, 3)])
def test_doctor_says_what_to_install(run: Run, api: FakeApi, usable: bool, code: int) -> None:
    reason = "openvino is not installed: pip install 'paretune[openvino]'"
    backends = (
        BackendReport(name="eager", usable=usable, reason="broken", versions={"torch": "2.13.0"}, schemes=("fp32",)),
        BackendReport(name="openvino", usable=False, reason=reason, versions={}, schemes=()),
    )
    api.answer = DoctorReport(target=a_target(), fingerprint=a_target().fingerprint, backends=backends)

    spoken = run("doctor")

    assert spoken.code == code
    assert "pip install 'paretune[openvino]'" in " ".join(spoken.out.split())
    assert a_target().name in spoken.out
    assert run("doctor", "--json").json["backends"][1]["reason"] == reason


def test_doctor_shows_every_target_and_what_could_not_be_asked(run: Run, api: FakeApi) -> None:
    board = Accelerator(name="NVIDIA L4", architecture="sm89", memory_bytes=24 * 10**9, driver="550.90.07")
    gpu = a_target().model_copy(update={"name": "cuda-sm89", "features": ("fp8",), "accelerator": board})
    eager = BackendReport(name="eager", usable=True, reason=None, versions={"torch": "2.13.0"}, schemes=("fp32",))
    reports = tuple(
        TargetReport(target=target, fingerprint=target.fingerprint, devices=devices, default=devices[0] != "cuda:0",
                     backends=(eager,))
        for target, devices in ((a_target(), ("cpu",)), (gpu, ("cuda:0",)))
    )  # fmt: skip
    api.answer = DoctorReport(
        target=a_target(), fingerprint=a_target().fingerprint, backends=(eager,), why="torch here is not built for it",
        targets=reports, problems=("nvidia-smi gave no answer within 20 s",), versions={"numpy": "2.4.6"},
        absent={"npu": "this machine shows no NPU of Intel's"},
    )  # fmt: skip

    said = " ".join(run("doctor").out.split())

    assert f"{a_target().name} (torch here is not built for it)" in said
    assert "cuda-sm89 (named with --target) accelerator NVIDIA L4 (sm89) its memory 24.0 GB driver 550.90.07" in said
    assert "problem: nvidia-smi gave no answer within 20 s" in said
    assert "numpy 2.4.6" in said
    assert "no npu-… target: this machine shows no NPU of Intel's" in said
    told = run("doctor", "--json").json
    assert [each["target"]["name"] for each in told["targets"]] == [a_target().name, "cuda-sm89"]


def test_a_worker_is_told_what_to_serve_and_tells_what_it_did(run: Run, api: FakeApi, tmp_path: Path) -> None:
    api.answer = WorkerReport(worker="left", target="cuda-sm90", device="cuda:1", finished=3)

    spoken = run("worker", "--home", str(tmp_path), "--target", "cuda-sm90", "--device", "cuda:1", "--name", "left",
                 "--no-uploads", "--cache-max-size", "1GB")  # fmt: skip

    ((asked, home, *settings),) = api.asked
    assert (asked, home, settings[:3]) == ("work", tmp_path, ["cuda-sm90", "cuda:1", "left"])
    assert Keeping(cache_limit_bytes=10**9, uploads=False) in settings
    assert (spoken.code, spoken.out) == (0, "left has finished 3 trials and left\n")


@pytest.mark.parametrize(
    ("signals", "drained", "aborted"),
    [((), False, False), ((signal.SIGTERM,), True, False), ((signal.SIGTERM,) * 2, True, True),
     ((signal.SIGINT,), True, True), ((signal.SIGQUIT,), True, True)],
)  # fmt: skip
def test_a_worker_drains_when_it_is_terminated_and_stops_at_the_second_time(
    run: Run, api: FakeApi, signals: tuple[signal.Signals, ...], drained: bool, aborted: bool
) -> None:
    api.noise = lambda: [signal.raise_signal(each) for each in signals] and None
    api.answer = WorkerReport(worker="left", target="cpu-avx2", device="cpu", finished=0)

    spoken = run("worker")

    drain, abort = (asked for asked in api.asked[0] if isinstance(asked, Cancellation))
    assert (spoken.code, drain.is_set, abort.is_set) == (0, drained, aborted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_check_lists_the_problems(run: Run, api: FakeApi) -> None:
    problem = Problem(level="error", what="the model is in training mode", advice="call model.eval()")
    api.answer = CheckReport(profile=None, problems=(problem,), ok=False, seconds=1.2)
    broken = run("check", WORKLOAD)
    api.answer = CheckReport(profile=a_profile(), problems=(), ok=True, seconds=1.2)
    sound = run("check", WORKLOAD)

    assert broken.code == 2
    assert "error: the model is in training mode\n  call model.eval()" in broken.out
    assert sound.code == 0
    assert "0.9230" in sound.out


SPACE = SpaceReport(
    workload="model",
    target="cpu",
    size=1234,
    dimensions=(DimensionReport(name="batch_size", values=(1, 8), default=8, description="examples per call"),),
    exclusions=(Exclusion(what="openvino", why="not installed"),),
)


def test_space_shows_dimensions_and_exclusions(run: Run, api: FakeApi) -> None:
    api.answer = SPACE

    spoken = run("space", WORKLOAD, "--batch-size", "1,8")

    assert spoken.code == 0
    assert re.search(
        r"1,234 candidates[\s\S]+batch_size +8, 1\s+examples per call[\s\S]+openvino +not installed", spoken.out
    )
    assert api.asked[0][-1].batch_size == (1, 8)


def test_sensitivity_shows_the_worst_layer_first(run: Run, api: FakeApi) -> None:
    layers = ranked([LayerNoise("head", "Linear", 650, 0.0), LayerNoise("stem", "Conv2d", 1440, 1e-3)])
    api.answer = SensitivityReport(workload="model", layers=layers, seconds=1.2)

    shown, told = run("sensitivity", WORKLOAD), run("sensitivity", WORKLOAD, "--json")

    assert (shown.code, told.code) == (0, 0)
    assert re.search(r"stem +Conv2d +1,440 +30\.0 dB +100\.0%\s+head +Linear +650 +no noise +0\.0%", shown.out)
    assert list(told.json) == ["schema_version", "workload", "layers", "seconds"]
    assert told.json["layers"][0] == {
        "name": "stem", "kind": "Conv2d", "parameters": 1440, "sqnr_db": 30.0, "noise_share": 1.0
    }  # fmt: skip


def test_space_explains_every_pair_of_technique_and_backend(run: Run, api: FakeApi) -> None:
    common: dict[str, Any] = {"target": "cpu", "kind": "scheme"}
    api.answer = SPACE.model_copy(update={"pairs": (
        Pair(**common, backend="eager", technique="fp32", legal=True),
        Pair(**common, backend="eager", technique="bf16", legal=False, why="cpu has no bf16"),
        Pair(**common, backend="coreml", technique="fp32", legal=False, why="not a Mac"),
        Pair(target="cpu", kind="pruning", backend="eager", technique="channel", legal=True),
        Pair(target="cpu", kind="option", backend="eager", technique="graphs", values=(True,), legal=False, why="no"),
    )})  # fmt: skip

    spoken = run("space", WORKLOAD, "--explain")
    told = run("space", WORKLOAD, "--explain", "--json").json

    assert spoken.code == 0
    lines = [" ".join(line.split()) for line in spoken.out.splitlines()]
    assert {"fp32 eager", "bf16 – cpu has no bf16", "channel pruning eager", "coreml not a Mac"} <= set(lines)
    assert "eager graphs True left out: no" in lines
    assert [pair["legal"] for pair in told["pairs"]] == [True, False, False, True, False]
    assert api.asked[0][-1] is True


def test_dry_run_shows_the_plan_and_runs_nothing(run: Run, api: FakeApi) -> None:
    api.answer = SPACE

    shown = run("search", WORKLOAD, "--latency-budget", "5ms", "--dry-run")
    plan = run("search", WORKLOAD, "--latency-budget", "5ms", "--dry-run", "--json").json

    assert shown.code == 0
    stated = ("1,234 candidates", "5 ms", "60 trials", "at 95 % confidence", "nothing was run")
    assert all(text in shown.out for text in stated)
    assert plan["constraints"] == [{"metric": "latency_p95_ms", "max": 5.0}, {"metric": "accuracy_drop", "max": 0.01}]
    assert (plan["dry_run"], plan["space"]["size"]) == (True, 1234)
    assert {call[0] for call in api.asked} == {"space"}


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    script = "import sys; from search.cli import main; sys.exit(main(['search', '--help']))"
    reading, writing = os.pipe()
    os.close(reading)

    with os.fdopen(writing, "w") as closed:
        done = subprocess.run([sys.executable, "-c", script], stdout=closed, stderr=subprocess.PIPE, text=True)

    assert done.stderr == ""


def test_a_json_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-c", "from search.cli import main; import sys; sys.exit(main())", "nothing", "--json"]
    reading, writing = os.pipe()
    os.close(reading)

    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_app_names_its_commands_once() -> None:
    names = [command.callback.__name__ for command in app.registered_commands if command.callback]

    assert sorted(names) == sorted(COMMANDS)


@pytest.fixture
def store(tmp_path: Path, api: FakeApi) -> Path:
    """A home with an MLflow store, and an API that would serve it with Python's own server."""
    home = tmp_path / ".paretune"
    (home / "mlflow.db").write_bytes(b"")
    api.answer = ([sys.executable, "-m", "http.server", "5000"], "http://127.0.0.1:5000/#/experiments/1")
    return home


def test_ui_print_starts_nothing(run: Run, api: FakeApi, store: Path) -> None:
    spoken = run("ui", "night", "--print")
    command, url = spoken.out.splitlines()

    assert (spoken.code, shlex.split(command), url) == (0, *api.answer)
    assert run("ui", "night", "--print", "--json").json == {
        "schema_version": 1, "command": api.answer[0], "url": url, "view": None,
    }  # fmt: skip


def test_ui_says_which_port_is_taken(run: Run, store: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spoken = run("ui", "--port", str(port))

    assert spoken.code == 2
    assert f"port {port} on 127.0.0.1 is taken" in one_error_line(spoken)


def test_ui_refuses_an_address_of_another_machine(run: Run, store: Path) -> None:
    assert "cannot listen on --host '192.0.2.1'" in one_error_line(run("ui", "--host", "192.0.2.1"))


def test_ui_reports_a_server_that_ends_by_itself(run: Run, api: FakeApi, store: Path) -> None:
    api.answer = ([sys.executable, "-c", "raise SystemExit('no such table')"], "http://127.0.0.1:5000")

    spoken = run("ui", "--port", str(free_port()))

    assert spoken.code == 3
    assert "ended by itself with code 1" in spoken.err
    assert (store / "mlflow-ui.log").read_text().strip() == "no such table"
    assert run("ui", "--port", str(free_port()), "--json").json["url"] == "http://127.0.0.1:5000"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ui_serves_until_interrupted_and_ends_its_server(store: Path, how: signal.Signals) -> None:
    port = free_port()
    server = f"[sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1']"
    script = (
        "import sys, types, search; search.api = sys.modules['search.api'] = types.SimpleNamespace("
        f"ui_command=lambda *_: ({server}, 'http://127.0.0.1:{port}/#/experiments/1'));"
        f"from search.cli import main; sys.exit(main(['ui', 'night', '--home', '{store}', '--port', '{port}']))"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ui:
        assert ui.stdout is not None and ui.stderr is not None
        assert ui.stdout.readline() == f"http://127.0.0.1:{port}/#/experiments/1\n"
        assert "Ctrl-C" in ui.stderr.readline()
        ui.send_signal(how)
        _, err = ui.communicate(timeout=20)

    assert (ui.returncode, err) == (0, "")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_config_file_may_name_the_home_below_flag_and_environment(
    run: Run, api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("file", "env", "flag"):
        (tmp_path / name).mkdir()
    (tmp_path / "team.yaml").write_text("home: file\nlatency_budget: 5ms\n")
    api.answer = []

    run("trials", "night", "--config", "team.yaml")
    from_file = api.asked[-1][-1]
    monkeypatch.setenv("PARETUNE_HOME", "env")
    run("trials", "night", "--config", "team.yaml")
    from_environment = api.asked[-1][-1]
    run("trials", "night", "--config", "team.yaml", "--home", "flag")

    assert [from_file.name, from_environment.name, api.asked[-1][-1].name] == ["file", "env", "flag"]
