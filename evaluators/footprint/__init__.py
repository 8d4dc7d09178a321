"""Footprint: what a bundle costs besides time — memory and energy, in a process that does nothing else."""

from evaluators.footprint.measured import Footprint, measure_footprint

__all__ = ["Footprint", "measure_footprint"]
