"""Workers of the ledger: who is there to run trials, on which target, and when each was last seen."""

from __future__ import annotations

from collections.abc import Callable, Collection

from sqlalchemy import delete, insert, select, update

from evaluators.capabilities import Capabilities
from workers.database import Database, batched, lasting
from workers.records import WorkerRecord, worker_record
from workers.settings import TrialSettings
from workers.tables import trial_settings, workers

BEAT_SECONDS = 3.0
"""How often a worker says that it is there."""

SILENT_SECONDS = 20.0
"""After so long without a word a worker counts as gone."""


class Workers:
    """The workers of all searches, and what they need to know of a search to run its trials."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def register_worker(
        self, worker_id: str, name: str, host: str, pid: int, capabilities: Capabilities, device: str
    ) -> None:
        """Announce a worker; one that was there before under the same id is replaced."""
        now = self._clock()
        values = {
            "id": worker_id, "name": name, "host": host, "pid": pid, "target": capabilities.target.name,
            "capabilities": capabilities.model_dump_json(), "device": device, "started_at": now, "last_seen": now,
        }  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(delete(workers).where(workers.c.id == worker_id))
            connection.execute(insert(workers).values(values))

    @lasting
    def worker_seen(self, worker_id: str) -> bool:
        """Note that a worker is there; False if it is not registered."""
        change = update(workers).where(workers.c.id == worker_id).values(last_seen=self._clock(), ended_at=None)
        with self._database.writing() as connection:
            return connection.execute(change).rowcount == 1

    @lasting
    def end_worker(self, worker_id: str) -> None:
        """Note that a worker has left; what it told of its machine is kept."""
        now = self._clock()
        change = update(workers).where(workers.c.id == worker_id).values(last_seen=now, ended_at=now)
        with self._database.writing() as connection:
            connection.execute(change)

    @lasting
    def workers(self, ids: Collection[str] | None = None) -> tuple[WorkerRecord, ...]:
        """Return every worker that ever was, the one seen last first; only those with these ``ids`` if told."""
        every = select(workers).order_by(workers.c.last_seen.desc(), workers.c.id)
        named = batched(sorted(ids)) if ids is not None else ()
        wanted = [every] if ids is None else [every.where(workers.c.id.in_(some)) for some in named]
        with self._database.reading() as connection:
            return tuple(worker_record(row) for each in wanted for row in connection.execute(each).mappings())

    @lasting
    def heard_of(self) -> tuple[tuple[str, float], ...]:
        """Return id and start of the workers that have not left and were heard of lately: cheap, however many."""
        lately = workers.c.last_seen >= self._clock() - SILENT_SECONDS
        wanted = select(workers.c.id, workers.c.started_at).where(workers.c.ended_at.is_(None), lately)
        with self._database.reading() as connection:
            return tuple((row[0], row[1]) for row in connection.execute(wanted.order_by(workers.c.id)))

    def present(self, worker: WorkerRecord, is_alive: Callable[[str], bool]) -> bool:
        """Whether a worker is there: it has not left, was heard of lately, and its process is not known to be dead."""
        lately = self._clock() - worker.last_seen <= SILENT_SECONDS
        return worker.ended_at is None and lately and is_alive(worker.id)

    @lasting
    def keep_settings(self, search_id: str, settings: TrialSettings) -> None:
        """Tell workers how the trials of a search are run; what was told before is replaced."""
        with self._database.writing() as connection:
            connection.execute(delete(trial_settings).where(trial_settings.c.search_id == search_id))
            values = {"search_id": search_id, "settings": settings.model_dump_json()}
            connection.execute(insert(trial_settings).values(values))

    @lasting
    def settings_of(self, search_id: str) -> TrialSettings | None:
        """Return how the trials of a search are run, or None where nobody has told."""
        wanted = select(trial_settings.c.settings).where(trial_settings.c.search_id == search_id)
        with self._database.reading() as connection:
            text = connection.scalar(wanted)
        return None if text is None else TrialSettings.model_validate_json(text)
