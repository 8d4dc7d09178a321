"""Capabilities: what a machine can run on one of its targets, told by the machine itself."""

from __future__ import annotations

from evaluators import registry
from evaluators.frozen import Frozen
from evaluators.target import Target, environment


class BackendReport(Frozen):
    """Whether a backend can be used on a target, or why not and what to install.

    ``python`` is the interpreter that it lives in where that is one of its own; ``installed`` are the versions there.
    """

    name: str
    usable: bool
    reason: str | None
    versions: dict[str, str]
    schemes: tuple[str, ...]
    python: str | None = None
    installed: dict[str, str] | None = None


class Capabilities(Frozen):
    """A target with what is installed beside it, and every backend: usable, or why not.

    A search derives the space of another machine's target from these, without asking anything of its own machine.
    """

    target: Target
    backends: tuple[BackendReport, ...]

    def unusable(self, backend: str) -> str | None:
        """Return why a backend cannot be used on the target, or None if it can."""
        for report in self.backends:
            if report.name == backend:
                return report.reason
        return f"the machine of {self.target.name} does not know it: install the same plugins on every machine"

    def target_of(self, backend: str) -> Target:
        """Return the target with what is installed beside a backend, which may live in an interpreter of its own."""
        for report in self.backends:
            if report.name == backend and report.installed is not None:
                return self.target.model_copy(update={"installed": report.installed})
        return self.target


def capabilities_of(target: Target) -> Capabilities:
    """Return what this machine can run on ``target``."""
    backends, installed = registry.backends(), runtime_versions()
    reports = []
    for name, backend in backends.items():
        reason = backend.unusable(target)
        schemes = tuple(scheme for owner, scheme in registry.quantizers() if owner == name)
        found = {each: installed[each] for each in ("torch", *backend.requires) if each in installed}
        reports.append(
            BackendReport(name=name, usable=reason is None, reason=reason, versions=found, schemes=schemes)
        )  # fmt: skip
    return Capabilities(target=target.model_copy(update={"installed": installed}), backends=tuple(reports))


def runtime_versions() -> dict[str, str]:
    """Return the versions of Python and of everything that a backend, a quantizer or a pruner here builds on."""
    return environment(*_distributions())


def _distributions() -> tuple[str, ...]:
    """Name the distributions that results may depend on."""
    declared = {name for backend in registry.backends().values() for name in backend.requires}
    declared |= {name for quantizer in registry.quantizers().values() for name in quantizer.requires}
    return ("safetensors", "torch-pruning", *sorted(declared))
