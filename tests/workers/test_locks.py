"""One holder at a time, whoever asks; a dead holder holds nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from evaluators.errors import InfrastructureError
from workers.locks import CLEARING_SECONDS, device_lock, lock_folder


def give_up(_: float) -> bool:
    return True


def test_a_device_has_one_holder(tmp_path: Path) -> None:
    with device_lock("cpu", folder=tmp_path) as first:
        with device_lock("cpu", folder=tmp_path, wait=give_up) as second:
            assert (first, second) == (True, False)
        with device_lock("cuda:0", folder=tmp_path, wait=give_up) as other:
            assert other

    with device_lock("cpu", folder=tmp_path, wait=give_up) as later:
        assert later


def test_a_device_is_waited_for(tmp_path: Path) -> None:
    holder = hold(f"""
        from workers.locks import device_lock
        with device_lock("cpu", folder=Path({str(tmp_path)!r})):
            print("held", flush=True)
            time.sleep(0.5)
    """)
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        holder.wait()
        return False

    with device_lock("cpu", folder=tmp_path, wait=wait) as held:
        assert held and len(waits) == 1


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    holder = hold(f"""
        from workers.locks import device_lock
        with device_lock("cpu", folder=Path({str(tmp_path)!r})):
            print("held", flush=True)
            time.sleep(60)
    """)
    with device_lock("cpu", folder=tmp_path, wait=give_up) as held:
        assert not held

    holder.kill()
    holder.wait()

    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    with device_lock("cpu", folder=tmp_path, wait=give_up) as held:
        assert not held, "its job may still be there"
    with device_lock("cpu", folder=tmp_path, wait=wait) as held:
        assert held and waits == [CLEARING_SECONDS]
    with device_lock("cpu", folder=tmp_path, wait=give_up) as held:
        assert held, "the one after it left in order"


def test_the_folder_of_locks_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    folder = lock_folder()
    assert folder == lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700

    folder.chmod(0o777)
    with pytest.raises(InfrastructureError, match="only you may use"):
        lock_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(InfrastructureError, match="only you may use"):
        lock_folder()


def hold(script: str) -> subprocess.Popen[str]:
    """Start a process that prints ``held`` once it holds its lock, and wait for that."""
    source = "import time\nfrom pathlib import Path\n" + textwrap.dedent(script)
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process
