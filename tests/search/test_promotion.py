"""Promotion without a search: which trial is picked, what a gate decides, and what is done to aliases by hand."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from evaluators.bundle import read_manifest
from evaluators.errors import InfeasibleError, IntegrityError, UsageError
from evaluators.outcome import Evidence, Failure, FailureKind, Outcome, ParityEvidence
from search.mlflow_store import open_client
from search.promotion.card import LONGEST, card_of, clipped_card, tags_of_version
from search.promotion.certificate import staleness
from search.promotion.gates import Passage, Subject, measured_gate, sealed_gate
from search.promotion.lifecycle import AliasReport, history, reconcile_model, roll_back, stack_of
from search.promotion.names import ModelAlias, parse_model_alias
from search.promotion.picking import find_trial, pick_trial
from search.promotion.registry import Registry
from tests.search.bundles import a_bundle, a_certificate
from tests.search.factories import a_candidate, a_profile, a_result, a_spec, a_trial
from workers.certifying import Certifier
from workers.ledger import Ledger
from workers.settings import TrialSettings

# --- which trial ---


def a_front() -> Any:
    """Three trials: the fastest and least accurate, a knee, the most accurate and slowest."""
    spec = a_spec(latency_budget_ms=10, objective="latency", max_accuracy_drop=0.5)
    trials = [
        a_trial(number, a_candidate("onnxruntime", "fp32", batch_size=number), p50=p50, accuracy=accuracy,
                constraints=spec.constraints)
        for number, p50, accuracy in ((1, 0.2, 0.80), (2, 0.3, 0.91), (3, 1.0, 0.92))
    ]  # fmt: skip
    return a_result(trials, spec)


@pytest.mark.parametrize(("pick", "number"), [("fastest", 1), ("accurate", 3), ("knee", 2), ("cheapest", 3), (None, 1)])
def test_a_pick_names_one_trial_of_the_front(pick: str | None, number: int) -> None:
    result = a_front()
    assert [trial.number for trial in result.front] == [1, 2, 3]
    rates = {trial.number: trial.throughput_per_s for trial in result.front}
    if pick == "cheapest":
        number = max(rates, key=lambda key: rates[key] or 0.0)
    assert pick_trial(result, pick).number == number


def test_an_unknown_pick_and_an_empty_front_are_told() -> None:
    with pytest.raises(UsageError, match="no pick 'best'; choose one of fastest, accurate, knee, cheapest"):
        pick_trial(a_front(), "best")
    with pytest.raises(InfeasibleError, match="nothing to promote"):
        pick_trial(a_result([a_trial(1, p50=1e6)]), "knee")


def test_only_what_keeps_every_limit_is_promoted_by_its_number() -> None:
    trials = [a_trial(0), a_trial(1, p50=1e6)]
    assert find_trial(trials, 0, "x").number == 0
    with pytest.raises(UsageError, match="trial 1 is not feasible"):
        find_trial(trials, 1, "x")
    with pytest.raises(UsageError, match="has no trial 7; it has 0 to 1"):
        find_trial(trials, 7, "x")


def test_an_alias_is_read_and_what_mlflow_keeps_is_refused() -> None:
    assert parse_model_alias("my model@champion") == ModelAlias(model="my model", alias="champion")
    for text in ("champion", "@champion", "a@", "a/b@champion", "a@latest", "a@v3", "a@champion-previous"):
        with pytest.raises(UsageError):
            parse_model_alias(text)


# --- what a gate decides ---


class Found(Certifier):
    """A certifier that found what it was told, without measuring."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def measure(self, *_: Any) -> Outcome:
        return self._outcome

    def score_sealed(self, *_: Any) -> Outcome:
        return self._outcome


def a_subject(**fields: Any) -> Subject:
    settings = TrialSettings(profile=fields.pop("profile", a_profile()), constraints=a_spec().constraints)
    return Subject(label="x", bundle=Path("bundle"), settings=settings, **fields)


@pytest.fixture
def passage(tmp_path: Path) -> Passage:
    return Passage((), manifest=a_bundle(tmp_path / "bundle"))


def measured(p50: float, spread: float = 0.002) -> Outcome:
    trial = a_trial(1, p50=p50, spread=spread, gates=False)
    parity = ParityEvidence(sqnr_db=31.0, cosine=1.0, examples=64)
    return Outcome(kind="measured", evidence=Evidence(parity=parity), verdicts=trial.verdicts)


def test_the_gate_of_the_measurement_lets_pass_only_what_surely_keeps_every_limit(passage: Passage) -> None:
    passed = measured_gate(passage, a_subject(), Found(measured(0.4))).gates[-1]
    assert passed.status == "passed" and "31 dB" in passed.found
    slow = measured_gate(passage, a_subject(), Found(measured(1e4))).gates[-1]
    assert slow.status == "refused" and "latency_p95_ms" in slow.found and "slower" in slow.advice
    unsure = measured_gate(passage, a_subject(), Found(measured(0.4, spread=0.2))).gates[-1]
    assert unsure.status == "refused" and "undecided" in unsure.found


def test_a_limit_that_was_not_measured_and_a_job_that_failed_refuse(passage: Passage) -> None:
    nothing = Outcome(kind="measured")
    assert "latency_p95_ms was not measured" in measured_gate(passage, a_subject(), Found(nothing)).gates[-1].found
    failure = Failure(kind=FailureKind.PARITY, stage="parity", reason="another model")
    gate = measured_gate(passage, a_subject(), Found(Outcome(kind="failed", failure=failure))).gates[-1]
    assert gate.status == "refused" and gate.found == "parity in parity: another model"


def test_a_workload_without_a_test_split_is_refused_unless_that_is_accepted(passage: Passage) -> None:
    digests = {name: digest for name, digest in a_profile().data_digests.items() if name != "test"}
    profile = a_profile(data_digests=digests)
    gate = sealed_gate(passage, a_subject(profile=profile), Found(measured(0.4))).gates[-1]
    assert gate.status == "refused" and "--without-test" in gate.advice
    waived = sealed_gate(passage, a_subject(profile=profile, needs_sealed=False), Found(measured(0.4))).gates[-1]
    assert waived.status == "skipped"


def test_staleness_names_every_version_and_the_hardware(passage: Passage) -> None:
    manifest = passage.manifest
    assert manifest is not None
    assert staleness(manifest, dict(manifest.environment), manifest.target_fingerprint) == ()
    newer = {**manifest.environment, "onnxruntime": "99"}
    assert staleness(manifest, newer, manifest.target_fingerprint) == (
        f"onnxruntime is 99 here and was {manifest.environment['onnxruntime']}",
    )
    assert "another machine or driver" in staleness(manifest, manifest.environment, "f" * 16)[0]
    assert "has no cpu-" in staleness(manifest, manifest.environment, None)[0]


# --- card and tags ---


def test_a_card_says_where_it_holds_and_that_no_sealed_split_was_there(tmp_path: Path) -> None:
    manifest = a_bundle(tmp_path)
    card = card_of(a_certificate(manifest), manifest, a_profile(), "shop@champion")
    for part in ("# shop@champion", "accuracy drop ≤ 1.00 pp", "No sealed test split", "paretune reproduce 3f9a21c7 7",
                 manifest.digest, f"onnxruntime {manifest.environment['onnxruntime']}"):  # fmt: skip
        assert part in card
    assert tags_of_version(a_certificate(manifest), manifest)["paretune.sealed"] == "none"
    assert len(clipped_card("x" * 9000)) == LONGEST


# --- aliases ---


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home with space")
    open_client(folder)
    return folder


class Store:
    """A registry and a ledger with a model of its own in them."""

    def __init__(self, home: Path, ledger: Ledger) -> None:
        self.ledger, self.registry, self.home = ledger, Registry(home), home
        self.name = ModelAlias(model=f"model-{uuid.uuid4().hex[:8]}", alias="champion")

    def add(self, batch_size: int, *, proven: bool = True) -> int:
        """Make a version that serves a bundle of this batch size."""
        folder = self.home / "models" / self.name.model / str(batch_size)
        manifest = a_bundle(folder / "artifacts" / "bundle", batch_size)
        client = self.registry.client
        if self.name.model not in self.registry.models():
            client.create_registered_model(self.name.model)
        version = int(client.create_model_version(self.name.model, folder.as_uri()).version)
        if proven:
            certificate = a_certificate(read_manifest(folder / "artifacts" / "bundle"))
            self.ledger.certify(self.name.model, version, manifest.digest, certificate.to_json())
        return version

    def promote(self, version: int) -> None:
        """Move the alias as a promotion does behind its gates."""
        before = self.registry.aliases(self.name.model).get("champion")
        self.point(version)
        self.ledger.add_alias_step(self.name.model, "champion", "promoted", version, before, "a trial")

    def point(self, version: int) -> None:
        """Move the alias as somebody does by hand."""
        self.registry.point(self.name.model, "champion", version)

    def reconcile(self, restore: bool = False) -> AliasReport:
        (report,) = reconcile_model(self.ledger, self.registry, self.name.model, restore=restore)
        return report

    def bundle(self, version: int) -> Path:
        return Path(self.registry.version(self.name.model, version).bundle)


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    with closing(Ledger.at(home)) as ledger:
        yield Store(home, ledger)


def test_rolling_back_goes_as_far_as_there_is_a_version_before(store: Store) -> None:
    for batch_size in (1, 2, 3):
        store.promote(store.add(batch_size))
    assert [roll_back(store.ledger, store.registry, store.name).version for _ in range(2)] == [2, 1]
    assert store.registry.aliases(store.name.model) == {"champion": 1}
    with pytest.raises(UsageError, match="no version before 1"):
        roll_back(store.ledger, store.registry, store.name)
    steps = history(store.ledger, store.registry, store.name.model).steps
    assert [step.event for step in steps] == ["promoted"] * 3 + ["rolled_back"] * 2
    assert stack_of(steps) == [1]


def test_a_version_that_is_not_what_passed_is_not_rolled_back_to(store: Store) -> None:
    first, second = store.add(1), store.add(2)
    store.promote(first)
    store.promote(second)
    with (store.bundle(first) / "model.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError, match=r"model\.onnx altered"):
        roll_back(store.ledger, store.registry, store.name)
    assert store.registry.aliases(store.name.model)["champion"] == second


def test_an_alias_that_was_moved_by_hand_to_a_proven_version_is_taken_over(store: Store) -> None:
    first, second = store.add(1), store.add(2)
    store.promote(first)
    store.point(second)
    with pytest.raises(IntegrityError, match="moved by hand; run paretune reconcile"):
        roll_back(store.ledger, store.registry, store.name)
    report = store.reconcile()
    assert (report.status, report.expected, report.found, report.flagged) == ("adopted", first, second, False)
    assert store.reconcile().status == "agrees"
    assert roll_back(store.ledger, store.registry, store.name).version == first


def test_an_alias_on_what_never_passed_a_gate_is_flagged_until_it_is_put_back(store: Store) -> None:
    proven, foreign = store.add(1), store.add(2, proven=False)
    store.promote(proven)
    store.point(foreign)
    for _ in range(2):
        report = store.reconcile()
        assert (report.status, report.flagged) == ("unproven", True)
    assert store.registry.version(store.name.model, foreign).tags["paretune.certified"] == "false"
    assert store.reconcile(restore=True).status == "restored"
    assert store.registry.aliases(store.name.model)["champion"] == proven


def test_deployed_files_that_were_altered_are_flagged(store: Store) -> None:
    store.promote(version := store.add(1))
    (store.bundle(version) / "model.onnx").write_bytes(b"another model")
    report = store.reconcile()
    assert (report.status, report.flagged) == ("altered", True)
    assert "model.onnx" in report.why


def test_an_alias_that_was_removed_by_hand_is_written_down_once(store: Store) -> None:
    store.promote(store.add(1))
    store.registry.client.delete_registered_model_alias(store.name.model, "champion")
    assert store.reconcile().status == "removed"
    assert store.reconcile().status == "agrees"


def test_another_alias_on_what_never_passed_is_flagged_too(store: Store) -> None:
    store.promote(store.add(1))
    store.registry.client.set_registered_model_alias(store.name.model, "live", str(store.add(2, proven=False)))
    found = reconcile_model(store.ledger, store.registry, store.name.model, restore=False)
    assert {report.alias: report.status for report in found} == {"champion": "agrees", "live": "unproven"}
