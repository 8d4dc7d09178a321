"""Core ML packages: a program that names its weights by path, and the file of those weights.

Field numbers: Model.proto and MIL.proto of coremltools 9.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from evaluators.bundle.contents.protobuf import Message, Walk
from evaluators.bundle.contents.torch_model import check_json
from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

_TABLES: dict[str, Message] = {
    "Model": {502: "Program"},
    "Program": {2: "FunctionEntry", 4: "ValueEntry"},
    "FunctionEntry": {2: "Function"},
    "Function": {3: "BlockEntry", 4: "ValueEntry"},
    "BlockEntry": {2: "Block"},
    "Block": {3: "Operation", 4: "ValueEntry"},
    "Operation": {2: "ArgumentEntry", 4: "Block", 5: "ValueEntry"},
    "ArgumentEntry": {2: "Argument"},
    "Argument": {1: "Binding"},
    "Binding": {2: "Value"},
    "ValueEntry": {2: "Value"},
    "Value": {3: "Immediate", 5: "File"},
    "Immediate": {2: "Values", 3: "Values", 4: "Pairs"},
    "Values": {1: "Value"},
    "Pairs": {1: "Pair"},
    "Pair": {1: "Value", 2: "Value"},
    "File": {},
}
_PLAIN_FIELDS = (1, 2, 10)
WEIGHTS = "@model_path/weights/weight.bin"
_MODEL = "com.apple.CoreML/model.mlmodel"
_WEIGHTS_FILE = "com.apple.CoreML/weights/weight.bin"


def check_coreml(folder: Path, name: str) -> None:
    """Look at one file of an ``.mlpackage``: its list, its program, or its weights.

    Raises:
        IntegrityError: it is another one, the list leads out of the package, or the program is none or reads another
            file.
    """
    inside = "/".join(PurePosixPath(name).parts[1:])
    if inside == "Manifest.json":
        _check_list(check_json(folder, name), name)
    elif inside == f"Data/{_MODEL}":
        _check_program(folder, name)
    elif inside != f"Data/{_WEIGHTS_FILE}":
        raise IntegrityError(f"{name!r} is no file of a Core ML package")


def _check_list(content: object, name: str) -> None:
    items = content.get("itemInfoEntries") if isinstance(content, dict) else None
    if not isinstance(items, dict):
        raise IntegrityError(f"{name} lists no items")
    for item in items.values():
        path = item.get("path") if isinstance(item, dict) else None
        if path not in (_MODEL, "com.apple.CoreML/weights"):
            raise IntegrityError(f"{name} lists {str(path)[:200]!r}, which no package of a program holds")


def _check_program(folder: Path, name: str) -> None:
    program = False

    def see(message: str, number: int, value: int | tuple[int, int]) -> None:
        nonlocal program
        program |= message == "Program"
        if message == "Model" and number not in _PLAIN_FIELDS:
            raise IntegrityError(f"{name} is no program: it has field {number}, another kind of Core ML model")
        if message == "File" and number == 1 and (path := walk.text(value)) != WEIGHTS:
            raise IntegrityError(f"{name} reads its weights from {path[:200]!r}; it may read {WEIGHTS}")

    with open_file(folder, name) as file:
        walk = Walk(file, _TABLES, see, name)
        walk.run("Model")
    if not program:
        raise IntegrityError(f"{name} holds no program")
