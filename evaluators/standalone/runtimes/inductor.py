"""One call of a package that torch's inductor compiled, with the threads that it was compiled for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._inductor import aoti_load_package


def load(bundle: Path, settings: Any, manifest: Any) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """Return a function from a batch by input name to its outputs in the manifest's order."""
    torch.set_num_threads(settings["threads"])
    model = aoti_load_package(str(bundle / settings["model"]))
    names = [tensor["name"] for tensor in manifest["inputs"]["tensors"]]

    def call(batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            found = model(*(torch.from_numpy(batch[name]) for name in names))
        tensors = found.values() if isinstance(found, dict) else [found] if torch.is_tensor(found) else found
        return [(tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for tensor in tensors]

    return call
