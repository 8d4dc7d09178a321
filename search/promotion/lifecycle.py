"""What happens to an alias after its first promotion: history, rollback, and what was done to it by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from evaluators.errors import IntegrityError, UsageError
from evaluators.frozen import Frozen
from search.promotion.certificate import Certificate
from search.promotion.names import CHALLENGER, PREVIOUS, ModelAlias
from search.promotion.registry import Registry, digest_of
from workers.ledger import Ledger
from workers.promotions import AliasStep


class RollbackReport(Frozen):
    """Where an alias points after it was taken back; ``from_version`` is what it pointed at."""

    model: str
    alias: str
    version: int
    from_version: int
    uri: str
    digest: str


class VersionReport(Frozen):
    """A version as its history shows it; ``certificate`` is null where it never passed a gate."""

    version: int
    aliases: tuple[str, ...]
    certificate: Certificate | None


class HistoryReport(Frozen):
    """Everything that happened to the aliases of a model, the oldest first, and the versions that they point at."""

    model: str
    aliases: dict[str, int]
    steps: tuple[AliasStep, ...]
    versions: tuple[VersionReport, ...]


AliasStatus = Literal["agrees", "adopted", "removed", "restored", "unproven", "altered"]


class AliasReport(Frozen):
    """How an alias in the registry compares with what the ledger knows.

    Attributes:
        expected / found: the version that paretune left it at, and the one that it points at; null for none.
        status: ``agrees``; moved by hand and now ``adopted`` (to a version that passed), ``removed``, or ``restored``
            to where it was; or flagged: ``unproven`` (the version never passed a gate), ``altered`` (its files are not
            those that passed).
    """

    model: str
    alias: str
    expected: int | None
    found: int | None
    status: AliasStatus
    why: str = ""

    @property
    def flagged(self) -> bool:
        """Whether it serves something that never passed a gate."""
        return self.status in ("unproven", "altered")


class ReconcileReport(Frozen):
    """Every alias that paretune has ever moved, and those beside them."""

    aliases: tuple[AliasReport, ...]

    @property
    def exit_code(self) -> int:
        """0 where every alias points at what passed its gates, 5 otherwise."""
        return IntegrityError.exit_code if any(alias.flagged for alias in self.aliases) else 0


def stack_of(steps: Iterable[AliasStep]) -> list[int]:
    """Return the versions that an alias can be taken back through, the current one last."""
    stack: list[int] = []
    for step in steps:
        if step.event == "rolled_back":
            del stack[-1:]
        elif step.event in ("promoted", "adopted") and step.version is not None:
            stack.append(step.version)
    return stack


def left_at(steps: Sequence[AliasStep]) -> int | None:
    """Return the version at which an alias was left; None where it never was, or was found removed."""
    moves = [step for step in steps if step.event != "revalidated"]
    return moves[-1].version if moves else None


def roll_back(ledger: Ledger, registry: Registry, name: ModelAlias) -> RollbackReport:
    """Point an alias at the version before, as far back as there is one; the caller holds the lock.

    Raises:
        UsageError: there is no version before.
        IntegrityError: the alias was moved by hand, or the version before is not what passed its gates.
    """
    steps = ledger.alias_steps(name.model, name.alias)
    if not (stack := stack_of(steps)):
        raise UsageError(f"{name} was never promoted from this home; paretune history {name.model} shows what was")
    found = registry.aliases(name.model).get(name.alias)
    if found != (left := left_at(steps)):
        raise IntegrityError(f"{name} points at version {found or 'none'}, and paretune had left it at {left}: "
                             "it was moved by hand; run paretune reconcile first")  # fmt: skip
    if len(stack) < 2:
        raise UsageError(f"there is no version before {stack[-1]} of {name} to roll back to")
    *earlier, target, current = stack
    digest = proven_digest(ledger, registry, name.model, target)
    registry.point(name.model, name.alias, target)
    registry.point(name.model, name.previous, earlier[-1] if earlier else None)
    ledger.add_alias_step(name.model, name.alias, "rolled_back", target, current, f"back from version {current}")
    return RollbackReport(model=name.model, alias=name.alias, version=target, from_version=current, uri=name.uri,
                          digest=digest)  # fmt: skip


def proven_digest(ledger: Ledger, registry: Registry, model: str, version: int) -> str:
    """Return the digest of a version after checking that its files are those that passed the gates.

    Raises:
        IntegrityError: it never passed, or its files are others.
    """
    record = ledger.certificate(model, version)
    if record is None:
        raise IntegrityError(f"version {version} of {model} never passed a gate")
    if (found := digest_of(registry.version(model, version))) != record.digest:
        raise IntegrityError(f"version {version} of {model} has the digest {found[:16]}, and {record.digest[:16]} "
                             "passed the gates")  # fmt: skip
    return found


def history(ledger: Ledger, registry: Registry, model: str) -> HistoryReport:
    """Return what happened to the aliases of a model.

    Raises:
        UsageError: nothing of that name was ever promoted from this home.
    """
    steps = ledger.alias_steps(model)
    if not steps:
        known = sorted({step.model for step in ledger.alias_steps()})
        raise UsageError(f"no model {model!r} was promoted from this home; there are: {', '.join(known) or 'none'}")
    aliases = registry.aliases(model)
    versions = sorted({step.version for step in steps if step.version is not None} | set(aliases.values()))
    return HistoryReport(
        model=model, aliases=aliases, steps=steps,
        versions=tuple(
            VersionReport(version=version, certificate=certificate_of(ledger, model, version),
                          aliases=tuple(sorted(alias for alias, at in aliases.items() if at == version)))
            for version in versions
        ),
    )  # fmt: skip


def certificate_of(ledger: Ledger, model: str, version: int) -> Certificate | None:
    """Return the certificate of a version, None where it never passed the gates."""
    record = ledger.certificate(model, version)
    return None if record is None else Certificate.model_validate(record.certificate)


def reconcile_model(ledger: Ledger, registry: Registry, model: str, *, restore: bool) -> list[AliasReport]:
    """Compare the aliases of a model with the ledger; the caller holds the lock.

    One that was moved by hand to a version that passed its gates is written down; any other is flagged, in the
    answer and by a tag on the version. With ``restore`` it is put back to where paretune had left it.
    """
    steps = ledger.alias_steps(model)
    found, known = registry.aliases(model), {step.alias for step in steps}
    beside = {alias for alias in found if alias != CHALLENGER and not alias.endswith(PREVIOUS)}
    reports = []
    for alias in sorted(known | beside):
        expected = left_at([step for step in steps if step.alias == alias])
        name = ModelAlias(model=model, alias=alias)
        reports.append(_reconcile(ledger, registry, name, expected, found.get(alias), restore=restore))
    return reports


def _reconcile(
    ledger: Ledger, registry: Registry, name: ModelAlias, expected: int | None, found: int | None, *, restore: bool
) -> AliasReport:
    status, why = "agrees", ""
    if found is not None:
        status, why = _standing(ledger, registry, name.model, found)
    if found != expected and restore and expected is not None:
        proven_digest(ledger, registry, name.model, expected)
        registry.point(name.model, name.alias, expected)
        status, why = "restored", f"it had been moved to {found or 'nowhere'} by hand"
    elif found is None and expected is not None:
        status, why = "removed", "it was removed by hand"
        ledger.add_alias_step(name.model, name.alias, "removed", None, expected, "found removed by hand")
    elif found != expected and status == "agrees":
        status, why = "adopted", "it was moved by hand to a version that passed its gates"
        ledger.add_alias_step(name.model, name.alias, "adopted", found, expected, "found moved by hand")
    if status in ("unproven", "altered") and found is not None:
        registry.tag(name.model, found, "paretune.certified", "false")
    return AliasReport.model_validate(
        {"model": name.model, "alias": name.alias, "expected": expected, "found": found, "status": status, "why": why}
    )


def _standing(ledger: Ledger, registry: Registry, model: str, version: int) -> tuple[AliasStatus, str]:
    """Say whether a version is what passed the gates."""
    if ledger.certificate(model, version) is None:
        return "unproven", f"version {version} never passed a gate; promote it, or put the alias back with --restore"
    try:
        proven_digest(ledger, registry, model, version)
    except (IntegrityError, UsageError) as error:
        return "altered", str(error)
    return "agrees", ""
