"""Format ``pt2``: the package that torch's compiler made, for Python and for C++ through AOTInductor."""

from __future__ import annotations

from pathlib import Path

from evaluators.bundle import Manifest
from search.exports.format import Format, Options, Written
from search.exports.parts import write_examples
from search.exports.source import Source

MODEL = "model.pt2"


def _refuse(manifest: Manifest) -> str | None:
    return None if MODEL in manifest.files else f"its files are {', '.join(sorted(manifest.files))}, without {MODEL}"


def _write(source: Source, folder: Path, options: Options) -> Written:
    candidate = source.manifest.candidate
    source.copy_file(MODEL, folder / MODEL)
    notes = (
        f"it takes batches of exactly {candidate.batch_size}, was compiled for {candidate.runtime.threads} threads of "
        f"{candidate.target}, and holds native code",
    )
    return Written("torch._inductor.aoti_load_package('model.pt2')", (*notes, *write_examples(source, folder)))


FORMAT = Format("pt2", "the package of torch's compiler", _refuse, _write)
