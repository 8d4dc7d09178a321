"""Weights and plan: a model stored without a pickle, and rebuilt from the user's own code.

``weights.safetensors`` holds every tensor of the state dict once; ``plan.json`` holds what pruning did
(which channels went), the layers with another in their place, the changed attributes of layers (``out_channels``, …)
and which names share one tensor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluators.bundle.contents.torch_model import SIZES
from evaluators.errors import IntegrityError, UnsupportedError, WorkloadError
from evaluators.stages.packed import read_tensors
from evaluators.workload import Workload

WEIGHTS, PLAN = "weights.safetensors", "plan.json"


def build_model(workload: Workload) -> Any:
    """Return the user's model in eval mode, without gradients.

    Raises:
        WorkloadError: the factory did not return an ``nn.Module``.
    """
    import torch

    model = workload.model()
    if not isinstance(model, torch.nn.Module):
        kind = type(model).__name__
        raise WorkloadError(f"model() of {workload.name} returned a {kind}; it must return an nn.Module")
    return model.eval().requires_grad_(False)


def layer_sizes(module: Any) -> dict[str, dict[str, Any]]:
    """Return the size attributes of every layer by its name."""
    sizes: dict[str, dict[str, Any]] = {}
    for name, layer in module.named_modules():
        found = {key: getattr(layer, key) for key in SIZES if isinstance(getattr(layer, key, None), int | tuple)}
        if found:
            sizes[name] = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}
    return sizes


def save_model(module: Any, original_sizes: dict[str, dict[str, Any]], plan: dict[str, Any], folder: Path) -> None:
    """Write ``module``'s weights, and ``plan`` together with what changed against ``original_sizes``."""
    from safetensors.torch import save

    kept: dict[str, Any] = {}
    shared: dict[str, str] = {}
    owners: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in module.state_dict().items():
        identity = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and identity in owners:
            shared[name] = owners[identity]
            continue
        owners[identity] = name
        kept[name] = tensor.detach().cpu().contiguous().clone()
    changed = {
        name: {key: value for key, value in sizes.items() if value != original_sizes.get(name, {}).get(key)}
        for name, sizes in layer_sizes(module).items()
    }
    (folder / WEIGHTS).write_bytes(save(kept))
    content = {**plan, "attributes": {name: diff for name, diff in changed.items() if diff}, "shared": shared}
    (folder / PLAN).write_text(json.dumps(content, sort_keys=True))


def restore_module(workload: Workload, folder: Path) -> Any:
    """Rebuild a stored model from the user's own code: sizes from the plan, then every tensor.

    Raises:
        IntegrityError: the plan or the weights do not fit the model that the workload builds now.
        UnsupportedError: a tensor is neither a parameter nor a buffer.
    """
    import torch

    plan = json.loads((folder / PLAN).read_text())
    module = build_model(workload)
    if replaced := plan.get("replaced", {}):
        from evaluators.pruners.layers import replace_layer

        for name, word in replaced.items():
            replace_layer(module, name, word)
    layers = dict(module.named_modules())
    for name, attributes in plan["attributes"].items():
        for key, value in attributes.items():
            if key not in SIZES:
                raise IntegrityError(f"stored plan sets {key!r} of layer {name!r}, which is no size")
            setattr(_layer(layers, name), key, tuple(value) if isinstance(value, list) else value)
    tensors = read_tensors(folder / WEIGHTS)
    for name, source in plan["shared"].items():
        if source not in tensors:
            raise IntegrityError(f"stored plan shares tensor {source!r}, which is not among the stored weights")
        tensors[name] = tensors[source]
    expected = set(module.state_dict())
    if expected != set(tensors):
        odd = sorted(expected ^ set(tensors))[0]
        raise IntegrityError(f"stored weights do not fit the workload's model: {odd!r} is on one side only")
    parameters: dict[int, Any] = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        layer = _layer(layers, owner)
        if leaf in layer._parameters:
            parameter = parameters.setdefault(id(tensor), torch.nn.Parameter(tensor, requires_grad=False))
            setattr(layer, leaf, parameter)  # recurrent layers keep a list of them beside, and see to it here
        elif leaf in layer._buffers:
            layer._buffers[leaf] = tensor
        else:
            raise UnsupportedError(f"stored tensor {name!r} is neither a parameter nor a buffer of the model")
    return module.eval()


def _layer(layers: dict[str, Any], name: str) -> Any:
    if name not in layers:
        raise IntegrityError(f"stored plan names layer {name!r}, which the workload's model does not have")
    return layers[name]
