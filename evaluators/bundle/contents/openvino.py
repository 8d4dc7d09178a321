"""OpenVINO IR: a graph in XML, and its weights in the ``.bin`` file of the same name."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

MOST_BYTES, MOST_DEPTH = 2**29, 64
_OPERATORS = re.compile(r"opset[1-9][0-9]?")
_GRAPH = frozenset(("net", "layers", "layer", "data", "edges", "edge", "port", "body", "port_map", "back_edges"))
_LEADS_OUT = ("path", "library", "extension", "plugin", "url", "href", "filename", "weights_file")


def check_openvino(folder: Path, name: str) -> None:
    """Parse the graph; every operator is OpenVINO's own, every constant lies within the weights, and nothing leads out.

    Raises:
        IntegrityError: it is no IR, declares entities, names a file or a library, or reads beyond its weights.
    """
    weights = folder / PurePosixPath(name).with_suffix(".bin")
    size = os.lstat(weights).st_size if os.path.lexists(weights) else 0
    reader = _Reader(name, size)
    with open_file(folder, name) as file:
        if os.fstat(file.fileno()).st_size > MOST_BYTES:
            raise IntegrityError(f"{name} has more than {MOST_BYTES} bytes")
        if file.peek(1)[:1] != b"<":
            raise IntegrityError(f"{name} is no plain XML")
        try:
            while chunk := file.read(2**18):
                reader.parser.Parse(chunk)
            reader.parser.Parse(b"", True)
        except expat.ExpatError as error:
            raise IntegrityError(f"{name} is no XML: {error}") from None
    if not reader.layers:
        raise IntegrityError(f"{name} has no layer")


class _Reader:
    """Refuses while it parses, so that nothing behind what is refused is even read."""

    def __init__(self, name: str, weights_bytes: int) -> None:
        self._name, self._weights_bytes = name, weights_bytes
        self._open: list[str] = []
        self.layers = 0
        self.parser = expat.ParserCreate("utf-8")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = lambda _: self._open.pop()
        self.parser.XmlDeclHandler = self._declared
        self.parser.StartDoctypeDeclHandler = lambda *_: self._refuse("declares a document type, and so entities")
        self.parser.ProcessingInstructionHandler = lambda *_: self._refuse("has an instruction for its reader")

    def _refuse(self, why: str) -> None:
        raise IntegrityError(f"{self._name} {why}")

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii", "ascii"):
            self._refuse(f"is written in {encoding}; it must be UTF-8")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "net":
            self._refuse(f"is no IR: it begins with <{tag[:100]}>")
        self._open.append(tag)
        if len(self._open) > MOST_DEPTH:
            self._refuse(f"is nested more than {MOST_DEPTH} deep")
        known = "rt_info" not in self._open
        for word in (tag, *attributes) if known else (tag,):
            if any(out in word.lower() for out in _LEADS_OUT):
                self._refuse(f"has {word[:100]!r} in <{tag[:100]}>, which leads out of the bundle")
        if tag == "layer" and known:
            self._layer(attributes)
        elif tag == "data" and known and ("offset" in attributes or "size" in attributes):
            self._constant(attributes)

    def _layer(self, attributes: dict[str, str]) -> None:
        self.layers += 1
        version, kind = attributes.get("version", ""), attributes.get("type", "")
        if not _OPERATORS.fullmatch(version) or kind in ("FrameworkNode", "Extension"):
            self._refuse(f"has a layer {kind[:100]!r} of {version[:100]!r}; operators must be of an opset of OpenVINO")

    def _constant(self, attributes: dict[str, str]) -> None:
        given = attributes.get("offset", "0"), attributes.get("size", "0")
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in given):
            self._refuse(f"has a constant at {given[0][:50]!r} of {given[1][:50]!r} bytes")
        offset, size = (int(number) for number in given)
        if offset + size > self._weights_bytes:
            self._refuse(f"has a constant that ends at {offset + size} of {self._weights_bytes} bytes of weights")
