"""The server scenario: what is asked, how trials are ranked and shown, and one real search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import search
from evaluators.jobs import Protocol
from evaluators.outcome import Constraint, Evidence
from evaluators.traffic.scenario import choices_of, instance_counts, simulated
from evaluators.traffic.values import LoadTest, ServerProtocol
from evaluators.traffic.window import Batching
from evaluators.verdicts import judge_all
from search.front import objective_value
from search.result import TrialResult
from search.spec import SearchSpec, load_spec
from search.tracked_trial import metrics_of, note_of
from search.wording import headline, show_doubt
from tests.conftest import TINY
from tests.search.factories import a_candidate, a_result, a_spec, a_trial, under_load


def a_served_trial(number: int, **values: Any) -> TrialResult:
    trial = a_trial(number, a_candidate("onnxruntime", batch_size=8), p50=1.0, accuracy=0.92)
    return trial.model_copy(update={"server": under_load(**values)})


class TestSpec:
    def test_the_limit_is_of_requests_and_at_p99(self) -> None:
        spec = load_spec({"workload": "w.py:w", "latency_budget": "5ms", "scenario": "server", "rate": "200/s"})
        assert spec.constraints[0] == Constraint(metric="server_p99_ms", max=5.0)
        assert spec.protocol.server == ServerProtocol(budget_ms=5.0, rate_per_s=200.0)

    @pytest.mark.parametrize(
        ("given", "objective", "looks"),
        [
            ({}, "throughput", True),
            ({"rate": "200/s"}, "latency", False),
            ({"rate": "200/s", "objective": "throughput"}, "throughput", True),
            ({"target": "cpu-arm64=1,cpu-avx512_vnni=2"}, "cost", True),
        ],
    )
    def test_with_a_rate_the_latency_is_optimised_without_one_the_rate(
        self, given: dict[str, Any], objective: str, looks: bool
    ) -> None:
        spec = load_spec({"workload": "w.py:w", "latency_budget": "5ms", "scenario": "server", **given})
        assert spec.goal == objective
        assert spec.protocol.server is not None and spec.protocol.server.find_rate == looks

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"scenario": "server"}, "needs a latency budget"),
            ({"latency_budget_ms": 5, "rate_per_s": 5}, "--rate say how requests are served"),
            ({"latency_budget_ms": 5, "instances": 2, "window_ms": 0}, "--window, --instances"),
        ],
    )
    def test_half_of_a_scenario_is_refused(self, given: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            SearchSpec.model_validate({"workload": "w.py:w", **given})

    def test_a_search_of_single_calls_has_the_protocol_that_it_always_had(self) -> None:
        assert "server" not in a_spec().protocol.to_json()
        assert Protocol.model_validate(a_spec().protocol.to_json()) == a_spec().protocol

    def test_other_traffic_is_another_protocol(self) -> None:
        specs = [a_spec(scenario="server", **given) for given in ({}, {"rate_per_s": 5}, {"latency_budget_ms": 3})]
        assert len({str(spec.protocol.to_json()) for spec in specs}) == 3
        assert all(Protocol.model_validate(spec.protocol.to_json()) == spec.protocol for spec in specs)


class TestChoosing:
    @pytest.mark.parametrize(
        ("asked", "threads", "device", "cores", "counts"),
        [
            (3, 4, "cpu", 4, (3,)),
            (None, 1, "cpu", 6, (1, 2, 4, 6)),
            (None, 4, "cpu", 2, (1,)),
            (None, 1, "cuda", 64, (1, 2)),
        ],
    )
    def test_instances_share_the_processors(
        self, asked: int | None, threads: int, device: str, cores: int, counts: tuple[int, ...]
    ) -> None:
        assert instance_counts(asked, threads, device, cores) == counts

    def test_a_window_that_was_asked_for_is_the_only_one(self) -> None:
        candidate = a_candidate("onnxruntime", batch_size=8)
        chosen = choices_of(ServerProtocol(budget_ms=5.0, window_ms=3.0), candidate, (1, 2), 1.0)
        assert [(batching.window_s, count) for batching, count in chosen] == [(0.003, 1), (0.003, 2)]
        free = choices_of(ServerProtocol(budget_ms=5.0), candidate, (1,), 1.0)
        assert [batching.window_s for batching, _ in free] == [0.0, 0.0005, 0.001, 0.002]

    def test_what_is_hopeless_in_simulation_fails(self) -> None:
        test = LoadTest(budget_ms=5.0)
        found = simulated([0.02], Batching(8, 0.0, 1.0), 1, 50.0, test)
        [verdict] = judge_all((test.constraint,), Evidence(server=found))
        assert found.simulated
        assert verdict.status == "fail"


class TestRanking:
    def test_the_objective_is_that_of_requests(self) -> None:
        trial = a_served_trial(1, sustained_per_s=430.0)
        assert objective_value(trial, "latency", "p99") == 3.0
        assert objective_value(trial, "throughput", "p99") == -430.0

    def test_what_no_rate_is_known_of_and_what_was_disturbed_has_none(self) -> None:
        assert objective_value(a_served_trial(1), "throughput", "p99") is None
        assert objective_value(a_served_trial(1, clean=False), "latency", "p99") is None

    def test_disturbed_requests_are_undecided_and_surely_slow_ones_fail(self) -> None:
        limit = (Constraint(metric="server_p99_ms", max=5.0),)
        found = {
            "pass": under_load(), "undecided": under_load(clean=False),
            "fail": under_load(p99=9.0, ci95=(8, 10), bounds=(8.0, 9.5), bounded=False),
        }  # fmt: skip
        for status, evidence in found.items():
            assert judge_all(limit, Evidence(server=evidence))[0].status == status


class TestShowing:
    def test_mlflow_gets_what_requests_saw(self) -> None:
        trial = a_served_trial(1, sustained_per_s=430.0)
        found = metrics_of(trial)
        assert (found["server/p99_ms"], found["server/rate_per_s"], found["server/instances"]) == (3.0, 430.0, 2.0)
        assert "430/s" in note_of(trial, "abc")

    def test_a_trial_of_single_calls_has_none_of_it(self) -> None:
        found = metrics_of(a_trial(1, a_candidate("onnxruntime"), p50=1.0, accuracy=0.92))
        assert not any(name.startswith("server/") for name in found)

    @pytest.mark.parametrize(
        ("objective", "said"),
        [("throughput", "430 requests/s within 5 ms at p99"), ("latency", "3 ms at p99 of 200 requests/s")],
    )
    def test_the_headline_says_what_is_served_and_how(self, objective: str, said: str) -> None:
        best = a_served_trial(1, sustained_per_s=430.0)
        result = a_result([best]).model_copy(update={"best": best, "objective": objective, "scenario": "server"})
        assert said in headline(result)
        assert "2 instances, batches of up to 8, window 1 ms" in headline(result)

    def test_doubts_about_requests_are_told_as_such(self) -> None:
        limit = (Constraint(metric="server_p99_ms", max=3.2),)
        trial = a_served_trial(1)
        verdicts = judge_all(limit, Evidence(server=trial.server))
        assert "of requests at p99" in show_doubt(trial.model_copy(update={"verdicts": verdicts, "undecided": True}))


def test_a_search_serves_its_candidates_and_says_how(tmp_path: Path) -> None:
    result = search.run(
        TINY, home=tmp_path, backend=("onnxruntime",), batch_size=(4,), threads=1, trials=2, latency_budget="2s",
        scenario="server", rate="50/s", percentile="p50", max_accuracy_drop=0.3, max_foreign_load=1000,
    )  # fmt: skip
    assert result.status == "feasible", result.notes
    assert (result.scenario, result.rate_per_s, result.objective) == ("server", 50.0, "latency")
    assert result.best is not None and result.best.server is not None
    assert result.best.server.rate_per_s == 50.0
    assert result.best.server.answered == result.best.server.requests
    assert result.best.verdicts[0].constraint.metric == "server_p50_ms"
    assert result.best.stage_seconds["server"] > 0
    assert result.report is not None and "of requests" in Path(result.report).read_text()
