"""Statistics of latency samples and of scores: percentiles, intervals and decisions, as pure functions."""

from evaluators.statistics.blocks import batch_bound, block_interval, ratio_interval, supports_upper_bound
from evaluators.statistics.early_stopping import confidence_per_look, decide, least_calls
from evaluators.statistics.quantiles import (
    CONFIDENCE,
    mean_interval,
    percentile,
    percentile_interval,
    samples_needed,
)
from evaluators.statistics.rounds import compare_rounds, different

__all__ = [
    "CONFIDENCE",
    "batch_bound",
    "block_interval",
    "compare_rounds",
    "confidence_per_look",
    "decide",
    "different",
    "least_calls",
    "mean_interval",
    "percentile",
    "percentile_interval",
    "ratio_interval",
    "samples_needed",
    "supports_upper_bound",
]
