"""Where the interpreters of backends are named, and which word counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from evaluators.errors import UsageError
from search import api
from search.spec import SearchSpec, load_pythons, load_spec

TRT = "/opt/trt/bin/python"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "search.yaml"
    file.write_text("workload: m.py:w\nbackends:\n  tensorrt:\n    python: /file/trt\n  openvino: {python: /file/ov}\n")
    return file


def test_flags_beat_the_environment_and_that_the_file_backend_by_backend(config: Path) -> None:
    environment = {"PARETUNE_BACKEND_PYTHON": "tensorrt=/env/trt,onnxruntime=/env/ort"}
    flags = [f"tensorrt={TRT}"]

    expected = {"tensorrt": TRT, "openvino": "/file/ov", "onnxruntime": "/env/ort"}
    assert load_pythons(flags, config, environment) == expected
    assert load_spec({"backend_python": flags}, config, environment).backend_python == expected


def test_a_path_is_absolute_and_keeps_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").symlink_to("/usr/bin/python3")
    monkeypatch.chdir(tmp_path)

    assert load_pythons(["tensorrt=python"], None, {}) == {"tensorrt": str(tmp_path / "python")}


def test_a_search_records_them() -> None:
    spec = SearchSpec(workload="m.py:w", backend_python={"tensorrt": TRT})

    assert SearchSpec.model_validate(spec.to_json()) == spec


@pytest.mark.parametrize("flags", [["tensorrt"], ["=/opt/python"], ["tensorrt="], ["a=/x", "a=/y"]])
def test_a_wrong_flag_is_refused(flags: list[str]) -> None:
    with pytest.raises(UsageError, match="backend_python: "):
        load_pythons(flags, None, {})


@pytest.mark.parametrize(
    "content",
    ["backends: openvino", "backends: {openvino: /opt/python}", "backends: {openvino: {pyton: /opt/python}}",
     "backends: {openvino: {python: 3}}", "backends: {openvino: {python: /a}}\nbackend_python: openvino=/b"],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(content)

    with pytest.raises(UsageError, match=r"search\.yaml.*(backends|openvino)"):
        load_pythons([], file, {})


@pytest.mark.parametrize("value", [3, {"openvino": ""}])
def test_a_wrong_setting_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="BACKEND=/path/to/python"):
        SearchSpec(workload="m.py:w", backend_python=value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"backend_python": {"onnx": sys.executable}}, "no backend 'onnx'"),
     ({"backend_python": {"openvino": "/no/python"}}, "/no/python, does not exist"),
     ({"backend_python": {"openvino": sys.executable}, "target": "apple-m9"}, "paretune worker --backend-python")],
)  # fmt: skip
def test_a_search_with_a_wrong_interpreter_does_not_begin(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    workload = tmp_path / "m.py"
    workload.touch()

    with pytest.raises(UsageError, match=said):
        api.run_spec(load_spec({"workload": f"{workload}:w", **settings}, environment={}), tmp_path / "home")
    assert not (tmp_path / "home" / "ledger.db").exists()


def test_an_interpreter_that_a_search_has_no_use_for_is_not_asked(tmp_path: Path) -> None:
    spec = SearchSpec(workload="m.py:w", backend=["eager"], backend_python={"openvino": "/no/python"})

    assert api._interpreters(spec, tmp_path).own == {}
