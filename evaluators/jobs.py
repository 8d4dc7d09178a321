"""Jobs: what a sandbox process is asked to do, and what it answers, as JSON values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.outcome import Constraint, Outcome
from evaluators.profile import Problem, WorkloadProfile


class Protocol(Frozen):
    """How latency is measured: warm-up, then at least this long *and* this often.

    After ``max_seconds`` it ends as soon as there are samples enough for ``percentile``, after ``patience_seconds`` in
    any case.
    """

    percentile: Literal["p50", "p90", "p95", "p99"] = "p95"
    min_seconds: float = Field(default=1.0, gt=0)
    min_calls: int = Field(default=200, ge=20)
    max_seconds: float = Field(default=6.0, gt=0)
    patience_seconds: float = Field(default=60.0, gt=0)


class ProfileJob(Frozen):
    """Read the facts of a workload and score its original model."""

    job: Literal["profile"] = "profile"
    workload: str
    home: str
    seed: int = 0


class PrepareJob(Frozen):
    """Prune, recover, quantize and build one candidate into a bundle."""

    job: Literal["prepare"] = "prepare"
    candidate: Candidate
    profile: WorkloadProfile
    home: str
    seed: int = 0


class MeasureJob(Frozen):
    """Parity, latency and accuracy of a built bundle; ``gates`` stop it at the first constraint surely violated."""

    job: Literal["measure"] = "measure"
    bundle: str
    profile: WorkloadProfile
    home: str
    constraints: tuple[Constraint, ...]
    protocol: Protocol = Protocol()
    gates: bool = True
    seed: int = 0


Job = Annotated[ProfileJob | PrepareJob | MeasureJob, Field(discriminator="job")]


class Prepared(Frozen):
    """A bundle that is ready to be measured, and what making it took."""

    bundle: str
    stage_seconds: dict[str, float]
    cached_stages: tuple[str, ...] = ()


class JobResult(Frozen):
    """Exactly one of: the profile, the prepared bundle, or the outcome (also where a job ended with a typed failure).

    A profile job whose workload breaks its contract answers with ``problems`` alone.
    """

    profile: WorkloadProfile | None = None
    problems: tuple[Problem, ...] = ()
    prepared: Prepared | None = None
    outcome: Outcome | None = None
