"""What quantizers want to know of a model or a processor before they choose their knobs."""

from __future__ import annotations

from evaluators.parameters import Choice
from evaluators.profile import WorkloadProfile
from evaluators.target import Target

BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Processor features, any one of which multiplies bfloat16; without them it is emulated."""

FLOAT16 = ("fp16", "avx512_fp16")
"""Features, any one of which multiplies float16."""

_ATTENTION_LIKE = ("LayerNorm", "RMSNorm", "MultiheadAttention", "Attention")


def convolutional(profile: WorkloadProfile) -> bool:
    """Whether the model has convolutions."""
    return any(name.startswith(("Conv", "LazyConv")) for name in profile.layers)


def transformer(profile: WorkloadProfile) -> bool:
    """Whether the model looks like a transformer: linear layers between layer normalizations."""
    normalized = any(name.endswith(_ATTENTION_LIKE) for name in profile.layers)
    return normalized and any(name.endswith("Linear") for name in profile.layers)


def linear_or_recurrent(profile: WorkloadProfile) -> bool:
    """Whether the model has layers that torch quantizes dynamically."""
    return any(name in ("Linear", "LSTM", "GRU") for name in profile.layers)


def saturates(target: Target) -> bool:
    """Whether pairs of 8-bit products overflow the processor's 16-bit sums, as on x86 before VNNI."""
    x86 = target.has("avx2") or "x86" in target.system.lower() or "amd64" in target.system.lower()
    return x86 and not any(target.has(feature) for feature in ("avx512_vnni", "avx_vnni", "amx_int8"))


def multiplies_bfloat16(target: Target) -> bool:
    """Whether bfloat16 is worth trying first: without matrix units for it, it is slower than fp32 on processors."""
    return target.device != "cpu" or target.has("amx_bf16")


def refuse_weight_only(profile: WorkloadProfile) -> str | None:
    """Return why quantizing weights only makes no sense for the model, or None where linear layers hold its weights.

    Beside linear layers and embeddings nothing but convolutions and recurrent layers has many weights.
    """
    if "Linear" not in profile.layers:
        return "weights alone are quantized in Linear layers, and the model has none"
    others = [name for name in profile.layers if name.startswith(("Conv", "LazyConv", "LSTM", "GRU", "RNN"))]
    if others:
        return (
            f"weights alone are quantized where Linear layers hold most of them, and the model has {others[0]} layers"
        )
    return None


def samples(default: int) -> Choice:
    """Return the knob of how many calibration examples are read: ``default``, or few, which have fewer outliers."""
    return Choice("samples", (64, default), default, "calibration examples that ranges come from")


def narrowed_samples(knob: Choice, profile: WorkloadProfile) -> Choice | None:
    """Return ``knob``, or None where the calibration split is so small that its values read the same examples."""
    return knob if profile.calibration_examples > min(int(value) for value in knob.values) else None
