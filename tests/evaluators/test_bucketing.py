"""Batches from buckets: edges that fill up least, each answer with its own example, the same code where it serves."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evaluators import registry
from evaluators.batching import run_in_batches
from evaluators.bucketing import buckets_of, choose_edges, planned, row_lengths, spread, trimmed
from evaluators.bundle import Manifest, open_bundle
from evaluators.jobs import MeasureJob, PrepareJob, Protocol
from evaluators.lengths import Buckets, Lengths
from evaluators.space import derive_space
from evaluators.stages.clock import StageClock
from evaluators.stages.lengths import counted, read_lengths
from evaluators.stages.measure import measure
from evaluators.stages.prepare import prepare
from evaluators.standalone import runner as standalone
from evaluators.target import probe_target
from evaluators.testing import cases
from evaluators.testing.workloads import TextNet, texts
from evaluators.timing.gain import ratio_of, time_in_turn
from evaluators.workload import Workload
from tests.search.factories import a_profile

FILLED = Buckets(axes={"tokens": 1, "mask": 1}, padding={"tokens": 0, "mask": 0}, edges=(3, 6))
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bucketing")


def rows_of(lengths: list[int]) -> dict[str, np.ndarray]:
    """Rows of these lengths, each filled with its own number from 1 on."""
    tokens = np.zeros((len(lengths), max(lengths)), np.int64)
    for number, length in enumerate(lengths, 1):
        tokens[number - 1, :length] = number
    return {"tokens": tokens, "mask": (tokens > 0).astype(np.int64)}


class Echo:
    """Answers each row with its number and its length; keeps the shapes of what it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def prepare(self, batch: Any) -> Any:
        return batch

    def run(self, prepared: Any) -> Any:
        self.shapes.append(prepared["tokens"].shape)
        return [prepared["tokens"].max(axis=1), prepared["mask"].sum(axis=1)]

    def outputs(self, raw: Any) -> list[np.ndarray]:
        return list(raw)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(1, 30), st.integers(1, 9), min_size=1, max_size=7), st.integers(1, 4))
def test_no_other_edges_fill_up_less(found: dict[int, int], buckets: int) -> None:
    counts = sorted(found.items())

    def positions(edges: tuple[int, ...]) -> int:
        return sum(count * next(edge for edge in edges if edge >= length) for length, count in counts)

    edges = choose_edges(counts, buckets)

    lengths = [length for length, _ in counts]
    others = itertools.combinations(lengths[:-1], min(buckets, len(lengths)) - 1)
    assert edges[-1] == lengths[-1] and len(edges) == min(buckets, len(lengths))
    assert positions(edges) == min(positions((*other, lengths[-1])) for other in others)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_answers_belong_to_their_rows_and_batches_to_one_bucket(lengths: list[int], batch_size: int) -> None:
    rows, echo = rows_of(lengths), Echo()

    numbers, found = run_in_batches(echo, rows, batch_size, FILLED)

    assert numbers.tolist() == list(range(1, len(lengths) + 1))
    assert found.tolist() == lengths
    assert all(shape[0] == batch_size for shape in echo.shapes)
    assert len(echo.shapes) == -(-len(lengths) // batch_size)
    filled_to, short = Counter(shape[1] for shape in echo.shapes), sum(length <= 3 for length in lengths)
    assert filled_to[3] >= short // batch_size
    assert set(filled_to) <= {3, 6, *range(7, 13)}


def test_a_batch_is_filled_up_to_its_buckets_edge_and_beyond_the_last_to_its_longest() -> None:
    echo = Echo()

    run_in_batches(echo, rows_of([2, 1, 5, 4, 9, 8, 2]), 2, FILLED)

    assert echo.shapes == [(2, 9), (2, 6), (2, 3), (2, 3)]


def test_a_batch_that_was_gathered_in_front_is_cut_to_its_edge() -> None:
    rows = rows_of([2, 1, 12])
    assert trimmed({name: array[:2] for name, array in rows.items()}, FILLED)["tokens"].shape == (2, 3)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 5))
def test_exported_code_batches_rows_as_they_were_measured(lengths: list[int], batch_size: int) -> None:
    rows, told = rows_of(lengths), FILLED.to_json()

    found = row_lengths(rows, FILLED)

    assert found.tolist() == lengths == standalone.row_lengths(rows, told).tolist()
    ours = np.concatenate([batch.rows for batch in planned(found, FILLED.edges, batch_size)])
    assert standalone.in_buckets(found, told["edges"], batch_size).tolist() == ours.tolist()
    standalone.fill_up(rows, told, 20)
    assert rows["mask"].sum(axis=1).tolist() == lengths and rows["tokens"].shape[1] == 20


def test_a_few_batches_stand_for_all_in_any_beginning() -> None:
    lengths = np.repeat(np.arange(1, 65), 4)
    batches = planned(lengths, range(1, 65), 4)

    few = [batch.length for batch in spread(batches, 16)]

    assert sorted(few) == list(range(3, 65, 4))
    for beginning in (4, 8, 16):
        assert np.mean(few[:beginning]) == pytest.approx(np.mean(lengths), rel=0.15)


def test_many_lengths_are_rounded_up_to_256() -> None:
    counts = counted(np.arange(1, 1001))
    assert len(counts) == 256 and counts[-1][0] == 1000
    assert sum(count for _, count in counts) == 1000


def test_the_texts_tell_their_lengths_and_what_they_are_filled_up_with(home: Path) -> None:
    lengths = cases.profile_of("evaluators.testing.workloads:texts", home).lengths
    assert lengths is not None and lengths.refused is None
    assert lengths.padding == {"tokens": 0, "mask": 0} and lengths.axes == {"tokens": 1, "mask": 1}
    assert sum(count for _, count in lengths.counts) == 64 and lengths.counts[-1][0] <= 24


class _Lasting(TextNet):
    """A model that reads its last position, filled up or not."""

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.words(tokens)[:, -1] * tokens.size(1))}


def _shifted(examples: Any) -> Any:
    inputs, targets = texts.collate(examples)  # type: ignore[misc]
    return {name: tensor.flip(1) for name, tensor in inputs.items()}, targets


@pytest.mark.parametrize(
    ("workload", "why"),
    [
        (replace(texts, model=lambda: _Lasting().eval()), "depends on how far the example is filled up"),
        (replace(texts, collate=_shifted), "elsewhere than at its end"),
    ],
)
def test_what_cannot_be_bucketed_says_why(workload: Workload, why: str, home: Path) -> None:
    profile = cases.profile_of("evaluators.testing.workloads:texts", home)
    model: nn.Module = workload.model()

    found = read_lengths(workload, model, workload.calibration(), profile.inputs, profile.outputs)

    assert found is not None and found.option is None
    assert why in str(found.refused)
    space = derive_space(a_profile(lengths=found), probe_target(), only_backends=["eager"])
    assert not space.batching
    assert any(why in item.why for item in space.exclusions)


def test_buckets_are_a_choice_for_batches_of_several_examples_of_varying_length_only() -> None:
    lengths = Lengths(axes={"x": 1}, padding={"x": 0}, counts=((3, 5), (7, 5), (9, 1), (11, 1)))
    whole = derive_space(
        a_profile(lengths=lengths), probe_target(), only_backends=["eager"], batch_sizes=[1, 4], threads=1
    )
    space = replace(whole, amounts={}, pruner_knobs={})

    found = {candidate.batch_size: set[Any]() for candidate in space.candidates()}
    for candidate in space.candidates():
        found[candidate.batch_size].add(candidate.runtime.knobs.get("buckets"))
        assert space.choices_of(candidate)

    assert found == {1: {None}, 4: {0, 2, 4}}
    assert space.recipe("eager", "fp32", 4).runtime.knobs["buckets"] == 0
    assert space.as_written("eager", 4).is_original


def test_the_gain_is_a_ratio_of_means_over_batches_whichever_were_met() -> None:
    now = [0.0]

    def run(seconds: float) -> None:
        now[0] += seconds

    plain, bucketed = time_in_turn(run, [0.4] * 8, [0.1, 0.3] * 4, clock=lambda: now[0])
    gain = ratio_of(plain, bucketed)

    assert gain.value == pytest.approx(2.0)
    assert gain.ci95[0] < 2.0 < gain.ci95[1]


@pytest.fixture(scope="module")
def bundle(home: Path) -> Path:
    """The texts in eager fp32, in batches of 4 from two buckets."""
    profile = cases.profile_of("evaluators.testing.workloads:texts", home)
    space = derive_space(profile, probe_target(), only_backends=["eager"])
    plain = space.recipe("eager", "fp32", 4)
    candidate = plain.model_copy(update={"runtime": plain.runtime.model_copy(update={"buckets": 2})})
    assert space.choices_of(candidate)["buckets"] == 2
    job = PrepareJob(candidate=candidate, profile=profile, home=str(home))
    return Path(prepare(job, StageClock(lambda _: None)).bundle)


def test_a_bundle_carries_its_edges_and_answers_rows_in_their_order(bundle: Path, home: Path) -> None:
    manifest = open_bundle(bundle, trusted=True)
    profile = cases.profile_of("evaluators.testing.workloads:texts", home)
    assert manifest.schema_version == 3
    assert manifest.buckets == buckets_of(profile.lengths, 2)
    assert manifest.buckets is not None and len(manifest.buckets.edges) == 2

    loaded = registry.backend("eager").load(bundle, manifest)
    rows = cases.batch_of(cases.Case("eager", "fp32", "texts", 10), range(10))
    plain, bucketed = (run_in_batches(loaded, rows, 4, buckets) for buckets in (None, manifest.buckets))

    for one, other in zip(plain, bucketed, strict=True):
        assert np.allclose(one, other, atol=1e-5)


def test_a_trial_is_measured_on_buckets_and_tells_its_gain(bundle: Path, home: Path) -> None:
    profile = cases.profile_of("evaluators.testing.workloads:texts", home)
    protocol = Protocol(looks=(0.02,), patience_seconds=2.0, max_foreign_load=1000)
    job = MeasureJob(bundle=str(bundle), profile=profile, home=str(home), constraints=(), protocol=protocol)

    outcome = measure(job, StageClock(lambda _: None))

    assert outcome.kind == "measured"
    told, accuracy = outcome.evidence.bucketing, outcome.evidence.accuracy
    assert told is not None and told.padding_share < told.plain_padding_share
    assert told.gain.ci95[0] <= told.gain.value <= told.gain.ci95[1]
    assert accuracy is not None and accuracy.drop == pytest.approx(0.0)


def test_a_manifest_without_buckets_reads_as_before(bundle: Path) -> None:
    manifest = open_bundle(bundle, trusted=True)
    candidate = manifest.candidate.model_copy(
        update={"runtime": manifest.candidate.runtime.model_copy(update={"buckets": 0})}
    )
    plain = manifest.model_copy(update={"buckets": None, "schema_version": 2, "candidate": candidate})
    assert "buckets" not in plain.to_json()
    assert Manifest.model_validate(plain.to_json()).digest == plain.digest
    with pytest.raises(ValueError, match="buckets are in manifests"):
        Manifest.model_validate(plain.to_json() | {"schema_version": 3})
