"""JSON files: an array of objects, or objects one after another, read without holding the file."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator

from smidgen.data.documents import BadRecord, excerpt
from smidgen.data.sources.base import CHUNK_BYTES, Item
from smidgen.data.sources.parsing import broken_json, field_of, in_pieces

_SPACE = re.compile(r"[\s,]*")
_BLOCK = CHUNK_BYTES // 4


def json_values(stream: io.RawIOBase, field: str) -> Iterator[Item]:
    """The documents in a field of each object: the elements of one array, or values one after another."""
    for number, value in enumerate(values_of(stream), 1):
        if isinstance(value, BadRecord):
            yield BadRecord(value.kind, value.message, number, "value")
        else:
            yield from in_pieces(field_of(value, field, number, "value"))


def values_of(stream: io.RawIOBase) -> Iterator[object]:
    """Every value of a JSON file; a bad record in the place of one that cannot be read."""
    return _Values(stream).values()


class _Values:
    def __init__(self, stream: io.RawIOBase) -> None:
        self._file = io.BufferedReader(stream, 1 << 17)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
        self._text = ""
        self._position = 0
        self._ended = False
        self._fault: BadRecord | None = None

    def values(self) -> Iterator[object]:
        """Every value; a bad record in the place of one that cannot be read, which ends an array."""
        decode = json.JSONDecoder().raw_decode
        in_array = self._skip_space() == "["
        if in_array:
            self._position += 1
        while (sign := self._skip_space()) and not (in_array and sign == "]"):
            try:
                value, stop = decode(self._text, self._position)
            except RecursionError as error:
                yield broken_json(error, self._text[self._position : self._position + 80], 0)
                return
            except ValueError as error:
                if self._more():
                    continue
                if self._fault is None:
                    yield broken_json(error, self._text[self._position : self._position + 80], 0)
                    if not in_array and self._next_line():
                        continue
                break
            if stop == len(self._text) and self._more():
                # A number may go on behind what has been read.
                continue
            yield value
            self._position = stop
        if self._fault is not None:
            yield self._fault
        elif in_array and not sign:
            yield BadRecord("broken JSON", "the array is not closed: the file is cut short")

    def _skip_space(self) -> str:
        """The next character that is no white space or comma; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._position)
            self._position = match.end() if match else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._more():
                return ""

    def _next_line(self) -> bool:
        """Go on behind the next line end: objects one after another usually stand on lines of their own."""
        while (at := self._text.find("\n", self._position)) < 0:
            self._position = len(self._text)
            if not self._more():
                return False
        self._position = at + 1
        return True

    def _more(self) -> bool:
        """Read as much as is held, at least a block, so that a long value is parsed few times."""
        if self._ended:
            return False
        data = self._file.read(max(_BLOCK, len(self._text) - self._position))
        self._ended = not data
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            shown = excerpt(data[max(error.start - 10, 0) : error.start + 10])
            self._fault = BadRecord("encoding", f"is no UTF-8 near '{shown}'; convert the file with iconv")
            self._ended = True
            return False
        self._text = self._text[self._position :] + more
        self._position = 0
        return bool(more)
