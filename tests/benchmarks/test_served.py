"""The benchmark of served models: what it sends, and what it says of what it found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.served import payload, section

FOUND = {
    "alias": "digits@champion", "label": "onnxruntime fp32 b4 t1", "requests": 500, "rows": 4, "bytes": 1000,
    "served_p50_ms": 5.0, "served_p95_ms": 7.0, "transport_p50_ms": 3.0, "transport_p95_ms": 4.0,
    "certified_p95_ms": 2.0, "budget_ms": 5.0, "allowed_ms": 9.0, "within": True,
}  # fmt: skip


def test_a_batch_is_sent_as_mlflow_takes_it() -> None:
    rows = {"left": np.ones((2, 1)), "right": np.zeros((2, 1))}
    assert json.loads(payload(rows, "dict")) == {"inputs": {"left": [[1.0], [1.0]], "right": [[0.0], [0.0]]}}
    assert json.loads(payload({"input": rows["left"]}, "tensor")) == {"inputs": [[1.0], [1.0]]}


@pytest.mark.parametrize(
    ("within", "said"), [(True, "is within"), (False, "is not within"), (None, "without a budget")]
)
def test_the_section_says_whether_the_budget_and_the_transport_are_kept(within: bool | None, said: str) -> None:
    budget = {} if within is not None else {"budget_ms": None, "allowed_ms": None}
    text = section({**FOUND, "within": within, **budget})
    assert said in text and "| p95 through the server | 7 |" in text
    assert ("| budget and transport | 9 |" in text) is (within is not None)
