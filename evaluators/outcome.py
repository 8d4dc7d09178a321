"""Evidence, verdicts and outcomes: what a trial found, as frozen values that travel as JSON."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from evaluators.frozen import Frozen

Interval = tuple[float, float]

METRICS = ("latency_ms", "accuracy_drop", "accuracy", "size_bytes")


class FailureKind(StrEnum):
    """Why a trial failed, in words that a user can act on."""

    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    NOT_FINITE = "not_finite"
    PARITY = "parity"
    UNSUPPORTED = "unsupported"
    ERROR = "error"
    KILLED = "killed"
    DISK_FULL = "disk_full"
    REFUSED = "refused"
    LOST = "lost"

    @property
    def is_a_disturbance(self) -> bool:
        """Whether it says something about the machine rather than about the candidate: worth another try."""
        return self in (FailureKind.KILLED, FailureKind.DISK_FULL)


class Constraint(Frozen):
    """One limit on one metric; ``metric`` is the JSON name, e.g. ``latency_p95_ms`` or ``accuracy_drop``."""

    metric: str
    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Constraint:
        if (self.max is None) == (self.min is None):
            raise ValueError(f"constraint on {self.metric} needs exactly one of max and min")
        return self

    @model_serializer(mode="wrap")
    def _only_the_side_that_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @property
    def limit(self) -> float:
        """The limiting value, in the metric's own unit."""
        return self.max if self.max is not None else (self.min if self.min is not None else 0.0)


class Verdict(Frozen):
    """Pass, fail or undecided for one constraint, with the value seen and the normalized violation.

    ``violation`` is ``(value - limit) / scale``, unit-free: at most 0 within the limit, above 0 outside it.
    """

    constraint: Constraint
    status: Literal["pass", "fail", "undecided"]
    value: float
    interval: Interval | None = None
    violation: float

    @property
    def within(self) -> bool:
        """Whether the measured value itself is within the limit."""
        return self.violation <= 0


class Ratio(Frozen):
    """How many times faster than a reference that was timed in turn with it, and the 95 % interval of that."""

    value: float
    ci95: Interval


class LatencyEvidence(Frozen):
    """Latency of one call with the whole batch, in milliseconds.

    A percentile that the number of samples cannot support is null.

    Attributes:
        ci95: 95 % interval of the percentile named ``percentile``.
        bounds: one-sided bounds of the same, each at the confidence of the search; verdicts are drawn from them.
        bounded: whether there were calls enough for the upper one; else the largest call stands in, and nothing passes.
        samples: calls that count; ``warmup_calls`` came before them, and ``settled`` says whether the warm-up ended
            because calls took equally long, and not because its time was up.
        processes: fresh processes that the samples come from.
        polluted: blocks of calls that were thrown away because other programs used the processor meanwhile.
        clean: False where the other programs never left enough time: such a latency is shown and never judged.
        seconds: time spent timing, warm-up and reference included; ``decided_early`` where a verdict ended it.
        speedup: over eager fp32 at the same batch size and threads, timed in turn with this bundle.
    """

    percentile: Literal["p50", "p90", "p95", "p99"]
    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float
    ci95: Interval
    bounds: Interval | None = None
    bounded: bool = True
    samples: int
    warmup_calls: int
    settled: bool = True
    processes: int = 1
    polluted: int = 0
    clean: bool = True
    seconds: float = 0.0
    decided_early: bool = False
    speedup: Ratio | None = None
    load_seconds: float = 0.0

    @property
    def value(self) -> float:
        """The percentile that the search constrains, in milliseconds.

        Where the samples do not support it, the upper end of its interval, the largest sample, stands in.
        """
        chosen: float | None = getattr(self, self.percentile)
        return self.ci95[1] if chosen is None else chosen


class CallTimes(Frozen):
    """The runtime's own calls during a load test, in milliseconds: each with a whole batch, copies left out.

    ``ci95`` is the 95 % interval of the percentile that the test is about.
    """

    calls: int
    p50: float
    p95: float | None = None
    p99: float | None = None
    ci95: Interval


class ServerEvidence(Frozen):
    """Latency of single requests that arrive at random and do not wait for each other, in milliseconds.

    It runs from the moment at which a request was due to arrive to its answer. One that was dropped or failed counts
    as having taken the timeout, at least.

    Attributes:
        rate_per_s: the rate that was asked for; ``offered_per_s`` is that of the arrivals that were drawn,
            ``achieved_per_s`` that of the answers.
        requests: that count, those of the lead-in left out; the next three add up to them.
        dropped: waited longer than the timeout and were never run.
        over_budget: share of the requests that took longer than the budget.
        ci95: 95 % interval of the percentile named ``percentile``; requests in one queue resemble each other.
        bounds / bounded: one-sided bounds of the same, as of ``LatencyEvidence``.
        window_ms / max_batch / instances: how requests were batched, and by how many processes they were run; null for
            a server that somebody else runs.
        batches / mean_batch / busy_share: calls, requests in each, and share of the time that instances were at work.
        call_ms: the runtime's own calls.
        clean: False where other programs kept using the processor: such a latency is shown and never judged.
        polluted: tests that were run again because of that; ``foreign_load`` is what remained, in seconds per second.
        simulated: no request was served: measured service times were put through the same batching by a clock that
            does not wait, and what came out was far from the budget.
        sustained_per_s: the highest rate at which the percentile surely keeps the budget, where that was looked for.
        seconds: what all tests took together.
    """

    percentile: Literal["p50", "p90", "p95", "p99"]
    budget_ms: float
    rate_per_s: float
    offered_per_s: float
    achieved_per_s: float
    requests: int
    answered: int
    dropped: int = 0
    errors: int = 0
    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    mean: float
    over_budget: float
    ci95: Interval
    bounds: Interval
    bounded: bool
    window_ms: float | None = None
    max_batch: int | None = None
    instances: int | None = None
    batches: int | None = None
    mean_batch: float | None = None
    busy_share: float | None = None
    call_ms: CallTimes | None = None
    clean: bool = True
    polluted: int = 0
    foreign_load: float = 0.0
    simulated: bool = False
    sustained_per_s: float | None = None
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The percentile that is judged, in milliseconds; the upper end of its interval where it is not supported."""
        chosen: float | None = getattr(self, self.percentile)
        return self.ci95[1] if chosen is None else chosen


class Bucketing(Frozen):
    """What drawing batches from buckets of similar length gains over batches as examples come.

    Attributes:
        edges: the longest length of each bucket.
        padding_share / plain_padding_share: share of the positions that are filling, in batches from buckets and in
            batches as they come, each filled up to its longest.
        gain: examples per second over those of the same bundle on batches as they come, timed in turn.
    """

    edges: tuple[int, ...]
    padding_share: float
    plain_padding_share: float
    gain: Ratio


class AccuracyEvidence(Frozen):
    """Score of the built bundle on validation data, and its drop from the original model on the same examples.

    Attributes:
        ci95 / drop_ci95: 95 % intervals, null where the metric allows none.
        bounds / drop_bounds: one-sided bounds, each at the confidence of the search; verdicts are drawn from them.
        examples: how many were scored, ``of`` so many; fewer where the verdict was certain before the end.
        method: how the interval of the drop was drawn, in the name of the statistical procedure.
    """

    accuracy: float
    ci95: Interval | None = None
    bounds: Interval | None = None
    drop: float
    drop_ci95: Interval | None = None
    drop_bounds: Interval | None = None
    examples: int
    of: int | None = None
    metric: str
    method: str | None = None

    @property
    def complete(self) -> bool:
        """Whether all of validation was scored."""
        return self.of is None or self.examples >= self.of


class ParityEvidence(Frozen):
    """How close the bundle's outputs are to the original model's on real inputs.

    ``sqnr_db`` is the signal-to-quantization-noise ratio in decibels, ``cosine`` the cosine similarity over
    all outputs, ``agreement`` the share of equal arg-max (null where outputs have no classes).
    """

    sqnr_db: float
    cosine: float
    agreement: float | None = None
    examples: int


class Operators(Frozen):
    """Equal operators in what the runtime really executes.

    Attributes:
        kind: ``convolution``, ``linear`` (a product with weights), ``matmul`` (of two activations), ``attention``,
            ``recurrent``, ``reorder`` (of layout), ``quantize``, ``dequantize``, else the runtime's own name.
        precision: of what is multiplied or read: ``int8``, ``bf16``, ``fp32``, …; empty if the runtime does not tell.
        kernel: what the runtime calls the code that runs.
        count: how many there are in one call.
        time_share: of the time of a call; null where the runtime does not tell. A reorder that oneDNN makes within
            an operator of torch is in the share of that operator too.
    """

    kind: str
    precision: str
    kernel: str = ""
    count: int
    time_share: float | None = None


class Diagnosis(Frozen):
    """What a runtime made of a bundle.

    Attributes:
        operators: what it executes, the costliest or most frequent first.
        quantized_share: share of the operators that compute (convolutions, matrix products, attention, recurrent
            layers) in 8 bits or fewer; null where the runtime does not tell.
        fallbacks: operators that the scheme asked for in low precision and that run in a wider one.
        reorders: conversions of layout or precision that the runtime put between operators.
        instruction_set: the widest instructions that its kernels use, e.g. ``avx512_vnni``.
        notes: plain sentences for people: where the facts come from, or why there are none.
    """

    operators: tuple[Operators, ...] = ()
    quantized_share: float | None = None
    fallbacks: int = 0
    reorders: int = 0
    instruction_set: str | None = None
    notes: tuple[str, ...] = ()


class Evidence(Frozen):
    """What was measured of one bundle on one target. A part is null where a gate stopped the trial before it.

    ``peak_memory_bytes`` is the resident memory of loading the bundle and running it, ``device_memory_bytes`` that of
    an accelerator; ``energy_j`` is the energy of one call with the whole batch, where the machine tells it.
    ``size_compressed_bytes`` is the size of the bundle's files once deflated: what zeros among weights save.
    """

    latency: LatencyEvidence | None = None
    server: ServerEvidence | None = None
    throughput_per_s: float | None = None
    bucketing: Bucketing | None = None
    accuracy: AccuracyEvidence | None = None
    parity: ParityEvidence | None = None
    size_bytes: int | None = None
    size_compressed_bytes: int | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    energy_j: float | None = None
    diagnosis: Diagnosis | None = None
    parameters: int | None = None
    flops: int | None = None


class Failure(Frozen):
    """A typed failure: its kind, the stage it happened in, and a reason in one sentence."""

    kind: FailureKind
    stage: str
    reason: str
    details: str = ""


class Outcome(Frozen):
    """How a trial ended: measured, rejected by a gate, or failed.

    ``training_seconds`` is what the stages that train (``recover``, ``qat``) took when their result was made, also
    where this trial found it in the cache: the price of its weights. ``stage_seconds`` is what the trial itself took.
    """

    kind: Literal["measured", "rejected", "failed"]
    evidence: Evidence = Evidence()
    verdicts: tuple[Verdict, ...] = ()
    gate: str | None = None
    failure: Failure | None = None
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    cached_stages: tuple[str, ...] = ()
    training_seconds: dict[str, float] = Field(default_factory=dict)
    bundle: str | None = None
    evaluation_key: str | None = None
    reproduce: str | None = None

    @model_validator(mode="after")
    def _parts_match_kind(self) -> Outcome:
        if (self.kind == "failed") != (self.failure is not None):
            raise ValueError(f"exactly the failed outcomes carry a failure, this one is {self.kind!r}")
        if (self.kind == "rejected") != (self.gate is not None):
            raise ValueError("exactly the rejected outcomes name a gate")
        return self

    @property
    def feasible(self) -> bool:
        """Whether the trial was measured in full and every limit is kept at the confidence of the search."""
        return self.kind == "measured" and all(verdict.status == "pass" for verdict in self.verdicts)

    @property
    def undecided(self) -> bool:
        """Whether the trial was measured in full, no limit is surely missed, and not every one is surely kept."""
        statuses = {verdict.status for verdict in self.verdicts}
        return self.kind == "measured" and "fail" not in statuses and "undecided" in statuses

    @property
    def reason(self) -> str | None:
        """Why the trial is not feasible, in one sentence; null if it is."""
        if self.failure is not None:
            return f"{self.failure.kind}: {self.failure.reason}"
        missed = sorted(
            (verdict for verdict in self.verdicts if verdict.status != "pass"),
            key=lambda verdict: verdict.status != "fail",
        )
        return "; ".join(describe(verdict) for verdict in missed) or None


def describe(verdict: Verdict) -> str:
    """Say by how much a constraint is missed or met: ``latency_p95_ms 6.2 > 5 (+24 %)``.

    An undecided one says so: ``latency_p95_ms 4.9 <= 5 (-2 %), undecided``.
    """
    limit = verdict.constraint.limit
    sign = ">" if verdict.constraint.max is not None else "<"
    if verdict.within:
        sign = "<=" if verdict.constraint.max is not None else ">="
    gap = f" ({(verdict.value - limit) / abs(limit):+.0%})" if limit else ""
    doubt = ", undecided" if verdict.status == "undecided" else ""
    return f"{verdict.constraint.metric} {verdict.value:.4g} {sign} {limit:.4g}{gap}{doubt}"
