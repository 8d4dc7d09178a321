"""Requests: single examples as arrays without a batch axis kept apart, so that any of them can share a batch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from evaluators.errors import WorkloadError
from evaluators.traffic.values import Examples

EXAMPLES = 64
"""So many examples of validation are sent again and again."""


def write_rows(examples: Examples, path: Path) -> None:
    """Write what requests are made of to ``path``: an array for each input, one row for each example.

    Examples of varying length are filled up to the longest of them, as the workload's own collating does, so that any
    of them can be in one batch.

    Raises:
        WorkloadError: the workload cannot be loaded, or its examples cannot be collated.
    """
    if examples.workload is None:
        return
    from evaluators.batching import as_arrays, example_batches
    from evaluators.workload import load_workload

    workload = load_workload(examples.workload)
    split = workload.validation()
    count = min(EXAMPLES, len(split))
    batch = next(islice(example_batches(split, workload.collate, max(count, 1)), 1), None)
    if batch is None:
        raise WorkloadError(f"validation of {examples.workload} is empty, so there is nothing to send")
    np.savez(path, **as_arrays(batch[0]))  # type: ignore[arg-type]


def read_rows(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a file of rows by input name.

    Raises:
        WorkloadError: it cannot be read, or its arrays differ in length or are empty.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            rows = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, AttributeError) as error:
        raise WorkloadError(f"requests {path} cannot be read: {error}; save them with numpy.savez") from error
    lengths = {len(array) if array.ndim else 0 for array in rows.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise WorkloadError(f"requests {path} need an array for each input, all with the same number of rows")
    return rows
