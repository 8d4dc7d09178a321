"""Reasons why a trial is no faster than its twin: small rules over what was measured and diagnosed, surest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from evaluators.diagnosis.executed import BITS, COMPUTING, CONVERSIONS, bits_of, weights_only
from evaluators.outcome import Diagnosis, Operators
from evaluators.quantizers.traits import BFLOAT16, saturates
from evaluators.target import Target
from search.result import TrialResult
from search.twins import Twin, call_ms

MUCH = 0.3
"""Share of a call from which on something is said to hold the trial back."""

_SOME = 0.1
_MOSTLY = 0.5
_PLURALS = {
    "convolution": "convolutions", "linear": "linear layers", "matmul": "products of activations",
    "attention": "attention operators", "recurrent": "recurrent layers",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What a rule may look at; ``target`` is None where the trial ran on another class of machine than this."""

    trial: TrialResult
    twin: Twin
    diagnosis: Diagnosis
    siblings: tuple[TrialResult, ...] = ()
    target: Target | None = None

    @property
    def scheme(self) -> str:
        """The trial's quantization scheme."""
        return self.trial.candidate.quantization.scheme

    @property
    def precision(self) -> str:
        """The precision that the scheme asks for, as people say it."""
        return f"int{bits_of(self.scheme)}" if "int" in self.scheme else self.scheme

    @property
    def before(self) -> Diagnosis:
        """The twin's diagnosis, empty where there is none."""
        return self.twin.trial.diagnosis or Diagnosis()

    def computing(self) -> list[Operators]:
        """Return the operators that compute."""
        return [item for item in self.diagnosis.operators if item.kind in COMPUTING]

    def lowered(self) -> list[Operators]:
        """Return the operators that compute in the precision asked for, or a lower one."""
        return [item for item in self.computing() if BITS.get(item.precision, 32) <= bits_of(self.scheme) < 32]


@dataclass(frozen=True)
class Rule:
    """One possible reason: what is looked at, in words, and the sentence that it finds or None."""

    looks_at: str
    find: Callable[[Case], str | None]


def reason_for(case: Case) -> str | None:
    """Return the surest reason that the evidence gives, as one sentence, or None."""
    return next((found for rule in RULES if (found := rule.find(case)) is not None), None)


def disturbed(case: Case) -> str | None:
    """Timed beside other programs, a latency says little."""
    for name, trial in (("it", case.trial), (f"its {case.twin.kind} twin", case.twin.trial)):
        if trial.latency_ms is not None and not trial.latency_ms.clean:
            return f"other programs used the processor while {name} was timed, so the difference may not be real"
    return None


def no_vnni(case: Case) -> str | None:
    """Without VNNI a sum of int8 products takes three instructions (Intel's manual of VPDPBUSD) instead of one."""
    if "int" not in case.scheme or not case.lowered() or case.target is None or not saturates(case.target):
        return None
    return f"{case.target.name} has no VNNI, so int8 products are emulated with three instructions instead of one"


def no_bfloat16(case: Case) -> str | None:
    """bfloat16 without instructions for it is emulated."""
    if case.scheme != "bf16" or case.target is None or any(case.target.has(feature) for feature in BFLOAT16):
        return None
    return f"{case.target.name} has no instructions for bfloat16, so it is emulated in float32"


def dense_kernels(case: Case) -> str | None:
    """Zeros between other weights are multiplied like them."""
    structure, backend = case.trial.candidate.pruning.structure, case.trial.candidate.backend
    zeros = structure == "unstructured" or (structure == "sparse_2_4" and backend != "tensorrt")
    if case.twin.kind != "unpruned" or not zeros:
        return None
    return f"{structure} zeros are no faster on dense kernels, and {backend} has no others: they pay in compressed size"


def nothing_lowered(case: Case) -> str | None:
    """A scheme that changed nothing that computes."""
    if bits_of(case.scheme) >= 32 or weights_only(case.scheme) or not case.computing() or case.lowered():
        return None
    count = sum(item.count for item in case.computing())
    return f"none of the {count} operators that compute runs in {case.precision}: all of them stayed in float"


def signed_activations(case: Case) -> str | None:
    """onnxruntime's quantization guide: on x86 signed activations (S8S8) are slow; use unsigned ones there."""
    chosen = case.trial.candidate.quantization.knobs.get("activation_type")
    x86 = case.target is not None and not case.target.has("neon")
    if case.trial.candidate.backend != "onnxruntime" or chosen != "qint8" or not x86:
        return None
    return "its activations are qint8, and onnxruntime's kernels for this processor are written for quint8"


def slower_kernels(case: Case) -> str | None:
    """The kernels themselves take longer than the twin's, as the shares of the two calls say."""
    whole, before = call_ms(case.trial), call_ms(case.twin.trial)
    if whole is None or before is None or not case.lowered() or case.twin.differs:
        return None
    found = []
    for kind in COMPUTING:
        ours, theirs = _of_kind(case.diagnosis, kind), _of_kind(case.before, kind)
        share, other_share = _share(ours), _share(theirs)
        if share is None or other_share is None or share < MUCH or share * whole < other_share * before:
            continue
        if any(item in case.lowered() for item in ours):
            found.append((share * whole, other_share * before, kind, _kernels(ours), _kernels(theirs)))
    if not found:
        return None
    taken, other, kind, kernel, other_kernel = max(found)
    return (
        f"its {_PLURALS[kind]} take about {taken:.3g} ms of a call in {case.precision} ({kernel}), and {other:.3g} ms "
        f"in float ({other_kernel}): these kernels are no faster here"
    )


def left_in_float(case: Case) -> str | None:
    """What stayed in float bounds what the rest can gain."""
    if bits_of(case.scheme) >= 32 or weights_only(case.scheme):
        return None
    wide = [item for item in case.computing() if item not in case.lowered()]
    share, count = _share(wide), sum(item.count for item in wide)
    total = sum(item.count for item in case.computing())
    if not wide or (share < MUCH if share is not None else count < _MOSTLY * total):
        return None
    kind = max(wide, key=lambda item: (item.time_share or 0.0, item.count)).kind
    stayed = sum(item.count for item in wide if item.kind == kind)
    of = sum(item.count for item in _of_kind(case.diagnosis, kind))
    told = "" if share is None else f" ({share:.0%} of a call)"
    return f"{stayed} of {of} {_PLURALS[kind]} stayed in float{told} because {_why_float(case, kind)}"


def dynamic_scales(case: Case) -> str | None:
    """Dynamic quantization looks for the range of every activation in every call."""
    found = [item for item in case.diagnosis.operators if "dynamic" in item.kernel.lower()]
    count = sum(item.count for item in found) or sum(item.count for item in case.lowered())
    if not case.scheme.startswith("dynamic") or not count:
        return None
    return f"dynamic quantization computes scales at every call, here for {count} {'layer' if count == 1 else 'layers'}"


def conversions(case: Case) -> str | None:
    """Conversions compute nothing; each goes through memory once more."""
    ours = [item for item in case.diagnosis.operators if item.kind in CONVERSIONS]
    share, computing = _share(ours), sum(item.count for item in case.computing())
    more = case.diagnosis.reorders > case.before.reorders
    if not ours or not more or (share < _SOME if share is not None else case.diagnosis.reorders < computing):
        return None
    told = "" if share is None else f", {share:.0%} of a call"
    between = f"between {case.precision} and float, or of layout"
    return f"{case.diagnosis.reorders} conversions {between}, run beside {computing} operators that compute{told}"


def small_batch(case: Case) -> str | None:
    """A call whose time hardly depends on its batch has nothing to gain; t = a + b x size through two trials."""
    size, taken = case.trial.candidate.batch_size, call_ms(case.trial)
    for other in reversed(case.siblings):
        more, longer = other.candidate.batch_size, call_ms(other)
        if taken is None or longer is None or more <= size:
            continue
        fixed = (taken * more - longer * size) / (more - size)
        if fixed > _MOSTLY * taken:
            compared = f"trial {other.number} does {more} in {longer:.3g} ms"
            return (
                f"the batch of {size} is too small: the call's fixed cost dominates, about {min(1, fixed / taken):.0%} "
                f"of its {taken:.3g} ms ({compared})"
            )
    return None


def little_to_gain(case: Case) -> str | None:
    """Amdahl's law: only what computes is lowered, so the rest of a call bounds the gain."""
    share = _share([item for item in case.before.operators if item.kind in COMPUTING])
    if share is None or share >= _MOSTLY or case.twin.kind != "float":
        return None
    return (
        f"convolutions and matrix products take only {share:.0%} of its float twin's call, and {case.precision} makes "
        "nothing else faster"
    )


def no_matrix_units(case: Case) -> str | None:
    """bfloat16 gains through AMX; vector instructions for it gain little, and values are converted on the way."""
    if case.scheme != "bf16" or case.target is None or case.target.has("neon") or case.target.has("amx_bf16"):
        return None
    gains = "so it gains little and pays for conversions"
    return f"{case.target.name} multiplies bfloat16 without matrix units (AMX), {gains}"


def other_twin(case: Case) -> str | None:
    """The nearest twin is not the exact one."""
    if not case.twin.differs:
        return None
    return (
        f"no exact twin was timed: trial {case.twin.trial.number} differs in {', '.join(case.twin.differs)} too, "
        "which may be all there is to it"
    )


RULES: tuple[Rule, ...] = (
    Rule("other programs on the processor", disturbed),
    Rule("instructions for int8 products", no_vnni),
    Rule("instructions for bfloat16", no_bfloat16),
    Rule("zeros on dense kernels", dense_kernels),
    Rule("whether anything is quantized", nothing_lowered),
    Rule("the sign of activations", signed_activations),
    Rule("the times of kernels", slower_kernels),
    Rule("operators left in float", left_in_float),
    Rule("scales computed at every call", dynamic_scales),
    Rule("conversions between operators", conversions),
    Rule("the fixed cost of a call", small_batch),
    Rule("the share of a call that computes", little_to_gain),
    Rule("matrix units for bfloat16", no_matrix_units),
    Rule("differences from the twin", other_twin),
)
"""Every rule, the surest first: facts of the machine and the scheme, then what was timed, then what is likely."""


def _of_kind(diagnosis: Diagnosis, kind: str) -> list[Operators]:
    return [item for item in diagnosis.operators if item.kind == kind]


def _share(operators: list[Operators]) -> float | None:
    """Return the share of a call that these operators take together, None where that of any is not known."""
    shares = [item.time_share for item in operators if item.time_share is not None]
    return sum(shares) if shares and len(shares) == len(operators) else None


def _kernels(operators: list[Operators]) -> str:
    return max(operators, key=lambda item: item.time_share or 0.0).kernel


def _why_float(case: Case, kind: str) -> str:
    if kind in ("matmul", "attention"):
        return "products of two activations lose much in low precision and are left alone"
    if share := case.trial.candidate.quantization.knobs.get("float_share"):
        return f"float_share keeps {float(share):.0%} of the layers in float, those that {case.precision} costs most"
    if case.diagnosis.fallbacks:
        return f"{case.trial.candidate.backend} or its quantizer has no {case.precision} kernel for them"
    if case.scheme.startswith("dynamic"):
        return "dynamic quantization takes linear and recurrent layers only"
    return "the scheme leaves them out"
