"""Take the pictures of docs/browsing.md: ``python -m scripts.screenshots``, with a search of its own and Chromium."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

from search import api
from tests.chromium import chromium, mlflow_ui
from tests.search.showcase import a_showcase, promoted

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
TRIALS = 40
SETTLED_MS = 3_000
COLOURS = 128
"""A palette of so many colours keeps a page of a UI under 100 kB."""

VIEWS = ("search", "picture", "story", "front", "best", "compare")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="paretune-screenshots-") as scratch, chromium(1360, 860) as context:
        shown = a_showcase(Path(scratch), TRIALS)
        promoted(shown, "classifier", "champion")
        page = context.new_page()
        with mlflow_ui(shown.home) as address:
            for view in VIEWS:
                _, found = api.ui_command(shown.result.name, shown.home, 5000, "127.0.0.1", view)
                take(page, f"{address}#{found.partition('/#')[2]}", f"mlflow-{view}.png")
            take(page, f"{address}#/models/classifier/versions/1", "mlflow-version.png")


def take(page: Any, address: str, name: str) -> None:
    """Open an address and keep what it shows."""
    from PIL import Image

    page.goto("about:blank")
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    print(f"{name}: {(IMAGES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
