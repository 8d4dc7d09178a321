"""Run a bundle in a process that built nothing: ``python -m evaluators.testing.elsewhere BUNDLE FOLDER [--probe]``.

It reads ``inputs.npz`` from FOLDER and leaves ``outputs.npz`` and ``modules.json`` there; with ``--probe`` also
``probes.json``: how many threads work, and what becomes of inputs that break the contract.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from evaluators import registry
from evaluators.bundle import open_bundle


def main(bundle: Path, folder: Path, *, probe: bool = False) -> None:
    """Load ``bundle``, run the batches in ``folder`` and write what came out."""
    manifest = open_bundle(bundle, trusted=True)
    runner = registry.backend(manifest.candidate.backend).load(bundle, manifest)
    batches: dict[str, dict[str, np.ndarray]] = {}
    with np.load(folder / "inputs.npz", allow_pickle=False) as stored:
        for key in sorted(stored.files):
            index, _, name = key.partition("/")
            batches.setdefault(index, {})[name] = stored[key]
    outputs: dict[str, np.ndarray] = {}
    for index, batch in batches.items():
        for position, array in enumerate(runner.outputs(runner.run(runner.prepare(batch)))):
            outputs[f"{index}/{position:03d}"] = array
    np.savez(folder / "outputs.npz", **outputs)  # type: ignore[arg-type]
    (folder / "modules.json").write_text(json.dumps(sorted(sys.modules)))
    if probe:
        from evaluators.testing.probes import probe_all

        probe_all(runner, next(iter(batches.values())), folder / "probes.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), probe="--probe" in sys.argv[3:])
