"""What a request waits for: a promoted model through ``mlflow models serve``, beside its budget and the transport.

    python -m benchmarks.served fashion@champion --home .paretune --requests 500

The alias is served as users serve it, and beside it a model of the same signature that computes nothing: what asking
that one takes is transport, which is HTTP, JSON and MLflow's checks of types. Both get the same real batch, one request
after the other, in turn. Asked: the p95 through the server is at most the latency budget plus the p95 of transport.
Exit code 0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import record
from scripts.serving import mlflow_serving
from search.exports.parts import real_rows
from search.exports.source import Source, find_source
from search.mlflow_store import quiet_mlflow, store_uri

NOTHING = '''
import mlflow
import numpy as np


class Nothing(mlflow.pyfunc.PythonModel):
    """Answers with as many zeros as the real model answers with numbers."""

    def predict(self, context, model_input: np.ndarray, params=None):
        return ANSWER


ANSWER = {answer}
mlflow.models.set_model(Nothing())
'''


def payload(rows: dict[str, np.ndarray], style: str) -> bytes:
    """Return a batch as a request of MLflow's."""
    listed = {name: array.tolist() for name, array in rows.items()}
    return json.dumps({"inputs": next(iter(listed.values())) if style == "tensor" else listed}).encode()


def seconds_of(url: str, body: bytes) -> float:
    """Return how long one request took until its answer was read."""
    request = urllib.request.Request(f"{url}/invocations", data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    begun = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()
    return time.perf_counter() - begun


def in_turn(urls: Sequence[str], body: bytes, requests: int) -> list[list[float]]:
    """Ask each address once after the other, so often, after a warm-up; return the milliseconds of each."""
    found: list[list[float]] = [[] for _ in urls]
    for count in range(-20, requests):
        for times, url in zip(found, urls, strict=True):
            milliseconds = seconds_of(url, body) * 1e3
            if count >= 0:
                times.append(milliseconds)
    return found


def write_nothing(source: Source, folder: Path) -> None:
    """Write a model that answers zeros in the shape of the real one's answers, with the real one's signature."""
    quiet_mlflow()
    from mlflow.pyfunc import save_model

    from search.tracked_model import signature_of

    manifest = source.manifest
    size = manifest.candidate.batch_size
    zeros = {tensor.name: np.zeros((size, *(length or 1 for length in tensor.shape[1:]))).tolist()
             for tensor in manifest.outputs.tensors}  # fmt: skip
    answer = next(iter(zeros.values())) if manifest.outputs.style == "tensor" else zeros
    code = folder / "nothing.py"
    code.write_text(NOTHING.format(answer=json.dumps(answer)))
    signature = signature_of(manifest.inputs, manifest.outputs)
    save_model(str(folder / "nothing"), python_model=str(code), signature=signature, pip_requirements=["mlflow"])


def measure(alias: str, home: Path, requests: int) -> dict[str, Any]:
    """Serve an alias and a model that computes nothing, ask both in turn, and return what was found."""
    source = find_source(alias, home)
    rows = real_rows(source)
    if rows is None or source.evidence.certificate is None:
        raise SystemExit(f"{alias} has no real inputs in {home}")
    body, measured = payload(rows, source.manifest.inputs.style), source.evidence.certificate.measured.latency
    with tempfile.TemporaryDirectory(prefix="served-") as scratch:
        folder = Path(scratch)
        write_nothing(source, folder)
        with (
            mlflow_serving(f"models:/{alias}", folder / "model.log", store_uri(home)) as model,
            mlflow_serving(str(folder / "nothing"), folder / "nothing.log") as nothing,
        ):
            served, transport = in_turn([model, nothing], body, requests)
    budget, (p95, moved) = source.evidence.budget_ms, (float(np.percentile(times, 95)) for times in (served, transport))
    return {
        "alias": alias, "label": source.evidence.label, "requests": requests, "rows": len(next(iter(rows.values()))),
        "bytes": len(body), "served_p50_ms": float(np.percentile(served, 50)), "served_p95_ms": p95,
        "transport_p50_ms": float(np.percentile(transport, 50)), "transport_p95_ms": moved,
        "certified_p95_ms": None if measured is None else measured.p95, "budget_ms": budget,
        "allowed_ms": None if budget is None else budget + moved,
        "within": None if budget is None else p95 <= budget + moved,
    }  # fmt: skip


def section(found: dict[str, Any]) -> str:
    """Return the section of RESULTS.md."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    lines = [
        f"## {when} UTC: {found['label']} through mlflow models serve", "",
        f"{found['requests']} requests of {found['rows']} real rows ({found['bytes']} bytes of JSON), one after "
        "the other, in turn with a model that computes nothing.", "", "| | ms |", "| --- | --- |",
    ]  # fmt: skip
    named = {"p50 through the server": "served_p50_ms", "p95 through the server": "served_p95_ms",
             "p50 of the transport": "transport_p50_ms", "p95 of the transport": "transport_p95_ms",
             "p95 of the certificate, one call": "certified_p95_ms", "budget": "budget_ms",
             "budget and transport": "allowed_ms"}  # fmt: skip
    lines += [f"| {name} | {found[key]:.3g} |" for name, key in named.items() if found[key] is not None]
    verdict = {True: "within", False: "not within", None: "without a budget"}[found["within"]]
    return "\n".join([*lines, "", f"The p95 through the server is {verdict} the budget and the transport.", ""])


def main() -> int:
    """Measure, print, and keep what was found where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("alias")
    parser.add_argument("--home", type=Path, default=Path(".paretune"))
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--record", action="store_true", help="append the section to RESULTS.md")
    given = parser.parse_args()
    found = measure(given.alias, given.home.resolve(), given.requests)
    record(section(found), keep=given.record)
    return 1 if found["within"] is False else 0


if __name__ == "__main__":
    sys.exit(main())
