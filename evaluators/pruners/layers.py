"""The layers that pruning puts in the place of the user's own. Import it only where torch is at hand anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from evaluators.bundle.contents.torch_model import PASSED, SLIM
from evaluators.errors import IntegrityError


class PassThrough(nn.Module):
    """What a removed block leaves: its first input, as it came."""

    def forward(self, first: Tensor, *_: Any, **__: Any) -> Tensor:
        return first


class SlimAttention(nn.Module):
    """``torch.nn.MultiheadAttention`` with fewer heads: its inner width may be other than that of its inputs.

    It takes the same inputs and returns no attention weights. Shapes are those of the original.
    """

    in_proj_bias = None
    """Tells ``TransformerEncoderLayer`` that its fused kernel does not apply."""
    _qkv_same_embed_dim = True

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        width, biased = original.embed_dim, original.in_proj_bias is not None
        self.embed_dim, self.num_heads, self.batch_first = width, original.num_heads, original.batch_first
        self.query, self.key, self.value = (nn.Linear(width, width, bias=biased) for _ in range(3))
        self.out_proj = nn.Linear(width, width, bias=original.out_proj.bias is not None)
        parts = zip((self.query, self.key, self.value), original.in_proj_weight.chunk(3), strict=True)
        for index, (layer, weight) in enumerate(parts):
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
            if original.in_proj_bias is not None:
                bias = original.in_proj_bias.chunk(3)[index]
                layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.out_proj.load_state_dict(original.out_proj.state_dict())
        self.requires_grad_(False).train(original.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:  # fmt: skip
        batched = query.dim() == 3
        if not batched:
            query, key, value = (each.unsqueeze(0) for each in (query, key, value))
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        q, k, v = (
            layer(each).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, each in ((self.query, query), (self.key, key), (self.value, value))
        )
        mask = _added(attn_mask, q)
        if mask is not None and mask.dim() == 3:
            raise RuntimeError("a mask for each head says which heads there are: they cannot be removed")
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, q)
            padding = padding.view(-1, 1, 1, k.shape[2])  # type: ignore[union-attr]
            mask = padding if mask is None else mask + padding
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        answer = self.out_proj(context.transpose(1, 2).flatten(2))
        if not batched:
            return answer.squeeze(0), None
        return answer if self.batch_first else answer.transpose(0, 1), None


def _added(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return a mask as what is added to the scores: of booleans, true is left out."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill(mask, float("-inf"))


def replace_layer(module: nn.Module, name: str, word: str) -> None:
    """Put the layer that ``word`` means in the place of the one called ``name``.

    Raises:
        IntegrityError: there is no such layer, or it is none that can be replaced so.
    """
    if not name:
        raise IntegrityError(f"stored plan puts {word!r} in the place of the whole model: it cannot stand there")
    try:
        parent, original = module.get_submodule(name.rpartition(".")[0]), module.get_submodule(name)
    except AttributeError:
        raise IntegrityError(f"stored plan replaces layer {name!r}, which the workload's model does not have") from None
    if word == PASSED:
        layer: nn.Module = PassThrough()
    elif word == SLIM and isinstance(original, nn.MultiheadAttention) and original.in_proj_weight is not None:
        layer = SlimAttention(original)
    else:
        kind = type(original).__name__
        raise IntegrityError(f"stored plan puts {word!r} in the place of {name!r}, a {kind}: it cannot stand there")
    setattr(parent, name.rpartition(".")[2], layer)
    for each in module.modules():
        if isinstance(each, nn.TransformerEncoder):
            each.use_nested_tensor = False  # its kernels for ragged batches are for torch's own attention
