"""Load tests: arrivals, batching, the search for the highest rate, and real servers under load."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.jobs import JobResult, LoadJob, PrepareJob, ProfileJob
from evaluators.run_job import run
from evaluators.target import probe_target
from evaluators.traffic.arrivals import poisson_arrivals
from evaluators.traffic.endpoint import body_of, wire_by_path
from evaluators.traffic.highest import PRECISION, highest_rate
from evaluators.traffic.instance import InstanceRun, Served, serve_requests
from evaluators.traffic.observed import Observed, foreign_load, observed_of, seconds_for, summarize
from evaluators.traffic.predicting import best_serving, predicted_rate, predicted_seconds, windows_ms
from evaluators.traffic.queue import SharedHead
from evaluators.traffic.values import LoadTest
from evaluators.traffic.window import Batch, Batching, next_batch, simulate
from tests.conftest import TINY

TIMES = st.lists(st.floats(0, 10), min_size=1, max_size=60).map(sorted)
BATCHINGS = st.builds(Batching, st.integers(1, 8), st.floats(0, 2), st.floats(1, 100))


def served_by_one(arrivals: list[float], service_s: float, batching: Batching) -> list[Batch]:
    """Return all batches of one instance, by a clock that only moves when something happens."""
    found, head, free = [], 0, 0.0
    while head < len(arrivals):
        batch = next_batch(arrivals, head, free, batching)
        found.append(batch)
        head, free = batch.last, batch.at + service_s
    return found


class TestArrivals:
    @pytest.mark.parametrize("rate", [3.0, 250.0])
    def test_come_in_order_at_about_the_rate(self, rate: float) -> None:
        found = poisson_arrivals(rate, 4000 / rate, seed=1)
        assert (np.diff(found) > 0).all()
        assert len(found) == pytest.approx(4000, rel=0.1)
        assert float(np.diff(found).std() * rate) == pytest.approx(1.0, rel=0.1)

    def test_the_same_seed_gives_the_same_arrivals_another_one_does_not(self) -> None:
        assert poisson_arrivals(50, 2, 3).tolist() == poisson_arrivals(50, 2, 3).tolist()
        assert poisson_arrivals(50, 2, 3).tolist() != poisson_arrivals(50, 2, 4).tolist()


class TestBatches:
    @given(TIMES, st.floats(0.001, 3), BATCHINGS)
    def test_every_request_leaves_once_in_order_or_is_dropped(
        self, arrivals: list[float], service_s: float, batching: Batching
    ) -> None:
        batches = served_by_one(arrivals, service_s, batching)
        assert sum(batch.dropped + batch.size for batch in batches) == len(arrivals)
        assert all(a.last + b.dropped == b.first for a, b in itertools.pairwise(batches))

    @given(TIMES, st.floats(0.001, 3), BATCHINGS)
    def test_none_is_too_large_or_leaves_before_its_requests_came(
        self, arrivals: list[float], service_s: float, batching: Batching
    ) -> None:
        for batch in served_by_one(arrivals, service_s, batching):
            assert batch.size <= batching.max_batch
            assert all(arrivals[i] <= batch.at for i in range(batch.first, batch.last))

    @given(TIMES, st.floats(0.001, 3), BATCHINGS)
    def test_nobody_waits_longer_than_the_window_while_somebody_is_free(
        self, arrivals: list[float], service_s: float, batching: Batching
    ) -> None:
        free = 0.0
        for batch in served_by_one(arrivals, service_s, batching):
            if batch.size:
                assert batch.at <= max(free, arrivals[batch.first] + batching.window_s)
            free = batch.at + service_s

    @given(TIMES, st.floats(0.001, 3), BATCHINGS)
    def test_what_waited_for_less_than_the_timeout_is_never_dropped(
        self, arrivals: list[float], service_s: float, batching: Batching
    ) -> None:
        head, free = 0, 0.0
        for batch in served_by_one(arrivals, service_s, batching):
            assert all(free - arrivals[i] > batching.timeout_s - 1e-9 for i in range(head, batch.first))
            head, free = batch.last, batch.at + service_s

    def test_a_lone_request_waits_for_the_window_and_a_full_batch_does_not(self) -> None:
        batching = Batching(max_batch=2, window_s=1.0, timeout_s=10.0)
        assert next_batch([5.0], 0, 0.0, batching) == Batch(0, 0, 1, 6.0)
        assert next_batch([5.0, 5.2, 5.3], 0, 0.0, batching) == Batch(0, 0, 2, 5.2)


class TestSimulation:
    @given(TIMES, st.floats(0.01, 2), st.integers(1, 3))
    def test_two_servers_or_none_who_waits_no_request_is_faster_than_its_service(
        self, arrivals: list[float], service_s: float, instances: int
    ) -> None:
        found = simulate(arrivals, [service_s], Batching(4, 0.1, 1000.0), instances)
        assert (found >= service_s - 1e-9).all()

    def test_far_apart_requests_take_window_and_service(self) -> None:
        found = simulate([0.0, 10.0, 20.0], [0.5], Batching(4, 0.25, 100.0))
        assert found == pytest.approx([0.75] * 3)

    def test_a_second_instance_takes_what_the_first_would_keep_waiting(self) -> None:
        one, two = (simulate([0.0, 0.1], [1.0], Batching(1, 0.0, 100.0), instances) for instances in (1, 2))
        assert one == pytest.approx([1.0, 1.9])
        assert two == pytest.approx([1.0, 1.0])

    def test_of_a_single_server_it_agrees_with_pollaczek_and_khinchine(self) -> None:
        # Given an M/D/1 queue at 60 % load, the mean wait is rho * service / (2 * (1 - rho)).
        arrivals = poisson_arrivals(60.0, 2000.0, seed=5).tolist()
        found = simulate(arrivals, [0.01], Batching(1, 0.0, 1e9))
        assert float(found.mean()) == pytest.approx(0.01 + 0.6 * 0.01 / (2 * 0.4), rel=0.03)

    def test_the_predicted_rate_is_where_the_quantile_reaches_the_budget(self) -> None:
        batching = Batching(4, 0.001, 10.0)
        rate = predicted_rate([0.002], batching, 1, 0.008, 0.99)
        assert rate is not None
        assert predicted_seconds([0.002], batching, 1, rate, 0.99) <= 0.008
        assert predicted_seconds([0.002], batching, 1, 1.5 * rate, 0.99) > 0.008

    def test_no_rate_is_promised_where_a_call_alone_takes_longer_than_the_budget(self) -> None:
        assert predicted_rate([0.02], Batching(4, 0.0, 10.0), 1, 0.008, 0.99) is None

    def test_much_traffic_asks_for_more_instances_and_little_for_no_window(self) -> None:
        choices = [(Batching(4, window / 1e3, 10.0), count) for count in (1, 2) for window in windows_ms(8.0, 4)]
        _, instances, _ = best_serving([0.002], choices, 0.008, 0.99, rate_per_s=2200.0)
        batching, _, promised = best_serving([0.002], choices, 0.008, 0.99, rate_per_s=1.0)
        assert instances == 2
        assert batching.window_s == 0
        assert promised == pytest.approx(0.002, rel=0.01)

    def test_requests_that_run_alone_wait_for_no_window(self) -> None:
        assert windows_ms(100.0, 1) == (0.0,)


class TestHighestRate:
    @given(st.floats(0.2, 5000), st.floats(0.1, 10_000))
    def test_is_found_wherever_the_search_begins(self, edge: float, start: float) -> None:
        found = highest_rate(lambda rate, again: "pass" if rate <= edge else "fail", start, most=200)
        assert found.passed is not None and found.missed is not None
        assert found.passed <= edge < found.missed
        assert found.missed <= found.passed * (1 + PRECISION) * 1.001

    def test_a_rate_that_passed_by_luck_is_looked_at_again_and_left(self) -> None:
        seconds: list[float] = []

        def trial(rate: float, again: bool) -> Any:
            seconds.extend([rate] if again else [])
            return "pass" if rate <= (100.0 if not again else 96.0) else "fail"

        found = highest_rate(trial, 40.0)
        assert found.passed is not None and 96 / (1 + PRECISION) ** 2 < found.passed <= 96.0
        assert seconds[0] > found.passed

    @pytest.mark.parametrize("status", ["fail", "undecided"])
    def test_none_is_found_where_nothing_passes(self, status: Any) -> None:
        assert highest_rate(lambda rate, again: status, 10.0).passed is None

    def test_it_ends_where_everything_passes(self) -> None:
        assert highest_rate(lambda rate, again: "pass", 10.0, most=12).passed is not None


def a_test(**values: Any) -> LoadTest:
    return LoadTest(**{"budget_ms": 5.0, "lead_in_seconds": 0.0, **values})


def seen(latencies_ms: np.ndarray, **values: Any) -> Observed:
    nobody = np.zeros(len(latencies_ms), dtype=bool)
    given = {"dropped": nobody, "failed": nobody, "elapsed": 10.0, "batch_sizes": np.ones(1), "call_s": np.ones(1)}
    return Observed(latencies=latencies_ms / 1e3, **{**given, **values})


class TestEvidence:
    def test_what_was_never_run_counts_as_the_timeout(self) -> None:
        runs = [InstanceRun([Served(0, 2, 1.0, 1.5, 0.4)], 0.5, 0.0, 1.0)]
        found = observed_of(runs, [0.5, 1.0, 1.2], Batching(2, 0.0, 3.0))
        assert found.latencies == pytest.approx([1.0, 0.5, 3.0])
        assert found.dropped.tolist() == [False, False, True]

    def test_requests_of_the_lead_in_do_not_count(self) -> None:
        arrivals = [float(i) for i in range(10)]
        latencies = np.where(np.arange(10) < 4, 1000.0, 2.0)
        found = summarize(seen(latencies), arrivals, 1.0, a_test(lead_in_seconds=4.0))
        assert (found.requests, found.p50, found.over_budget) == (6, 2.0, 0.0)

    def test_lost_requests_are_over_the_budget(self) -> None:
        lost = np.arange(100) % 10 == 0
        latencies = np.where(lost, 1000.0, 1.0)
        found = summarize(seen(latencies, dropped=lost), np.linspace(0, 9, 100).tolist(), 10.0, a_test())
        assert (found.dropped, found.answered, found.over_budget) == (10, 90, 0.1)
        assert found.bounds[0] > 5.0

    def test_too_few_requests_bound_nothing(self) -> None:
        found = summarize(seen(np.ones(50)), np.linspace(0, 9, 50).tolist(), 5.0, a_test())
        assert not found.bounded
        assert found.p99 is None

    def test_time_that_others_used_makes_it_unclean_and_time_of_its_own_does_not(self) -> None:
        theirs = [InstanceRun([], running=2.0, waiting=1.0, busy=6.0)]
        own = [InstanceRun([], running=2.0, waiting=1.0, busy=4.0) for _ in range(2)]
        assert foreign_load(theirs, 10.0) == pytest.approx(0.1)
        assert foreign_load(own, 10.0) == 0.0
        assert not summarize(seen(np.ones(50), foreign_load=0.1), np.linspace(0, 9, 50).tolist(), 5.0, a_test()).clean

    def test_a_test_lasts_as_long_as_its_verdict_takes(self) -> None:
        assert seconds_for(1000.0, a_test()) == 10.0
        assert seconds_for(50.0, a_test()) == pytest.approx(4 * 299 / 50)
        assert seconds_for(50.0, a_test(seconds=3.0)) == 3.0

    def test_no_request_after_the_lead_in_is_no_evidence(self) -> None:
        with pytest.raises(ValueError, match="lead-in"):
            summarize(seen(np.ones(2)), [0.1, 0.2], 1.0, a_test(lead_in_seconds=1.0))


class TestQueue:
    def test_instances_share_the_requests_between_them(self, tmp_path: Path) -> None:
        arrivals, batching = [i * 1e-3 for i in range(60)], Batching(4, 0.002, 60.0)
        with SharedHead(tmp_path / "queue") as queue:
            queue.reset()
        served: list[Served] = []

        def instance() -> None:
            with SharedHead(tmp_path / "queue") as mine:
                served.extend(serve_requests(lambda batch: time.sleep(0.003) or 0.003, mine, arrivals, batching, begin))

        begin = time.monotonic()
        threads = [threading.Thread(target=instance) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(i for batch in served for i in range(batch.first, batch.last)) == list(range(60))
        assert all(batch.end > batch.at >= arrivals[batch.last - 1] for batch in served)


class TestWire:
    row: dict[str, np.ndarray] = {"input": np.arange(6, dtype=np.float32).reshape(2, 3)}  # noqa: RUF012

    def test_mlflow_takes_one_input_bare_and_several_by_name(self) -> None:
        assert json.loads(body_of(self.row, "mlflow")) == {"inputs": [[[0, 1, 2], [3, 4, 5]]]}
        two = {"a": np.zeros(1, np.float32), "b": np.ones((), np.int64)}
        assert json.loads(body_of(two, "mlflow")) == {"inputs": {"a": [[0.0]], "b": [1]}}

    def test_the_open_inference_protocol_has_names_shapes_and_types(self) -> None:
        [found] = json.loads(body_of(self.row, "v2"))["inputs"]
        assert found == {"name": "input", "shape": [1, 2, 3], "datatype": "FP32", "data": [0, 1, 2, 3, 4, 5]}

    @pytest.mark.parametrize(
        ("url", "asked", "found"),
        [
            ("http://a:1/invocations", None, ("http://a:1/invocations", "mlflow")),
            ("http://a:1/v2/models/m", None, ("http://a:1/v2/models/m/infer", "v2")),
            ("http://a:1/v2/models/m/infer", "v2", ("http://a:1/v2/models/m/infer", "v2")),
            ("http://a:1/", "mlflow", ("http://a:1/invocations", "mlflow")),
            ("http://a:1", None, None),
        ],
    )
    def test_the_path_tells_the_protocol(self, url: str, asked: Any, found: Any) -> None:
        assert wire_by_path(url, asked) == found

    @pytest.mark.parametrize(("url", "asked"), [("a:1/invocations", None), ("http://a/invocations", "v2")])
    def test_what_cannot_be_is_refused(self, url: str, asked: Any) -> None:
        with pytest.raises(UsageError):
            wire_by_path(url, asked)


@pytest.fixture(scope="module")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model, built for batches of 4."""
    home = str(tmp_path_factory.mktemp("home"))
    profile = run(ProfileJob(workload=TINY, home=home), lambda _: None).profile
    assert profile is not None
    candidate = Candidate(target=probe_target().name, backend="onnxruntime", batch_size=4)
    found = run(PrepareJob(candidate=candidate, profile=profile, home=home), lambda _: None)
    assert found.prepared is not None, found.outcome
    return found.prepared.bundle


def load(**values: Any) -> JobResult:
    job = {"examples": {"workload": TINY}, **values}
    return run(LoadJob.model_validate(job), lambda _: None)


class TestBundle:
    def test_every_request_is_answered_by_the_instances(self, tiny_bundle: str) -> None:
        result = load(
            subject={"bundle": tiny_bundle, "trusted": True}, serving={"instances": 2, "window_ms": 2},
            test={"budget_ms": 10_000, "percentile": "p50", "seconds": 1, "max_foreign_load": 1000}, rate_per_s=200,
        )  # fmt: skip
        assert result.load is not None, result.outcome
        found = result.load.test
        assert found.requests == found.answered > 100
        assert (found.max_batch, found.instances, found.window_ms) == (4, 2, 2.0)
        assert found.batches is not None and found.mean_batch is not None and 1 <= found.mean_batch <= 4
        assert found.call_ms is not None and found.call_ms.p50 < found.p50
        assert result.load.verdict.status == "pass"

    def test_the_highest_rate_passed_and_one_above_it_did_not(self, tiny_bundle: str) -> None:
        # Given a budget shorter than the window, nothing can pass above the lowest rate.
        result = load(
            subject={"bundle": tiny_bundle, "trusted": True}, serving={"window_ms": 50},
            test={"budget_ms": 1, "percentile": "p50", "seconds": 0.5, "max_foreign_load": 1000}, rate_per_s=40,
            find_rate=True,
        )  # fmt: skip
        assert result.load is not None, result.outcome
        assert result.load.highest_rate_per_s is None or result.load.test.sustained_per_s is not None
        assert result.load.steps[0].status != "pass"

    @pytest.mark.parametrize(
        ("serving", "said"), [({"max_batch": 8}, "batch size 4")], ids=["more than the bundle's batch"]
    )
    def test_what_the_bundle_cannot_do_is_refused(self, tiny_bundle: str, serving: Any, said: str) -> None:
        result = load(subject={"bundle": tiny_bundle, "trusted": True}, serving=serving, test={"budget_ms": 5},
                      rate_per_s=5)  # fmt: skip
        assert said in result.problems[0].what

    def test_a_bundle_that_does_not_load_is_a_typed_failure(self, tmp_path: Path, tiny_bundle: str) -> None:
        result = load(subject={"bundle": tiny_bundle, "trusted": "0" * 64}, test={"budget_ms": 5}, rate_per_s=5)
        assert result.outcome is not None and result.outcome.failure is not None
        assert result.outcome.failure.kind == "unsupported"
        assert "digest" in result.outcome.failure.reason


class Handler(BaseHTTPRequestHandler):
    """Answers in both protocols; every so many requests it fails."""

    protocol_version = "HTTP/1.1"
    models = ("tiny",)
    fail_every = 0
    speaks_v2 = True
    paths: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self._say(200 if self.speaks_v2 else 404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.paths.append(self.path)
        if self.path == "/v2/repository/index":
            self._say(200, [{"name": name} for name in self.models])
            return
        rows = body["inputs"][0]["shape"][0] if self.path.endswith("/infer") else len(body["inputs"])
        fails = self.fail_every and len(self.paths) % self.fail_every == 0
        self._say(500 if fails else 200, {"predictions": [0] * rows})

    def _say(self, status: int, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def served() -> Iterator[Callable[..., Any]]:
    with _servers() as serve:
        yield serve


@contextmanager
def _servers() -> Iterator[Callable[..., Any]]:
    running: list[ThreadingHTTPServer] = []

    def serve(**values: Any) -> tuple[str, list[str]]:
        handler = type("Handling", (Handler,), {**values, "paths": []})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}", handler.paths  # type: ignore[attr-defined]

    try:
        yield serve
    finally:
        for server in running:
            server.shutdown()
            server.server_close()


class TestUrl:
    quick: dict[str, Any] = {"budget_ms": 10_000, "percentile": "p50", "seconds": 1, "lead_in_seconds": 0}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("values", "path", "protocol", "where"),
        [
            ({"speaks_v2": False}, "/invocations", "mlflow", "/invocations"),
            ({"speaks_v2": False}, "", "mlflow", "/invocations"),
            ({}, "", "v2", "/v2/models/tiny/infer"),
        ],
    )
    def test_every_request_reaches_it(
        self, served: Callable[..., Any], values: Any, path: str, protocol: str, where: str
    ) -> None:
        url, paths = served(**values)
        result = load(subject={"url": url + path}, test=self.quick, rate_per_s=50)
        assert result.load is not None, (result.problems, result.outcome)
        assert result.load.protocol == protocol
        assert (result.load.test.answered, result.load.test.errors) == (result.load.test.requests, 0)
        assert sum(each == where for each in paths) == result.load.test.requests + 1
        assert result.load.test.instances is None

    def test_answers_other_than_200_are_errors_and_over_the_budget(self, served: Callable[..., Any]) -> None:
        url, _ = served(fail_every=3)
        result = load(subject={"url": f"{url}/invocations"}, test=self.quick, rate_per_s=60)
        assert result.load is not None, result.problems
        found = result.load.test
        assert found.errors == pytest.approx(found.requests / 3, abs=1)
        assert found.over_budget >= found.errors / found.requests

    def test_of_several_models_one_must_be_named(self, served: Callable[..., Any]) -> None:
        url, _ = served(models=("a", "b"))
        assert "serves a, b" in load(subject={"url": url}, test=self.quick, rate_per_s=5).problems[0].what

    def test_a_model_that_refuses_the_request_is_no_load_test(self, served: Callable[..., Any]) -> None:
        url, _ = served(fail_every=1)
        found = load(subject={"url": f"{url}/invocations"}, test=self.quick, rate_per_s=5)
        assert "status 500" in found.problems[0].what

    def test_nobody_at_home_is_told(self) -> None:
        found = load(subject={"url": "http://127.0.0.1:9/invocations"}, test=self.quick, rate_per_s=5)
        assert found.outcome is not None and found.outcome.failure is not None
        assert "does not answer" in found.outcome.failure.reason
