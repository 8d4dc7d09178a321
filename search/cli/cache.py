"""The commands on what a home keeps: ``cache ls`` and ``cache gc``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from search.caches import CacheReport, GcReport

app = typer.Typer(help="Look at what a home keeps, and make it smaller.", no_args_is_help=True)


@app.command(epilog="paretune cache ls\n\nparetune cache ls --json | jq '.rows\\[] | select(.what == \"stage\")'")
def ls(
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
    cache_max_size: options.CacheMaxSize = None,
) -> Reply:
    """Show what a home keeps: results of stages, bundles, unpacked workloads; how much, and when it was used last."""
    from search import caches

    limit = options.keeping_of(cache_max_size, config).cache_limit_bytes
    report = caches.look_at(options.existing(home), limit)
    return Reply(report.to_json(), lambda: _table(report))


@app.command(
    epilog="paretune cache gc --max-size 5GB\n\nparetune cache gc --max-size 0 --dry-run\n\n"
    "Never what a running trial uses, nor a bundle that a trial or a promotion names."
)
def gc(
    max_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", envvar="PARETUNE_CACHE_MAX_SIZE", help="what may stay (default: the limit, 20GB)"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="say what would leave, remove nothing")
    ] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Remove what was used longest ago until the rest is within the limit."""
    from search import caches

    limit = options.keeping_of(max_size, config).cache_limit_bytes
    report = caches.collect(options.existing(home), limit, dry_run=dry_run)
    return Reply(report.to_json(), lambda: _gone(report))


def _table(report: CacheReport) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from search.units import show_bytes

    table = Table("what", "name", "entries", "size", "named", "last used", box=None, pad_edge=False)
    for row in report.rows:
        used = "" if row.last_used is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(row.last_used))
        named = str(row.named) if row.what == "bundle" else ""
        table.add_row(row.what, row.name, str(row.entries), show_bytes(row.size_bytes), named, used)
    limit = "no limit" if report.limit_bytes is None else f"the limit is {show_bytes(report.limit_bytes)}"
    shared = f"; shared with {report.store}" if report.store else ""
    return Group(table, f"{show_bytes(report.evictable_bytes)} could be evicted, {limit}{shared}")


def _gone(report: GcReport) -> str:
    from search.units import show_bytes

    what = "would leave" if report.dry_run else "left"
    kept = f"{show_bytes(report.kept_bytes)} that could be evicted {'would stay' if report.dry_run else 'stay'}"
    busy = "; trials run here, what they may need stays" if report.in_use_since is not None else ""
    return f"{len(report.left)} entries with {show_bytes(report.left_bytes)} {what}, {kept}{busy}"
