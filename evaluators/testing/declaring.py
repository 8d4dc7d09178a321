"""What a backend declares, and that it declares it before it runs anything: ``python -m evaluators.testing.declaring``.

The program answers for one backend what a search asks before any runtime is started, and tells which modules that
imported. Its argument is a file with the question as JSON.
"""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path

from evaluators import registry
from evaluators.parameters import check_values, defaults
from evaluators.profile import WorkloadProfile
from evaluators.target import Target, probe_targets
from evaluators.testing.cases import Case, NonconformingError, profile_of, schemes_of
from evaluators.testing.fresh import fresh_folder, run_fresh

TIMEOUT_S = 60.0
DEVICES = {"cpu": "cpu-made-up", "cuda": "cuda-sm90", "mps": "apple-m2", "xpu": "xpu-12_71_4", "npu": "npu-3720"}
"""A target of each device, to ask a backend about."""


def check_declared(case: Case, home: Path) -> None:
    """Capabilities are data, fit together, and are answered without a runtime being imported."""
    backend = registry.backend(case.backend)
    if case.backend != backend.name or "fp32" not in schemes_of(case.backend):
        raise NonconformingError("it has no quantizer for fp32, which baselines and references need")
    if odd := sorted(set(backend.devices) - set(DEVICES)) or not backend.devices:
        raise NonconformingError(f"devices are {backend.devices}, {odd} among them; known are {list(DEVICES)}")
    if odd := sorted(set(backend.own_threads) - set(backend.devices)):
        raise NonconformingError(f"it sets its threads itself on {odd[0]}, and serves {', '.join(backend.devices)}")
    values = {**defaults(backend.options), **backend.as_written}
    if (why := check_values(backend.options, values, f"{case.backend}.as_written")) is not None:
        raise NonconformingError(why)
    for device, name in DEVICES.items():
        if device not in backend.devices and backend.unusable(made_up(name)) is None:
            raise NonconformingError(f"it says that it can run on {name}, and serves {', '.join(backend.devices)}")
    _check_light(case, home)


def made_up(name: str) -> Target:
    """Return a target of that name which no machine is."""
    return Target(name=name, processor="made up", features=(), cores=1, memory_bytes=2**30, system="Linux x86_64")


def _check_light(case: Case, home: Path) -> None:
    folder = fresh_folder(home, "declaring")
    profile = profile_of(case.reference, home)
    (folder / "question.json").write_text(json.dumps({"backend": case.backend, "profile": profile.to_json()}))
    ended = run_fresh("evaluators.testing.declaring", [str(folder / "question.json")], TIMEOUT_S)
    if ended.code:
        raise NonconformingError(f"asking what it can do failed, {ended.why}: {ended.said}")
    if loaded := json.loads((folder / "answer.json").read_text())["loaded"]:
        raise NonconformingError(f"asking what it can do imports {', '.join(loaded)}; import it inside build and load")


def runtimes_of(backend: str) -> set[str]:
    """Return the top-level modules that count as a runtime: torch, and those of what backend and quantizers require."""
    quantizers = [item for (name, _), item in registry.quantizers().items() if name == backend]
    wanted = {*registry.backend(backend).requires, *(name for item in quantizers for name in item.requires)}
    named = {name.lower().replace("_", "-") for name in wanted}
    modules = metadata.packages_distributions().items()
    return {"torch", *(module for module, owners in modules for o in owners if o.lower().replace("_", "-") in named)}


def declarations(backend: str, profile: WorkloadProfile) -> dict[str, object]:
    """Ask a backend and its quantizers everything that a search asks before a trial runs, for every target."""
    item = registry.backend(backend)
    quantizers = [quantizer for (name, _), quantizer in sorted(registry.quantizers().items()) if name == backend]
    for target in probe_targets():
        item.unusable(target)
        item.refuse(profile)
        item.options_for(profile, target)
        for quantizer in quantizers:
            quantizer.refuse(profile, target)
            quantizer.parameters_for(profile, target)
            quantizer.known_good(profile, target)
    loaded = {name.partition(".")[0] for name in sys.modules}
    return {"loaded": sorted(loaded & runtimes_of(backend))}


def main(question: Path) -> None:
    """Answer the question in a file, in a file beside it."""
    asked = json.loads(question.read_text())
    answer = declarations(asked["backend"], WorkloadProfile.model_validate_json(json.dumps(asked["profile"])))
    question.with_name("answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
