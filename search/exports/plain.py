"""Format ``bundle``: the bundle as it is, and a runner that needs NumPy and the bundle's own runtime, not paretune."""

from __future__ import annotations

from pathlib import Path

from search.exports.format import Format, Options, Written
from search.exports.parts import needs_runner, requirements, write_examples, write_runner
from search.exports.source import Source


def _write(source: Source, folder: Path, options: Options) -> Written:
    if (why := needs_runner(source.manifest)) is not None:
        source.copy_bundle(folder / "bundle")
        return Written("python -m evaluators.run_bundle bundle --input inputs.npz", (f"there is no runner: {why}",))
    write_runner(source, folder)
    (folder / "requirements.txt").write_text(requirements(source.manifest))
    return Written("python runner.py example.npz outputs.npz", write_examples(source, folder))


FORMAT = Format("bundle", "the bundle, and a runner without paretune", lambda manifest: None, _write)
