"""JointSpace: the spaces of several targets as one tree, whose first choice is the target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from evaluators import registry
from evaluators.candidate import Candidate, Scalar
from evaluators.capabilities import Capabilities
from evaluators.errors import IllegalCandidateError, UsageError
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.space import Chooser, Exclusion, Space, derive_space

TARGET = "target"


@dataclass(frozen=True)
class JointSpace:
    """The legal candidates of one workload on its targets; each target has a space of its own.

    A choice that every target offers alike has one name, so that what is learnt of it on one target counts on the
    others; one that differs is a choice of its target's: ``cpu-arm64.threads``.

    Attributes:
        parts: the space of each target, by the target's name, in the order in which targets were asked for.
    """

    parts: Mapping[str, Space]

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(self.parts)

    def of(self, target: str) -> Space:
        """Return the space of one target.

        Raises:
            IllegalCandidateError: it is not among the targets.
        """
        if target not in self.parts:
            raise IllegalCandidateError(f"the space has no target {target!r}; it has {', '.join(self.parts)}")
        return self.parts[target]

    def walk(self, choose: Chooser) -> Candidate:
        """Build a candidate by asking ``choose(name, parameter)`` for each choice that makes a difference."""
        choice = self._target_choice
        target = str(choose(TARGET, choice)) if len(choice.values) > 1 else self.targets[0]

        def within(name: str, parameter: Parameter) -> Scalar:
            return choose(self._name(target, name), parameter)

        return self.parts[target].walk(within)

    def choices_of(self, candidate: Candidate) -> dict[str, Scalar]:
        """Return the choices that lead to ``candidate``, by name: what ``walk`` would have been told.

        Raises:
            IllegalCandidateError: the candidate is not in the space; the message says why.
        """
        found = self.of(candidate.target).choices_of(candidate)
        chosen: dict[str, Scalar] = {TARGET: candidate.target} if len(self.parts) > 1 else {}
        return chosen | {self._name(candidate.target, name): value for name, value in found.items()}

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate of the space once, target by target."""
        for part in self.parts.values():
            yield from part.candidates()

    @property
    def size(self) -> int:
        """The number of candidates."""
        return sum(part.size for part in self.parts.values())

    @property
    def exclusions(self) -> tuple[Exclusion, ...]:
        """What was left out, of which target, and why; what holds for all of them is said once."""
        if len(self.parts) == 1:
            return next(iter(self.parts.values())).exclusions
        everywhere = set.intersection(*(set(part.exclusions) for part in self.parts.values()))
        common = [item for item in next(iter(self.parts.values())).exclusions if item in everywhere]
        own = [
            Exclusion(what=f"{item.what} on {target}", why=item.why)
            for target, part in self.parts.items()
            for item in part.exclusions
            if item not in everywhere
        ]
        return (*common, *own)

    def dimensions(self) -> list[tuple[str, Parameter]]:
        """Return every choice of the tree by name, those with a single value included."""
        found: dict[str, Parameter] = {TARGET: self._target_choice} if len(self.parts) > 1 else {}
        for target, part in self.parts.items():
            found |= {self._name(target, name): parameter for name, parameter in part.dimensions()}
        return list(found.items())

    @property
    def _target_choice(self) -> Choice:
        return Choice(TARGET, self.targets, self.targets[0], "the hardware that serves")

    @cached_property
    def _differing(self) -> frozenset[str]:
        """The names of the choices that not every target which has them offers alike."""
        seen: dict[str, Parameter] = {}
        differing = set()
        for part in self.parts.values():
            for name, parameter in part.dimensions():
                if seen.setdefault(name, parameter) != parameter:
                    differing.add(name)
        return frozenset(differing)

    def _name(self, target: str, name: str) -> str:
        return f"{target}.{name}" if name in self._differing else name


def derive_joint_space(
    profile: WorkloadProfile,
    offered: Mapping[str, Capabilities],
    *,
    only_backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    threads: int | None = None,
) -> JointSpace:
    """Derive the space of every target from what its machine can run.

    A backend that was asked for need not run on every target; on one it must.

    Raises:
        UsageError: a backend that was asked for is unknown or runs on no target, or nothing is left on one of them.
    """
    parts = {}
    for name, capabilities in offered.items():
        wanted = only_backends if len(offered) == 1 else _usable(only_backends, capabilities, profile)
        if only_backends and not wanted:
            asked = "; ".join(f"{backend}: {_why_not(backend, capabilities, profile)}" for backend in only_backends)
            raise UsageError(f"none of the backends that were asked for can be used on {name}: {asked}")
        parts[name] = derive_space(
            profile, capabilities.target, only_backends=wanted, batch_sizes=batch_sizes, threads=threads,
            capabilities=capabilities,
        )  # fmt: skip
    for backend in only_backends:
        if not any(backend in part.schemes for part in parts.values()):
            reasons = "; ".join(f"{name}: {_why_not(backend, each, profile)}" for name, each in offered.items())
            raise UsageError(f"backend {backend} was asked for but can be used on no target: {reasons}")
    return JointSpace(parts)


def _usable(backends: Sequence[str], capabilities: Capabilities, profile: WorkloadProfile) -> tuple[str, ...]:
    return tuple(name for name in backends if _why_not(name, capabilities, profile) is None)


def _why_not(name: str, capabilities: Capabilities, profile: WorkloadProfile) -> str | None:
    return capabilities.unusable(name) or registry.backend(name).refuse(profile)
