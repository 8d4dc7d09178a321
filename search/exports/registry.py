"""Every format by its name, and which of them can carry a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evaluators.bundle import Manifest
from evaluators.errors import FormatError, UsageError
from search.exports import container, coreml, mlflow, mlserver, onnx, openvino, plain, pt2, triton
from search.exports.format import Format, Options

FORMATS: Mapping[str, Format] = MappingProxyType({
    module.FORMAT.name: module.FORMAT
    for module in (plain, onnx, openvino, pt2, coreml, mlflow, mlserver, triton, container)
})  # fmt: skip


def format_named(name: str) -> Format:
    """Return a format.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in FORMATS:
        raise UsageError(
            f"there is no format {name!r}; choose one of {', '.join(FORMATS)}; or optuna, for a whole search"
        )
    return FORMATS[name]


def fitting(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of the formats that can carry a bundle."""
    return tuple(name for name, each in FORMATS.items() if each.refuse(manifest) is None)


def refuse_unfit(wanted: Format, manifest: Manifest, options: Options) -> None:
    """Refuse a format that cannot carry the bundle, or an option that it would ignore.

    Raises:
        FormatError: the bundle; the message names the formats that fit.
        UsageError: an option.
    """
    if (why := wanted.refuse(manifest)) is not None:
        fit = ", ".join(fitting(manifest))
        raise FormatError(f"format {wanted.name} cannot carry {manifest.candidate.label()}: {why}; these fit it: {fit}")
    flags = {"name": "--name", "window_ms": "--window", "instances": "--instances"}
    for option, flag in flags.items():
        if getattr(options, option) is not None and option not in wanted.takes:
            takers = ", ".join(each.name for each in FORMATS.values() if option in each.takes)
            raise UsageError(f"format {wanted.name} has no use for {flag}; it is for {takers}")
