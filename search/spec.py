"""SearchSpec: what a user asks for, valid by construction, read from flags, environment, YAML and defaults."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, ValidationError, field_validator, model_validator

from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.jobs import Protocol
from evaluators.outcome import Constraint
from evaluators.traffic.values import ServerProtocol
from search import units
from search.interpreters import named_pythons, pythons_of_file
from search.prices import named_price, priced_targets
from workers.keeping import DEFAULT_CACHE_BYTES

ENVIRONMENT_PREFIX = "PARETUNE_"
DEFAULT_ACCURACY_DROP = 0.01
SERVER_PERCENTILE = "p99"
SINGLE_LOOKS = (0.25, 0.5, 1.0)
"""Seconds of calls one after the other in the server scenario, where no verdict is drawn from them."""
_PYTHONS = "backend_python"

Objective = Literal["latency", "throughput", "size", "cost"]
Percentile = Literal["p50", "p90", "p95", "p99"]
Scenario = Literal["single", "server"]
BatchSizes = (1, 2, 4, 8, 16, 32, 64)


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, list) else (value,) if type(value) is int else value


def _share(value: Any) -> Any:
    """Read a share written as a number or in percent: ``0.95``, ``95%``."""
    return units.share(value) if isinstance(value, str) else value


_Targets = Annotated[tuple[str, ...], BeforeValidator(priced_targets)]
_Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
_Sizes = Annotated[tuple[int, ...], BeforeValidator(_listed)]
_Pythons = Annotated[dict[str, str], BeforeValidator(named_pythons)]


class SearchSpec(Frozen):
    """One request: the workload, its limits, what to optimise, and how much may be spent.

    With a latency budget the default objective is ``throughput`` (the budget bounds the wait), without one it is
    ``latency``; with prices for several targets it is ``cost``, the price of a million inferences. ``target`` lists
    names, each perhaps with its price per hour: ``cpu-arm64=0.12``. Without any accuracy limit, ``max_accuracy_drop``
    is 0.01. A limit counts as kept where it is kept with at least the probability ``confidence``. A block of calls
    whose threads waited more than ``max_foreign_load`` of its time for a processor that other programs used is timed
    again. ``backend_python`` is the interpreter of each backend that lives in one of its own, on the machine that runs
    the search.

    With ``scenario`` server the budget is that of single requests that come at random, ``rate_per_s`` of them:
    ``percentile`` is p99 then unless told. Without a rate the objective is the highest that keeps the budget.
    """

    workload: str
    latency_budget_ms: Annotated[float, BeforeValidator(units.milliseconds)] | None = Field(
        default=None, validation_alias=AliasChoices("latency_budget_ms", "latency_budget")
    )
    max_accuracy_drop: float | None = Field(default=None, ge=0, le=1)
    min_accuracy: float | None = None
    max_size_bytes: Annotated[int, BeforeValidator(units.size_bytes)] | None = Field(
        default=None, validation_alias=AliasChoices("max_size_bytes", "max_size")
    )
    objective: Objective | None = None
    percentile: Percentile = "p95"
    scenario: Scenario = "single"
    rate_per_s: Annotated[float, BeforeValidator(units.per_second)] | None = Field(
        default=None, validation_alias=AliasChoices("rate_per_s", "rate")
    )
    window_ms: Annotated[float, BeforeValidator(units.milliseconds_or_none)] | None = Field(
        default=None, validation_alias=AliasChoices("window_ms", "window")
    )
    instances: int | None = Field(default=None, ge=1)
    confidence: Annotated[float, BeforeValidator(_share)] = Field(default=0.95, gt=0.5, lt=1, strict=True)
    max_foreign_load: Annotated[float, BeforeValidator(_share)] = Field(default=0.05, ge=0)
    target: _Targets = ()
    backend: _Names = ()
    backend_python: _Pythons = Field(default_factory=dict)
    batch_size: _Sizes = ()
    threads: int | None = Field(default=None, ge=1)
    trials: int = Field(default=60, ge=1)
    timeout_s: Annotated[float, BeforeValidator(units.seconds)] | None = Field(
        default=None, validation_alias=AliasChoices("timeout_s", "timeout")
    )
    trial_timeout_s: Annotated[float, BeforeValidator(units.seconds)] = Field(
        default=300.0, validation_alias=AliasChoices("trial_timeout_s", "trial_timeout")
    )
    memory_limit_bytes: Annotated[int, BeforeValidator(units.size_bytes)] | None = Field(
        default=None, validation_alias=AliasChoices("memory_limit_bytes", "memory_limit")
    )
    seed: int = Field(default=0, ge=0)
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")

    @field_validator("batch_size")
    @classmethod
    def _batches_are_offered(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        for size in sizes:
            if size < 1 or size > 4096:
                raise ValueError(f"batch size {size} must lie between 1 and 4096")
        return tuple(sorted(set(sizes)))

    @field_validator("target")
    @classmethod
    def _targets_are_known_and_prices_above_zero(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        prices = dict(named_price(target) for target in targets)
        if len(prices) < len(targets):
            raise ValueError(f"a target is named twice in {','.join(targets)}; name each once")
        return tuple(name if price is None else f"{name}={price!r}" for name, price in prices.items())

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if values.get("max_accuracy_drop") is None and values.get("min_accuracy") is None:
            values["max_accuracy_drop"] = DEFAULT_ACCURACY_DROP
        if values.get("scenario") == "server" and values.get("percentile") is None:
            values["percentile"] = SERVER_PERCENTILE
        if values.get("objective") is None:
            values["objective"] = _default_objective(values)
        return values

    @model_validator(mode="after")
    def _cost_needs_prices(self) -> SearchSpec:
        unpriced = [name for name in self.targets if name not in self.prices]
        if self.objective == "cost" and (unpriced or not self.targets):
            missing = ", ".join(unpriced) or "the target"
            raise ValueError(
                f"objective cost needs the price per hour of {missing}; "
                f"write it as --target {unpriced[0] if unpriced else 'NAME'}=PRICE"
            )
        return self

    @model_validator(mode="after")
    def _traffic_is_for_a_server(self) -> SearchSpec:
        if self.scenario == "server" and self.latency_budget_ms is None:
            raise ValueError("scenario server needs a latency budget; write it as --latency-budget 5ms")
        given = {"rate": self.rate_per_s, "window": self.window_ms, "instances": self.instances}
        extra = [f"--{name}" for name, value in given.items() if value is not None]
        if self.scenario != "server" and extra:
            raise ValueError(f"{', '.join(extra)} say how requests are served; say so with --scenario server")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets that were asked for; none means this machine's default."""
        return tuple(named_price(target)[0] for target in self.target)

    @property
    def prices(self) -> dict[str, float]:
        """The price per hour of each target that has one."""
        named = (named_price(target) for target in self.target)
        return {name: price for name, price in named if price is not None}

    @property
    def goal(self) -> Objective:
        """What is optimised among the feasible."""
        return self.objective or "latency"

    @property
    def latency_metric(self) -> str:
        """The JSON name of the constrained latency, e.g. ``latency_p95_ms``; ``server_p99_ms`` of requests."""
        return f"{'server' if self.scenario == 'server' else 'latency'}_{self.percentile}_ms"

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The limits, always in the same order."""
        limits = (
            (self.latency_metric, "max", self.latency_budget_ms),
            ("accuracy_drop", "max", self.max_accuracy_drop),
            ("accuracy", "min", self.min_accuracy),
            ("size_bytes", "max", self.max_size_bytes),
        )
        return tuple(Constraint(metric=metric, **{side: limit}) for metric, side, limit in limits if limit is not None)

    @property
    def protocol(self) -> Protocol:
        """How latency is measured, and how sure every verdict must be."""
        common = Protocol(
            percentile=self.percentile, confidence=self.confidence, max_foreign_load=self.max_foreign_load
        )
        if self.scenario != "server" or self.latency_budget_ms is None:
            return common
        server = ServerProtocol(
            budget_ms=self.latency_budget_ms, rate_per_s=self.rate_per_s, window_ms=self.window_ms,
            instances=self.instances, find_rate=self.goal in ("throughput", "cost"),
        )  # fmt: skip
        return common.model_copy(update={"looks": SINGLE_LOOKS, "server": server})


def _default_objective(values: Mapping[str, Any]) -> Objective:
    targets = priced_targets(values.get("target") or ())
    if isinstance(targets, tuple) and len(targets) > 1 and all("=" in str(target) for target in targets):
        return "cost"
    budget = values.get("latency_budget_ms", values.get("latency_budget"))
    if values.get("scenario") == "server" and values.get("rate_per_s", values.get("rate")) is not None:
        return "latency"
    return "latency" if budget is None else "throughput"


def load_spec(
    flags: Mapping[str, Any], config: Path | None = None, environment: Mapping[str, str] | None = None
) -> SearchSpec:
    """Merge flags, environment (``PARETUNE_LATENCY_BUDGET``, …), YAML file and defaults, in this order of precedence.

    ``flags`` whose value is None or empty were not given.

    Raises:
        UsageError: a value, a name or the file cannot be used; the message says which, and where it was given.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != ()}
    layers = {
        f" in {config}": read_config(config)[0] if config else {},
        " in the environment": _from_environment(os.environ if environment is None else environment),
        "": _canonical(given, "the command"),
    }
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    pythons = _merged_pythons(layers)
    for where, layer in layers.items():
        merged |= layer | ({_PYTHONS: pythons} if pythons else {})
        origin |= dict.fromkeys(layer, where)
    try:
        return SearchSpec.model_validate(merged)
    except ValidationError as error:
        raise UsageError("; ".join(_sentence(item, origin) for item in error.errors())) from None


def load_pythons(
    flags: Sequence[str], config: Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the interpreter of each backend that has one of its own, for commands that take no other setting.

    Raises:
        UsageError: a value or the file cannot be used; the message says which, and where it was given.
    """
    given = os.environ if environment is None else environment
    return _merged_pythons({
        f" in {config}": read_config(config)[0] if config else {},
        " in the environment": _from_environment(given),
        "": {_PYTHONS: flags} if flags else {},
    })  # fmt: skip


def _merged_pythons(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Merge the interpreters backend by backend: a flag for one backend leaves those of the file for others."""
    found: dict[str, str] = {}
    for where, layer in layers.items():
        try:
            found |= named_pythons(layer.get(_PYTHONS, {}))
        except ValueError as error:
            raise UsageError(f"{_PYTHONS}{where}: {error}") from None
    return found


def names() -> dict[str, str]:
    """Return every name that a file or the environment may use, with the field it sets."""
    found: dict[str, str] = {}
    for field, info in SearchSpec.model_fields.items():
        aliases = info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else [field]
        found |= {str(alias): field for alias in aliases}
    return found


def _canonical(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = names()
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
            raise UsageError(f"{where} has no setting {name!r}; {advice}")
        if known[name] in fields:
            raise UsageError(f"{where} sets {known[name]!r} twice, under two names; keep one")
        fields[known[name]] = value
    return fields


def read_config(config: Path) -> tuple[dict[str, Any], str | None]:
    """Return the settings of a YAML file by field, and the home that it names.

    Raises:
        UsageError: the file cannot be read, or has a name that is no setting.
    """
    given = _content_of(config)
    home = given.pop("home", None)
    _cache_size(given.pop("cache", None), f"config file {config}")
    backends = given.pop("backends", None)
    fields = _canonical(given, f"config file {config}")
    if backends is not None:
        if _PYTHONS in fields:
            raise UsageError(f"config file {config} sets backends and {_PYTHONS}, which say the same; keep one")
        try:
            fields[_PYTHONS] = pythons_of_file(backends)
        except ValueError as error:
            raise UsageError(f"config file {config}: {error}") from None
    return fields, None if home is None else str(home)


def load_cache_limit(given: str | None, config: Path | None = None) -> int | None:
    """Return how many bytes the stage cache may take: as ``given``, else as the file says, else the default.

    ``none`` means no limit.

    Raises:
        UsageError: a value or the file cannot be used.
    """
    if given is not None:
        return _cache_size({"max_size": given}, "--cache-max-size")
    return _cache_size(_content_of(config).get("cache") if config else None, f"config file {config}")


def _cache_size(cache: Any, where: str) -> int | None:
    """Return the size that the part ``cache`` of a file names: ``max_size: 20GB``, or ``none``."""
    if cache is None:
        return DEFAULT_CACHE_BYTES
    if not isinstance(cache, dict) or set(map(str, cache)) - {"max_size", "max-size"} or len(cache) != 1:
        raise UsageError(
            f"{where}: 'cache' must say how large it may be, as in 'cache: {{max_size: 20GB}}', got {cache!r}"
        )
    (size,) = cache.values()
    if size is None or str(size).strip().lower() == "none":
        return None
    try:
        return 0 if str(size).strip() == "0" else units.size_bytes(size)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None


def _content_of(config: Path) -> dict[str, Any]:
    """Return what a YAML file holds, with underscores in the names."""
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"config file {config} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"config file {config} must hold settings such as 'latency_budget: 5ms', got {content!r}")
    return {str(name).replace("-", "_"): value for name, value in content.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read the settings; a variable that is nearly one is a slip of the pen, the others belong to somebody else."""
    known = names()
    found = {}
    for variable, value in environment.items():
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        if not variable.startswith(ENVIRONMENT_PREFIX) or value == "":
            continue
        if name in known:
            found[name] = value
        elif close := difflib.get_close_matches(name, known, 1, cutoff=0.85):
            meant = ENVIRONMENT_PREFIX + close[0].upper()
            raise UsageError(f"the environment variable {variable} is no setting; did you mean {meant}?")
    return _canonical(found, "the environment")


def _sentence(error: Any, origin: Mapping[str, str]) -> str:
    if not error["loc"]:
        return str(error["msg"]).removeprefix("Value error, ")
    name, *position = (str(part) for part in error["loc"])
    field = names().get(name, name)
    if field == "workload" and error["type"] == "missing":
        return (
            "no workload was given; name it as path/to/file.py:attribute or package.module:attribute "
            f"on the command line, in {ENVIRONMENT_PREFIX}WORKLOAD, or as 'workload' in the config file"
        )
    what = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "string_pattern_mismatch":
        what = "use letters, digits, '.', '_' and '-', at most 80, a letter or digit first"
    value = repr(error.get("input"))
    seen = "" if value in what else f" (got {value})"
    return f"{'.'.join([_spoken(field), *position])}{origin.get(field, '')}: {what}{seen}"


def _spoken(field: str) -> str:
    """The name of a field that has no unit in it, as the flags have."""
    return min((name for name, of in names().items() if of == field), key=len, default=field)
