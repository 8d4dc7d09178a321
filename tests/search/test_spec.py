"""A spec is valid by construction, wherever its settings come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import UsageError
from search import units
from search.spec import DEFAULT_ACCURACY_DROP, SearchSpec, load_spec

WORKLOAD = "model.py:workload"


def load(**flags: Any) -> SearchSpec:
    return load_spec({"workload": WORKLOAD, **flags}, environment={})


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("latency_budget: 1ms\ntrials: 1\nseed: 1\nobjective: size\n")
    environment = {"PARETUNE_LATENCY_BUDGET": "2ms", "PARETUNE_TRIALS": "2"}

    spec = load_spec({"workload": WORKLOAD, "latency_budget": "3ms"}, config, environment)

    assert (spec.latency_budget_ms, spec.trials, spec.seed, spec.percentile) == (3.0, 2, 1, "p95")


def test_flag_beats_file_under_whichever_name(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("latency_budget_ms: 1\n")

    assert load_spec({"workload": WORKLOAD, "latency_budget": "3ms"}, config, {}).latency_budget_ms == 3.0


def test_workload_may_come_from_file_or_environment(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("workload: from_file.py:w\n")

    assert load_spec({"workload": None}, config, {}).workload == "from_file.py:w"
    assert load_spec({}, config, {"PARETUNE_WORKLOAD": "from_env.py:w"}).workload == "from_env.py:w"


def test_file_may_name_settings_like_flags_and_list_values(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("max-accuracy-drop: 0.02\nbatch-size: [8, 1]\nbackend: eager, onnxruntime\ntrial-timeout: 2m\n")

    spec = load_spec({"workload": WORKLOAD}, config, {})

    assert spec.batch_size == (1, 8)
    assert spec.backend == ("eager", "onnxruntime")
    assert (spec.max_accuracy_drop, spec.trial_timeout_s) == (0.02, 120.0)


@pytest.mark.parametrize(
    ("limits", "objective", "drop"),
    [
        ({}, "latency", DEFAULT_ACCURACY_DROP),
        ({"latency_budget": "5ms"}, "throughput", DEFAULT_ACCURACY_DROP),
        ({"latency_budget": "5ms", "objective": "latency"}, "latency", DEFAULT_ACCURACY_DROP),
        ({"min_accuracy": 0.9}, "latency", None),
        ({"min_accuracy": 0.9, "max_accuracy_drop": 0.05}, "latency", 0.05),
    ],
)
def test_defaults_follow_from_the_limits(limits: dict[str, Any], objective: str, drop: float | None) -> None:
    spec = load(**limits)

    assert (spec.goal, spec.max_accuracy_drop) == (objective, drop)


def test_constraints_keep_their_order_and_units() -> None:
    spec = load(max_size="10MB", min_accuracy=0.9, max_accuracy_drop=0.01, latency_budget="2ms", percentile="p99")

    limits = [(limit.metric, limit.max, limit.min) for limit in spec.constraints]
    assert limits == [
        ("latency_p99_ms", 2.0, None),
        ("accuracy_drop", 0.01, None),
        ("accuracy", None, 0.9),
        ("size_bytes", 10_000_000, None),
    ]


@pytest.mark.parametrize(
    ("given", "confidence"), [("99%", 0.99), ("99 %", 0.99), ("0.9", 0.9), (0.999, 0.999), (None, 0.95)]
)
def test_the_confidence_is_a_share_or_in_percent_and_reaches_the_protocol(
    given: str | float | None, confidence: float
) -> None:
    spec = load(confidence=given, percentile="p99")

    assert (spec.confidence, spec.protocol.confidence) == (confidence, confidence)
    assert spec.protocol.percentile == "p99"


def test_the_environment_and_the_file_may_set_the_confidence(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("confidence: 99%\n")

    assert load_spec({"workload": WORKLOAD}, config, {}).confidence == 0.99
    assert load_spec({"workload": WORKLOAD}, config, {"PARETUNE_CONFIDENCE": "90%"}).confidence == 0.9


@pytest.mark.parametrize("budget", ["1us", "200us", "5ms", "1.5s", 0.00001, 3])
def test_a_spec_survives_its_own_json(budget: str | float) -> None:
    spec = load(
        latency_budget=budget, confidence="99%", timeout="10m", memory_limit="4GB", batch_size=("1", "8"), name="a-1"
    )

    assert SearchSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"latency_budget": "5 parsecs"}, "latency_budget: '5 parsecs' is not a duration such as 5ms"),
        ({"latency_budget": math.nan}, "latency_budget"),
        ({"latency_budget": True}, "latency_budget: True is not a duration"),
        ({"timeout": "-1s"}, "timeout: '-1s' is not a duration"),
        ({"trial_timeout": "0"}, "trial_timeout: '0' is not a duration"),
        ({"max_size": "ten"}, "max_size: 'ten' is not a size"),
        ({"memory_limit": "0.4"}, "memory_limit: '0.4' is not a size"),
        ({"max_accuracy_drop": 2}, "max_accuracy_drop: must be less than or equal to 1 (got 2)"),
        ({"min_accuracy": math.inf}, "min_accuracy: must be a finite number"),
        ({"objective": "speed"}, "must be 'latency', 'throughput', 'size' or 'cost' (got 'speed')"),
        ({"confidence": "sure"}, "confidence: 'sure' is not a share such as 0.95 or 95%"),
        ({"confidence": "100%"}, "confidence: must be less than 1 (got 1.0)"),
        ({"confidence": 95}, "confidence: must be less than 1 (got 95)"),
        ({"confidence": 0.5}, "confidence: must be greater than 0.5"),
        ({"confidence": "nan"}, "confidence: must be a finite number"),
        ({"confidence": True}, "confidence: must be a valid number"),
        ({"percentile": "p80"}, "percentile: must be 'p50', 'p90', 'p95' or 'p99'"),
        ({"trials": 0}, "trials: must be greater than or equal to 1 (got 0)"),
        ({"threads": 0}, "threads: must be greater than"),
        ({"seed": -1}, "seed: must be greater than"),
        ({"batch_size": ("0",)}, "batch size 0 must lie between 1 and 4096"),
        ({"batch_size": ("one",)}, "batch_size.0: must be a valid integer"),
        ({"batch_size": True}, "batch_size"),
        ({"name": "no spaces"}, "name: use letters, digits"),
        ({"trails": 3}, "did you mean 'trials'?"),
        ({"latency_budget": "1ms", "latency_budget_ms": 2}, "twice"),
    ],
)
def test_a_wrong_value_is_named(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(**flags)

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("latency_bugdet: 5ms\n", "has no setting 'latency_bugdet'; did you mean 'latency_budget'?"),
        ("zzz: 1\n", "has no setting 'zzz'; known are backend"),
        ("- a\n", "must hold settings"),
        ("", "must hold settings"),
        ("a: [\n", "cannot be read"),
        ("latency_budget: 1ms\nlatency-budget-ms: 2\n", "twice"),
        ("trials: many\n", "search.yaml: must be a valid integer"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, said: str) -> None:
    config = tmp_path / "search.yaml"
    config.write_text(content)

    with pytest.raises(UsageError) as refused:
        load_spec({"workload": WORKLOAD}, config, {})

    assert said in str(refused.value)


@pytest.mark.parametrize("missing", ["none.yaml", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_spec({"workload": WORKLOAD}, tmp_path / missing, {})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(UsageError, match="cannot be read"):
        load_spec({"workload": WORKLOAD}, config, {})


def test_the_environment_is_named_where_it_is_wrong() -> None:
    with pytest.raises(UsageError, match="trials in the environment"):
        load_spec({"workload": WORKLOAD}, environment={"PARETUNE_TRIALS": "x"})


def test_a_slip_in_a_variable_is_refused_and_other_variables_are_left_alone() -> None:
    with pytest.raises(UsageError, match="did you mean PARETUNE_LATENCY_BUDGET"):
        load_spec({"workload": WORKLOAD}, environment={"PARETUNE_LATENCY_BUGDET": "5ms"})

    others = {"PARETUNE_HOME": "/x", "PARETUNE_DEBUG": "1", "PARETUNE_TRIALS": "", "HOME": "/"}
    assert load_spec({"workload": WORKLOAD}, environment=others).trials == 60


def test_no_workload_says_where_one_may_be_named() -> None:
    with pytest.raises(UsageError, match=r"no workload was given; .*PARETUNE_WORKLOAD"):
        load_spec({}, environment={})


@pytest.mark.parametrize(
    ("text", "value"),
    [("5ms", 5.0), ("5", 5.0), ("200us", 0.2), ("200µs", 0.2), ("1.5 s", 1500.0), ("2m", 120_000.0), (".5ms", 0.5)],
)
def test_durations_are_read_in_milliseconds(text: str, value: float) -> None:
    assert units.milliseconds(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"), [("1KB", 1000), ("1KiB", 1024), ("1.5MB", 1_500_000), ("7", 7), ("2gb", 2 * 10**9)]
)
def test_sizes_are_read_in_bytes(text: str, value: int) -> None:
    assert units.size_bytes(text) == value


def test_a_bare_number_means_seconds_where_seconds_are_asked_for() -> None:
    assert (units.seconds("90"), units.seconds(0.3), units.seconds("10m")) == (90.0, 0.3, 600.0)


PRICED = ("cpu-avx512_vnni=0.17", "cpu-arm64=0.12")


@pytest.mark.parametrize(
    "given",
    [
        "cpu-avx512_vnni=0.17, cpu-arm64=0.12",
        ("cpu-avx512_vnni=0.17", "cpu-arm64=.12"),
        {"cpu-avx512_vnni": 0.17, "cpu-arm64": 0.12},
        [{"cpu-avx512_vnni": 0.17}, "cpu-arm64 = 0.12"],
    ],
)
def test_targets_and_their_prices_may_be_written_in_any_form(given: Any) -> None:
    spec = load(target=given)

    assert spec.target == PRICED
    assert spec.targets == ("cpu-avx512_vnni", "cpu-arm64")
    assert spec.prices == {"cpu-avx512_vnni": 0.17, "cpu-arm64": 0.12}
    assert SearchSpec.model_validate(spec.to_json()) == spec


def test_targets_and_prices_may_come_from_the_file_or_the_environment(tmp_path: Path) -> None:
    config = tmp_path / "search.yaml"
    config.write_text("target:\n  cpu-avx512_vnni: 0.17\n  cpu-arm64:\n")

    assert load_spec({"workload": WORKLOAD}, config, {}).target == ("cpu-avx512_vnni=0.17", "cpu-arm64")
    assert load_spec({"workload": WORKLOAD}, config, {"PARETUNE_TARGET": ",".join(PRICED)}).target == PRICED


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ({"target": PRICED}, "cost"),
        ({"target": PRICED, "latency_budget": "5ms"}, "cost"),
        ({"target": PRICED, "objective": "latency"}, "latency"),
        ({"target": "cpu-arm64=0.12"}, "latency"),
        ({"target": "cpu-arm64=0.12,cpu-avx2", "latency_budget": "5ms"}, "throughput"),
    ],
)
def test_several_priced_targets_are_compared_by_what_they_cost(settings: dict[str, Any], objective: str) -> None:
    assert load(**settings).goal == objective


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"objective": "cost"},
            "cost needs the price per hour of the target; write it as --target NAME=PRICE",
        ),
        (
            {"objective": "cost", "target": "cpu-arm64=1,cpu-avx2"},
            "price per hour of cpu-avx2; write it as --target",
        ),
        ({"target": "tpu-v5"}, "target: 'tpu-v5' is no target; names begin with cpu-, cuda-, rocm-, apple-"),
        ({"target": "cpu-avx2=cheap"}, "target: the price of cpu-avx2 is 'cheap'"),
        ({"target": "cpu-avx2=0"}, "target: the price of cpu-avx2 is 0; it must be above zero"),
        ({"target": "cpu-avx2=inf"}, "it must be above zero"),
        ({"target": "cpu-avx2,cpu-avx2=1"}, "target: a target is named twice"),
    ],
)
def test_a_wrong_target_or_price_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(**settings)

    assert said in str(refused.value)
    assert not str(refused.value).startswith("Value error")
