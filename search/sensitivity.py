"""Which layers of a workload's model int8 costs most: what ``float_share`` keeps in float, worst first."""

from __future__ import annotations

import time
from pathlib import Path

from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.sensitivity import LayerSensitivity
from workers.sandbox import Sandbox
from workers.sensitivities import run_sensitivity


class SensitivityReport(Frozen):
    """The layers of a workload's model, unpruned, those first that int8 costs most, and how long it took."""

    workload: str
    layers: tuple[LayerSensitivity, ...]
    seconds: float


def sensitivity(workload: str, home: Path) -> SensitivityReport:
    """Measure every layer of a workload's model in int8, alone; a home that knows them answers at once.

    Raises:
        UsageError: the workload cannot be used, or its model has no layer that can be measured.
        UnsupportedError: the model cannot be measured layer by layer.
        InfrastructureError: the home cannot be written, or no process can be run.
    """
    from search import api

    begun = time.monotonic()
    with Sandbox() as sandbox:
        found = api.check(workload, home, sandbox)
        if found.profile is None:
            raise UsageError("; ".join(problem.what for problem in found.problems))
        layers = run_sensitivity(sandbox, home, found.profile)
    seconds = round(time.monotonic() - begun, 3)
    return SensitivityReport(workload=found.profile.name, layers=layers, seconds=seconds)
