"""The commands on a bundle: ``bundle inspect``, ``bundle verify``, ``bundle run`` and ``bundle schema``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evaluators.run_bundle import BundleRun
    from evaluators.structure import Structure
    from search.bundles import BundleReport

app = typer.Typer(help="Look at a bundle, check it, and run it.", no_args_is_help=True)
Bundle = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="folder of a bundle, or a trial such as latest:7", show_default=False)
]


@app.command(epilog="paretune bundle inspect latest:7\n\nparetune bundle inspect ./bundle --json | jq '.manifest'")
def inspect(
    bundle: Bundle,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show what a bundle says of itself: what runs how, signature, size, target, versions."""
    from search import bundles

    pythons = options.pythons_of(backend_python, config)
    report = bundles.inspect_bundle(bundles.find_bundle(bundle, home), pythons)
    return Reply(report.to_json(), lambda: _report(report))


@app.command(epilog="paretune bundle verify ./bundle\n\nExit code 0: it is what was built; 5: it is refused.")
def verify(
    bundle: Bundle,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Check every file of a bundle: name, kind, hash and content. Runs nothing of it."""
    from search import bundles

    pythons = options.pythons_of(backend_python, config)
    report = bundles.verify_bundle(bundles.find_bundle(bundle, home), pythons)
    return Reply({"verified": True, **report.to_json()}, lambda: _report(report))


@app.command(
    epilog="paretune bundle run latest:7 --workload workload.py:workload --examples 200\n\n"
    "paretune bundle run ./bundle --input inputs.npz --output outputs.npz"
)
def run(
    bundle: Bundle,
    input: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".npz with an array for each input, any number of rows")
    ] = None,
    workload: Annotated[
        str | None, typer.Option(metavar="WORKLOAD", help="run its first validation examples and score them")
    ] = None,
    examples: Annotated[int, typer.Option(metavar="N", min=1, help="how many of them")] = 100,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help=".npz to write, an array for each output")
    ] = None,
    allow_other_target: Annotated[
        bool,
        typer.Option("--allow-other-target", metavar="", help="run portable files on other hardware than measured"),
    ] = False,
    trust: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="run a bundle with code of its own: the digest you were told")
    ] = None,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Run a bundle on inputs or on a workload's examples, in a process of its own."""
    from search import bundles

    found = bundles.run_bundle(
        bundles.find_bundle(bundle, home), home, file=input, workload=workload, examples=examples, output=output,
        other_target=allow_other_target, trust=trust,
        backend_python=options.pythons_of(backend_python, config),
    )  # fmt: skip
    return Reply({"bundle": bundle, **found.to_json()}, lambda: _run(found))


@app.command(epilog="paretune bundle schema > manifest.schema.json")
def schema(json: options.Json = False) -> Reply:
    """Print the JSON Schema of a bundle's manifest."""
    import json as text

    from evaluators.bundle import Manifest

    content = Manifest.model_json_schema()
    return Reply({"schema": content}, lambda: text.dumps(content, indent=2))


def _report(report: BundleReport) -> RenderableType:
    from search.cli.views import facts_table

    manifest, candidate = report.manifest, report.manifest.candidate
    versions = {f"{name}": found or "not installed" for name, found in report.other_versions.items()}
    return facts_table({
        "bundle": report.bundle,
        "digest": report.digest,
        "model": candidate.label(),
        "target": f"{candidate.target} {manifest.target_fingerprint}",
        **({"not this machine": f"it {report.other_target}"} if report.other_target else {}),
        "inputs": _signature(manifest.inputs, candidate.batch_size),
        "outputs": _signature(manifest.outputs, candidate.batch_size),
        "size": f"{report.size_bytes / 1e6:.3g} MB in {len(manifest.files)} files",
        "built with": ", ".join(f"{name} {version}" for name, version in manifest.environment.items()),
        **({"here it is": ", ".join(f"{name} {version}" for name, version in versions.items())} if versions else {}),
        **({"licences": ", ".join(f"{of} {licence}" for of, licence in manifest.licences.items())}
           if manifest.licences else {}),
        **({"preprocessing": manifest.preprocessing.description or str(manifest.preprocessing.file)}
           if manifest.preprocessing else {}),
        **({} if report.portable is None else {"portable": "yes" if report.portable else "no, compiled"}),
        **({"runs code": report.runs_code} if report.runs_code else {}),
    })  # fmt: skip


def _signature(structure: Structure, batch_size: int) -> str:
    shapes = [(batch_size, *tensor.shape[1:]) for tensor in structure.tensors]
    texts = [", ".join("?" if size is None else str(size) for size in shape) for shape in shapes]
    named = zip(structure.tensors, texts, strict=True)
    return ", ".join(f"{tensor.name} {tensor.dtype}[{text}]" for tensor, text in named)


def _run(found: BundleRun) -> RenderableType:
    from search.cli.views import facts_table

    later = "" if found.median_call_ms is None else f", the others {found.median_call_ms:.3g} ms (median)"
    scores = {found.scored_by or "": f"{found.score} (the original {found.original_score})"} if found.scored_by else {}
    return facts_table({
        "rows": f"{found.rows} in {found.calls} calls",
        "calls": f"the first {found.first_call_ms:.3g} ms{later}",
        "outputs": ", ".join(f"{name} {list(shape)}" for name, shape in found.outputs.items()),
        **scores,
        **({} if found.agreement is None else {"agreement": f"{found.agreement:.4g}"}),
    })  # fmt: skip
