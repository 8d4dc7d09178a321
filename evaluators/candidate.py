"""Candidate: one point of the joint space. Frozen, with a canonical JSON and a stable hash."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from evaluators.frozen import Frozen, canonical_json, digest, scalars

Scalar = str | int | float | bool

Recovery = Literal["none", "bn", "distil", "train"]
TRAINED = ("distil", "train")
"""The ways to recover that take a number of steps."""


class _WithKnobs(Frozen):
    """A part of a candidate: declared fields, and beside them the knobs that its technique declares."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="after")
    def _only_scalars(self) -> _WithKnobs:
        scalars(self.model_extra, type(self).__name__.lower())
        return self

    @property
    def knobs(self) -> dict[str, Scalar]:
        """The values of the technique's own parameters, by name."""
        return dict(sorted((self.model_extra or {}).items()))


class Quantization(_WithKnobs):
    """A scheme (``fp32``, ``bf16``, ``dynamic_int8``, ``static_int8``, …) and the knobs of its quantizer."""

    scheme: str = "fp32"


class Pruning(_WithKnobs):
    """A structure (``none``, ``unstructured``, ``channel``, …), its amount in [0, 1), its recovery and its knobs.

    ``recovery`` is how the pruned model learns again, ``recovery_steps`` for how long where it is trained. Where it is
    not said, steps are of distillation and no steps are no recovery: that is not written down either.
    """

    structure: str = "none"
    amount: float = Field(default=0.0, ge=0.0, lt=1.0)
    recovery: Recovery = "none"
    recovery_steps: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _recovery_that_is_not_said(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("recovery") is not None:
            return given
        return {**given, "recovery": _implied(given.get("recovery_steps"))}

    @model_validator(mode="after")
    def _none_has_no_amount(self) -> Pruning:
        if self.structure == "none" and (self.amount or self.recovery != "none" or self.recovery_steps or self.knobs):
            raise ValueError("pruning structure 'none' takes no amount, recovery or knobs")
        if self.structure != "none" and not self.amount:
            raise ValueError(f"pruning structure {self.structure!r} needs an amount above 0")
        if (self.recovery in TRAINED) != bool(self.recovery_steps):
            takes = "needs recovery_steps above 0" if self.recovery in TRAINED else "takes no recovery_steps"
            raise ValueError(f"recovery {self.recovery!r} {takes}, got {self.recovery_steps}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_the_steps_say(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if self.recovery == _implied(self.recovery_steps):
            del fields["recovery"]
        return fields

    @property
    def recovery_label(self) -> str:
        """How it recovers in words for people: ``bn``, ``150 recovery steps``, ``150 recovery steps (train)``."""
        if not self.recovery_steps:
            return "" if self.recovery == "none" else self.recovery
        return f"{self.recovery_steps} recovery steps" + (f" ({self.recovery})" if self.recovery != "distil" else "")


def _implied(steps: Any) -> str:
    return "distil" if steps else "none"


class Runtime(_WithKnobs):
    """How the backend runs the bundle: threads, and the options that the backend declares."""

    threads: int = Field(default=1, ge=1)


class Candidate(Frozen):
    """One point of the joint space: target, backend, quantization, pruning, batch size, runtime options."""

    target: str
    backend: str
    quantization: Quantization = Quantization()
    pruning: Pruning = Pruning()
    batch_size: int = Field(default=1, ge=1)
    runtime: Runtime = Runtime()

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits, equal for equal candidates on every machine."""
        return digest(self.to_json())[:16]

    @property
    def canonical(self) -> str:
        """The candidate as canonical JSON text."""
        return canonical_json(self.to_json())

    @property
    def is_unmodified_float(self) -> bool:
        """Whether the model is the user's own, in fp32, unpruned: only the runtime differs."""
        return self.quantization.scheme == "fp32" and self.pruning.structure == "none"

    @property
    def is_original(self) -> bool:
        """Whether it is the user's own model as the user wrote it: eager fp32, with no runtime option switched on."""
        return self.backend == "eager" and self.is_unmodified_float and not any(self.runtime.knobs.values())

    def label(self) -> str:
        """A short name for tables and hovers: ``onnxruntime static_int8 channel 0.50 b8 t1``."""
        pruning = "" if self.pruning.structure == "none" else f" {self.pruning.structure} {self.pruning.amount:.2f}"
        return f"{self.backend} {self.quantization.scheme}{pruning} b{self.batch_size} t{self.runtime.threads}"


def parse_candidate(text_or_object: str | dict[str, Any]) -> Candidate:
    """Read a candidate from JSON text or from a plain object."""
    if isinstance(text_or_object, str):
        return Candidate.model_validate_json(text_or_object)
    return Candidate.model_validate(text_or_object)
