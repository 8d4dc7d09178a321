"""CONTRIBUTING's worked example of a backend, taken from the page: it passes the suite, and broken it fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluators.target import probe_target

ROOT = Path(__file__).resolve().parent.parent.parent
MOST_LINES = 80
BREAKS = {
    "threads": ("        torch.set_num_threads(manifest.candidate.runtime.threads)\n", ""),
    "parity": ("return tensors_to_arrays(raw)", "return [array[::-1].copy() for array in tensors_to_arrays(raw)]"),
    "declared": ("import numpy as np\n", "import numpy as np\nimport torch\n"),
    "inputs": ("        self._inputs.check(batch, self._size)\n", ""),
    "repeatable": (
        "return tensors_to_arrays(raw)",
        "self._size += 1; return [raw[0].numpy() + self._size]",
    ),
    "time_limit": (
        "        program, size =",
        "        import subprocess\n\n        subprocess.Popen(['sleep', '62'], start_new_session=True)\n"
        "        program, size =",
    ),
}
"""What a bad backend does, by the check that must find it: text of the example, and what stands there instead."""


@dataclass(frozen=True)
class Page:
    """The code of CONTRIBUTING.md by what it is."""

    project: str
    backend: str
    test: str
    quantizer: str
    pruner: str


@pytest.fixture(scope="module")
def page() -> Page:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (project,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    backend, test, quantizer, pruner = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return Page(project, backend, test, quantizer, pruner)


@pytest.fixture(scope="module")
def site(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example as pip would."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads(page.project)["project"]
    (folder / "paretune_exported.py").write_text(page.backend)
    install(folder, project["name"], project["entry-points"])
    return folder


@pytest.fixture(scope="module")
def site_of_others(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example broken in each way, and once with the page's second quantizer, each under its own name."""
    folder = tmp_path_factory.mktemp("others")
    header = "from evaluators.stages.export import export_program\n"
    second = page.backend.replace("import numpy as np\n", f"import numpy as np\n\n{header}") + page.quantizer
    (folder / "second.py").write_text(second.replace('"exported"', '"second"'))
    install(folder, "second", {
        "paretune.backends": {"one": "second:Exported"},
        "paretune.quantizers": {"one": "second:ExportedFloat32", "two": "second:RoundedWeights"},
    })  # fmt: skip
    for check, (good, bad) in BREAKS.items():
        assert page.backend.count(good) == 1, f"the example no longer has {good!r}"
        broken = page.backend.replace(good, bad).replace('"exported"', f'"broken_{check}"')
        (folder / f"broken_{check}.py").write_text(broken)
        install(folder, f"broken-{check}", {
            "paretune.backends": {"one": f"broken_{check}:Exported"},
            "paretune.quantizers": {"one": f"broken_{check}:ExportedFloat32"},
        })  # fmt: skip
    return folder


def install(site: Path, name: str, points: dict[str, dict[str, str]]) -> None:
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in named.items())
             for group, named in points.items()]  # fmt: skip
    (folder / "entry_points.txt").write_text("\n".join(lines))


def python(site: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(site), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_backend_is_short(page: Page) -> None:
    assert len(page.backend.splitlines()) <= MOST_LINES


def test_example_passes_the_suite(page: Page, site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_exported.py").write_text(page.test)

    ended = python(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_exported.py", folder=tmp_path)

    assert ended.returncode == 0, ended.stdout
    assert re.search(r"^exported fp32 +\d+ passed$", ended.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def verdicts(site_of_others: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Put to each broken backend the check that must find it, on images; returns status and reason."""
    folder = tmp_path_factory.mktemp("broken")
    script = (
        "import json, pathlib, sys\n"
        "from evaluators.testing.suite import run_check\n"
        "from evaluators.testing.cases import Case\n"
        "home, found = pathlib.Path('home').resolve(), {}\n"
        "for check in sys.argv[1:]:\n"
        "    result = run_check(check, Case(f'broken_{check}', 'fp32', 'images', 4), home)\n"
        "    found[check] = [result.status, result.reason]\n"
        "result = run_check('parity', Case('second', 'rounded16', 'images', 4), home)\n"
        "found['second'] = [result.status, result.reason]\n"
        "print(json.dumps(found))\n"
    )
    ended = python(site_of_others, "-c", script, *BREAKS, folder=folder)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, list[str]] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def test_example_of_a_quantizer_computes_what_the_model_computes(verdicts: dict[str, list[str]]) -> None:
    assert verdicts["second"] == ["passed", ""]


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ("threads", r"with threads=1, \d+ threads work"),
        ("parity", "differs from the model by"),
        ("declared", "imports torch"),
        ("inputs", "were not refused but raised"),
        ("repeatable", "are not those of the first"),
        ("time_limit", "there still runs: sleep 62"),
    ],
)
def test_broken_example_fails_the_suite(check: str, told: str, verdicts: dict[str, list[str]]) -> None:
    if check == "threads" and probe_target().cores < 2:
        pytest.skip("on one core a backend that ignores threads starts one as well")

    status, reason = verdicts[check]

    assert status == "failed"
    assert re.search(told, reason)


def test_example_of_a_pruner_prunes(page: Page) -> None:
    names: dict[str, object] = {}
    header = (
        "from collections.abc import Callable\nfrom typing import Any, ClassVar\n"
        "from evaluators.candidate import Scalar\n"
        "from evaluators.parameters import Number\nfrom evaluators.profile import WorkloadProfile\n"
        "from evaluators.pruners.base import Pruner\n"
        "from evaluators.pruners.data import PruningData\n"
    )
    exec(header + page.pruner, names)  # noqa: S102 - the page's own code
    layer = nn.Linear(10, 10, bias=False).requires_grad_(False)

    plan = names["Layerwise"]().prune(nn.Sequential(layer), torch.zeros(1, 10), 0.5, {})  # type: ignore[operator]

    assert plan == {"structure": "layerwise", "layers": 1}
    assert int((layer.weight == 0).sum()) == 50
