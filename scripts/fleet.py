"""A whole fleet on this machine, by one command: PostgreSQL, Redis, MLflow, a coordinator and workers.

``python -m scripts.fleet --home .fleet --workers 1``, or ``make fleet``, until Ctrl-C. Servers come from pip packages
or the PATH, and listen on the loopback only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from scripts.servers import Mlflow, PostgreSql, Redis
from search.fleet_api import fleet_of
from search.tracking_server import use_tracking_server

LEAVE_SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fleet until somebody stops it, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--home", type=Path, default=Path(".fleet"), help="folder that all parts share")
    parser.add_argument("--workers", type=int, default=1, help="workers of this machine's default target")
    told = parser.parse_args(arguments)
    home = told.home.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        servers = home / "servers"
        database = stack.enter_context(PostgreSql(servers / "postgresql", durable=True))
        broker = stack.enter_context(Redis(servers / "redis", durable=True))
        runs = stack.enter_context(Mlflow(servers / "mlflow", database=database.database("mlflow")))
        # Before anybody is told: a command on a home that has joined nothing yet would give it a ledger of its own.
        fleet_of(home, database.url)
        use_tracking_server(home, runs.url)
        places = ["--home", str(home), "--broker", broker.url]
        parts = [stack.enter_context(part("coordinator", *places))]
        for number in range(told.workers):
            parts.append(stack.enter_context(part("worker", *places, "--name", f"worker-{number}")))
        print(f"the fleet is up; in another shell:\n  paretune search WORKLOAD --home {home}\n"
              f"  paretune fleet --home {home}\nits runs are at {runs.url}", flush=True)  # fmt: skip
        try:
            while all(each.poll() is None for each in parts):
                time.sleep(0.5)
        except KeyboardInterrupt:
            return 0
    print("a part of the fleet has ended by itself; its last words are above", file=sys.stderr)
    return 3


@contextmanager
def part(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of paretune for the block; it is asked to leave at its end."""
    command = [str(Path(sys.executable).with_name("paretune")), *arguments]
    with subprocess.Popen(command, env=os.environ, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(LEAVE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    sys.exit(main())
