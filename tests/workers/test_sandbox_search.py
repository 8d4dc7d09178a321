"""What becomes of jobs when the search itself is killed or interrupted: they are gone before it is missed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from jobs_for_tests import RUNNER, until, wait_for_file

MODES = ["fork", "spawn"] if sys.platform == "linux" else ["spawn"]


@pytest.mark.parametrize("mode", MODES)
def test_jobs_die_with_the_search(tmp_path: Path, mode: str) -> None:
    script = f"""
        from pathlib import Path
        from evaluators.jobs import ProfileJob
        from workers.sandbox import Sandbox
        with Sandbox(runner={RUNNER!r}, mode={mode!r}) as sandbox:
            home = Path({str(tmp_path)!r})
            sandbox.run(ProfileJob(workload="hang", home=str(home)), home / "job", timeout_s=60)
    """
    search = _python(script)
    wait_for_file(tmp_path / "pid")
    family = psutil.Process(search.pid).children(recursive=True)
    assert int((tmp_path / "pid").read_text()) in {process.pid for process in family}

    search.kill()
    search.wait()

    until(lambda: not [process for process in family if _lives(process)], seconds=10.0)


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_kills_the_job_and_goes_on_to_the_caller(tmp_path: Path, mode: str) -> None:
    script = f"""
        from pathlib import Path
        from evaluators.jobs import ProfileJob
        from workers.sandbox import Sandbox
        home = Path({str(tmp_path)!r})
        with Sandbox(runner={RUNNER!r}, mode={mode!r}) as sandbox:
            try:
                sandbox.run(ProfileJob(workload="hang", home=str(home)), home / "job", timeout_s=60)
            except KeyboardInterrupt:
                print("interrupted", Path("/proc", (home / "pid").read_text()).exists(), flush=True)
    """
    search = _python(script)
    wait_for_file(tmp_path / "pid")

    search.send_signal(signal.SIGINT)

    said, _ = search.communicate(timeout=10)
    assert said.split() == [b"interrupted", b"False"]
    assert search.returncode == 0


def _python(script: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
