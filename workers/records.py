"""What the ledger hands out: searches, trials and messages as frozen values, never as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import model_validator

from evaluators.candidate import Candidate
from evaluators.capabilities import Capabilities
from evaluators.frozen import Frozen
from evaluators.jobs import Comparison
from evaluators.outcome import Failure, Outcome
from evaluators.profile import WorkloadProfile

SearchStatus = Literal["running", "finished", "interrupted", "cancelled"]
TrialSource = Literal["baseline", "recipe", "sampled", "neighbour", "reference"]
TrialState = Literal["QUEUED", "RUNNING", "DONE"]
EndedHow = Literal["finished", "lost", "released"]


class SearchRecord(Frozen):
    """One request and how far it has come.

    ``elapsed_s`` is summed over all sessions that worked on it; ``finals`` is the comparison of the best at its end.
    """

    id: str
    name: str
    workload: str
    spec: dict[str, Any]
    profile: WorkloadProfile | None
    status: SearchStatus
    created_at: float
    elapsed_s: float
    result: dict[str, Any] | None
    finals: dict[str, Any] | None
    cancel_requested: bool


class TrialRecord(Frozen):
    """One candidate under test in one search; ``id`` is ``search id/number``.

    A trial that is measured again keeps its earlier outcome until the new one replaces it.
    Times are seconds since the epoch; ``answered_by`` is the id of the trial whose outcome answers this one;
    ``view_id`` is what the place where people browse calls it.
    """

    id: str
    search_id: str
    number: int
    candidate: Candidate
    candidate_hash: str
    evaluation_key: str
    source: TrialSource
    state: TrialState
    attempt: int
    owner: str | None
    lease_until: float | None
    gates: bool
    outcome: Outcome | None
    answered_by: str | None
    view_id: str | None
    created_at: float
    finished_at: float | None

    @model_validator(mode="after")
    def _done_has_an_outcome(self) -> TrialRecord:
        if self.state == "DONE" and self.outcome is None:
            raise ValueError(f"trial {self.id} is DONE without an outcome")
        if (self.state == "RUNNING") != (self.owner is not None and self.lease_until is not None):
            raise ValueError(f"trial {self.id} is {self.state} with owner {self.owner!r}; only RUNNING trials have one")
        return self


class AttemptRecord(Frozen):
    """One try at running a trial; ``ended_how`` is None while it runs."""

    trial_id: str
    attempt: int
    owner: str
    started_at: float
    ended_at: float | None
    ended_how: EndedHow | None


class WorkerRecord(Frozen):
    """Somebody who runs trials of one target; ``ended_at`` is None while nobody has seen it leave."""

    id: str
    name: str
    host: str
    pid: int
    target: str
    capabilities: Capabilities
    device: str
    started_at: float
    last_seen: float
    ended_at: float | None


class CoordinationRecord(Frozen):
    """Who coordinates a search, and what it may ask of a fleet.

    ``submitted_at`` is None where the search runs in the process that started it; ``owner`` is None while nobody has
    it. A search of twice the ``weight`` gets twice the devices, one of higher ``priority`` comes first, and no more
    than ``most_unfinished`` of its trials are queued or running at a time.
    """

    search_id: str
    submitted_at: float | None
    weight: float
    priority: int
    most_unfinished: int | None
    owner: str | None
    held_since: float | None
    lease_until: float | None


class ComparisonRecord(Frozen):
    """Bundles of a search that a worker of ``target`` is asked to time in turn, for at most ``seconds``.

    ``answer`` is None until it is DONE, and after it was taken back.
    """

    id: str
    search_id: str
    target: str
    bundles: tuple[str, ...]
    seconds: float
    state: TrialState
    attempt: int
    owner: str | None
    lease_until: float | None
    answer: Comparison | Failure | None
    created_at: float


class OutboxRecord(Frozen):
    """News for the projections (MLflow): this trial, or this search, has changed; read it from the ledger."""

    id: int
    search_id: str
    trial_number: int | None
    kind: Literal["search", "trial"]
    created_at: float
    delivered_at: float | None


def search_record(row: Mapping[Any, Any]) -> SearchRecord:
    """Parse a row of ``searches``."""
    values = dict(row)
    for name in ("spec", "profile", "result", "finals"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return SearchRecord.model_validate(values)


def trial_record(row: Mapping[Any, Any]) -> TrialRecord:
    """Parse a row of ``trials``."""
    values = {name: value for name, value in row.items() if name not in ("outcome_kind", "target")}
    for name in ("candidate", "outcome"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return TrialRecord.model_validate(values)


def comparison_record(row: Mapping[Any, Any]) -> ComparisonRecord:
    """Parse a row of ``comparisons``."""
    answer = None if row["answer"] is None else json.loads(row["answer"])
    return ComparisonRecord.model_validate({**row, "bundles": json.loads(row["bundles"]), "answer": answer})


def worker_record(row: Mapping[Any, Any]) -> WorkerRecord:
    """Parse a row of ``workers``."""
    return WorkerRecord.model_validate({**row, "capabilities": _capabilities(row["capabilities"])})


@lru_cache(maxsize=1024)
def _capabilities(text: str) -> Capabilities:
    """Parse what a worker told of its machine; who is there is asked several times a second."""
    return Capabilities.model_validate_json(text)
