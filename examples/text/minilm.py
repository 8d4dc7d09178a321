"""MiniLM-L6, a BERT encoder of 6 layers, and a document classifier on top, in plain torch.

It reads the weights of ``sentence-transformers/all-MiniLM-L6-v2`` and gives what ``transformers``'
BertModel gives. Nothing depends on the shape of the input, so it traces and exports with a dynamic
batch and a dynamic length.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

VOCABULARY = 30_522
WIDTH = 384
HEADS = 12
INNER_WIDTH = 1_536
LAYERS = 6
POSITIONS = 512
EPSILON = 1e-12

RENAMED = {  # from the checkpoint's names to ours, in this order
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings.weight": "positions",
    "embeddings.token_type_embeddings.weight": "segments",
    "embeddings.": "",
    "encoder.layer.": "layers.",
    "attention.self.": "",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "attended_norm",
    "intermediate.dense": "inner",
    "output.dense": "outer",
    "output.LayerNorm": "outer_norm",
    "LayerNorm": "norm",
}
UNUSED = ("pooler.", "embeddings.position_ids")


class Layer(nn.Module):
    """Self-attention and a two-layer perceptron, each added to its input and normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = HEADS
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.attended = nn.Linear(WIDTH, WIDTH)
        self.attended_norm = nn.LayerNorm(WIDTH, EPSILON)
        self.inner = nn.Linear(WIDTH, INNER_WIDTH)
        self.gelu = nn.GELU()
        self.outer = nn.Linear(INNER_WIDTH, WIDTH)
        self.outer_norm = nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (N, L, WIDTH); mask (N, 1, 1, L), true where there is a token."""
        query, key, value = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        context = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = self.attended_norm(x + self.attended(context.transpose(1, 2).flatten(2)))
        return self.outer_norm(x + self.outer(self.gelu(self.inner(x))))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, WIDTH) to (N, heads, L, WIDTH / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


class MiniLM(nn.Module):
    """Token ids and attention mask, both (N, L) int64, to one embedding (N, WIDTH) per text."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.positions = nn.Parameter(torch.zeros(POSITIONS, WIDTH))
        self.segments = nn.Parameter(torch.zeros(2, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = self.positions[: input_ids.size(1)]
        x = self.norm(self.words(input_ids) + positions + self.segments[0])
        mask = attention_mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        present = attention_mask.unsqueeze(2).to(x.dtype)
        return (x * present).sum(1) / present.sum(1)


def encoder_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names that MiniLM gives them."""
    weights: dict[str, Tensor] = {}
    for name, tensor in load_file(checkpoint).items():
        if not name.startswith(UNUSED):
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            weights[name] = tensor
    return weights


def load_encoder(checkpoint: Path) -> MiniLM:
    """MiniLM with trained weights, in eval mode."""
    with torch.device("meta"):
        encoder = MiniLM()
    encoder.load_state_dict(encoder_weights(checkpoint), assign=True)
    return encoder.eval()


class Classifier(nn.Module):
    """An encoder and a linear head: token ids and attention mask to logits (N, classes)."""

    def __init__(self, encoder: MiniLM, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask))
