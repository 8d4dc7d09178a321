"""Home: the folder of ledger, cache, bundles and MLflow store."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder(given: Path | str | None = None) -> Path:
    """Return the home: as given, else ``$PARETUNE_HOME``, else ``./.paretune``; absolute."""
    return Path(given or os.environ.get("PARETUNE_HOME") or ".paretune").expanduser().resolve()
