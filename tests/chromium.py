"""MLflow's own server and a headless Chromium, for tests, screenshots and timings of what people browse."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from search import browse
from search.cli.server import ENVIRONMENT

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""The names under which a browser is looked for; none is ever downloaded."""

_NO_ASSISTANT = "try { localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true') } catch (error) {}"
"""MLflow opens a panel over the page the first time it is visited."""


class NoBrowserError(RuntimeError):
    """There is no Chromium, or nothing that drives it."""


@contextmanager
def mlflow_ui(home: Path) -> Iterator[str]:
    """Serve a home's store as ``paretune ui`` does, and yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command, address = browse.ui_command(home, None, None, port, "127.0.0.1")
    with (home / "mlflow-ui.log").open("wb") as log, subprocess.Popen(
        command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT}, start_new_session=True
    ) as server:  # fmt: skip
        try:
            _wait(server, address)
            yield address
        finally:
            os.killpg(server.pid, 15)


@contextmanager
def chromium(width: int = 1500, height: int = 1000) -> Iterator[Any]:
    """Start a browser without a window and yield a context of its own, as playwright knows it.

    Raises:
        NoBrowserError: Chromium or playwright is missing.
    """
    program = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if program is None:
        raise NoBrowserError(f"none of {', '.join(CHROMIUM)} is installed")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowserError("playwright is not installed (pip install playwright)") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            context = browser.new_context(viewport={"width": width, "height": height})
            context.add_init_script(_NO_ASSISTANT)
            yield context
        finally:
            browser.close()


def rows(page: Any) -> Any:
    """Locate the rows of MLflow's table of runs."""
    return page.locator(".ag-center-cols-container .ag-row")


def _wait(server: subprocess.Popen[bytes], address: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}health", timeout=2):  # noqa: S310
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the MLflow server did not answer at {address} (exit code {server.poll()})")
