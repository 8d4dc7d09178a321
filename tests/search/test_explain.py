"""Explanations: the twin of a trial, how the two compare, and the reason why."""

from __future__ import annotations

from typing import Any

import pytest

from evaluators.candidate import Runtime
from evaluators.errors import UsageError
from evaluators.outcome import Diagnosis, Operators, Ratio
from search.explain import Explanation, explain
from search.reasons import RULES, Case, reason_for
from search.result import TrialResult
from search.twins import batch_siblings, batch_utilization, find_twin, speedup_over
from tests.search.factories import a_candidate, a_result, a_spec, a_target, a_trial
from tests.search.twins_for_tests import fp32, int8, ran

VNNI = a_target()
NO_VNNI = VNNI.model_copy(update={"features": ("avx512f", "avx2"), "name": "cpu-avx512f"})


def explained(trial: TrialResult, *others: TrialResult, target: Any = VNNI, **settings: Any) -> Explanation:
    spec = a_spec(**settings)
    trials = sorted([trial, *others], key=lambda each: each.number)
    return explain(a_result(trials, spec), spec, trials, trial.number, target)


def why(
    trial: TrialResult, *operators: Operators, twin: Diagnosis | None = None, target: Any = VNNI, **more: Any
) -> Any:
    """Return the reason for a trial that is as slow as its twin and executes ``operators``."""
    other = fp32(0, p50=0.4, backend=trial.candidate.backend).model_copy(update={"diagnosis": twin})
    found = find_twin(trial, [trial, other])
    assert found is not None
    return reason_for(Case(trial, found, Diagnosis(operators=operators, **more), (), target))


def test_the_twin_of_a_quantized_trial_is_the_same_in_float() -> None:
    trial = int8(3)
    others = [fp32(0), fp32(1, threads=2), fp32(2, backend="eager"), fp32(4, batch_size=8), trial]

    found = find_twin(trial, others)

    assert found is not None
    assert (found.trial.number, found.kind, found.differs) == (0, "float", ())


def test_the_twin_of_a_pruned_quantized_trial_is_pruned_too() -> None:
    trial = int8(3, structure="channel")

    found = find_twin(trial, [fp32(0), fp32(1, structure="channel"), fp32(2, structure="channel", amount=0.25), trial])

    assert found is not None
    assert (found.trial.number, found.differs) == (1, ())


def test_the_twin_of_a_pruned_float_trial_is_the_unpruned_one() -> None:
    trial = fp32(3, structure="unstructured")

    found = find_twin(trial, [fp32(0), fp32(1, structure="unstructured", amount=0.25), trial])

    assert found is not None
    assert (found.trial.number, found.kind) == (0, "unpruned")


def test_the_nearest_stands_in_for_a_twin_that_was_not_timed() -> None:
    trial = int8(3, structure="channel")
    lost = fp32(2, structure="channel", p50=None)

    found = find_twin(trial, [fp32(0, threads=2), fp32(1), lost, trial])

    assert found is not None
    assert (found.trial.number, found.differs) == (1, ("pruning",))


def test_options_in_which_a_twin_differs_are_named() -> None:
    candidate = a_candidate("eager", "static_int8").model_copy(update={"runtime": Runtime(channels_last=True)})
    trial = a_trial(1, candidate)

    found = find_twin(trial, [fp32(0, backend="eager"), trial])

    assert found is not None
    assert found.differs == ("channels_last",)


@pytest.mark.parametrize("others", [[], [fp32(0, backend="eager")], [fp32(0, batch_size=8)]])
def test_other_backends_and_batch_sizes_are_no_twins(others: list[TrialResult]) -> None:
    assert find_twin(int8(3), [*others, int8(3)]) is None


def test_the_unmodified_float_model_has_no_twin() -> None:
    assert find_twin(fp32(1), [fp32(0), fp32(1)]) is None


def with_speedup(trial: TrialResult, value: float, low: float, high: float) -> TrialResult:
    return trial.model_copy(update={"speedup": Ratio(value=value, ci95=(low, high))})


def test_drift_cancels_where_both_were_timed_in_turn_with_eager() -> None:
    fast, slow = with_speedup(int8(1, p50=9.0), 4.0, 3.9, 4.1), with_speedup(fp32(0, p50=1.0), 2.0, 1.9, 2.1)

    ratio, in_turn = speedup_over(fast, slow, "p95")

    assert in_turn
    assert ratio == Ratio(value=2.0, ci95=(round(3.9 / 2.1, 4), round(4.1 / 1.9, 4)))


def test_eager_as_written_is_what_others_were_timed_in_turn_with() -> None:
    ratio, in_turn = speedup_over(with_speedup(int8(1), 1.5, 1.4, 1.6), fp32(0, backend="eager"), "p95")

    assert in_turn
    assert ratio == Ratio(value=1.5, ci95=(1.4, 1.6))


def test_else_the_latencies_and_their_intervals_are_divided() -> None:
    fast, slow = int8(1, p50=0.2), fp32(0, p50=0.4)

    ratio, in_turn = speedup_over(fast, slow, "p50")

    assert not in_turn
    assert ratio is not None and ratio.value == 2.0
    assert fast.latency_ms and slow.latency_ms
    assert ratio.ci95[0] == pytest.approx(slow.latency_ms.ci95[0] / fast.latency_ms.ci95[1], abs=1e-4)


@pytest.mark.parametrize(
    ("p50", "compared", "has_reason"), [(0.2, "faster", False), (0.4, "unsure", True), (0.8, "slower", True)]
)
def test_only_what_is_not_surely_faster_needs_a_reason(p50: float, compared: str, has_reason: bool) -> None:
    found = explained(int8(1, p50=p50), fp32(0, p50=0.4))

    assert found.compared == compared
    assert (found.why is not None) == has_reason


def test_batch_utilization_is_throughput_over_that_at_batch_size_1() -> None:
    one, eight, other = int8(1, p50=0.4), int8(2, p50=0.8, batch_size=8), int8(3, p50=0.1, backend="inductor")
    trials = [one, eight, other]

    assert [item.number for item in batch_siblings(eight, trials)] == [1]
    assert batch_utilization(eight, batch_siblings(eight, trials)) == 4.0
    assert batch_utilization(other, batch_siblings(other, trials)) is None


def test_an_option_that_is_asked_of_larger_batches_only_counts_as_off_at_the_smallest() -> None:
    one, eight = int8(1, p50=0.4), int8(2, p50=0.8, batch_size=8)
    runtime = eight.candidate.runtime.model_copy(update={"buckets": 0})
    eight = eight.model_copy(update={"candidate": eight.candidate.model_copy(update={"runtime": runtime})})

    assert [item.number for item in batch_siblings(eight, [one, eight])] == [1]


def test_the_machine_s_lack_of_vnni_comes_before_what_is_less_certain() -> None:
    operators = (ran("convolution", "int8", 9), ran("linear", "fp32", 20))

    assert why(int8(), *operators, target=NO_VNNI) == (
        "cpu-avx512f has no VNNI, so int8 products are emulated with three instructions instead of one"
    )
    assert "VNNI" not in why(int8(), *operators)


def test_a_latency_beside_other_programs_comes_first() -> None:
    reason = why(int8(clean=False), ran("convolution", "int8"), target=NO_VNNI)

    assert reason.startswith("other programs used the processor while it was timed")


def test_bfloat16_without_instructions_is_emulated() -> None:
    assert "no instructions for bfloat16" in why(int8(scheme="bf16"), target=NO_VNNI)
    assert "without matrix units" in why(int8(scheme="bf16"), ran("linear", "bf16"))


def test_zeros_are_no_faster_on_dense_kernels() -> None:
    found = explained(fp32(1, structure="unstructured"), fp32(0))

    assert found.twin_kind == "unpruned"
    assert found.why == (
        "unstructured zeros are no faster on dense kernels, and openvino has no others: they pay in compressed size"
    )


def test_a_scheme_that_lowered_nothing_says_so() -> None:
    assert why(int8(), ran("convolution", "fp32", 9), ran("linear", "fp32", 3)) == (
        "none of the 12 operators that compute runs in int8: all of them stayed in float"
    )


def test_signed_activations_are_slow_on_x86_only() -> None:
    trial = int8(backend="onnxruntime", activation_type="qint8")
    operators = (ran("convolution", "int8", 9),)

    assert why(trial, *operators) == (
        "its activations are qint8, and onnxruntime's kernels for this processor are written for quint8"
    )
    arm = VNNI.model_copy(update={"features": ("neon",), "system": "Linux aarch64"})
    assert why(trial, *operators, target=arm) is None
    assert why(trial, *operators, target=None) is None


def test_kernels_that_take_longer_than_the_twin_s_are_named_with_their_times() -> None:
    twin = Diagnosis(operators=(ran("convolution", "fp32", 9, 0.5, "Conv"),))

    slower = why(int8(), ran("convolution", "int8", 9, 0.8, "ConvInteger"), twin=twin)

    assert slower.startswith("its convolutions take about 0.32 ms of a call in int8 (ConvInteger), and 0.2 ms in float")
    assert why(int8(), ran("convolution", "int8", 9, 0.4, "QLinearConv"), twin=twin) is None


def test_operators_left_in_float_are_counted_with_the_reason() -> None:
    kept = (ran("convolution", "fp32", 12), ran("convolution", "int8", 9))

    assert why(int8(), *kept, fallbacks=12) == (
        "12 of 21 convolutions stayed in float because openvino or its quantizer has no int8 kernel for them"
    )
    dynamic = why(int8(scheme="dynamic_int8"), ran("convolution", "fp32", 9, 0.6), ran("linear", "int8", 1, 0.1))
    assert dynamic == (
        "9 of 9 convolutions stayed in float (60% of a call) because dynamic quantization takes linear and recurrent "
        "layers only"
    )
    attention = why(int8(), ran("attention", "fp32", 6, 0.4), ran("linear", "int8", 36, 0.2))
    assert attention.startswith("6 of 6 attention operators stayed in float (40% of a call)")


def test_layers_that_were_asked_to_stay_in_float_are_not_the_backends_fault() -> None:
    trial = a_trial(1, a_candidate("openvino", "static_int8", float_share=0.5))

    assert why(trial, ran("convolution", "fp32", 12), ran("convolution", "int8", 9), fallbacks=12) == (
        "12 of 21 convolutions stayed in float because float_share keeps 50% of the layers in float, those that int8 "
        "costs most"
    )


def test_dynamic_scales_are_computed_at_every_call() -> None:
    reason = why(int8(scheme="dynamic_int8"), ran("linear", "int8", 7, 0.2, "quantized::linear_dynamic"))

    assert reason == "dynamic quantization computes scales at every call, here for 7 layers"


def test_conversions_count_by_their_time_or_else_by_their_number() -> None:
    computing = ran("convolution", "int8", 9)

    by_number = why(int8(), computing, ran("reorder", "int8", 34), reorders=34)
    by_time = why(int8(), computing, ran("quantize", "fp32", 2, 0.25), reorders=2)

    assert by_number.startswith("34 conversions between int8 and float, or of layout, run beside 9 operators")
    assert by_time.endswith("25% of a call")
    assert why(int8(), computing, ran("reorder", "int8", 8), reorders=8) is None
    assert why(int8(), computing, ran("reorder", "int8", 34), reorders=34, twin=Diagnosis(reorders=34)) is None


def test_a_call_that_hardly_grows_with_its_batch_has_a_fixed_cost() -> None:
    trial, large = int8(1, p50=0.4), int8(2, p50=0.45, batch_size=16)

    found = explained(trial, large, fp32(0))

    assert found.why is not None and found.why.startswith(
        "the batch of 1 is too small: the call's fixed cost dominates"
    )
    assert "trial 2 does 16 in 0.45 ms" in found.why
    growing = explained(trial, int8(2, p50=6.0, batch_size=16), fp32(0)).why
    assert growing is not None and "fixed cost" not in growing


def test_a_twin_that_hardly_computes_leaves_little_to_gain() -> None:
    twin = Diagnosis(operators=(ran("linear", "fp32", 7, 0.2), ran("add", "fp32", 9, 0.6)))

    assert why(int8(), ran("linear", "int8", 7, 0.1), twin=twin) == (
        "convolutions and matrix products take only 20% of its float twin's call, and int8 makes nothing else faster"
    )


def test_a_twin_that_differs_is_a_reason_only_for_want_of_another() -> None:
    found = explained(int8(1, threads=2), fp32(0))

    assert found.why is not None and found.why.startswith("no exact twin was timed: trial 0 differs in threads too")


@pytest.mark.parametrize(
    ("p50", "said"),
    [
        (0.8, "nothing that was looked at explains it"),
        (0.4, "it may well be as fast, and nothing that was looked at holds it back"),
    ],
)
def test_where_nothing_explains_it_what_was_looked_at_is_named(p50: float, said: str) -> None:
    trial = int8(1, p50=p50).model_copy(update={"diagnosis": Diagnosis(operators=(ran("convolution", "int8", 9),))})

    found = explained(trial, fp32(0))

    assert found.why == said
    assert found.looked_at == tuple(rule.looks_at for rule in RULES)


def test_what_was_not_diagnosed_is_said_to_be_unknown() -> None:
    found = explained(int8(1), fp32(0))

    assert found.why is not None and found.why.startswith("it is not known what the runtime executed")


def test_another_machine_s_features_explain_nothing() -> None:
    found = explained(int8(1), fp32(0), target=NO_VNNI)

    assert found.why is not None and "VNNI" not in found.why


def test_a_rejected_trial_says_what_its_limit_would_have_to_be() -> None:
    found = explained(int8(1, p50=9.0))

    assert found.trial.outcome == "rejected"
    assert found.verdicts[0].startswith("latency p95 at most 2 ms: missed at 95 % confidence")
    high = found.trial.verdicts[0].interval
    assert high is not None
    assert found.relaxed[0] == f"latency p95 up to {high[1]:.3g} ms"
    assert found.reproduce == found.trial.reproduce


def test_a_trial_that_is_not_there_is_a_usage_error() -> None:
    spec = a_spec()
    trials = [fp32(0)]

    with pytest.raises(UsageError, match="search fashion-cpu has no trial 7; it has 0 to 0"):
        explain(a_result(trials, spec), spec, trials, 7)
    with pytest.raises(UsageError, match="has no trial 0; it has none yet"):
        explain(a_result(trials, spec), spec, [], 0)
