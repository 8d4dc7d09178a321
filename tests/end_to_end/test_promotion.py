"""Promotion as users run it: a search, two promotions of one alias at the same moment, every refusal, and back."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.batching import as_arrays
from evaluators.bundle import open_bundle
from evaluators.errors import GateRefusedError, IntegrityError, UsageError
from evaluators.registry import backend
from search import api
from search.mlflow_store import open_client, store_uri
from search.promotion.registry import Registry
from search.result import SearchResult, TrialResult
from search.revalidations import Revalidations, deployed_aliases
from tests.conftest import ROOT, command, paretune
from workers.ledger import Ledger
from workers.sandbox import Sandbox

SHIFTED = f"{ROOT / 'tests' / 'end_to_end' / 'shifted.py'}:workload"


class Shop:
    """A home with one search: the original, and what onnxruntime and int8 make of it."""

    def __init__(self, home: Path, result: SearchResult) -> None:
        self.home, self.result = home, result
        self.trials = api.trials("shop", home)

    def trial(self, backend: str, scheme: str) -> TrialResult:
        return next(trial for trial in self.trials
                    if (trial.candidate.backend, trial.candidate.quantization.scheme) == (backend, scheme))  # fmt: skip

    @property
    def fast(self) -> TrialResult:
        return self.trial("onnxruntime", "fp32")

    def bundle(self, trial: TrialResult) -> Path:
        return self.home / str(trial.bundle)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home = tmp_path_factory.mktemp("shop")
    result = api.run(SHIFTED, home=home, backend=["eager", "onnxruntime"], batch_size=[4], threads=1, trials=3,
                     latency_budget_ms=100, max_accuracy_drop=0.2, max_foreign_load=1000, name="shop")  # fmt: skip
    assert result.status == "feasible"
    assert not [note for note in result.notes if "MLflow" in note], result.notes
    return Shop(home, result)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="module")
def promoted(shop: Shop) -> list[dict[str, Any]]:
    """Two processes promote two trials to one alias at the same moment; their answers, the earlier version first."""
    numbers = [shop.fast.number, shop.trial("eager", "fp32").number]
    processes = [
        subprocess.Popen(
            command("promote", "shop", "--trial", str(number), "--as", "shop@champion", "--home", str(shop.home),
                    "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for number in numbers
    ]  # fmt: skip
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return sorted((json.loads(stdout) for stdout, _ in said), key=lambda answer: int(answer["version"]))


def aliases(shop: Shop, model: str = "shop") -> dict[str, int]:
    return Registry(shop.home).aliases(model)


def test_two_promotions_of_one_alias_are_one_after_the_other(shop: Shop, promoted: list[dict[str, Any]]) -> None:
    first, second = promoted
    assert (first["version"], first["previous_version"]) == (1, None)
    assert (second["version"], second["previous_version"]) == (2, 1)
    assert {"champion": 2, "champion-previous": 1, "challenger": 2}.items() <= aliases(shop).items()
    for answer in promoted:
        assert [gate["gate"] for gate in answer["gates"]] == ["bundle", "freshness", "measured", "sealed"]
        assert {gate["status"] for gate in answer["gates"]} == {"passed"}
        assert answer["served"]["rows"] == 5 and answer["served"]["difference"] <= 1e-5


def test_what_an_alias_loads_is_the_bundle_that_was_measured(shop: Shop, promoted: list[dict[str, Any]]) -> None:
    import mlflow

    from tests.tiny import workload

    mlflow.set_tracking_uri(store_uri(shop.home))
    version = next(answer["version"] for answer in promoted if answer["trial"] == shop.fast.number)
    served = mlflow.pyfunc.load_model(f"models:/shop/{version}")
    images = as_arrays(workload.validation().tensors[0][:4])["input"]
    folder = shop.bundle(shop.fast)
    runner = backend("onnxruntime").load(folder, open_bundle(folder))
    direct = runner.outputs(runner.run(runner.prepare({"input": images})))[0]
    np.testing.assert_array_equal(served.predict(images), direct)
    assert served.metadata.metadata["paretune.bundle"] == open_bundle(folder).digest


def test_a_version_carries_its_evidence_and_a_card(shop: Shop, promoted: list[dict[str, Any]]) -> None:
    answer = next(answer for answer in promoted if answer["trial"] == shop.fast.number)
    found = open_client(shop.home).get_model_version("shop", str(answer["version"]))
    measured = answer["certificate"]["measured"]
    assert float(found.tags["paretune.latency_p95_ms"]) == measured["latency"]["p95"]
    assert found.tags["paretune.digest"] == answer["digest"]
    assert found.tags["paretune.verdict.accuracy_drop"] == found.tags["paretune.sealed_verdict.accuracy_drop"] == "pass"
    for part in ("## Data", "## Evidence", "sealed test", "## Limits", "## Environment", "paretune reproduce"):
        assert part in found.description
    stored = open_client(shop.home).list_artifacts(found.run_id, f"promotions/shop-{answer['version']}")
    assert {Path(item.path).name for item in stored} == {"model_card.md", "certificate.json"}


def test_a_tampered_bundle_is_refused(shop: Shop, sandbox: Sandbox) -> None:
    file = shop.bundle(shop.fast) / "model.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        answer = paretune("promote", "shop", "--trial", str(shop.fast.number), "--as", "tampered@champion", "--home",
                          str(shop.home), "--json")  # fmt: skip
    finally:
        file.write_bytes(content)
    assert (answer.code, answer.json["status"], answer.json["version"]) == (5, "refused", None)
    assert [(gate["gate"], gate["status"]) for gate in answer.json["gates"]] == [("bundle", "refused")]
    assert "model.onnx altered" in answer.json["gates"][0]["found"]
    assert "tampered" not in Registry(shop.home).models()


def test_a_slower_machine_is_refused(shop: Shop) -> None:
    with Sandbox(runner="tests.end_to_end.slow_machine:run") as slow:
        report = api.promote("shop", "slow@champion", shop.home, trial=shop.fast.number, sandbox=slow)
    gate = report.refused
    assert gate is not None and gate.gate == "measured" and "latency_p95_ms" in gate.found
    assert report.exit_code == 5
    assert "slow" not in Registry(shop.home).models()


def test_a_sealed_test_split_that_fails_is_refused(shop: Shop, sandbox: Sandbox) -> None:
    small = shop.trial("eager", "static_int8")
    assert small.feasible, "on validation it keeps its limit"
    report = api.promote("shop", "sealed@champion", shop.home, trial=small.number, sandbox=sandbox)
    assert [gate.status for gate in report.gates] == ["passed", "passed", "passed", "refused"]
    gate = report.refused
    assert gate is not None and gate.gate == "sealed" and "accuracy_drop" in gate.found
    assert "sealed" not in Registry(shop.home).models()


def test_a_stale_runtime_is_refused_also_from_a_notebook(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "onnxruntime" else real(name))
    with pytest.raises(GateRefusedError, match=r"gate freshness refused: onnxruntime is 0\.0\.1 here and was "):
        shop.result.promote("stale@champion", trial=shop.fast.number)
    assert "stale" not in Registry(shop.home).models()


def test_what_cannot_be_served_leaves_the_registry_as_it_was(
    shop: Shop, promoted: list[dict[str, Any]], sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IntegrityError("it cannot be served")

    monkeypatch.setattr("search.promotion.registration.check_serving", fail)
    before = aliases(shop)
    with pytest.raises(IntegrityError, match="cannot be served"):
        api.promote("shop", "shop@champion", shop.home, trial=shop.fast.number, sandbox=sandbox)
    assert aliases(shop) == before
    assert len(open_client(shop.home).search_model_versions("name = 'shop'")) == 2


def test_a_certificate_holds_until_the_machine_is_slower(
    shop: Shop, promoted: list[dict[str, Any]], sandbox: Sandbox
) -> None:
    report = api.revalidate("shop@champion", shop.home, sandbox=sandbox)
    assert (report.holds, report.exit_code, report.version) == (True, 0, 2)
    assert report.latency_now_ms is not None
    with Sandbox(runner="tests.end_to_end.slow_machine:run") as slow:
        report = api.revalidate("shop@champion", shop.home, sandbox=slow)
    assert (report.holds, report.exit_code) == (False, 5)
    assert report.gates[-1].gate == "measured"
    assert open_client(shop.home).get_model_version("shop", "2").tags["paretune.holds"] == "false"


def test_what_is_due_is_checked_once_however_often_it_is_rung_for(
    shop: Shop, promoted: list[dict[str, Any]], sandbox: Sandbox
) -> None:
    said: list[str] = []
    with closing(Ledger.at(shop.home)) as ledger:
        due = next(each for each in deployed_aliases(ledger) if each.name == "shop@champion")
        before = ledger.alias_steps("shop", "champion")
        assert (due.target, due.done_at) == (promoted[1]["certificate"]["target"], before[-1].created_at)
        checks = Revalidations(ledger, shop.home, sandbox, None, said.append)
        for _ in range(2):
            checks.check(due.name, due.done_at)
        checks.check("nobody@champion", 0.0)
        (step,) = ledger.alias_steps("shop", "champion")[len(before) :]
    assert (step.event, step.version, step.detail) == ("revalidated", 2, "its certificate holds")
    assert said == ["revalidation of shop@champion, version 2: its certificate holds"]


def test_a_deployed_version_and_a_trial_are_compared(shop: Shop, promoted: list[dict[str, Any]]) -> None:
    other = promoted[0]  # an alias that points at the second is compared with the trial of the first
    answer = paretune("diff", "shop@champion", f"shop/{other['trial']}", "--examples", "40", "--home",
                      str(shop.home), "--json")  # fmt: skip
    assert answer.code == 0, answer.stderr
    found = answer.json
    assert (found["a"]["digest"], found["b"]["digest"]) == (promoted[1]["digest"], other["digest"])
    assert found["rows"] == 40 and found["agreement"] == 1.0 and found["accuracy_difference"] == 0.0
    low, high = found["accuracy_difference_ci95"]
    assert -0.2 < low < 0 < high < 0.2, "forty rows that agree say little"
    assert 0 < found["largest_difference"] < 1e-3 and found["sqnr_db"] > 60, "both are fp32, in other runtimes"
    eager_first = promoted[1]["label"].startswith("eager")
    assert (found["latency_ratio"]["value"] < 1) is eager_first
    assert found["latency_ratio"]["ci95"][0] <= found["latency_ratio"]["value"] <= found["latency_ratio"]["ci95"][1]


def test_a_proven_version_is_copied_to_another_registered_model(
    shop: Shop, promoted: list[dict[str, Any]], sandbox: Sandbox
) -> None:
    report = api.promote("shop@champion", "production@live", shop.home, sandbox=sandbox)
    assert (report.status, report.version, report.copied_from) == ("promoted", 1, "shop/2")
    assert [gate.gate for gate in report.gates] == ["bundle", "freshness", "measured"]
    assert aliases(shop, "production") == {"live": 1, "challenger": 1}
    copied = open_client(shop.home).get_model_version("production", "1")
    assert copied.tags["paretune.digest"] == promoted[1]["digest"] and "## Evidence" in copied.description
    assert not any(alias.flagged for alias in api.reconcile(shop.home).aliases)


def test_an_alias_is_taken_back_and_its_history_tells(shop: Shop, promoted: list[dict[str, Any]]) -> None:
    back = paretune("rollback", "shop@champion", "--home", str(shop.home), "--json")
    assert (back.code, back.json["version"], back.json["from_version"]) == (0, 1, 2)
    assert aliases(shop)["champion"] == 1 and "champion-previous" not in aliases(shop)
    told = api.history("shop", shop.home)
    moves = [(step.event, step.version) for step in told.steps if step.event != "revalidated"]
    assert moves == [("promoted", 1), ("promoted", 2), ("rolled_back", 1)]
    assert all(version.certificate for version in told.versions)
    with pytest.raises(UsageError, match="no version before 1"):
        api.rollback("shop@champion", shop.home)


def test_a_result_shows_itself_in_a_notebook(shop: Shop) -> None:
    shown = shop.result._repr_html_()
    assert "data:image/png;base64," in shown and shop.result.front[0].label in shown
    frame = shop.result.to_frame()
    assert list(frame["number"]) == [trial.number for trial in shop.trials]
    assert {"backend", "latency/p95_ms", "quality/accuracy", "pareto"} <= set(frame.columns)
