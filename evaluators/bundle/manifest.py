"""The manifest of a bundle, and how its text is read when nobody knows who wrote it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from evaluators.bundle.names import why_not_a_name
from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError
from evaluators.frozen import Frozen, canonical_json
from evaluators.lengths import BUCKETS, Buckets
from evaluators.structure import Structure

MANIFEST = "manifest.json"
SCHEMA_VERSION = 3
"""Of the manifests that have buckets; all others are still written in version 2, and those of version 1 are read."""

MOST_BYTES, MOST_DEPTH, MOST_FILES = 4 * 2**20, 32, 10_000
MOST_THREADS, MOST_BATCH = 4096, 2**20
_SINCE_2 = {"licences", "preprocessing"}
_STRINGS, _BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL), re.compile(rb"[\[\]{}]")
_DTYPES = frozenset(
    ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16",
     "float32", "float64", "complex64", "complex128")
)  # fmt: skip


class Preprocessing(Frozen):
    """What has to happen to raw data before the bundle can take it: said in words, and perhaps in a file beside it.

    Attributes:
        description: in words: ``pixels / 255, mean 0.286, standard deviation 0.353``.
        file: path in the bundle of a file that declares it, such as a tokenizer's vocabulary; never run, only shipped.
    """

    description: str = ""
    file: str | None = None


class Manifest(Frozen):
    """What is in a bundle and how to run it. It holds no time: the same content is the same bundle.

    Attributes:
        schema_version: of this format.
        candidate: what was built; its target says for which hardware, its runtime options how to run it.
        workload: reference of the user's workload (only ``eager`` bundles need its code).
        inputs / outputs: name, type and shape of a batch's tensors; axis 0 is ``candidate.batch_size``, null varies.
        files: SHA-256 (hexadecimal) of every file, by path relative to the bundle.
        environment: versions of Python and of the distributions that built it.
        target_fingerprint: the machine that it was built on.
        parameters / flops: of the model in the bundle; flops of one example, a multiply-add counts as two.
        licences: of what went into it, as far as the workload says: ``{"model": "MIT", "data": "CC-BY-4.0"}``.
        preprocessing: what has to happen to raw data first, if the workload says so.
        buckets: how rows of unequal length are batched; null where batches are as they come.
    """

    schema_version: Literal[1, 2, 3] = 2
    candidate: Candidate
    workload: str
    inputs: Structure
    outputs: Structure
    files: dict[str, str]
    environment: dict[str, str]
    target_fingerprint: str
    parameters: int | None = None
    flops: int | None = None
    licences: dict[str, str] = Field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    buckets: Buckets | None = None

    @field_validator("candidate")
    @classmethod
    def _runs_within_reason(cls, candidate: Candidate) -> Candidate:
        if candidate.runtime.threads > MOST_THREADS or candidate.batch_size > MOST_BATCH:
            raise ValueError(f"at most {MOST_THREADS} threads and batches of {MOST_BATCH} can be asked for")
        return candidate

    @field_validator("inputs", "outputs")
    @classmethod
    def _tensors_are_known(cls, structure: Structure) -> Structure:
        for tensor in structure.tensors:
            if tensor.dtype not in _DTYPES:
                raise ValueError(f"{tensor.name!r} is of type {tensor.dtype!r}, which is none of {sorted(_DTYPES)}")
            if any(size is not None and size < 0 for size in tensor.shape):
                raise ValueError(f"{tensor.name!r} has a negative length in {tensor.shape}")
        if not structure.tensors or len(set(structure.names)) != len(structure.names):
            raise ValueError("there must be tensors, each with a name of its own")
        return structure

    @model_validator(mode="after")
    def _buckets_fit(self) -> Self:
        asked = bool(self.candidate.runtime.knobs.get(BUCKETS.name))
        if not asked == (self.buckets is not None) == (self.schema_version == 3):
            raise ValueError("buckets are in manifests of version 3 of candidates that ask for them, and in no others")
        varying = {tensor.name: tensor.dynamic_axes for tensor in self.inputs.tensors if tensor.dynamic_axes}
        if self.buckets is not None and varying != {name: (axis,) for name, axis in self.buckets.axes.items()}:
            raise ValueError(f"buckets are by the axes {self.buckets.axes}, and {varying} vary")
        return self

    @model_serializer(mode="wrap")
    def _without_buckets_that_it_lacks(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        return fields if self.buckets is not None else {key: fields[key] for key in fields if key != "buckets"}

    @property
    def digest(self) -> str:
        """Hash of the bundle: of the manifest, which holds the hash of every file."""
        content = self.model_dump(mode="json", exclude=_SINCE_2 if self.schema_version == 1 else None)
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest: JSON without tricks, of a known version, every value of the right type, every name harmless.

    Raises:
        IntegrityError: it is none; the message says what is wrong with it.
    """
    content = plain_json(text, MOST_BYTES, MANIFEST)
    if not isinstance(content, dict):
        raise IntegrityError(f"{MANIFEST} must hold an object, got {type(content).__name__}")
    version = content.get("schema_version", 1)
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise IntegrityError(
            f"{MANIFEST} has schema_version {version!r}; this paretune reads 1 to {SCHEMA_VERSION}: upgrade paretune"
        )
    try:
        manifest = Manifest.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise IntegrityError(f"{MANIFEST} is not a manifest: {where}: {first['msg']}") from None
    _refuse_files(manifest)
    return manifest


def plain_json(text: bytes, most_bytes: int, name: str) -> Any:
    """Return the value of JSON that nobody vouches for: of limited size and depth, no name twice, no NaN.

    Raises:
        IntegrityError: it is none.
    """
    if len(text) > most_bytes:
        raise IntegrityError(f"{name} has {len(text)} bytes, more than the {most_bytes} that one needs")
    if _depth(text) > MOST_DEPTH:
        raise IntegrityError(f"{name} is nested more than {MOST_DEPTH} deep")
    try:
        return json.loads(text.decode(), object_pairs_hook=_each_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} is not JSON that can be trusted: {str(error)[:200]}") from None


def _depth(text: bytes) -> int:
    """Return how deep brackets are nested."""
    deepest = depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object has the same name twice")
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _refuse_files(manifest: Manifest) -> None:
    if len(manifest.files) > MOST_FILES:
        raise IntegrityError(f"{MANIFEST} lists {len(manifest.files)} files, more than {MOST_FILES}")
    if (why := why_not_a_name([*manifest.files, MANIFEST])) is not None:
        raise IntegrityError(f"{MANIFEST} lists {why}")
    for name, sha in manifest.files.items():
        if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
            raise IntegrityError(f"{MANIFEST} gives {name!r} the hash {sha[:80]!r}, which is no SHA-256")
    declared = manifest.preprocessing.file if manifest.preprocessing else None
    if declared is not None and declared not in manifest.files:
        raise IntegrityError(f"{MANIFEST} declares preprocessing in {declared[:200]!r}, which is no file of the bundle")
