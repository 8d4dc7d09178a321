"""Registration: what follows behind the gates, step by step, and how it is undone where a step fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from evaluators.errors import InfrastructureError, IntegrityError
from evaluators.frozen import Frozen
from search.promotion.certificate import Certificate
from search.promotion.lifecycle import left_at
from search.promotion.names import CHALLENGER, ModelAlias
from search.promotion.registry import Registry, digest_of
from search.promotion.serving import Served, check_serving
from workers.ledger import Ledger


class Registered(Frozen):
    """A new version under its alias: what it is, what the alias pointed at before, and how it was served."""

    version: int
    previous_version: int | None
    served: Served
    notes: tuple[str, ...] = ()


class Registration:
    """Makes a version of a certified bundle, serves it once as ``challenger``, and moves an alias to it.

    The caller holds the lock of the registered model.
    """

    def __init__(self, ledger: Ledger, home: Path, name: ModelAlias, certificate: Certificate) -> None:
        self._ledger, self._home, self._registry = ledger, home, Registry(home)
        self._name, self._certificate = name, certificate

    def complete(self, make: Callable[[Registry], int], detail: str) -> Registered:
        """Let ``make`` make the version, prove that it serves, and move the alias.

        Raises:
            IntegrityError: it cannot be served, or not as its bundle answers; aliases and versions are as they were.
            InfrastructureError: MLflow or the ledger failed; what was done is undone as far as possible.
        """
        name = self._name
        before = self._registry.aliases(name.model)
        left = left_at(self._ledger.alias_steps(name.model, name.alias))
        version = make(self._registry)
        try:
            self._registry.point(name.model, CHALLENGER, version)
            served = self._serve(version)
            self._ledger.certify(name.model, version, self._certificate.digest, self._certificate.to_json())
            previous = self._move(version, before, detail)
        except BaseException:
            self._undo(version, before)
            raise
        notes = () if previous == left else (
            f"{name} pointed at version {previous or 'none'}, and paretune had left it at {left or 'none'}: "
            "it was moved by hand",
        )  # fmt: skip
        return Registered(version=version, previous_version=previous, served=served, notes=notes)

    def _serve(self, version: int) -> Served:
        registered, wanted = self._registry.version(self._name.model, version), self._certificate.digest
        if (found := digest_of(registered)) != wanted:
            raise IntegrityError(f"the copy in MLflow has the digest {found[:16]}, and the bundle that was measured "
                                 f"{wanted[:16]}; delete the model in MLflow and promote again")  # fmt: skip
        uri, threads = f"models:/{self._name.model}/{version}", self._certificate.candidate.runtime.threads
        return check_serving(self._home, uri, Path(self._certificate.bundle), self._certificate.workload, threads)

    def _move(self, version: int, before: dict[str, int], detail: str) -> int | None:
        """Keep the version that the alias points at, point it at the new one, and write that down."""
        name, previous = self._name, before.get(self._name.alias)
        if previous is not None:
            self._registry.point(name.model, name.previous, previous)
        self._registry.point(name.model, name.alias, version)
        self._ledger.add_alias_step(name.model, name.alias, "promoted", version, previous, detail)
        return previous

    def _undo(self, version: int, before: dict[str, int]) -> None:
        """Put every alias back and withdraw the version; what cannot be undone must not hide why it had to be."""
        for alias in (self._name.alias, self._name.previous, CHALLENGER):
            with suppress(InfrastructureError):
                self._registry.point(self._name.model, alias, before.get(alias))
        with suppress(InfrastructureError):
            self._registry.withdraw(self._name.model, version)


def waits_for(name: ModelAlias) -> str:
    """Say that somebody else is at the aliases of a model."""
    return f"somebody else is moving aliases of {name.model}; this promotion comes after it"
