"""What commands call things: ``NAME@ALIAS`` of the registry, and the three ways to name a bundle."""

from __future__ import annotations

import re

from evaluators.errors import UsageError
from evaluators.frozen import Frozen

CHALLENGER = "challenger"
"""The alias of a version that passed every gate and has not been served yet."""
PREVIOUS = "-previous"
"""What is added to an alias to name the version that it pointed at before."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,99}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_VERSION = re.compile(r"[vV]?\d+")


class ModelAlias(Frozen):
    """An alias of a registered model: ``classifier@champion``."""

    model: str
    alias: str

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}"

    @property
    def uri(self) -> str:
        """As MLflow loads it."""
        return f"models:/{self.model}@{self.alias}"

    @property
    def previous(self) -> str:
        """The alias that keeps the version before."""
        return f"{self.alias}{PREVIOUS}"


def parse_model_alias(text: str) -> ModelAlias:
    """Read ``NAME@ALIAS``.

    Raises:
        UsageError: it is none, or MLflow keeps the alias for itself.
    """
    name, separator, alias = text.rpartition("@")
    if not separator or not _NAME.fullmatch(name):
        raise UsageError(f"{text!r} is not NAME@ALIAS, such as classifier@champion")
    if not _ALIAS.fullmatch(alias) or alias.lower() == "latest" or _VERSION.fullmatch(alias):
        raise UsageError(f"alias {alias!r} cannot be used: letters, digits, '_' and '-', and neither latest nor v1")
    if alias.endswith(PREVIOUS):
        raise UsageError(f"alias {alias!r} is kept for the version before; use one that does not end with {PREVIOUS}")
    return ModelAlias(model=name, alias=alias)


def parse_model_name(text: str) -> str:
    """Read the name of a registered model.

    Raises:
        UsageError: it is none.
    """
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no name of a registered model; use letters, digits, '.', '_' and '-'")
    return text
