"""The app: its commands in the order in which a user meets them, each with worked examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from search.cli import (
    before,
    bundle,
    cache,
    explaining,
    exporting,
    fleet,
    loading,
    promoting,
    results,
    running,
    sensing,
    ui,
)
from search.cli.output import Reply

EXIT_CODES = (
    "Exit codes: 0 a feasible model was found; 1 internal error; 2 bad usage or config; 3 infrastructure; "
    "4 nothing feasible (the nearest are shown, the undecided first); 5 integrity; "
    "130 interrupted (paretune resume goes on)."
)

app = typer.Typer(
    add_completion=False,
    invoke_without_command=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Start with: paretune doctor\n\n{EXIT_CODES}",
)


@app.callback()
def paretune(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", metavar="", help="print the version")] = False,
) -> None:
    """Searches quantization, pruning, batch size and backend jointly for the models that nothing else beats."""
    if version:
        from importlib import metadata

        typer.echo(f"paretune {metadata.version('paretune')}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


WORKLOAD = "workload.py:workload"
COMMANDS: tuple[tuple[Callable[..., Reply], str], ...] = (
    (before.doctor, "paretune doctor\n\nparetune doctor --json | jq '.backends'"),
    (
        before.check,
        f"paretune check {WORKLOAD}\n\nExit code 0: it can be searched; 2: it breaks the contract.",
    ),
    (
        before.space,
        f"paretune space {WORKLOAD} --explain\n\nparetune space {WORKLOAD} --backend onnxruntime --batch-size 1,8",
    ),
    (
        sensing.sensitivity,
        f"paretune sensitivity {WORKLOAD}\n\nparetune sensitivity {WORKLOAD} --json | jq '.layers\\[:3]'",
    ),
    (
        running.search,
        f"paretune search {WORKLOAD} --latency-budget 5ms --max-accuracy-drop 0.01\n\n"
        f"paretune search {WORKLOAD} --objective latency --batch-size 1 --threads 1 --trials 40\n\n"
        "paretune search --config search.yaml --timeout 10m --json | jq '.best'\n\n"
        f"Settings: flag, then environment (PARETUNE_LATENCY_BUDGET, …), then --config, then default. {EXIT_CODES}",
    ),
    (results.status, "paretune status\n\nparetune status latest --json | jq '.status'"),
    (results.trials, "paretune trials latest\n\nparetune trials latest --json | jq '.trials\\[] | select(.feasible)'"),
    (results.front, "paretune front latest\n\nparetune front latest --json | jq '.front\\[0].bundle'"),
    (results.report, "paretune report latest\n\nparetune report latest --output front.html"),
    (explaining.explain, "paretune explain latest 7\n\nparetune explain latest 7 --json | jq '.why'"),
    (running.resume, "paretune resume latest"),
    (running.cancel, "paretune cancel latest"),
    (
        running.reproduce,
        "paretune reproduce latest 7\n\n"
        "Exit code 0: measured and surely within the limits; 4: rejected, failed or undecided.",
    ),
    (
        promoting.promote,
        "paretune promote latest --as classifier@champion\n\n"
        "paretune promote latest --pick knee --as classifier@canary\n\n"
        "paretune promote classifier-dev@champion --as classifier@champion\n\n"
        "paretune promote latest --trial 7 --as classifier@champion --json | jq '.gates'\n\n"
        "Exit code 0: registered, served once, and the alias points at it; 5: a gate refused, and nothing changed.",
    ),
    (promoting.rollback, "paretune rollback classifier@champion"),
    (promoting.history, "paretune history classifier\n\nparetune history classifier --json | jq '.steps'"),
    (
        exporting.export,
        "paretune export classifier@champion --format mlserver -o ./classifier\n\n"
        "paretune export latest --trial 7 --format bundle -o ./model\n\n"
        "Exit code 2: the format cannot carry this bundle, and the message names those that can; 5: it was altered.",
    ),
    (
        promoting.diff,
        "paretune diff classifier@champion latest/7\n\nparetune diff ./old ./new --examples 2000 --json",
    ),
    (
        promoting.reconcile,
        "paretune reconcile\n\nparetune reconcile --restore\n\n"
        "Exit code 0: every alias points at what passed its gates; 5: one of them does not.",
    ),
    (
        promoting.revalidate,
        "paretune revalidate classifier@champion\n\nExit code 0: its certificate holds; 5: it does not.",
    ),
    (
        loading.loadtest,
        "paretune loadtest latest/7 --rate 50/s --latency-budget 5ms\n\n"
        "paretune loadtest classifier@champion --find-rate --latency-budget 5ms --instances 2 --json | "
        "jq '.highest_rate_per_s'\n\n"
        "paretune loadtest http://127.0.0.1:5000/invocations --rate 50/s --latency-budget 20ms "
        f"--workload {WORKLOAD}\n\n"
        "Exit code 0: the percentile surely keeps the budget; 4: it does not, or that is undecided.",
    ),
    (
        fleet.worker,
        "paretune worker --home /shared/paretune\n\n"
        "paretune worker --home /shared/paretune --target cuda-sm90 --device cuda:1\n\n"
        "paretune worker --home /shared/paretune --fleet postgresql://paretune@db/paretune --broker redis://queue/0\n\n"
        "paretune worker --home ~/worker --fleet postgresql://paretune@db/paretune --store s3://bucket/paretune\n\n"
        "SIGTERM: the trial in progress is finished, then it leaves. SIGQUIT or Ctrl-C: that one is queued again.",
    ),
    (
        fleet.coordinator,
        "paretune coordinator --home /shared/paretune --fleet postgresql://paretune@db/paretune --broker redis://queue/0\n\n"
        "SIGTERM or Ctrl-C: it leaves, and the next coordinator goes on.",
    ),
    (
        fleet.beat,
        "paretune beat --every 24h --home /shared/paretune --fleet postgresql://paretune@db/paretune "
        "--broker redis://queue/0\n\n"
        "SIGTERM or Ctrl-C: it leaves. Any number may run; what was measured, and when, is in the ledger.",
    ),
    (fleet.fleet, "paretune fleet\n\nparetune fleet --json | jq '.workers\\[] | select(.present)'"),
    (
        ui.ui,
        "paretune ui latest --view front\n\nparetune ui latest --port 5001 --view compare --print",
    ),
)
for command, examples in COMMANDS:
    app.command(epilog=examples)(command)
app.add_typer(bundle.app, name="bundle")
app.add_typer(cache.app, name="cache")
