"""Every argument and option that more than one command takes, and how they become a SearchSpec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.logs import LogFormat

if TYPE_CHECKING:
    from search.spec import SearchSpec
    from workers.keeping import Keeping

LIMITS, SPACE, SPENDING, FLEET = "Limits and goal", "Space", "What may be spent", "Fleet"
WATCHING = "Watching"
_LISTS = ("target", "backend", "batch_size")


def _home(value: Path) -> Path:
    from evaluators.errors import UsageError

    home = value.expanduser().absolute()
    for folder in (home, *home.parents):
        if folder.is_dir():
            return home
        if folder.exists():
            raise UsageError(f"home {home} cannot be a folder: {folder} is a file; name another with --home")
    return home


def _with_home(context: typer.Context, value: Path | None) -> Path | None:
    """Take the home from the file, below flag and environment; whatever the command, the file must be sound."""
    if value is not None:
        from search.spec import read_config

        home = read_config(value)[1]
        if home is not None:
            context.default_map = {**(context.default_map or {}), "home": home}
    return value


Workload = Annotated[
    str | None,
    typer.Argument(
        metavar="WORKLOAD",
        help="path/to/file.py:attribute or package.module:attribute (or PARETUNE_WORKLOAD, or 'workload' in --config)",
        show_default=False,
    ),
]
Search = Annotated[str, typer.Argument(metavar="SEARCH", help="id, name or 'latest'", show_default=False)]
Trial = Annotated[int, typer.Argument(metavar="TRIAL", min=0, help="number of the trial", show_default=False)]
Json = Annotated[bool, typer.Option("--json", metavar="", help="print one JSON object on stdout, all else on stderr")]
Home = Annotated[
    Path,
    typer.Option(
        "--home", metavar="DIR", envvar="PARETUNE_HOME", callback=_home,
        help="folder of the ledger, the cache, the MLflow store and the bundles",
    ),
]  # fmt: skip
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_with_home,
        help="YAML file of settings, named like the flags: 'latency_budget: 5ms'",
    ),
]  # fmt: skip
HomeConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", is_eager=True, callback=_with_home,
        help="YAML file of settings, of which this command takes 'home', 'backends' and 'cache'",
    ),
]  # fmt: skip

Fleet = Annotated[
    str | None,
    typer.Option(
        "--fleet", metavar="URL", envvar="PARETUNE_FLEET", rich_help_panel=FLEET,
        help="ledger of the fleet, such as postgresql://paretune@host/paretune; the home joins it and keeps it in mind",
    ),
]  # fmt: skip
Alive = Annotated[
    Path | None,
    typer.Option("--alive", metavar="FILE", help="touch this file every few seconds while it works, for health checks"),
]
MlflowServer = Annotated[
    str | None,
    typer.Option(
        "--mlflow", metavar="URL", envvar="PARETUNE_MLFLOW", rich_help_panel=FLEET,
        help="MLflow server that keeps the runs, such as http://host:5000, instead of a file in the home; "
        "the home keeps it in mind",
    ),
]  # fmt: skip
TrialNumber = Annotated[
    int | None, typer.Option("--trial", metavar="N", min=0, help="number of the trial, default the best")
]

Broker = Annotated[
    str | None,
    typer.Option(
        "--broker", metavar="URL", envvar="PARETUNE_BROKER", rich_help_panel=FLEET,
        help="Redis that tells workers of new trials, such as redis://host:6379/0; without it they look by themselves",
    ),
]  # fmt: skip

Store = Annotated[
    str | None,
    typer.Option(
        "--store", metavar="URL", envvar="PARETUNE_STORE", rich_help_panel=FLEET,
        help="directory or s3://bucket/folder that homes share; the home keeps it in mind",
    ),
]  # fmt: skip
NoUploads = Annotated[
    bool,
    typer.Option(
        "--no-uploads", metavar="", envvar="PARETUNE_NO_UPLOADS", rich_help_panel=FLEET,
        help="refuse workloads that were uploaded",
    ),
]  # fmt: skip
CacheMaxSize = Annotated[
    str | None,
    typer.Option(
        "--cache-max-size", metavar="SIZE", envvar="PARETUNE_CACHE_MAX_SIZE", rich_help_panel=SPENDING,
        help="size of the stage cache, or none (default 20GB)",
    ),
]  # fmt: skip
LogFormats = Annotated[
    LogFormat,
    typer.Option(
        "--log-format", envvar="PARETUNE_LOG_FORMAT", rich_help_panel=WATCHING,
        help="auto: sentences on a terminal, else an object on each line",
    ),
]  # fmt: skip
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port", metavar="PORT", min=0, max=65535, envvar="PARETUNE_METRICS_PORT", rich_help_panel=WATCHING,
        help="answer Prometheus at /metrics on this port; 0: any that is free",
    ),
]  # fmt: skip
MetricsHost = Annotated[
    str,
    typer.Option(
        "--metrics-host", metavar="ADDRESS", envvar="PARETUNE_METRICS_HOST", rich_help_panel=WATCHING,
        help="where that port is open; not beyond this machine unless told",
    ),
]  # fmt: skip

Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="NAME[=PRICE][,…]",
        rich_help_panel=SPACE,
        help="hardware to search on, each perhaps with its price per hour: cpu-avx512_vnni=0.17,cpu-arm64=0.12",
    ),
]
Backend = Annotated[
    list[str] | None,
    typer.Option("--backend", metavar="NAME[,NAME]", help="runtimes to search, default all", rich_help_panel=SPACE),
]
BatchSize = Annotated[
    list[str] | None,
    typer.Option("--batch-size", metavar="N[,N]", help="batch sizes to search", rich_help_panel=SPACE),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", help="threads of the runtime, fixed", rich_help_panel=SPACE),
]

BackendPython = Annotated[
    list[str] | None,
    typer.Option(
        "--backend-python", metavar="NAME=PATH", help="interpreter that a backend lives in, repeatable",
        rich_help_panel=SPACE,
    ),
]  # fmt: skip

HOME = Path(".paretune")


def spec_of(context: typer.Context, config: Path | None) -> SearchSpec:
    """Build the spec from the flags that the command was given, the environment, the file and the defaults.

    Raises:
        UsageError: a value, a name or the file cannot be used.
    """
    from search.spec import load_spec, names

    flags = {name: value for name, value in context.params.items() if name in names()}
    return load_spec(flags | {name: _listed(name, flags[name]) for name in _LISTS if flags.get(name)}, config)


def pythons_of(backend_python: list[str] | None, config: Path | None) -> dict[str, str]:
    """Return the interpreters of backends from the flag, the environment and the file.

    Raises:
        UsageError: a value or the file cannot be used.
    """
    from search.spec import load_pythons

    return load_pythons(backend_python or (), config)


def keep_runs_on(server: str | None, home: Path) -> None:
    """Make an MLflow server, where one is named, the store of ``home``.

    Raises:
        UsageError: it is none, or the home has another store.
    """
    if server is not None:
        from search.tracking_server import use_tracking_server

        use_tracking_server(home, server)


def keeping_of(cache_max_size: str | None, config: Path | None, no_uploads: bool = False) -> Keeping:
    """Return how a process treats its home, from the flags, the environment and the file.

    Raises:
        UsageError: a value or the file cannot be used.
    """
    from search.spec import load_cache_limit
    from workers.keeping import Keeping

    return Keeping(cache_limit_bytes=load_cache_limit(cache_max_size, config), uploads=not no_uploads)


def existing(home: Path) -> Path:
    """Return ``home`` if there is one: looking at a search makes no folder.

    Raises:
        UsageError: the folder does not exist.
    """
    from evaluators.errors import UsageError

    if not home.is_dir():
        raise UsageError(f"home {home} does not exist, so it holds no search; name another with --home")
    return home


def _listed(name: str, values: list[str]) -> tuple[str, ...]:
    from evaluators.errors import UsageError

    listed = tuple(part.strip() for value in values for part in value.split(","))
    if not all(listed):
        raise UsageError(f"--{name.replace('_', '-')} {','.join(values)!r} has an empty part; write a,b")
    return listed
