"""Protocol buffers without their library: the fields of a message, walked by the tables of who asks.

A walk streams: large tensors are skipped, never read, so that looking into a model takes no memory to speak of.
Source: the wire format in the documentation of Protocol Buffers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import BinaryIO

from evaluators.errors import IntegrityError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_DEPTH, MOST_FIELDS, MOST_TEXT_BYTES = 100, 10_000_000, 2**16

Message = Mapping[int, str]
"""The fields of a message that are messages themselves, by number: the name of their table."""


class Walk:
    """One pass over a file.

    Args:
        file: where the message is.
        tables: the messages by name, each with its fields that are messages.
        see: called for every field that is no message of a table: message, number, and its value (a number), or the
            place of its bytes as ``(start, length)``.
        what: how errors call the file.
    """

    def __init__(
        self, file: BinaryIO, tables: Mapping[str, Message],
        see: Callable[[str, int, int | tuple[int, int]], None], what: str,
    ) -> None:  # fmt: skip
        self._file, self._tables, self._see, self._what = file, tables, see, what
        self._fields = 0

    def run(self, message: str) -> None:
        """Walk the whole file as one ``message``.

        Raises:
            IntegrityError: it is no such message.
        """
        end = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        self._message(message, 0, end, 0)

    def text(self, place: int | tuple[int, int]) -> str:
        """Return the text at a place; the walk goes on where it was."""
        if isinstance(place, int):
            raise self._refusal("has a number where there must be text")
        start, length = place
        if length > MOST_TEXT_BYTES:
            raise self._refusal(f"has a name of {length} bytes")
        here = self._file.tell()
        self._file.seek(start)
        found = self._file.read(length)
        self._file.seek(here)
        return found.decode(errors="replace")

    def _message(self, message: str, start: int, end: int, depth: int) -> None:
        if depth > MOST_DEPTH:
            raise self._refusal(f"is nested more than {MOST_DEPTH} deep")
        table, file = self._tables[message], self._file
        position = start
        while position < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise self._refusal(f"has more than {MOST_FIELDS} fields")
            number, kind = divmod(self._varint(), 8)
            value: int | tuple[int, int]
            if kind == BYTES:
                length = self._varint()
                begin = file.tell()
                if begin + length > end:
                    raise self._refusal("has a field that ends beyond its message")
                if number in table:
                    self._message(table[number], begin, begin + length, depth + 1)
                else:
                    self._see(message, number, (begin, length))
                position = file.seek(begin + length)
                continue
            if kind == VARINT:
                value = self._varint()
            elif kind in (FIXED64, FIXED32):
                value = int.from_bytes(file.read(8 if kind == FIXED64 else 4), "little")
            else:
                raise self._refusal(f"has a field of wire type {kind}")
            if number == 0 or number in table:
                raise self._refusal(f"has field {number} of {message} in the wrong form")
            self._see(message, number, value)
            position = file.tell()
        if position != end:
            raise self._refusal("has a field that ends beyond its message")

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._file.read(1)
            if not byte:
                raise self._refusal("ends in the middle of a field")
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value
        raise self._refusal("has a number that is too long")

    def _refusal(self, why: str) -> IntegrityError:
        return IntegrityError(f"{self._what} is not what it is called: it {why}")
