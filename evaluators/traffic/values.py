"""What a load test is asked, and what it answers, as frozen values that travel as JSON."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter
from evaluators.outcome import Constraint, ServerEvidence, Verdict

Percentile = Literal["p50", "p90", "p95", "p99"]
WireProtocol = Literal["mlflow", "v2"]

LEAST_TIMEOUT_MS = 1000.0
TIMEOUT_BUDGETS = 10.0


class LoadTest(Frozen):
    """How requests are sent and what is asked of their latency.

    Attributes:
        budget_ms: the longest that a request may take, from its arrival to its answer, at ``percentile``.
        confidence: of the verdict.
        seconds: how long requests arrive; as long as a verdict takes, at most ``most_seconds``, where None.
        lead_in_seconds: requests that arrive in the beginning fill the queue and do not count.
        timeout_ms: after so long a request is dropped; ten budgets, and at least a second, where None.
        seed: of the arrivals.
        max_foreign_load: a test is run again where threads waited longer than this for a processor that other
            programs used, in seconds per second.
        tries: how often a test is run before it is given up as not clean.
    """

    budget_ms: float = Field(gt=0)
    percentile: Percentile = "p99"
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    seconds: float | None = Field(default=None, gt=0)
    most_seconds: float = Field(default=120.0, gt=0)
    lead_in_seconds: float = Field(default=0.5, ge=0)
    timeout_ms: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    max_foreign_load: float = Field(default=0.05, ge=0)
    tries: int = Field(default=3, ge=1)

    @property
    def constraint(self) -> Constraint:
        """The limit that the verdict is about."""
        return Constraint(metric=f"server_{self.percentile}_ms", max=self.budget_ms)

    @property
    def timeout_s(self) -> float:
        """After so many seconds a request is dropped."""
        given = self.timeout_ms or max(LEAST_TIMEOUT_MS, TIMEOUT_BUDGETS * self.budget_ms)
        return given / 1e3


class ServerProtocol(Frozen):
    """How a search puts its candidates under load.

    Attributes:
        budget_ms: the longest that a request may take at the search's percentile.
        rate_per_s: requests that come; None where the highest rate within the budget is what is optimised.
        window_ms / instances: chosen for each candidate where None.
        find_rate: look for the highest rate also where one was asked for.
        seconds: how long requests arrive at least for a verdict that counts; ``step_seconds`` for one on the way.
        most_seconds: how long they arrive at most.
    """

    budget_ms: float = Field(gt=0)
    rate_per_s: float | None = Field(default=None, gt=0)
    window_ms: float | None = Field(default=None, ge=0)
    instances: int | None = Field(default=None, ge=1)
    find_rate: bool = False
    seconds: float = Field(default=5.0, gt=0)
    step_seconds: float = Field(default=1.5, gt=0)
    most_seconds: float = Field(default=30.0, gt=0)


class Serving(Frozen):
    """How a bundle is served: requests wait for the window or until there are ``max_batch`` of them, its own at most.

    ``instances`` processes run batches side by side.
    """

    window_ms: float = Field(default=2.0, ge=0)
    max_batch: int | None = Field(default=None, ge=1)
    instances: int = Field(default=1, ge=1)


class Endpoint(Frozen):
    """A served model: where requests go and in which protocol, found out where it is None.

    ``connections`` is how many requests can be under way at a time.
    """

    url: str
    protocol: WireProtocol | None = None
    connections: int = Field(default=64, ge=1)


class Examples(Frozen):
    """Where requests come from: validation of a workload, or the rows of an ``.npz`` with an array for each input."""

    workload: str | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.workload is None) == (self.file is None):
            raise ValueError("requests come from a workload or from a file, exactly one of them")
        return self


class ServedBundle(Frozen):
    """A bundle to serve; ``trusted`` and ``other_target`` are as for ``open_bundle``."""

    bundle: str
    trusted: bool | str = False
    other_target: bool = False
    interpreter: Interpreter | None = None


class RateStep(Frozen):
    """One rate that was tried, and how it was judged; ``confirming`` is a second look at a rate that had passed."""

    rate_per_s: float
    value_ms: float
    status: Literal["pass", "fail", "undecided"]
    confirming: bool = False


class LoadReport(Frozen):
    """What a load test found.

    Attributes:
        batch_size: that the bundle was built for; null for a URL.
        protocol: that a URL was spoken to in; null for a bundle.
        test: at the rate that was asked for or, where the highest was looked for, at that one.
        steps: the rates that were tried while looking.
        highest_rate_per_s: the highest that surely keeps the budget; null where none did, or none was looked for.
    """

    budget_ms: float
    confidence: float
    batch_size: int | None = None
    protocol: WireProtocol | None = None
    test: ServerEvidence
    verdict: Verdict
    steps: tuple[RateStep, ...] = ()
    highest_rate_per_s: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the percentile surely keeps the budget."""
        return self.verdict.status == "pass"
