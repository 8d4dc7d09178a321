"""Deployments: promote, roll back, compare and watch what a home has deployed, as functions that return values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.errors import UsageError
from search.home import home_folder
from search.promotion.names import ModelAlias, parse_model_alias, parse_model_name
from search.promotion.registry import Registry
from workers.certifying import Certifier
from workers.lease import registry_lock
from workers.ledger import Ledger
from workers.sandbox import Sandbox

if TYPE_CHECKING:
    from search.promotion.diffing import DiffReport
    from search.promotion.lifecycle import HistoryReport, ReconcileReport, RollbackReport
    from search.promotion.promoting import PromotionReport
    from search.promotion.revalidation import RevalidationReport


def promote(
    reference: str, name: str | ModelAlias, home: Path | str | None = None, *, trial: int | None = None,
    pick: str | None = None, needs_sealed: bool = True, say: Callable[[str], None] = lambda text: None,
    sandbox: Sandbox | None = None,
) -> PromotionReport:  # fmt: skip
    """Promote a trial of a search to ``NAME@ALIAS``: gates, registration, smoke test, alias.

    Without ``trial`` and ``pick`` it is the best of the search. ``reference`` may be another ``NAME@ALIAS``, whose
    version is then copied. A gate that refuses is told in the report, and the registry is as it was.

    Raises:
        UsageError: the name, the search or the trial cannot be used, or both ``trial`` and ``pick`` are given.
        InfeasibleError: nothing is feasible.
        IntegrityError: it passed the gates but cannot be served; the registry is as it was.
        InfrastructureError: the sandbox, the ledger or MLflow failed.
    """
    from search import api
    from search.promotion.picking import find_trial, pick_trial
    from search.promotion.promoting import promote_trial, promote_version

    wanted = name if isinstance(name, ModelAlias) else parse_model_alias(name)
    if trial is not None and pick is not None:
        raise UsageError(f"trial {trial} and pick {pick} name two trials; give one of them")
    home = home_folder(home)
    if "@" in reference:
        if trial is not None or pick is not None or not needs_sealed:
            raise UsageError(f"{reference} is one version; --trial, --pick and --without-test are for searches")
        source = parse_model_alias(reference)
        with _opened(home) as ledger, _sandbox(sandbox) as running:
            return promote_version(ledger, home, source, wanted, Certifier(running, home), say=say)
    result, trials = api.result(reference, home), api.trials(reference, home)
    chosen = pick_trial(result, pick) if trial is None else find_trial(trials, trial, result.name)
    # The ledger knows what a result that was stored earlier may not: the run in MLflow, and later measurements.
    chosen = find_trial(trials, chosen.number, result.name)
    with _opened(home) as ledger, _sandbox(sandbox) as running:
        record = ledger.search(reference)
        return promote_trial(ledger, home, record, result, chosen, wanted, Certifier(running, home),
                             needs_sealed=needs_sealed, say=say)  # fmt: skip


def rollback(name: str, home: Path) -> RollbackReport:
    """Take an alias back to the version before.

    Raises:
        UsageError: there is none.
        IntegrityError: the alias was moved by hand, or the version before is not what passed its gates.
    """
    from search.promotion.lifecycle import roll_back

    wanted = parse_model_alias(name)
    with _opened(home) as ledger, registry_lock(ledger, wanted.model):
        return roll_back(ledger, Registry(home), wanted)


def history(model: str, home: Path) -> HistoryReport:
    """Return what happened to the aliases of a registered model.

    Raises:
        UsageError: nothing of that name was promoted.
    """
    from search.promotion.lifecycle import history as history_of

    with _opened(home) as ledger:
        return history_of(ledger, Registry(home), parse_model_name(model))


def reconcile(home: Path, *, restore: bool = False) -> ReconcileReport:
    """Compare every alias with the ledger, take over what was moved by hand to a proven version, flag the rest."""
    from search.promotion.lifecycle import ReconcileReport, reconcile_model

    with _opened(home) as ledger:
        registry, found = Registry(home), []
        for model in sorted({step.model for step in ledger.alias_steps()}):
            with registry_lock(ledger, model):
                found += reconcile_model(ledger, registry, model, restore=restore)
    return ReconcileReport(aliases=tuple(found))


def revalidate(name: str, home: Path, *, sandbox: Sandbox | None = None) -> RevalidationReport:
    """Measure a deployed version again and say whether its certificate still holds.

    Raises:
        UsageError: there is no such alias.
        IntegrityError: it never passed a gate.
        InfrastructureError: the sandbox, the ledger or MLflow failed.
    """
    from search.promotion.revalidation import revalidate as revalidate_alias

    wanted = parse_model_alias(name)
    with _opened(home) as ledger, _sandbox(sandbox) as running:
        return revalidate_alias(ledger, Registry(home), wanted, Certifier(running, home))


def diff(a: str, b: str, home: Path, *, examples: int = 1000, trust: str | None = None) -> DiffReport:
    """Compare two bundles, each a folder, ``SEARCH/TRIAL`` or ``NAME@ALIAS``, on the same real data.

    Raises:
        UsageError: one of them is not there, or they cannot be compared.
        IntegrityError: one of them is not what was built.
    """
    from search.promotion.diffing import diff_bundles, find_side

    with _opened(home) as ledger, Sandbox() as sandbox:
        registry = Registry(home)
        one, other = (find_side(reference, ledger, registry, home) for reference in (a, b))
        return diff_bundles(one, other, ledger, sandbox, home, examples=examples, trust=trust)


@contextmanager
def _opened(home: Path) -> Iterator[Ledger]:
    with closing(Ledger.at(home)) as ledger:
        yield ledger


@contextmanager
def _sandbox(given: Sandbox | None) -> Iterator[Sandbox]:
    if given is not None:
        yield given
        return
    with Sandbox() as own:
        yield own
