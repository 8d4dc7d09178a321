"""Reuters R8, tokenized by fetch.py: documents of one of eight topics, at most 128 tokens each."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

TOPICS = ("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade")
LONGEST = 128  # tokens; the rest of a document is left out

Inputs = dict[str, Tensor]
Example = tuple[Inputs, Tensor]


class Split(NamedTuple):
    """Documents end to end: tokens int32 (sum of lengths,), lengths and labels int64 (documents,)."""

    tokens: Tensor
    lengths: Tensor
    labels: Tensor


class Documents(Dataset[Example]):
    """Token ids and attention mask of each document, unpadded, with its topic's index as the target."""

    def __init__(self, split: Split) -> None:
        self.documents = split.tokens.split(split.lengths.tolist())
        self.labels = split.labels

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Example:
        ids = self.documents[index].long()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, self.labels[index]


def collate(examples: list[Example]) -> Example:
    """One batch, padded to its longest document."""
    ids = pad_sequence([inputs["input_ids"] for inputs, _ in examples], batch_first=True)
    mask = pad_sequence([inputs["attention_mask"] for inputs, _ in examples], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask}, torch.stack([target for _, target in examples])


def assets() -> Path:
    """Where fetch.py leaves its files: $PARETUNE_TEXT_ASSETS, else .assets beside this file."""
    return Path(os.environ.get("PARETUNE_TEXT_ASSETS") or Path(__file__).parent / ".assets")


def asset(name: str) -> Path:
    """One of fetch.py's files; raises FileNotFoundError with what to do when it is not there."""
    path = assets() / name
    if not path.is_file():
        fetch = Path(__file__).with_name("fetch.py")
        raise FileNotFoundError(f"{path} is missing. Fetch this example's files once with: python {fetch}")
    return path


def load(name: str) -> Documents:
    """The split of that name: calibration, train, validation or test."""
    with safe_open(asset("reuters-r8.safetensors"), "pt") as file:
        return Documents(Split(*(file.get_tensor(f"{name}.{field}") for field in Split._fields)))
