"""What one candidate costs and what it is worth: prune, quantize, build, measure."""

from evaluators.candidate import Candidate, Pruning, Quantization, Runtime
from evaluators.workload import Workload, load_workload

__all__ = ["Candidate", "Pruning", "Quantization", "Runtime", "Workload", "load_workload"]
