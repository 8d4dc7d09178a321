"""The command ``loadtest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evaluators.traffic.values import Endpoint, LoadTest, Serving
    from search.load_testing import LoadTestReport

SERVING, REQUESTS, URL = "How a bundle is served", "Requests", "URL"


def loadtest(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE|URL", help="folder of a bundle, SEARCH/TRIAL, NAME@ALIAS, or the address of a served model",
            show_default=False,
        ),
    ],
    latency_budget: Annotated[
        str, typer.Option(metavar="TIME", help="longest that a request may take: 5ms", show_default=False)
    ],
    rate: Annotated[
        str | None, typer.Option(metavar="N/s", help="requests that come, on average: 50/s", rich_help_panel=REQUESTS)
    ] = None,
    find_rate: Annotated[
        bool,
        typer.Option("--find-rate", metavar="", help="look for the highest rate that keeps the budget, from --rate on"),
    ] = False,
    percentile: Annotated[
        str, typer.Option(metavar="p50|p90|p95|p99", help="of the requests that must keep the budget")
    ] = "p99",
    confidence: Annotated[str, typer.Option(metavar="P", help="how sure the verdict must be: 0.99, 99%")] = "95%",
    duration: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="how long requests come (default: as long as a verdict takes, at least 10s)",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    request_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="after that a request is dropped (default 10 budgets, at least 1s)",
            rich_help_panel=REQUESTS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="of the arrivals", rich_help_panel=REQUESTS)] = 0,
    workload: Annotated[
        str | None,
        typer.Option(metavar="WORKLOAD", help="send its validation examples (default: the bundle's own)",
                     rich_help_panel=REQUESTS),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="send these rows: .npz with an array for each input",
                     rich_help_panel=REQUESTS),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="a request waits so long for others to share a batch (default 2ms)",
                     rich_help_panel=SERVING),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="requests in a batch at most (default: the bundle's batch size)",
                     rich_help_panel=SERVING),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="processes that run batches (default 1)", rich_help_panel=SERVING),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="mlflow|v2", help="of the server (default: found out)", rich_help_panel=URL),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="requests under way at most (default 64)", rich_help_panel=URL),
    ] = None,
    max_foreign_load: Annotated[
        str, typer.Option(metavar="P", envvar="PARETUNE_MAX_FOREIGN_LOAD",
                          help="waiting for a processor that spoils a test of a bundle")
    ] = "5%",
    trust: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="run a folder with code of its own: the digest you were told"),
    ] = None,
    allow_other_target: Annotated[
        bool,
        typer.Option("--allow-other-target", metavar="", help="run portable files on other hardware than measured"),
    ] = False,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:  # fmt: skip
    """Send single requests at random times to a bundle behind a batching window, or to a URL, and judge their p99."""
    from search import api
    from search.load_testing import Source

    test = _test(
        budget_ms=latency_budget, percentile=percentile, confidence=confidence, seconds=duration,
        timeout_ms=request_timeout, seed=seed, max_foreign_load=max_foreign_load,
    )  # fmt: skip
    report = api.loadtest(
        subject, home, test, rate_per_s=None if rate is None else _parsed("--rate", rate), find_rate=find_rate,
        serving=_serving(window, max_batch, instances), endpoint=_endpoint(subject, protocol, connections),
        source=Source(
            workload=workload, file=input, trust=trust, other_target=allow_other_target,
            backend_python=options.pythons_of(backend_python, config),
        ),
    )  # fmt: skip
    return Reply(report.to_json(), lambda: _view(report), report.exit_code)


_FLAGS = {"budget_ms": "--latency-budget", "seconds": "--duration", "timeout_ms": "--request-timeout"}


def _parsed(flag: str, value: str) -> float:
    """Read one value of a flag.

    Raises:
        UsageError: it is not of the flag's kind.
    """
    from evaluators.errors import UsageError
    from search import units

    read = {
        "--rate": units.per_second, "--duration": units.seconds, "--window": units.milliseconds_or_none,
        "--latency-budget": units.milliseconds, "--request-timeout": units.milliseconds,
        "--confidence": units.share, "--max-foreign-load": units.share,
    }  # fmt: skip
    try:
        return read[flag](value)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _test(**given: Any) -> LoadTest:
    from pydantic import ValidationError

    from evaluators.errors import UsageError
    from evaluators.traffic.values import LoadTest

    flags = {name: _FLAGS.get(name, f"--{name.replace('_', '-')}") for name in given}
    read = {name: _parsed(flags[name], value) if isinstance(value, str) and name != "percentile" else value
            for name, value in given.items()}  # fmt: skip
    try:
        return LoadTest(**read)
    except ValidationError as error:
        told = error.errors()[0]
        what = told["msg"].replace("Input should be", "must be")
        raise UsageError(f"{flags.get(str(told['loc'][0]), told['loc'][0])}: {what} (got {told['input']!r})") from None


def _serving(window: str | None, max_batch: int | None, instances: int | None) -> Serving | None:
    from evaluators.traffic.values import Serving

    given: dict[str, Any] = {"max_batch": max_batch, "instances": instances}
    if window is not None:
        given["window_ms"] = _parsed("--window", window)
    given = {name: value for name, value in given.items() if value is not None}
    return Serving(**given) if given else None


def _endpoint(subject: str, protocol: str | None, connections: int | None) -> Endpoint | None:
    from evaluators.errors import UsageError
    from evaluators.traffic.values import Endpoint

    if protocol not in (None, "mlflow", "v2"):
        raise UsageError(f"--protocol {protocol!r} is not known; known are mlflow and v2")
    given = {name: value for name, value in {"protocol": protocol, "connections": connections}.items() if value}
    return Endpoint.model_validate({"url": subject, **given}) if given else None


def _view(report: LoadTestReport) -> RenderableType:
    from rich.console import Group

    from search.cli.views import facts_table, plain_table
    from search.units import show_ms
    from search.wording import show_confidence, show_interval, show_limit, show_rate, show_verdict

    test = report.test
    percentiles = ", ".join(f"{name} {show_ms(getattr(test, name))}" for name in ("p50", "p95", "p99"))
    rates = f"{show_rate(test.offered_per_s)}, answered {show_rate(test.achieved_per_s)}"
    lost = f"; {test.dropped} dropped, {test.errors} failed" if test.dropped or test.errors else ""
    facts = {"tested": f"{report.subject}" + (f" ({report.label})" if report.label else f", {report.protocol}")}
    if test.instances is not None:
        facts["served by"] = (
            f"{test.instances} instance{'' if test.instances == 1 else 's'}, batches of up to {test.max_batch}, window "
            f"{show_ms(test.window_ms) if test.window_ms else 'none'}"
        )
    if report.steps:
        facts["highest rate"] = show_rate(report.highest_rate_per_s) if report.highest_rate_per_s else "none was found"
    facts |= {
        "requests": f"{test.requests:,} at {rates}{lost}",
        "latency": f"{percentiles} ({test.percentile}: {show_interval('latency_ms', test.ci95)})",
        "over budget": f"{test.over_budget:.2%} of the requests",
    }
    if test.call_ms is not None:
        sizes = f"{test.batches:,} of {test.mean_batch:.3g} requests"
        facts["calls"] = f"{sizes}, p50 {show_ms(test.call_ms.p50)}; at work {test.busy_share:.0%} of the time"
    if not test.clean:
        facts["disturbed"] = f"other programs used the processor ({test.foreign_load:.0%}), so nothing is judged"
    facts["verdict"] = f"{show_limit(report.verdict.constraint)}: {show_verdict(report.verdict, report.confidence)}"
    if not report.steps:
        return facts_table(facts)
    steps = plain_table("rate", test.percentile, f"verdict at {show_confidence(report.confidence)}")
    for step in report.steps:
        again = " (second look)" if step.confirming else ""
        steps.add_row(show_rate(step.rate_per_s), show_ms(step.value_ms), step.status + again)
    return Group(steps, "", facts_table(facts))
