"""Celery as the doorbell of a fleet: a task whose message is the id of a trial and nothing else, and one for errands.

A queue per target; results, times and retries are none of Celery's business. Every setting that differs from Celery's
own is here, with its reason.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

from evaluators.errors import InfrastructureError, UsageError

TASK = "paretune.trial"
REVALIDATE = "paretune.revalidate"
"""The errand of a worker that is due from time to time: name of what is deployed, and when it was last checked."""

KEY_PREFIX = "paretune:"

VISIBILITY_SECONDS = 3600.0
"""After so long a message that nobody acknowledged is delivered again. A trial may take longer: the second worker finds
it claimed, and acknowledges."""


SILENT_SECONDS = 25.0
"""After so long without an answer a connection to the broker is taken for dead, and made again."""


def make_app(
    broker_url: str, targets: Collection[str] = (), *, visibility_s: float = VISIBILITY_SECONDS,
    silent_s: float = SILENT_SECONDS,
) -> Any:  # fmt: skip
    """Return the Celery app of a fleet, with the queues of these ``targets``.

    Raises:
        UsageError: Celery is not installed, or the URL is of no kind of broker that carries messages to other machines.
    """
    try:
        from celery import Celery
        from kombu import Queue
    except ImportError as error:
        raise UsageError(f"a broker needs {error.name}, which is missing; pip install 'paretune[fleet]'") from error
    scheme = broker_url.partition("://")[0]
    if scheme not in ("redis", "rediss"):
        raise UsageError(
            f"broker URL of kind {scheme!r} cannot be used; paretune is tested with redis:// and rediss://"
        )
    app = Celery("paretune", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],  # nothing that a message says is ever executed
        task_ignore_result=True,
        result_backend=None,  # the ledger holds the outcomes
        # A message is held until its trial has ended, and one at a time: so none lies behind a trial in progress while
        # another worker of the target is idle.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_reject_on_worker_lost=False,  # the lease brings a lost trial back, once
        task_acks_on_failure_or_timeout=True,
        task_create_missing_queues=False,  # a target that nobody serves is an error, not an orphan list
        task_queues=[Queue(target) for target in sorted(targets)],
        broker_transport_options={
            "visibility_timeout": visibility_s, "global_keyprefix": KEY_PREFIX, "socket_timeout": silent_s + 5,
            "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": silent_s,
            "unacked_restore_interval": min(60.0, visibility_s / 4), "unacked_restore_throttle": 1,
            # Whoever rings goes on with its search where the broker is gone, and rings again later.
            "max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1,
        },
        visibility_timeout=visibility_s,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlasts any outage of the broker
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the trial goes on; its lease is in the ledger
        worker_detect_quorum_queues=False,  # RabbitMQ's
        worker_send_task_events=False,
    )  # fmt: skip
    return app


class CeleryBell:
    """Rings through the queue of a target.

    Args:
        app: as ``make_app`` returns it.
        targets: returns the targets that have ever had a worker.
    """

    def __init__(self, app: Any, targets: Callable[[], Collection[str]]) -> None:
        self._app, self._targets = app, targets

    def ring(self, target: str, trial_id: str) -> None:
        """Send the message of a trial.

        Raises:
            UsageError: the target never had a worker, so it has no queue.
            InfrastructureError: the broker cannot be reached.
        """
        from celery.exceptions import QueueNotFound
        from kombu import Queue
        from kombu.exceptions import OperationalError

        queues = self._app.amqp.queues
        if target not in queues and target in self._targets():
            queues.add(Queue(target))
        try:
            self._app.send_task(TASK, args=[trial_id], queue=target, retry=False, ignore_result=True)
        except QueueNotFound as error:
            raise UsageError(f"no worker has ever served {target!r}, so it has no queue; start one there") from error
        except (OperationalError, OSError) as error:
            raise InfrastructureError(f"the broker cannot be reached: {error}") from error


def hear(
    app: Any, target: str, handle: Callable[[str], None], until: Callable[[float], bool], *,
    revalidate: Callable[[str, float], None] | None = None,
) -> None:  # fmt: skip
    """Hear the queue of ``target`` and ``handle`` each trial's id, one at a time, until ``until(seconds)`` says stop.

    The trial in progress is seen through. Celery's signal handlers and its set-up of logging stay out of the process;
    its warnings go to stderr.

    Args:
        until: sleeps for at most so many seconds, and returns whether to stop.
        revalidate: does the errand; its messages are refused where nobody does.
    """
    from celery.worker import state

    @app.task(name=TASK, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
    def trial(trial_id: str) -> None:
        handle(trial_id)

    if revalidate is not None:

        @app.task(name=REVALIDATE, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
        def errand(name: str, done_at: float) -> None:
            revalidate(name, done_at)

    app.finalize()
    app.set_default()  # the threads of the pool look for the task in the default app
    _speak_up()
    state.should_stop = None
    controller = app.WorkController(
        hostname=f"{target}-{os.getpid()}@{socket.gethostname()}", queues=[target], pool="threads", concurrency=1,
        loglevel="ERROR", without_gossip=True, without_mingle=True, without_heartbeat=True,
    )  # fmt: skip
    over = threading.Event()

    def watch() -> None:
        while not over.is_set() and not until(1.0):
            pass
        state.should_stop = 0

    watcher = threading.Thread(target=watch, name="celery-stop", daemon=True)
    watcher.start()
    try:
        controller.start()
    finally:
        over.set()
        watcher.join()
        state.should_stop = None


def _speak_up() -> None:
    """Let Celery's warnings be seen, such as that the broker is gone; it says nothing where nobody sets up logging."""
    logger = logging.getLogger("celery")
    if not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s celery: %(message)s"))
        handler.setLevel(logging.WARNING)
        logger.addHandler(handler)
