"""Everything of ours that a job needs, loaded by importing this module: the stages, and every declared technique."""

import scipy.stats

from evaluators import registry
from evaluators.stages import measure, prepare

__all__ = ["measure", "prepare", "scipy"]

registry.backends()
registry.quantizers()
registry.pruners()
