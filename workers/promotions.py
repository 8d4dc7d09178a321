"""Promotions in the ledger: certificates of the versions that passed every gate, and each step of an alias."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from sqlalchemy import Column, Double, Integer, String, Table, Text, insert, select

from evaluators.frozen import Frozen, canonical_json
from workers.database import Database, lasting
from workers.tables import metadata

AliasEvent = Literal["promoted", "rolled_back", "adopted", "removed", "revalidated"]

certificates = Table(
    "certificates",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(200), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("certificate", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

alias_steps = Table(
    "alias_steps",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("model", String(200), nullable=False),
    Column("alias", String(200), nullable=False),
    Column("event", String(16), nullable=False),
    Column("version", Integer),
    Column("previous_version", Integer),
    Column("detail", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)


class AliasStep(Frozen):
    """Something that happened to an alias of a registered model; times are seconds since the epoch.

    Attributes:
        event: ``promoted``, ``rolled_back``, ``adopted`` or ``removed`` (by hand, and noticed since), ``revalidated``.
        version / previous_version: where it points after and before; null where there is no alias.
        detail: in words: from which trial, why, what was found.
    """

    id: int
    model: str
    alias: str
    event: AliasEvent
    version: int | None
    previous_version: int | None
    detail: str
    created_at: float


class CertificateRecord(Frozen):
    """The certificate of a version, as its owner wrote it: plain JSON, and the digest of the bundle that it is for."""

    model: str
    version: int
    digest: str
    certificate: dict[str, Any]
    created_at: float


class Promotions:
    """What was promoted in this home, to be mixed into the ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def certify(self, model: str, version: int, digest: str, certificate: Mapping[str, Any]) -> None:
        """Record that a version passed every gate."""
        values = {"model": model, "version": version, "digest": digest, "created_at": self._clock(),
                  "certificate": canonical_json(dict(certificate))}  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(insert(certificates).values(values))

    @lasting
    def certificate(self, model: str, version: int) -> CertificateRecord | None:
        """Return the certificate of a version, the latest where several were made; None where it never passed."""
        of_version = (certificates.c.model == model) & (certificates.c.version == version)
        wanted = select(certificates).where(of_version).order_by(certificates.c.id.desc()).limit(1)
        with self._database.reading() as connection:
            row = connection.execute(wanted).mappings().first()
        if row is None:
            return None
        values = {name: value for name, value in row.items() if name != "id"}
        return CertificateRecord.model_validate({**values, "certificate": json.loads(row["certificate"])})

    @lasting
    def add_alias_step(
        self, model: str, alias: str, event: AliasEvent, version: int | None, previous_version: int | None, detail: str
    ) -> None:
        """Record what was done to an alias, or found to have been done to it."""
        values = {"model": model, "alias": alias, "event": event, "version": version, "detail": detail,
                  "previous_version": previous_version, "created_at": self._clock()}  # fmt: skip
        if self._database.in_doubt and self._is_last(model, alias, event, version, detail):
            return
        with self._database.writing() as connection:
            connection.execute(insert(alias_steps).values(values))

    def _is_last(self, model: str, alias: str, event: AliasEvent, version: int | None, detail: str) -> bool:
        """Whether the last step of an alias is this one: it was written before the connection was lost."""
        steps = self.alias_steps(model, alias)
        return bool(steps) and (steps[-1].event, steps[-1].version, steps[-1].detail) == (event, version, detail)

    @lasting
    def alias_steps(self, model: str | None = None, alias: str | None = None) -> tuple[AliasStep, ...]:
        """Return what happened to aliases, the oldest first: of one model and one alias, or of all."""
        wanted = select(alias_steps).order_by(alias_steps.c.id)
        if model is not None:
            wanted = wanted.where(alias_steps.c.model == model)
        if alias is not None:
            wanted = wanted.where(alias_steps.c.alias == alias)
        with self._database.reading() as connection:
            return tuple(AliasStep.model_validate(dict(row)) for row in connection.execute(wanted).mappings())
