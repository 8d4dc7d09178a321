"""Parity: a built bundle is compared with the original model on real inputs before it is timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluators.errors import NotFiniteError, ParityError
from evaluators.outcome import ParityEvidence

FLOAT_SQNR_DB = 30.0
"""An unmodified fp32 model whose outputs differ by more than this (about 3 %) is another model."""


def compare(
    found: Sequence[Sequence[np.ndarray]], wanted: Sequence[Sequence[np.ndarray]], examples: int
) -> ParityEvidence:
    """Compare outputs batch by batch; each batch is a list of arrays.

    Raises:
        NotFiniteError: the bundle returned NaN or infinity where the original did not.
        ParityError: other shapes, or one and the same answer to every input.
    """
    for mine, theirs in zip(found, wanted, strict=True):
        if len(mine) != len(theirs):
            raise ParityError(f"the bundle returns {len(mine)} outputs, the model {len(theirs)}")
        for a, b in zip(mine, theirs, strict=True):
            if a.shape != b.shape:
                raise ParityError(f"the bundle returns shape {a.shape}, the model {b.shape}")
            if not np.isfinite(a).all():
                raise NotFiniteError(f"{int((~np.isfinite(a)).sum())} of {a.size} outputs are NaN or infinite")
    mine_flat, theirs_flat = (_rows([batch[0] for batch in side]) for side in (found, wanted))
    _refuse_constant(mine_flat, theirs_flat)
    a = np.concatenate([row.ravel() for row in mine_flat])
    b = np.concatenate([row.ravel() for row in theirs_flat])
    noise, signal = float(np.square(a - b).sum()), float(np.square(b).sum())
    ratio = 10 * np.log10(signal / noise) if noise and signal else (200.0 if not noise else -200.0)
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-30))
    classes = mine_flat[0].ndim == 1 and mine_flat[0].size > 1
    same = [float(x.argmax() == y.argmax()) for x, y in zip(mine_flat, theirs_flat, strict=True)] if classes else []
    return ParityEvidence(
        sqnr_db=float(np.clip(ratio, -200, 200)),
        cosine=cosine,
        agreement=float(np.mean(same)) if same else None,
        examples=examples,
    )


def check_float(parity: ParityEvidence) -> None:
    """Refuse an unmodified fp32 bundle that does not compute what the model computes.

    Raises:
        ParityError: the signal-to-noise ratio is under 30 dB.
    """
    if parity.sqnr_db < FLOAT_SQNR_DB:
        raise ParityError(
            f"the unmodified fp32 bundle differs from the model: {parity.sqnr_db:.0f} dB, "
            f"at least {FLOAT_SQNR_DB:.0f} wanted"
        )


def _rows(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(row, np.float64) for batch in batches for row in batch]


def _refuse_constant(mine: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    if len({row.shape for row in mine}) > 1 or len(mine) < 2:
        return
    spread, wanted = float(np.ptp(np.stack(mine), axis=0).max()), float(np.ptp(np.stack(theirs), axis=0).max())
    if spread == 0.0 and wanted > 0.0:
        raise ParityError("the bundle gives one and the same answer to every input")
