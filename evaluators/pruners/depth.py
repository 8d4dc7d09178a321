"""Depth pruning: whole residual blocks leave the model, and their input goes on instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar

from evaluators.bundle.contents.torch_model import PASSED
from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Number
from evaluators.profile import Prunable, WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.silencing import answers, silenced
from evaluators.pruners.widths import shares

_AMOUNT = "share of the residual blocks that is removed, whole"
_LEAST_LAYERS = 2
_MOST_AMOUNTS = 4


class Depth(Pruner):
    """Removes the residual blocks without which the answers change least on real data, one after the other."""

    structure: ClassVar[str] = "depth"
    amount: ClassVar[Number] = Number("amount", 0.25, 0.75, 0.25, 0.25, _AMOUNT)
    pays: ClassVar[str] = "in time on every backend, by all that the blocks took; accuracy falls fast"

    def look(self, module: Any, example: Any) -> Prunable:
        """Find the blocks without which the model still runs."""
        found = find_blocks(module, example)
        if not found:
            return Prunable(
                why_not=f"no block of {_LEAST_LAYERS} or more layers adds to its input and returns the input's shape"
            )
        return Prunable(sizes=(1,) * len(found))

    def amount_for(self, profile: WorkloadProfile) -> Number:
        """Whole blocks are these shares."""
        return shares(len(profile.prunable[self.structure].sizes), _MOST_AMOUNTS, _AMOUNT)

    def reads_data(self, values: dict[str, Scalar]) -> bool:
        return True

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Remove blocks, the least important first; after each, the others are judged anew."""
        from evaluators.pruners.layers import replace_layer

        left = find_blocks(module, example)
        if not left:
            raise UnsupportedError("the model has no residual block that can be removed")
        inputs = next(islice(data.batches(1), 1))[0] if data is not None else example
        wanted, removed = answers(module, inputs), []
        for _ in range(max(1, round(amount * len(left)))):
            changes = {name: _change(module, name, inputs, wanted) for name in left}
            least = min(left, key=lambda name: changes[name])
            replace_layer(module, least, PASSED)
            left.remove(least)
            removed.append([least, changes[least]])
        return {"structure": self.structure, "removed": removed, "replaced": {name: PASSED for name, _ in removed}}


def _change(module: Any, name: str, inputs: Any, wanted: Mapping[str, Any]) -> float:
    """Return the mean square by which the answers change without a block, relative to their own."""
    with passed(module, name):
        found = answers(module, inputs)
    changed = sum(float((found[each] - tensor).double().square().mean()) for each, tensor in wanted.items())
    return changed / max(sum(float(tensor.double().square().mean()) for tensor in wanted.values()), 1e-30)


@contextmanager
def passed(module: Any, name: str) -> Iterator[None]:
    """Within it, a block is out of the module, and its first input goes on."""
    from evaluators.pruners.layers import PassThrough

    parent, leaf = module.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
    block = getattr(parent, leaf)
    setattr(parent, leaf, PassThrough())
    try:
        yield
    finally:
        setattr(parent, leaf, block)


def find_blocks(module: Any, example: Any) -> list[str]:
    """Return the residual blocks without which the model still runs and answers in the same shapes."""
    calls = _calls(module, example)
    residual = {name: type(module.get_submodule(name)).__name__ for name, call in calls.items()
                if _is_residual(module.get_submodule(name), *call)}  # fmt: skip
    wanted = {name: tensor.shape for name, tensor in answers(module, example).items()}
    found = []
    for name in blocks_among(residual):
        try:
            with passed(module, name):
                shapes = {each: tensor.shape for each, tensor in answers(module, example).items()}
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
            continue
        if shapes == wanted:
            found.append(name)
    return found


def blocks_among(residual: Mapping[str, str]) -> list[str]:
    """Return the blocks among residual modules, given by name and class: no stage of blocks, and no part of a block.

    A module that holds several of one class, or is a mere sequence of others, is a stage; what a block holds that adds
    to its own input, too, is a part of it.
    """
    stages = set()
    for name, kind in residual.items():
        within = [other for other in residual if other.startswith(f"{name}.")]
        kinds = [residual[other] for other in within]
        if len(set(kinds)) < len(kinds) or (within and kind in ("Sequential", "ModuleList")):
            stages.add(name)
    blocks = [name for name in residual if name not in stages]
    return [name for name in blocks if not any(name.startswith(f"{other}.") for other in blocks if other != name)]


def _calls(module: Any, example: Any) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return how every module is called that is big enough for a block and returns the shape of its first input."""
    import torch

    calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    def hook(name: str) -> Any:
        def note(_: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            first: Any = given[0] if given else None
            fits = isinstance(first, torch.Tensor) and isinstance(output, torch.Tensor) and first.is_floating_point()
            alike = fits and (first.shape, first.dtype) == (output.shape, output.dtype)
            calls.setdefault(name, []).append((given, named) if alike else ((), {}))

        return note

    candidates = {name: each for name, each in module.named_modules() if name and _weighted(each) >= _LEAST_LAYERS}
    handles = [each.register_forward_hook(hook(name), with_kwargs=True) for name, each in candidates.items()]
    try:
        answers(module, example)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[0] for name, found in calls.items() if len(found) == 1 and found[0][0]}


def _weighted(module: Any) -> int:
    return sum(1 for _ in _computing(module))


def _computing(module: Any) -> Iterator[Any]:
    import torch

    kinds = (
        torch.nn.modules.conv._ConvNd, torch.nn.Linear, torch.nn.RNNBase, torch.nn.MultiheadAttention,
    )  # fmt: skip
    return (layer for layer in module.modules() if isinstance(layer, kinds))


def _is_residual(block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Whether a block still answers to its input when all that computes in it is silenced."""
    import torch

    rows = {id(weight): (weight, range(len(weight))) for layer in _computing(block) for weight in layer.parameters()}
    first, *others = given
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(0), dtype=first.dtype)
    with silenced(list(rows.values())), torch.no_grad():
        return not torch.equal(block(first, *others, **named), block(first + noise, *others, **named))
