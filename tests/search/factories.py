"""Synthetic searches: valid specs, profiles, targets, trials and results, without running anything."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.candidate import Candidate, Pruning, Quantization, Runtime
from evaluators.outcome import (
    AccuracyEvidence,
    Constraint,
    Evidence,
    Failure,
    FailureKind,
    LatencyEvidence,
    Outcome,
    Ratio,
    ServerEvidence,
)
from evaluators.profile import WorkloadProfile
from evaluators.structure import Structure, TensorSpec
from evaluators.target import Target
from evaluators.verdicts import judge_all
from search.front import best_trial, pareto_front
from search.result import Finals, SearchResult, TrialResult, trial_result
from search.spec import SearchSpec
from search.view import search_result
from workers.records import SearchRecord

TARGET = "cpu-avx512_vnni"
SEARCH_ID = "3f9a21c7"
BASELINE_ACCURACY = 0.923
EXAMPLES = 10_000

_BACKENDS = {"eager": 1.0, "inductor": 0.52, "onnxruntime": 0.30, "openvino": 0.27}
_SCHEMES: dict[str, dict[str, tuple[float, float]]] = {
    "eager": {"fp32": (1.0, 0.0), "bf16": (0.9, 0.001), "dynamic_int8": (0.98, 0.001)},
    "inductor": {"fp32": (1.0, 0.0), "bf16": (0.75, 0.001), "static_int8": (0.55, 0.004)},
    "onnxruntime": {"fp32": (1.0, 0.0), "dynamic_int8": (1.1, 0.003), "static_int8": (0.48, 0.006)},
    "openvino": {"fp32": (1.0, 0.0), "bf16": (0.7, 0.001), "static_int8": (0.42, 0.005)},
}
_STRUCTURES = {"none": (1.0, 0.0), "unstructured": (1.0, 0.004), "channel": (0.55, 0.009)}


def a_spec(**settings: Any) -> SearchSpec:
    """Return a spec with a latency budget; ``settings`` override it."""
    values: dict[str, Any] = {
        "workload": "examples/images/workload.py:workload",
        "latency_budget_ms": 2.0,
        "max_accuracy_drop": 0.01,
        "trials": 40,
        "name": "fashion-cpu",
    }
    return SearchSpec.model_validate(values | settings)


def under_load(**values: Any) -> ServerEvidence:
    """Return what requests at random saw of a bundle, at 200 requests/s with a budget of 5 ms."""
    given: dict[str, Any] = {
        "percentile": "p99", "budget_ms": 5.0, "rate_per_s": 200.0, "offered_per_s": 201.0, "achieved_per_s": 201.0,
        "requests": 2000, "answered": 2000, "p50": 1.0, "p95": 2.0, "p99": 3.0, "mean": 1.2, "over_budget": 0.001,
        "ci95": (2.8, 3.4), "bounds": (2.7, 3.5), "bounded": True, "window_ms": 1.0, "max_batch": 8, "instances": 2,
    }  # fmt: skip
    return ServerEvidence(**{**given, **values})


def a_profile(**fields: Any) -> WorkloadProfile:
    """Return the profile of a small image classifier; ``fields`` override it."""
    values: dict[str, Any] = {
        "name": "fashion-mnist-resnet8",
        "reference": "examples/images/workload.py:workload",
        "model_digest": "ab" * 32,
        "data_digests": {"calibration": "cd" * 32, "validation": "ef" * 32},
        "metric_digest": "01" * 32,
        "parameters": 78_042,
        "size_bytes": 315_000,
        "flops": 12_500_000,
        "inputs": Structure(
            style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 1, 28, 28)),)
        ),
        "outputs": Structure(style="tensor", tensors=(TensorSpec(name="output", dtype="float32", shape=(None, 10)),)),
        "layers": {"Conv2d": 9, "Linear": 1},
        "widths": (16, 32, 64),
        "exportable": None,
        "dynamic_batch": True,
        "has_train": True,
        "accuracy": BASELINE_ACCURACY,
        "examples": EXAMPLES,
        "calibration_examples": 512,
        "scored_by": "top1",
        "per_example": True,
    }
    return WorkloadProfile.model_validate(values | fields)


def a_target() -> Target:
    """Return a two-core machine with VNNI."""
    return Target(
        name=TARGET,
        processor="AMD EPYC 9R45",
        features=("avx512_bf16", "avx512_vnni", "avx512f", "avx2", "fma"),
        cores=2,
        memory_bytes=8 * 10**9,
        system="Linux x86_64",
    )


def a_candidate(
    backend: str = "eager",
    scheme: str = "fp32",
    structure: str = "none",
    amount: float = 0.5,
    batch_size: int = 1,
    threads: int = 1,
    **knobs: Any,
) -> Candidate:
    """Return a candidate; ``knobs`` are the quantizer's."""
    pruning = Pruning() if structure == "none" else Pruning(structure=structure, amount=amount, recovery_steps=200)
    return Candidate(
        target=TARGET,
        backend=backend,
        quantization=Quantization(scheme=scheme, **knobs),
        pruning=pruning,
        batch_size=batch_size,
        runtime=Runtime(threads=threads),
    )


def a_trial(
    number: int = 1, candidate: Candidate | None = None, *, source: str = "sampled", answered_by: str | None = None,
    pareto: bool = False, **how: Any,
) -> TrialResult:  # fmt: skip
    """Return a finished trial; ``how`` it ended is as for ``an_outcome``."""
    candidate = candidate or a_candidate("onnxruntime", "static_int8")
    outcome = an_outcome(number, candidate, **how)
    return trial_result(number, candidate, source, "DONE", outcome, answered_by=answered_by, pareto=pareto)


def an_outcome(
    number: int,
    candidate: Candidate,
    *,
    constraints: Sequence[Constraint] | None = None,
    p50: float | None = 0.4,
    accuracy: float | None = 0.92,
    size_bytes: int = 120_000,
    spread: float = 0.002,
    clean: bool = True,
    polluted: int = 0,
    failure: Failure | None = None,
    gates: bool = True,
) -> Outcome:
    """Return how a trial ended: failed with ``failure``, rejected where a gate meets a broken limit, else measured.

    ``spread`` is half the width of the drop's interval; with a wide one the drop is undecided.
    """
    limits = a_spec().constraints if constraints is None else constraints
    evidence = _evidence(candidate, p50, accuracy, size_bytes, spread)
    if evidence.latency is not None:
        timed = evidence.latency.model_copy(update={"clean": clean, "polluted": polluted})
        evidence = evidence.model_copy(update={"latency": timed})
    stages = {"prune": 0.2, "quantize": 0.9, "build": 1.4, "latency": 1.3, "accuracy": 2.2}
    verdicts = judge_all(limits, evidence)
    missed = [verdict.constraint.metric for verdict in verdicts if verdict.status == "fail"]
    reproduce = f"paretune reproduce {SEARCH_ID} {number}"
    if failure is not None:
        stages = {"prune": 0.2, failure.stage: 1.1}
        return Outcome(kind="failed", failure=failure, stage_seconds=stages, reproduce=reproduce)
    if missed and gates:
        return Outcome(kind="rejected", gate=missed[0], evidence=evidence, verdicts=verdicts, stage_seconds=stages,
                       reproduce=reproduce)  # fmt: skip
    return Outcome(kind="measured", evidence=evidence, verdicts=verdicts, stage_seconds=stages,
                   cached_stages=("prune",), bundle=f"bundles/{candidate.hash}", reproduce=reproduce)  # fmt: skip


def made_up_trials(count: int, spec: SearchSpec, seed: int = 0) -> list[tuple[Candidate, str, dict[str, Any]]]:
    """Return plausible candidates, the baseline first, with their source and how they end (see ``an_outcome``)."""
    rng = random.Random(seed)  # noqa: S311
    return [
        (candidate, *_made_up(number, candidate, rng, spec.constraints))
        for number, candidate in enumerate(_candidates(count, rng))
    ]


def a_search(
    count: int = 40,
    *,
    spec: SearchSpec | None = None,
    seed: int = 0,
    home: str = ".paretune",
    interrupted: bool = False,
    notes: Sequence[str] = (),
) -> tuple[SearchResult, list[TrialResult]]:
    """Return a plausible search of ``count`` trials, the baseline first; infeasible if the limits are too tight."""
    spec = spec or a_spec()
    rng = random.Random(seed)  # noqa: S311
    trials = [
        _simulated(number, candidate, rng, spec.constraints) for number, candidate in enumerate(_candidates(count, rng))
    ]
    goal, percentile = spec.goal, spec.percentile
    best = best_trial(pareto_front(trials, goal, percentile))
    trials += _references(trials, best, rng, spec)
    on_front = {trial.number for trial in pareto_front(trials, goal, percentile)}
    trials = [trial.model_copy(update={"pareto": trial.number in on_front}) for trial in trials]
    return a_result(trials, spec, home=home, interrupted=interrupted, notes=notes), trials


def a_result(
    trials: Sequence[TrialResult],
    spec: SearchSpec | None = None,
    *,
    home: str = ".paretune",
    interrupted: bool = False,
    notes: Sequence[str] = (),
    finals: Finals | None = None,
) -> SearchResult:
    """Return the result of a search that had these trials."""
    spec = spec or a_spec()
    record = SearchRecord(
        id=SEARCH_ID,
        name=spec.name or "fashion-cpu",
        workload="fashion-mnist-resnet8",
        spec=spec.to_json(),
        profile=a_profile(),
        status="interrupted" if interrupted else "finished",
        created_at=1.8e9,
        elapsed_s=212.4,
        result=None,
        finals=None,
        cancel_requested=False,
    )
    targets = spec.targets or (TARGET,)
    return search_result(record, spec, trials, targets, Path(home), interrupted=interrupted, notes=notes, finals=finals)


def _evidence(
    candidate: Candidate, p50: float | None, accuracy: float | None, size_bytes: int, spread: float
) -> Evidence:
    latency = p50 and LatencyEvidence(
        percentile="p95",
        p50=p50,
        p90=p50 * 1.05,
        p95=p50 * 1.08,
        p99=p50 * 1.3,
        mean=p50 * 1.02,
        ci95=(p50 * 1.06, p50 * 1.11),
        bounds=(p50 * 1.065, p50 * 1.1),
        samples=900,
        processes=3,
        speedup=Ratio(value=2.0, ci95=(1.95, 2.05)),
        warmup_calls=60,
        load_seconds=0.03,
    )
    wide, drop = 0.0053, BASELINE_ACCURACY - (accuracy or 0.0)
    score = (
        None
        if accuracy is None
        else AccuracyEvidence(
            accuracy=accuracy,
            ci95=(accuracy - wide, accuracy + wide),
            drop=round(drop, 4),
            drop_ci95=(drop - 1.2 * spread, drop + 1.2 * spread),
            drop_bounds=(drop - spread, drop + spread),
            examples=EXAMPLES,
            of=EXAMPLES,
            metric="top1",
        )
    )
    return Evidence(
        latency=latency or None,
        throughput_per_s=p50 and candidate.batch_size / p50 * 1e3,
        accuracy=score,
        size_bytes=size_bytes,
        peak_memory_bytes=180_000_000,
        parameters=78_042,
        flops=12_500_000,
    )


def _candidates(count: int, rng: random.Random) -> list[Candidate]:
    recipes = [a_candidate(), *(a_candidate(backend) for backend in list(_BACKENDS)[1:])]
    found = {candidate.hash: candidate for candidate in recipes[:count]}
    while len(found) < count:
        backend = rng.choice(list(_BACKENDS))
        candidate = a_candidate(
            backend,
            rng.choice(list(_SCHEMES[backend])),
            rng.choice(["none", "none", "unstructured", "channel", "channel"]),
            amount=rng.choice([0.25, 0.5, 0.75]),
            batch_size=rng.choice([1, 2, 4, 8, 16, 32]),
            threads=rng.choice([1, 2]),
        )
        found.setdefault(candidate.hash, candidate)
    return list(found.values())


def _references(
    trials: list[TrialResult], best: TrialResult | None, rng: random.Random, spec: SearchSpec
) -> list[TrialResult]:
    """The two baselines at the batch size of the best, where they are not among the trials."""
    if best is None:
        return []
    tried = {trial.candidate.hash for trial in trials}
    wanted = [a_candidate(backend, batch_size=best.candidate.batch_size) for backend in ("eager", "openvino")]
    return [
        _simulated(len(trials) + i, candidate, rng, spec.constraints, source="reference")
        for i, candidate in enumerate(item for item in wanted if item.hash not in tried)
    ]


def _simulated(
    number: int, candidate: Candidate, rng: random.Random, constraints: Sequence[Constraint], source: str | None = None
) -> TrialResult:
    source, ended = _made_up(number, candidate, rng, constraints, source)
    answered = "1b7e0d52/7" if number and number % 11 == 0 and "failure" not in ended else None
    return a_trial(number, candidate, source=source, answered_by=answered, **ended)


def _made_up(
    number: int, candidate: Candidate, rng: random.Random, constraints: Sequence[Constraint], source: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Return where a candidate comes from and how it ends."""
    source = source or ("baseline" if number == 0 else "recipe" if number < 4 else "sampled")
    gates = source not in ("baseline", "reference")
    speed, cost = _SCHEMES[candidate.backend][candidate.quantization.scheme]
    thinner, harm = _STRUCTURES[candidate.pruning.structure]
    amount = candidate.pruning.amount
    per_example = 0.54 * _BACKENDS[candidate.backend] * speed * (1 - (1 - thinner) * amount * 2 * 0.8)
    batch = candidate.batch_size
    p50 = (
        per_example
        * (0.35 + 0.65 * batch)
        * (1.0 if candidate.runtime.threads == 1 else 0.68)
        * rng.uniform(0.95, 1.06)
    )
    drop = (
        0.0
        if candidate.is_unmodified_float
        else cost + harm * amount * 2 * (4 if amount > 0.7 else 1) * rng.uniform(0.5, 1.5)
    )
    if candidate.backend == "inductor" and candidate.quantization.scheme == "static_int8" and amount > 0.6:
        reason = "AOTInductor refused aten::_weight_int8pack_mm at this width (48); no kernel is registered for it"
        return source, {"failure": Failure(kind=FailureKind.UNSUPPORTED, stage="build", reason=reason)}
    if candidate.backend == "eager" and batch == 32 and amount:
        crash = Failure(kind=FailureKind.CRASHED, stage="latency", reason="segmentation fault (SIGSEGV)")
        return source, {"failure": crash}
    budget = next((item.limit for item in constraints if item.metric.startswith("latency")), float("inf"))
    accuracy = None if gates and p50 * 1.08 > budget else round(BASELINE_ACCURACY - drop, 4)
    size = int(315_000 * (0.27 if "int8" in candidate.quantization.scheme else 1) * (1 - amount * (1 - thinner)))
    ended = {"p50": p50, "accuracy": accuracy, "size_bytes": size, "gates": gates}
    return source, {"constraints": constraints, **ended}
