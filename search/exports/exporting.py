"""Exporting: find the bundle, refuse what does not fit, write the format beside its place, and move it there whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from search.exports.evidence import ExportEvidence
from search.exports.format import Format, Options, Written
from search.exports.source import Source, find_source, safe_name
from search.exports.study import OPTUNA, write_study
from search.home import home_folder


class ExportReport(Frozen):
    """What was exported to where.

    Attributes:
        output: the folder that was made, and ``files`` in it with their sizes in bytes.
        digest / label: of the bundle; of a search its name, and no digest.
        evidence: ``certified``, ``measured`` or ``unknown``; ``evidence.json`` in the folder holds all of it.
        start: the command that starts it, from within the folder.
        runs_code: what code of its own the bundle runs where it is loaded, or null.
        notes: what a user should know besides.
    """

    reference: str
    format: str
    output: str
    files: dict[str, int]
    digest: str | None
    label: str
    evidence: str
    start: str
    runs_code: str | None = None
    notes: tuple[str, ...] = ()


def export(
    reference: str, format: str, output: Path | str, home: Path | str | None = None, *, trial: int | None = None,
    name: str | None = None, window_ms: float | None = None, instances: int | None = None, trust: str | None = None,
) -> ExportReport:  # fmt: skip
    """Write a bundle as a serving system takes it, with its evidence; ``output`` must not exist, or be empty.

    The format ``optuna`` writes a whole search as an Optuna study.

    ``reference`` is a search (its best trial, or ``trial``), ``SEARCH/TRIAL``, ``NAME@ALIAS`` or a bundle's folder.

    Raises:
        UsageError: the reference, the folder or an option cannot be used.
        FormatError: the format cannot carry this bundle.
        InfeasibleError: no trial was named, and nothing is feasible.
        IntegrityError: the bundle is not what was built, or runs code that nobody vouches for.
    """
    from search.exports.registry import format_named, refuse_unfit

    folder, options = Path(output).expanduser().absolute(), Options(name, window_ms, instances)
    if format == OPTUNA:
        if options != Options() or trial is not None or trust is not None:
            raise UsageError("format optuna writes a whole search, and takes no flags of one bundle")
        return _export_study(reference, folder, home_folder(home))
    wanted = format_named(format)
    refuse_options(options)
    refuse_taken(folder)
    source = find_source(reference, home_folder(home), trial, trust)
    refuse_unfit(wanted, source.manifest, options)
    with staged(folder) as staging:
        written = wanted.write(source, staging, options)
        (staging / "evidence.json").write_text(source.evidence.model_dump_json(indent=2) + "\n")
        (staging / "README.md").write_text(_readme(wanted, source, written))
    return ExportReport(
        reference=reference, format=wanted.name, output=str(folder), digest=source.manifest.digest,
        files=_sizes(folder), label=source.evidence.label, evidence=source.evidence.status, start=written.start,
        runs_code=source.runs_code, notes=written.notes,
    )  # fmt: skip


def _export_study(reference: str, folder: Path, home: Path) -> ExportReport:
    from search import api

    if not home.is_dir():
        raise UsageError(f"home {home} does not exist, so it holds no search {reference}; name another with --home")
    refuse_taken(folder)
    result = api.result(reference, home)
    with staged(folder) as staging:
        written = write_study(result, api.trials(reference, home), staging)
    return ExportReport(
        reference=reference, format=OPTUNA, output=str(folder), digest=None, files=_sizes(folder), label=result.name,
        evidence="measured", start=written.start, notes=written.notes,
    )  # fmt: skip


def _sizes(folder: Path) -> dict[str, int]:
    return {file.relative_to(folder).as_posix(): file.stat().st_size
            for file in sorted(folder.rglob("*")) if file.is_file()}  # fmt: skip


def refuse_options(options: Options) -> None:
    """Refuse values that no format could honour.

    Raises:
        UsageError: a name with other characters, a negative window, no instances.
    """
    if options.name is not None and options.name != safe_name(options.name):
        raise UsageError(f"--name {options.name!r} must be of letters, digits, '_' and '-'")
    if options.window_ms is not None and not 0 <= options.window_ms < 60_000:
        raise UsageError(f"--window {options.window_ms:g} ms must be from 0 to a minute")
    if options.instances is not None and options.instances < 1:
        raise UsageError(f"--instances {options.instances} must be at least 1")


def refuse_taken(folder: Path) -> None:
    """Refuse a place where something is.

    Raises:
        UsageError: it is a file, a link, or a folder that is not empty.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"{folder} is not a folder; name another with -o")
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty, and nothing is written over; name another with -o")


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` that takes its place once the block has ended well; else nothing is left.

    Raises:
        UsageError: something was put into ``folder`` meanwhile.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)
        refuse_taken(folder)
        try:
            staging.rename(folder)  # an empty folder is replaced
        except OSError as error:
            raise UsageError(f"{folder} cannot be made: {error.strerror}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _readme(wanted: Format, source: Source, written: Written) -> str:
    evidence, manifest = source.evidence, source.manifest
    lines = [
        f"# {source.name}: {wanted.about}", "",
        f"{evidence.label}, bundle `{manifest.digest}`.", "",
        f"    {written.start}", "",
        *[f"- {note}" for note in written.notes],
        *([f"- it runs code of its own: {source.runs_code}"] if source.runs_code else []), "",
        f"Evidence: {_told(evidence)} It holds on {evidence.target}, with the versions in `evidence.json`.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _told(evidence: ExportEvidence) -> str:
    return {
        "certified": "it passed every gate of a promotion; `evidence.json` is its certificate.",
        "measured": "it was measured by a search and not proven again; `paretune promote` does that.",
        "unknown": "none; only the bundle's manifest is known.",
    }[evidence.status]
