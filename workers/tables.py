"""The ledger's tables."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 3

metadata = MetaData()

schema = Table("ledger_schema", metadata, Column("version", Integer, primary_key=True))

searches = Table(
    "searches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("workload", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("profile", Text),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("elapsed_s", Double, nullable=False),
    Column("result", Text),
    Column("finals", Text),
    Column("cancel_requested", Boolean, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("search_id", ForeignKey("searches.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("target", String(64), nullable=False),
    Column("candidate_hash", String(64), nullable=False),
    Column("evaluation_key", String(128), nullable=False),
    Column("source", String(16), nullable=False),
    Column("state", String(8), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", String(200)),
    Column("lease_until", Double),
    Column("gates", Boolean, nullable=False),
    Column("outcome", Text),
    Column("outcome_kind", String(16)),
    Column("answered_by", String(64)),
    Column("view_id", String(64)),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    UniqueConstraint("search_id", "number"),
    UniqueConstraint("search_id", "candidate_hash"),
    Index("trials_by_evaluation", "evaluation_key", "state", "finished_at"),
    Index("trials_by_state", "search_id", "state"),
    Index("trials_by_target", "state", "target"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ended_how", String(16)),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("search_id", ForeignKey("searches.id"), nullable=False),
    Column("trial_number", Integer),
    Column("kind", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("delivered_at", Double),
    Index("outbox_pending", "search_id", "delivered_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("target", String(64), nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("device", String(32), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("ended_at", Double),
)

coordination = Table(
    "coordination",
    metadata,
    Column("search_id", ForeignKey("searches.id"), primary_key=True),
    Column("submitted_at", Double),
    Column("weight", Double, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("most_unfinished", Integer),
    Column("owner", String(200)),
    Column("held_since", Double),
    Column("lease_until", Double),
    Column("wanting", Text, nullable=False),
    Column("wanting_until", Double, nullable=False),
    Column("asked_at", Double, nullable=False),
)

trial_settings = Table(
    "trial_settings",
    metadata,
    Column("search_id", ForeignKey("searches.id"), primary_key=True),
    Column("settings", Text, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("search_id", ForeignKey("searches.id"), nullable=False),
    Column("target", String(64), nullable=False),
    Column("bundles", Text, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("state", String(8), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", String(200)),
    Column("lease_until", Double),
    Column("answer", Text),
    Column("created_at", Double, nullable=False),
    Index("comparisons_by_target", "state", "target"),
)
