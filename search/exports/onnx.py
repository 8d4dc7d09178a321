"""Format ``onnx``: the graph that was measured, for onnxruntime in any language."""

from __future__ import annotations

from pathlib import Path

from evaluators.backends.providers import SAVED, provider_of
from evaluators.bundle import Manifest
from search.exports.format import Format, Options, Written
from search.exports.parts import batching_notes, needs_runner, standalone, write_examples, write_json
from search.exports.source import Source

MODEL = "model.onnx"


def _refuse(manifest: Manifest) -> str | None:
    if MODEL not in manifest.files:
        return f"its files are {', '.join(sorted(manifest.files))}, without {MODEL}"
    return needs_runner(manifest)


def _write(source: Source, folder: Path, options: Options) -> Written:
    candidate = source.manifest.candidate
    source.copy_file(MODEL, folder / MODEL)
    write_json(folder / "session.json", standalone(source.manifest).settings(candidate))
    notes = [*batching_notes(source.manifest)]
    if provider_of(candidate) in SAVED:
        notes.append("the graph was optimized beforehand: it may hold onnxruntime's own operators, which nothing else "
                     "knows; open it with graph optimization off, as session.json says")  # fmt: skip
    return Written("onnxruntime.InferenceSession('model.onnx')", (*notes, *write_examples(source, folder)))


FORMAT = Format("onnx", "the ONNX graph, and how its session was opened", _refuse, _write)
