"""Space: the candidates that are legal for a workload on its target, derived from what each part declares.

The space is a tree of choices: one walk over it serves sampling, enumeration, counting and reading a candidate back,
so no two of them can disagree, and a knob that makes no difference to a candidate is never asked about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluators import registry
from evaluators.backends.base import Backend
from evaluators.candidate import Candidate, Pruning, Quantization, Runtime, Scalar
from evaluators.capabilities import Capabilities
from evaluators.errors import IllegalCandidateError, UsageError
from evaluators.frozen import Frozen
from evaluators.lengths import BUCKETS
from evaluators.narrowing import Key, Narrowed, narrowed_knobs, narrowed_options
from evaluators.parameters import Choice, Number, Parameter, applies, combinations, defaults, written
from evaluators.profile import WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.quantizers.base import Quantizer
from evaluators.target import Target

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
NO_PRUNING = "none"

Chooser = Callable[[str, Parameter], Scalar]


class Exclusion(Frozen):
    """What was left out of the space, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Space:
    """The legal candidates of one workload on one target. Build it with ``derive_space``.

    Attributes:
        schemes: the quantizers by backend and scheme, in the order in which they are offered.
        recipes: which of them a practitioner would try first, by backend.
        knobs: the parameters of each (backend, scheme).
        options: the runtime options of each backend, at any batch size and number of threads.
        batching: how examples are batched, whatever the backend, where their length varies.
        pruners: the pruners by structure; ``pruner_knobs`` their parameters.
        elsewhere: the target with other versions beside it, by backend that lives in an interpreter of its own.
        threads: the numbers of threads of all backends but those that set their threads themselves.
        own_threads: those; a candidate of theirs says ``threads`` 1.
        narrowed: the options of which a scheme does not allow every value, by (backend, scheme, option), and the knobs
            of pruning of which an amount does not, by (structure, amount, knob).
    """

    target: Target
    schemes: dict[str, tuple[str, ...]]
    recipes: dict[str, tuple[str, ...]]
    knobs: dict[tuple[str, str], tuple[Parameter, ...]]
    options: dict[str, tuple[Parameter, ...]]
    amounts: dict[str, Number]
    pruner_knobs: dict[str, tuple[Parameter, ...]]
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    exclusions: tuple[Exclusion, ...] = field(default=())
    elsewhere: dict[str, Target] = field(default_factory=dict)
    own_threads: frozenset[str] = frozenset()
    batching: tuple[Parameter, ...] = ()
    narrowed: dict[Key, Choice] = field(default_factory=dict)

    def target_of(self, backend: str) -> Target:
        """Return the target with the versions of what is installed beside a backend."""
        return self.elsewhere.get(backend, self.target)

    def walk(self, choose: Chooser) -> Candidate:
        """Build a candidate by asking ``choose(name, parameter)`` for each choice that makes a difference."""

        def ask(name: str, parameter: Parameter) -> Scalar:
            return parameter.values[0] if len(parameter.values) == 1 else choose(name, parameter)

        def ask_all(parameters: Sequence[Parameter], name: Callable[[Parameter], str]) -> dict[str, Any]:
            chosen: dict[str, Scalar] = {}
            for parameter in parameters:
                if applies(parameter, chosen):
                    chosen[parameter.name] = ask(name(parameter), parameter)
            return written(parameters, chosen)

        backend = str(ask("backend", _choice("backend", tuple(self.schemes))))
        scheme = str(ask(f"{backend}.scheme", _choice("scheme", self.schemes[backend])))
        knobs = ask_all(self.knobs[backend, scheme], lambda knob: f"{backend}.{scheme}.{knob.name}")
        quantization = Quantization(scheme=scheme, **knobs)
        structure = str(ask("pruning", _choice("pruning", (NO_PRUNING, *self.amounts))))
        pruning = Pruning()
        if structure != NO_PRUNING:
            amount = float(ask(f"{structure}.amount", self.amounts[structure]))
            given = self.knobs_given(structure, amount)
            knobs = ask_all(given, lambda knob: self.knob_name(structure, amount, knob))
            pruning = Pruning(structure=structure, amount=amount, **knobs)
        batch_size = int(ask("batch_size", _choice("batch_size", self.batch_sizes)))
        threads = int(ask("threads", _choice("threads", self.threads_of(backend))))
        batching = {item.name: ask(item.name, item) for item in self.batching_given(batch_size)}
        given = self.options_given(backend, scheme, batch_size, threads)
        options = ask_all(given, lambda option: self.option_name(backend, scheme, option))
        runtime = Runtime(threads=threads, **batching, **options)
        return Candidate(target=self.target.name, backend=backend, quantization=quantization, pruning=pruning,
                         batch_size=batch_size, runtime=runtime)  # fmt: skip

    def threads_of(self, backend: str) -> tuple[int, ...]:
        """Return the numbers of threads that a backend can be given."""
        return (1,) if backend in self.own_threads else self.threads

    def options_given(self, backend: str, scheme: str, batch_size: int, threads: int) -> tuple[Parameter, ...]:
        """Return the options of a backend that make a difference at this setting, with the values the scheme allows."""
        options = registry.backend(backend).options_given(self.options[backend], batch_size, threads)
        return tuple(self.narrowed.get((backend, scheme, option.name), option) for option in options)

    def knobs_given(self, structure: str, amount: float) -> tuple[Parameter, ...]:
        """Return the knobs of a pruner with the values that go with an amount."""
        return tuple(
            self.narrowed.get((structure, str(amount), knob.name), knob) for knob in self.pruner_knobs[structure]
        )

    def knob_name(self, structure: str, amount: float, knob: Parameter) -> str:
        """Return the name of the choice of a pruner's knob, the amount's own where not all values go with that."""
        own = (structure, str(amount), knob.name) in self.narrowed
        return f"{structure}.{amount}.{knob.name}" if own else f"{structure}.{knob.name}"

    def option_name(self, backend: str, scheme: str, option: Parameter) -> str:
        """Return the name of the choice of an option, which is the scheme's own where that allows not all values."""
        own = (backend, scheme, option.name) in self.narrowed
        return f"{backend}.{scheme}.{option.name}" if own else f"{backend}.{option.name}"

    def batching_given(self, batch_size: int) -> tuple[Parameter, ...]:
        """Return the choices of batching that make a difference: a batch of one is as long as its example."""
        return self.batching if batch_size > 1 else ()

    def choices_of(self, candidate: Candidate) -> dict[str, Scalar]:
        """Return the choices that lead to ``candidate``, by name: what ``walk`` would have been told.

        Raises:
            IllegalCandidateError: the candidate is not in the space; the message says why.
        """
        choices: dict[str, Scalar] = {}
        values = values_of(candidate)

        def read(name: str, parameter: Parameter) -> Scalar:
            if name not in values and parameter.unsaid is None:
                raise IllegalCandidateError(f"{candidate.label()} has no value for {name}")
            value = values.get(name, parameter.unsaid)
            if value is None or value not in parameter.values:
                raise IllegalCandidateError(
                    f"{candidate.label()}: {name} is {value!r}, it must be one of {list(parameter.values)}"
                )
            choices[name] = value
            return value

        if (built := self.walk(read)) != candidate:
            raise IllegalCandidateError(
                f"{candidate.canonical} is not in the space; the nearest candidate that is: {built.canonical}"
            )
        return choices

    def recipe(
        self, backend: str, scheme: str, batch_size: int, threads: int | None = None, **pruning: Any
    ) -> Candidate:
        """Return the known-good candidate of a backend and scheme: every knob at its default."""
        return self._recipe(backend, scheme, batch_size, threads, {}, **pruning)

    def as_written(self, backend: str, batch_size: int, threads: int | None = None) -> Candidate:
        """Return the user's own fp32 model on ``backend``, run as the user wrote it."""
        return self._recipe(backend, "fp32", batch_size, threads, registry.backend(backend).as_written)

    def _recipe(
        self, backend: str, scheme: str, batch_size: int, threads: int | None, chosen: Mapping[str, Scalar],
        **pruning: Any,
    ) -> Candidate:  # fmt: skip
        offered = self.threads_of(backend)
        count = threads if threads is not None and backend not in self.own_threads else offered[0]
        given = (*self.batching_given(batch_size), *self.options_given(backend, scheme, batch_size, count))
        options = defaults(given)
        options |= {name: value for name, value in chosen.items() if name in options}
        knobs = self.knobs[backend, scheme]
        return Candidate(
            target=self.target.name,
            backend=backend,
            quantization=Quantization(scheme=scheme, **written(knobs, defaults(knobs))),
            pruning=Pruning(**pruning),
            batch_size=batch_size,
            runtime=Runtime(threads=count, **written(given, options)),
        )

    def candidates(self) -> Iterator[Candidate]:
        """Yield every candidate of the space once, depth first."""
        path: list[tuple[int, int]] = []
        while True:
            walk = _Walk([position for position, _ in path])
            yield self.walk(walk.choose)
            path = walk.path
            while path and path[-1][0] + 1 == path[-1][1]:
                path.pop()
            if not path:
                return
            path[-1] = (path[-1][0] + 1, path[-1][1])

    @property
    def size(self) -> int:
        """The number of candidates."""
        prunings = 1 + sum(combinations(self.knobs_given(structure, float(amount)))
                           for structure, grid in self.amounts.items() for amount in grid.values)  # fmt: skip
        return prunings * sum(
            combinations(self.knobs[backend, scheme])
            * sum(combinations(
                (*self.batching_given(batch_size), *self.options_given(backend, scheme, batch_size, threads)))
                  for batch_size in self.batch_sizes for threads in self.threads_of(backend))
            for backend, schemes in self.schemes.items() for scheme in schemes
        )  # fmt: skip

    def dimensions(self) -> list[tuple[str, Parameter]]:
        """Return every choice of the tree by name, those with a single value included."""
        found: list[tuple[str, Parameter]] = [("backend", _choice("backend", tuple(self.schemes)))]
        for backend, schemes in self.schemes.items():
            found.append((f"{backend}.scheme", _choice("scheme", schemes)))
            for scheme in schemes:
                found += [(f"{backend}.{scheme}.{knob.name}", knob) for knob in self.knobs[backend, scheme]]
                own = [self.narrowed.get((backend, scheme, option.name)) for option in self.options[backend]]
                found += [(f"{backend}.{scheme}.{option.name}", option) for option in own if option is not None]
            found += [(f"{backend}.{option.name}", option) for option in self.options[backend]]
        known = registry.pruners()
        pays = "; ".join(f"{name} pays {known[name].pays}" for name in self.amounts if known[name].pays)
        found.append(("pruning", Choice("pruning", (NO_PRUNING, *self.amounts), NO_PRUNING, pays)))
        for structure, amount in self.amounts.items():
            found.append((f"{structure}.amount", amount))
            found += [(f"{structure}.{knob.name}", knob) for knob in self.pruner_knobs[structure]]
            found += [(f"{structure}.{share}.{name}", knob) for (owner, share, name), knob in self.narrowed.items()
                      if owner == structure]  # fmt: skip
        found.append(("batch_size", _choice("batch_size", self.batch_sizes)))
        found.append(("threads", _choice("threads", self._all_threads)))
        return found + [(item.name, item) for item in self.batching]

    @property
    def _all_threads(self) -> tuple[int, ...]:
        return (1,) if self.own_threads >= self.schemes.keys() else self.threads


class _Walk:
    """A chooser that follows given positions and then takes first values, noting (position, count) of each choice."""

    def __init__(self, prefix: Sequence[int]) -> None:
        self._prefix = prefix
        self.path: list[tuple[int, int]] = []

    def choose(self, _: str, parameter: Parameter) -> Scalar:
        depth = len(self.path)
        position = self._prefix[depth] if depth < len(self._prefix) else 0
        self.path.append((position, len(parameter.values)))
        return parameter.values[position]


def derive_space(
    profile: WorkloadProfile,
    target: Target,
    *,
    only_backends: Sequence[str] = (),
    batch_sizes: Sequence[int] = (),
    threads: int | None = None,
    capabilities: Capabilities | None = None,
) -> Space:
    """Derive the space from what is declared, what is installed and what the workload's model allows.

    ``capabilities`` are those of the machine of ``target``, where that is another one than this.

    Raises:
        UsageError: a backend that was asked for is unknown or cannot run there, or nothing is left.
    """
    target = capabilities.target if capabilities else target
    exclusions = [Exclusion(what=name, why=why) for name, why in registry.broken().items()]
    schemes: dict[str, tuple[str, ...]] = {}
    recipes: dict[str, tuple[str, ...]] = {}
    knobs: dict[tuple[str, str], tuple[Parameter, ...]] = {}
    options: dict[str, tuple[Parameter, ...]] = {}
    elsewhere: dict[str, Target] = {}
    narrowed: dict[Key, Narrowed] = {}
    for name in only_backends:
        registry.backend(name)
    for name, backend in registry.backends().items():
        if only_backends and name not in only_backends:
            continue
        unusable = capabilities.unusable(name) if capabilities else backend.unusable(target)
        if (why := unusable or backend.refuse(profile) or _refused_threads(backend, target, threads)) is not None:
            if only_backends:
                raise UsageError(f"backend {name} was asked for but cannot be used: {why}")
            exclusions.append(Exclusion(what=name, why=why))
            continue
        beside = capabilities.target_of(name) if capabilities else target
        legal = _legal_schemes(name, profile, beside, exclusions)
        if not legal:
            exclusions.append(Exclusion(what=name, why="no scheme is left"))
            continue
        schemes[name] = tuple(legal)
        recipes[name] = tuple(scheme for scheme, item in legal.items() if item.known_good(profile, beside))
        options[name] = backend.options_for(profile, beside)
        narrowed |= narrowed_options(backend, legal, options[name], beside)
        knobs |= {(name, scheme): quantizer.parameters_for(profile, beside) for scheme, quantizer in legal.items()}
        elsewhere |= {} if beside is target else {name: beside}
    if not schemes:
        raise UsageError("no backend is left: " + "; ".join(f"{item.what}: {item.why}" for item in exclusions))
    pruners = _legal_pruners(profile, target, exclusions)
    batching = None if profile.lengths is None else profile.lengths.option
    if profile.lengths is not None and profile.lengths.refused is not None:
        exclusions.append(Exclusion(what="batches from buckets of similar length", why=profile.lengths.refused))
    for pruner in pruners.values():
        narrowed |= narrowed_knobs(pruner, profile)
    exclusions += [Exclusion(what=f"{' '.join(key)} {value}", why=why)
                   for key, (_, refused) in narrowed.items() for value, why in refused.items()]  # fmt: skip
    return Space(
        target=target,
        schemes=schemes,
        recipes=recipes,
        knobs=knobs,
        options=options,
        amounts={structure: pruner.amount_for(profile) for structure, pruner in pruners.items()},
        pruner_knobs={structure: pruner.parameters_for(profile) for structure, pruner in pruners.items()},
        batch_sizes=tuple(batch_sizes) or BATCH_SIZES,
        threads=(threads,) if threads else thread_counts(target.cores),
        exclusions=tuple(exclusions),
        elsewhere=elsewhere,
        narrowed={key: left.choice for key, left in narrowed.items()},
        own_threads=frozenset(name for name in schemes if target.device in registry.backend(name).own_threads),
        batching=(batching,) if batching is not None and max(batch_sizes or BATCH_SIZES) > 1 else (),
    )


def _refused_threads(backend: Backend, target: Target, threads: int | None) -> str | None:
    if threads in (None, 1) or target.device not in backend.own_threads:
        return None
    return (
        f"{backend.name} sets its threads itself on {target.name}: ask for 1 thread instead of {threads}, or for none"
    )


def thread_counts(cores: int) -> tuple[int, ...]:
    """Return the powers of two up to ``cores``, and ``cores`` itself."""
    counts = [1]
    while counts[-1] * 2 <= cores:
        counts.append(counts[-1] * 2)
    return tuple(sorted({*counts, cores}))


def usable_backends(target: Target) -> dict[str, Backend]:
    """Return the backends that can run on ``target``."""
    return {name: backend for name, backend in registry.backends().items() if backend.unusable(target) is None}


def _legal_schemes(
    backend: str, profile: WorkloadProfile, target: Target, exclusions: list[Exclusion]
) -> dict[str, Quantizer]:
    legal = {}
    for (name, scheme), quantizer in registry.quantizers().items():
        if name != backend:
            continue
        if (why := quantizer.refuse(profile, target)) is not None:
            exclusions.append(Exclusion(what=f"{backend} {scheme}", why=why))
        else:
            legal[scheme] = quantizer
    return dict(sorted(legal.items(), key=lambda item: _SCHEME_ORDER.get(item[0], 9)))


_SCHEME_ORDER = {"fp32": 0, "static_int8": 1, "dynamic_int8": 2, "bf16": 3}


def _legal_pruners(profile: WorkloadProfile, target: Target, exclusions: list[Exclusion]) -> dict[str, Pruner]:
    legal = {}
    for structure, pruner in registry.pruners().items():
        if (why := pruner.refuse_target(target) or pruner.refuse(profile)) is not None:
            exclusions.append(Exclusion(what=f"{structure} pruning", why=why))
        else:
            legal[structure] = pruner
    return legal


def _choice(name: str, values: Sequence[Scalar]) -> Choice:
    return Choice(name, tuple(values), values[0], "")


def values_of(candidate: Candidate) -> dict[str, Scalar]:
    """Return the value of every choice of a candidate, by its name in the tree, whether or not it was asked for."""
    plain: dict[str, Scalar] = {
        "backend": candidate.backend,
        "pruning": candidate.pruning.structure,
        "batch_size": candidate.batch_size,
        "threads": candidate.runtime.threads,
        f"{candidate.backend}.scheme": candidate.quantization.scheme,
        f"{candidate.pruning.structure}.amount": candidate.pruning.amount,
        f"{candidate.pruning.structure}.recovery": candidate.pruning.recovery,
        f"{candidate.pruning.structure}.recovery_steps": candidate.pruning.recovery_steps,
    }
    if BUCKETS.name in candidate.runtime.knobs:
        plain[BUCKETS.name] = candidate.runtime.knobs[BUCKETS.name]
    for owner in (candidate.pruning.structure, f"{candidate.pruning.structure}.{candidate.pruning.amount}"):
        plain |= {f"{owner}.{knob}": value for knob, value in candidate.pruning.knobs.items()}
    plain |= {f"{candidate.backend}.{knob}": value for knob, value in candidate.runtime.knobs.items()}
    prefix = f"{candidate.backend}.{candidate.quantization.scheme}"
    plain |= {f"{prefix}.{knob}": value for knob, value in candidate.runtime.knobs.items()}
    return plain | {f"{prefix}.{knob}": value for knob, value in candidate.quantization.knobs.items()}
