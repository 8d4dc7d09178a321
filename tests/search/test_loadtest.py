"""`paretune loadtest`: what is tested, what is refused, what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError, UsageError
from evaluators.outcome import Evidence
from evaluators.target import probe_target
from evaluators.traffic.values import LoadTest, Serving
from evaluators.verdicts import judge_all
from search import api, units
from search.cli import main
from search.load_testing import LoadTestReport, Source
from tests.conftest import paretune
from tests.search.bundles import a_bundle
from tests.search.factories import under_load

QUICK = LoadTest(budget_ms=10_000, percentile="p50", seconds=1, lead_in_seconds=0, max_foreign_load=1000)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model, for batches of 4, and rows of its input beside it."""
    folder = tmp_path_factory.mktemp("loadtest")
    a_bundle(folder / "bundle", 4, Candidate(target=probe_target().name, backend="onnxruntime", batch_size=4))
    np.savez(folder / "rows.npz", input=np.ones((5, 4), np.float32))
    return folder / "bundle"


def rows(bundle: Path) -> Path:
    return bundle.with_name("rows.npz")


def test_a_bundle_in_a_folder_is_served_and_judged(bundle: Path, tmp_path: Path) -> None:
    answer = paretune(
        "loadtest", str(bundle), "--input", str(rows(bundle)), "--rate", "100/s", "--latency-budget", "10s",
        "--percentile", "p50", "--duration", "1s", "--window", "0ms", "--instances", "2", "--allow-other-target",
        "--home", str(tmp_path), "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.stderr
    report = LoadTestReport.model_validate({k: v for k, v in answer.json.items() if k != "schema_version"})
    assert report.verdict.status == "pass"
    assert report.test.answered == report.test.requests > 50
    assert (report.test.window_ms, report.test.instances, report.batch_size) == (0.0, 2, 4)
    assert report.bundle == str(bundle.resolve()) and report.digest is not None


@pytest.mark.parametrize(("value", "code"), [(3.0, 0), (9.0, 4)])
def test_the_exit_code_says_whether_the_budget_is_kept(value: float, code: int) -> None:
    test = under_load(p99=value, ci95=(value, value), bounds=(value, value))
    [verdict] = judge_all((LoadTest(budget_ms=5).constraint,), Evidence(server=test))
    report = LoadTestReport(subject="b", budget_ms=5, confidence=0.95, test=test, verdict=verdict)
    assert report.exit_code == code


def test_a_bundle_of_another_machine_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="allow-other-target"):
        api.loadtest(str(bundle), tmp_path, QUICK, rate_per_s=5, source=Source(file=rows(bundle)))


def test_an_altered_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes() + (b"x" if path.suffix == ".onnx" else b""))
    with pytest.raises(IntegrityError, match="altered"):
        api.loadtest(str(copy), tmp_path, QUICK, rate_per_s=5, source=Source(file=rows(bundle), other_target=True))


@pytest.mark.parametrize(
    ("subject", "given", "said"),
    [
        ("nothing", {"rate_per_s": 5}, "no folder of a bundle"),
        ("BUNDLE", {}, "--rate 50/s"),
        ("BUNDLE", {"rate_per_s": 5, "serving": Serving(max_batch=8)}, "batch size 4"),
        ("http://127.0.0.1:9/invocations", {"rate_per_s": 5, "serving": Serving()}, "for a bundle"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    bundle: Path, tmp_path: Path, subject: str, given: dict[str, Any], said: str
) -> None:
    source = Source(file=rows(bundle), other_target=subject == "BUNDLE")
    with pytest.raises(UsageError, match=said):
        api.loadtest(str(bundle) if subject == "BUNDLE" else subject, tmp_path, QUICK, source=source, **given)


def test_a_url_needs_to_be_told_what_to_send(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--workload WORKLOAD or --input"):
        api.loadtest("http://127.0.0.1:9/invocations", tmp_path, QUICK, rate_per_s=5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--rate", "fast"), "--rate: 'fast' is not a rate such as 50/s"),
        (("--rate", "5/s", "--percentile", "p12"), "--percentile"),
        (("--rate", "5/s", "--protocol", "grpc"), "--protocol 'grpc' is not known"),
        (("--rate", "5/s", "--window", "soon"), "--window"),
        (("--rate", "5/s", "--confidence", "30%"), "--confidence"),
    ],
)
def test_a_flag_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], said: str
) -> None:
    code = main(["loadtest", "http://a/invocations", "--latency-budget", "5ms", "--home", str(tmp_path), *flags])
    assert code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("text", "rate"), [("50/s", 50.0), ("3000/min", 50.0), ("0.5", 0.5), (20, 20.0)])
def test_rates_are_read_per_second(text: str, rate: float) -> None:
    assert units.per_second(text) == rate


@pytest.mark.parametrize("text", ["0/s", "-1/s", "5/day", "inf/s", ""])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        units.per_second(text)


@pytest.mark.parametrize(("text", "window"), [("0ms", 0.0), ("0", 0.0), ("2ms", 2.0), ("0.5ms", 0.5), ("500us", 0.5)])
def test_a_window_may_be_none_at_all(text: str, window: float) -> None:
    assert units.milliseconds_or_none(text) == window


@pytest.mark.parametrize("text", ["0parsecs", "-1ms", "soon"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        units.milliseconds_or_none(text)
