"""Jobs: what a sandbox process is asked to do, and what it answers, as JSON values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter
from evaluators.outcome import Constraint, LatencyEvidence, Outcome
from evaluators.profile import Problem, WorkloadProfile
from evaluators.sensitivity import LayerSensitivity
from evaluators.traffic.values import Endpoint, Examples, LoadReport, LoadTest, ServedBundle, ServerProtocol, Serving


class Protocol(Frozen):
    """How latency is measured, and how sure a verdict must be.

    Attributes:
        percentile: the one that is constrained.
        confidence: of every verdict.
        block_seconds: calls are timed in blocks of this length, the reference's blocks between them.
        looks: seconds of timed calls after which the verdict is asked for; the last one ends the measurement, as
            soon as there are samples enough for ``percentile``.
        drift: an early verdict is clear of the limit by this share of it, less as the last look comes nearer: how far a
            machine's speed may be from that of the whole measurement during a part of it.
        patience_seconds: the measurement ends then in any case.
        max_foreign_load: a block is thrown away where its threads waited longer than this for a processor that other
            programs used, in seconds per second.
        pollution_seconds: so much may be thrown away before the measurement is given up as not clean.
        turn_seconds: a comparison times its models in turns of this length, so that drift within a round cancels.
        rounds: fresh processes of each model in a comparison, at least; it ends there where every model is surely
            different from the first, or its ratio to that is known within ``precision``.
        most_rounds: it ends there in any case.
        precision: half the length of a ratio's 95 % interval, relative.
        server: how candidates are put under load besides; only calls one after the other are timed where it is None.
    """

    percentile: Literal["p50", "p90", "p95", "p99"] = "p95"
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    block_seconds: float = Field(default=0.05, gt=0)
    looks: tuple[float, ...] = Field(default=(0.25, 0.5, 1.0, 2.0, 4.0), min_length=1)
    drift: float = Field(default=0.2, ge=0, lt=1)
    patience_seconds: float = Field(default=60.0, gt=0)
    max_foreign_load: float = Field(default=0.05, ge=0)
    pollution_seconds: float = Field(default=10.0, gt=0)
    turn_seconds: float = Field(default=0.01, gt=0)
    rounds: int = Field(default=8, ge=2)
    most_rounds: int = Field(default=24, ge=2)
    precision: float = Field(default=0.015, gt=0)
    server: ServerProtocol | None = None

    @model_serializer(mode="wrap")
    def _without_a_server_that_nobody_asked_for(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return fields if self.server is not None else {key: fields[key] for key in fields if key != "server"}


class ProfileJob(Frozen):
    """Read the facts of a workload and score its original model."""

    job: Literal["profile"] = "profile"
    workload: str
    home: str
    seed: int = 0


class SourceJob(Frozen):
    """Prune and recover the model of one candidate, and have the original's answers at hand.

    ``time_limit_s`` is the time of the whole trial: training that would take most of it is refused beforehand.

    It comes first where the candidate's backend lives in an interpreter of its own: the model under trial and the
    yardstick are those of all the other candidates then, whatever is installed there.
    """

    job: Literal["source"] = "source"
    candidate: Candidate
    profile: WorkloadProfile
    home: str
    seed: int = 0
    time_limit_s: float | None = None


class Sourced(Frozen):
    """What a source job made: the weights under trial by their key in the stage cache, and what it took.

    ``versions`` are of the interpreter that ran the original model: its answers are kept under them; ``entries`` are
    the keys in the stage cache of all that it used or made, each with its stage; ``training_seconds`` is as of an
    outcome.
    """

    weights: str
    versions: dict[str, str]
    stage_seconds: dict[str, float]
    cached_stages: tuple[str, ...] = ()
    entries: dict[str, str] = Field(default_factory=dict)
    training_seconds: dict[str, float] = Field(default_factory=dict)


class Yardstick(Frozen):
    """The interpreter that the original model runs in, for a job that runs in another one, and its versions."""

    interpreter: Interpreter
    versions: dict[str, str]


class PrepareJob(Frozen):
    """Prune, recover, quantize and build one candidate into a bundle; ``sourced`` is what a source job did of it.

    ``time_limit_s`` is as of a source job.
    """

    job: Literal["prepare"] = "prepare"
    candidate: Candidate
    profile: WorkloadProfile
    home: str
    seed: int = 0
    sourced: Sourced | None = None
    time_limit_s: float | None = None


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
    yardstick: Yardstick | None = None


class SensitivityJob(Frozen):
    """Rank the layers of a workload's model, unpruned, by what int8 in each of them costs its outputs."""

    job: Literal["sensitivity"] = "sensitivity"
    profile: WorkloadProfile
    home: str


class CompareJob(Frozen):
    """Time several built bundles in turn, each in fresh processes: which is the fastest, and by how much?

    ``interpreters`` are those of the backends that have one of their own.
    """

    job: Literal["compare"] = "compare"
    bundles: tuple[str, ...] = Field(min_length=1)
    profile: WorkloadProfile
    home: str
    protocol: Protocol = Protocol()
    seconds: float = Field(default=120.0, gt=0)
    seed: int = 0
    interpreters: dict[str, Interpreter] = Field(default_factory=dict)


class SealedJob(Frozen):
    """Score a built bundle on the sealed test split of its workload: what a promotion asks, and nothing else does."""

    job: Literal["sealed"] = "sealed"
    bundle: str
    profile: WorkloadProfile
    home: str
    constraints: tuple[Constraint, ...]
    protocol: Protocol = Protocol()


class LoadJob(Frozen):
    """Put a bundle or a served model under load; without a rate, start from what service times promise.

    ``find_rate`` looks for the highest rate that keeps the budget, from ``rate_per_s`` on.
    """

    job: Literal["load"] = "load"
    subject: ServedBundle | Endpoint
    examples: Examples
    test: LoadTest
    serving: Serving = Serving()
    rate_per_s: float | None = Field(default=None, gt=0)
    find_rate: bool = False


AnyJob = ProfileJob | SourceJob | PrepareJob | MeasureJob | SensitivityJob | CompareJob | SealedJob | LoadJob
Job = Annotated[AnyJob, Field(discriminator="job")]


class Prepared(Frozen):
    """A bundle that is ready to be measured, what making it took, and the rest as of a source job."""

    bundle: str
    stage_seconds: dict[str, float]
    cached_stages: tuple[str, ...] = ()
    entries: dict[str, str] = Field(default_factory=dict)
    training_seconds: dict[str, float] = Field(default_factory=dict)


class Comparison(Frozen):
    """What timing bundles in turn found.

    Attributes:
        latencies: of each bundle over all rounds, in the order of the job; null where it could not be timed.
        log_medians: natural logarithm of each bundle's p50 in ms, a value for each round with the drift of the machine
            within the round taken out, shape (bundles, rounds); null where nothing of a round is clean.
        seconds: what it took for each bundle.
    """

    latencies: tuple[LatencyEvidence | None, ...]
    log_medians: tuple[tuple[float | None, ...], ...]
    seconds: tuple[float, ...]


class JobResult(Frozen):
    """Exactly one of: profile, source, prepared bundle, comparison, load test, layers, or outcome (of a failure too).

    A profile job whose workload breaks its contract answers with ``problems`` alone.
    """

    profile: WorkloadProfile | None = None
    problems: tuple[Problem, ...] = ()
    sourced: Sourced | None = None
    prepared: Prepared | None = None
    comparison: Comparison | None = None
    load: LoadReport | None = None
    layers: tuple[LayerSensitivity, ...] | None = None
    outcome: Outcome | None = None
