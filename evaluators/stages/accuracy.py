"""The accuracy stage: score a bundle on growing parts of validation, against the original on the same examples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.backends.base import Runner
from evaluators.batching import answered_batches, example_batches, fair_order
from evaluators.cache import StageCache
from evaluators.corpus import GROUPS, Corpus
from evaluators.jobs import MeasureJob
from evaluators.lengths import Buckets
from evaluators.outcome import AccuracyEvidence, Constraint, Evidence
from evaluators.scoring import AGREEMENT, Scorer, Scores, metric_name
from evaluators.stages.reference import Original, agreement_outputs, original_scores
from evaluators.statistics.scores import (
    Estimate,
    accuracy_of,
    bootstrap,
    drop_of,
    jackknife,
    look_confidence,
    looks,
)
from evaluators.verdicts import judge_all
from evaluators.workload import Workload

WORTH_STOPPING_S = 1.0
RESAMPLES = 400
FEWEST_RESAMPLES = 50
BOOTSTRAP_S = 3.0
JACKKNIFE_S = 30.0
TIMED_CALLS = 5


@dataclass(frozen=True)
class _Compared:
    """What a bundle's score and its drop are estimated to be; intervals are null where the metric allows none."""

    accuracy: float
    drop: float
    of_accuracy: Estimate | None
    of_drop: Estimate | None
    method: str


def score_bundle(
    runner: Runner,
    workload: Workload,
    job: MeasureJob,
    batch_size: int,
    buckets: Buckets | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> AccuracyEvidence:
    """Score validation through the bundle, in batches of exactly ``batch_size``, and compare it with the original.

    With ``buckets``, batches are drawn from these, as where the bundle is served.

    Examples come in a fair order, the same for every candidate. With gates, the bounds are looked at after growing
    parts of it, and scoring ends where a limit on accuracy is certainly missed, or where all are certainly kept and
    the rest would take longer than a second. The error of the verdicts is spent over the looks.

    Raises:
        NotFiniteError: a score is NaN or infinite.
        WorkloadError: the metric breaks its contract.
    """
    profile, dataset = job.profile, workload.validation()
    of, validation_digest = len(dataset), profile.data_digests["validation"]
    made_with = job.yardstick.versions if job.yardstick else None
    original = original_scores(workload, profile.outputs, profile.fingerprint, validation_digest, Path(job.home),
                               made_with)  # fmt: skip
    wanted = None
    if profile.scored_by == AGREEMENT:
        cache = StageCache(Path(job.home) / "cache" / "stages")
        wanted = agreement_outputs(workload, profile, batch_size, cache, made_with)
    limits = tuple(limit for limit in job.constraints if limit.metric in ("accuracy", "accuracy_drop"))
    plan = looks(of) if job.gates and limits else (of,)
    scorer, ahead, begun = Scorer(workload, profile.outputs, of), list(plan), clock()
    order = fair_order(of, validation_digest)
    batches = example_batches(dataset, workload.collate, batch_size, order=order)
    for i, (_, outputs, targets, real) in enumerate(answered_batches(runner, batches, batch_size, buckets)):
        scorer.add(outputs, targets, real, None if wanted is None else wanted[i])
        seen = min((i + 1) * batch_size, of)
        if seen == of or seen < ahead[0]:
            continue
        ahead = [part for part in ahead if part > seen]
        rest_s = (clock() - begun) / seen * (of - seen)
        if scorer.whole_only and rest_s <= WORTH_STOPPING_S:
            continue
        early = _evidence(scorer, original, of, workload, look_confidence(job.protocol.confidence, len(plan), False))
        if _decided(early, limits, rest_s):
            return early
    return _evidence(scorer, original, of, workload, look_confidence(job.protocol.confidence, len(plan), True))


def _decided(evidence: AccuracyEvidence, limits: Sequence[Constraint], rest_s: float) -> bool:
    """Whether the verdicts are certain, and the rest not worth scoring. What has no interval decides nothing early."""
    if evidence.drop_bounds is None:
        return False
    statuses = {verdict.status for verdict in judge_all(limits, Evidence(accuracy=evidence))}
    return "fail" in statuses or (statuses == {"pass"} and rest_s > WORTH_STOPPING_S)


def _evidence(scorer: Scorer, original: Original, of: int, workload: Workload, confidence: float) -> AccuracyEvidence:
    scores = scorer.scores()
    if scores.per_example is not None and original.per_example is not None:
        known = original.per_example[: scores.examples]
        accuracy, drop = accuracy_of(scores.per_example, confidence), drop_of(known, scores.per_example, confidence)
        found = _Compared(accuracy.value, drop.value, accuracy, drop, drop.method)
    elif scores.corpus is not None:
        found = _compare_corpus(scores, scores.corpus, original, of, confidence)
    else:
        found = _Compared(scores.mean, original.mean - scores.mean, None, None, "none: the original has other scores")
    return AccuracyEvidence(
        accuracy=found.accuracy,
        ci95=found.of_accuracy and found.of_accuracy.ci95,
        bounds=found.of_accuracy and found.of_accuracy.bounds,
        drop=found.drop,
        drop_ci95=found.of_drop and found.of_drop.ci95,
        drop_bounds=found.of_drop and found.of_drop.bounds,
        examples=scores.examples,
        of=of,
        metric=metric_name(workload),
        method=found.method,
    )


def _compare_corpus(scores: Scores, corpus: Corpus, original: Original, of: int, confidence: float) -> _Compared:
    """Compare a metric of the whole split: by the paired bootstrap, or by groups where that would take too long."""
    if original.rows is not None and corpus.rows() is not None:
        return _compare_rows(scores, corpus, original.rows, of, confidence)
    without, known = corpus.without_groups() if scores.examples == of else None, original.without_groups
    if without is None or known is None or len(without) != len(known):
        drop, why = original.mean - scores.mean, "answers too large to keep, and states that cannot be merged"
        return _Compared(scores.mean, drop, None, None, f"none: {why}")
    return _jackknifed(scores, original.mean, without, known, confidence)


def _compare_rows(scores: Scores, corpus: Corpus, rows: Sequence[np.ndarray], of: int, confidence: float) -> _Compared:
    def of_original(drawn: np.ndarray) -> float:
        return corpus.over(drawn, drawn, rows)

    every = np.arange(scores.examples)
    known, seconds = of_original(every), _median_seconds(lambda: of_original(every))
    resamples = resamples_within(seconds, BOOTSTRAP_S if scores.examples == of else BOOTSTRAP_S / 4)
    if not resamples and 2 * GROUPS * seconds <= JACKKNIFE_S:
        parts = np.array_split(every, GROUPS)
        others = [np.concatenate(parts[:i] + parts[i + 1 :]) for i in range(GROUPS)]
        without = np.array([corpus.over(other, other) for other in others])
        return _jackknifed(scores, known, without, np.array([of_original(other) for other in others]), confidence)
    spreads = bootstrap(of_original, corpus.over, scores.examples, resamples) if resamples else None
    if spreads is None:
        why = "no finite score on resamples" if resamples else f"the metric takes {seconds:.2g} s"
        return _Compared(scores.mean, known - scores.mean, None, None, f"none: {why}")
    method, drop = f"paired bootstrap, {resamples} resamples", known - scores.mean
    of_accuracy = spreads[0].around(scores.mean, confidence, method)
    return _Compared(scores.mean, drop, of_accuracy, spreads[1].around(drop, confidence, method), method)


def _jackknifed(
    scores: Scores, known: float, without: np.ndarray, known_without: np.ndarray, confidence: float
) -> _Compared:
    method, drop = f"paired jackknife, {len(without)} groups", known - scores.mean
    return _Compared(
        scores.mean,
        drop,
        jackknife(without, scores.examples).around(scores.mean, confidence, method),
        jackknife(known_without - without, scores.examples).around(drop, confidence, method),
        method,
    )


def _median_seconds(call: Callable[[], object]) -> float:
    taken = []
    for _ in range(TIMED_CALLS):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def resamples_within(seconds: float, limit_s: float) -> int:
    """Return how many resamples of both models fit into the time if the metric takes ``seconds``: 400, 200, 100, 50.

    0 if not even 50 do: a spread from fewer says little.
    """
    count = RESAMPLES
    while count >= FEWEST_RESAMPLES and 2 * count * seconds > limit_s:
        count //= 2
    return count if count >= FEWEST_RESAMPLES else 0
