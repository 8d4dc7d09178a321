"""Format ``openvino``: the OpenVINO IR that was measured."""

from __future__ import annotations

from pathlib import Path

from evaluators.bundle import Manifest
from search.exports.format import Format, Options, Written
from search.exports.parts import batching_notes, needs_runner, standalone, write_examples, write_json
from search.exports.source import Source

FILES = ("model.xml", "model.bin")


def _refuse(manifest: Manifest) -> str | None:
    if not set(FILES) <= manifest.files.keys():
        return f"its files are {', '.join(sorted(manifest.files))}, which is no OpenVINO IR"
    return needs_runner(manifest)


def _write(source: Source, folder: Path, options: Options) -> Written:
    candidate = source.manifest.candidate
    for name in FILES:
        source.copy_file(name, folder / name)
    write_json(folder / "compile.json", standalone(source.manifest).settings(candidate))
    notes = (
        *batching_notes(source.manifest),
        "compile it with the settings of compile.json: OpenVINO's defaults may be of another precision",
    )
    return Written("openvino.Core().compile_model('model.xml')", (*notes, *write_examples(source, folder)))


FORMAT = Format("openvino", "the OpenVINO IR, and how it was compiled", _refuse, _write)
