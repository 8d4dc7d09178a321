"""Delivery: what MLflow missed of searches that have ended; sessions that are over cannot deliver it themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from search.fleet import Fleet, targets_of
from search.projection import Projection, ended_news
from search.result import SearchResult
from search.spec import SearchSpec
from search.view import trial_results
from workers.lease import SearchLease
from workers.ledger import Ledger


def deliver_ended(ledger: Ledger, home: Path, search_id: str, note: Callable[[str], None]) -> bool:
    """Tell MLflow of the trials, the end and the models of an ended search that it has not heard of.

    Returns whether nothing is left to tell; twice is no harm.

    Raises:
        SearchTakenError: somebody has the search at the moment.
    """
    with SearchLease(ledger, search_id), Projection(home, note) as projection:
        record = ledger.search(search_id)
        if record.status == "running":
            return False
        told = [item.id for item in ended_news(ledger, search_id)]
        if record.profile is not None and record.result is not None:
            spec = SearchSpec.model_validate(record.spec)
            trials = trial_results(ledger.trials(search_id), spec)
            known = Fleet(ledger, home, targets_of(spec), {}).capabilities()
            targets = tuple(capabilities.target for capabilities in known.values())
            projection.start(record, spec, record.profile, targets)
            if not projection.deliver(ledger, search_id, trials, float("inf")):
                return False
            if not projection.finish(SearchResult.model_validate(record.result), trials, record.profile, targets):
                return False
        ledger.delivered(told)
        return True
