"""Target: the class of hardware that will serve, probed from this machine."""

from evaluators.target.probe import (
    DefaultTarget,
    default_target,
    devices_of,
    probe_absent,
    probe_problems,
    probe_processor,
    probe_target,
    probe_targets,
)
from evaluators.target.software import environment, environment_of, versions
from evaluators.target.values import DEVICES, Accelerator, Target, device_of, known_by_name

__all__ = [
    "DEVICES",
    "Accelerator",
    "DefaultTarget",
    "Target",
    "default_target",
    "device_of",
    "devices_of",
    "environment",
    "environment_of",
    "known_by_name",
    "probe_absent",
    "probe_problems",
    "probe_processor",
    "probe_target",
    "probe_targets",
    "versions",
]
