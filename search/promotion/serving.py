"""The smoke test: a registered version, loaded as servers load it, answers real inputs as its bundle does.

``python -m search.promotion.serving HOME URI BUNDLE WORKLOAD`` is the fresh process; ``check_serving`` starts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from evaluators.errors import InfrastructureError, IntegrityError, ParetuneError
from evaluators.frozen import Frozen
from evaluators.structure import Structure
from workers.supervisor import job_environment

TOLERANCE = 1e-5
"""Largest difference between what is served and the bundle's own answer, relative to the largest answer.

Both run the same files in the same runtime; kernels that add in another order from call to call stay well within it.
"""
TIMEOUT_S = 300.0


class Served(Frozen):
    """What serving real inputs gave: how many rows, and the largest difference from the bundle's own answers.

    ``difference`` is relative to the largest answer.
    """

    rows: int
    difference: float


def check_serving(home: Path, uri: str, bundle: Path, workload: str, threads: int) -> Served:
    """Load a model by its URI in a fresh process and compare its answers on real inputs with the bundle's.

    Raises:
        IntegrityError: it does not load, or does not answer as the bundle does.
        InfrastructureError: the process could not be run.
    """
    command = [sys.executable, "-m", "search.promotion.serving", str(home), uri, str(bundle), workload]
    environment = {**os.environ, **job_environment(home, threads)}
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,  # noqa: S603
                               timeout=TIMEOUT_S, env=environment)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise IntegrityError(f"{uri} did not answer within {TIMEOUT_S:.0f} s when it was served") from error
    except OSError as error:
        raise InfrastructureError(f"no process could be started to serve {uri}: {error}") from error
    try:
        served = Served.model_validate_json(ended.stdout)
    except ValidationError:
        said = (ended.stderr.strip().splitlines() or ["nothing"])[-1].removeprefix("error: ")
        raise IntegrityError(f"{uri} cannot be served; it said: {said[:500]}") from None
    if not served.difference <= TOLERANCE:
        raise IntegrityError(f"{uri} answers otherwise than its bundle: largest difference {served.difference:.3g} of "
                             f"the largest answer, at most {TOLERANCE:g} wanted")  # fmt: skip
    return served


def difference(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Return the largest difference relative to the largest wanted value; infinite for other shapes or NaN.

    ``found`` and ``wanted`` hold an array for each output.
    """
    if [array.shape for array in found] != [array.shape for array in wanted]:
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(found, wanted, strict=True):
        a, b = mine.astype(np.float64), theirs.astype(np.float64)
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        scale = float(np.nanmax(np.abs(b), initial=0.0)) or 1.0
        largest = max(largest, float(np.nanmax(np.abs(a - b), initial=0.0)) / scale)
    return largest


def answers_of(served: object, outputs: Structure) -> list[np.ndarray]:
    """Return what ``predict`` answered as arrays, in the order of the model's outputs."""
    if outputs.style == "tensor":
        return [np.asarray(served)]
    return [np.asarray(served[name]) for name in outputs.names]  # type: ignore[index]


def serve_and_compare(home: Path, uri: str, bundle: Path, workload: str) -> Served:
    """Answer a batch of validation, and its first row alone, through MLflow and through the bundle's own runtime.

    Raises:
        IntegrityError: a file is not what was built.
    """
    from evaluators.batching import as_arrays, run_in_batches
    from evaluators.bundle import open_bundle
    from evaluators.registry import backend
    from evaluators.timing.stand import real_batches
    from evaluators.workload import load_workload
    from search.mlflow_store import open_client, store_uri

    open_client(home)
    import mlflow

    mlflow.set_tracking_uri(store_uri(home))
    mlflow.set_registry_uri(store_uri(home))
    model = mlflow.pyfunc.load_model(uri)
    manifest = open_bundle(bundle, trusted=True)  # its digest was compared at the gate
    runner, size = backend(manifest.candidate.backend).load(bundle, manifest), manifest.candidate.batch_size
    batch = as_arrays(real_batches(load_workload(workload), size, 1)[0])
    largest, rows = 0.0, 0
    for count in (size, 1):
        given = {name: np.ascontiguousarray(array[:count]) for name, array in batch.items()}
        asked = next(iter(given.values())) if manifest.inputs.style == "tensor" else given
        found = answers_of(model.predict(asked), manifest.outputs)
        largest = max(largest, difference(found, run_in_batches(runner, given, size, manifest.buckets)))
        rows += count
    return Served(rows=rows, difference=min(largest, sys.float_info.max))


def main() -> int:
    """Print a ``Served`` as JSON; what libraries and user's code print goes to standard error."""
    home, uri, bundle, workload = sys.argv[1:]
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)
        try:
            answer.write(serve_and_compare(Path(home), uri, Path(bundle), workload).model_dump_json())
        except ParetuneError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
