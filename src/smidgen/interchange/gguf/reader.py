"""A guarded reader of GGUF files: every size and count is checked against the file before anything is taken for it.

The layout is that of the specification (ggml/docs/gguf.md): magic, version, counts, keys with typed values, tensor
descriptions, then the tensors' bytes at aligned offsets. Arrays of the metadata stay in the mapped file until they are
asked for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from smidgen.runtime.errors import InterchangeError, MissingDependencyError

MAX_ENTRIES = 1 << 16
"""Keys, and tensors, that a file may have; real ones have a thousandth."""
MAX_STRINGS = 1 << 20
"""Strings in all arrays together: the largest vocabularies have 262,144 tokens and twice as many merges."""
MAX_NAME = 1 << 12
MAX_DIMENSIONS = 4

MAGIC = b"GGUF"

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_BLOCKS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
}
"""Every type that is read: its number, weights a block and bytes a block."""
_TYPES = {number: (name, weights, size) for name, (number, weights, size) in _BLOCKS.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file."""

    name: str
    shape: tuple[int, ...]
    """Rows first, as PyTorch has it."""
    kind: str
    start: int
    size: int
    """Bytes."""


@dataclass(frozen=True)
class _LazyArray:
    kind: int
    count: int
    start: int


class GgufFile:
    """An open file. Use `open_gguf`."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self._data = data
        self._position = 0
        self._strings = 0
        self.values: dict[str, Any] = {}
        self.tensors: dict[str, TensorInfo] = {}
        try:
            self._read_header()
        except struct.error:
            self._refuse("ends within its header; copy the file again")

    def array(self, key: str) -> list[Any] | None:
        """The array of a key; None where it is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, _LazyArray):
            self._refuse(f"{key}: an array is needed here")
        if value.kind == _STRING:
            self._position = value.start
            return [self._string(key) for _ in range(value.count)]
        return self._numbers(value).tolist()

    def texts(self, key: str) -> list[str] | None:
        """The array of a key, which must be one of strings; None where it is missing."""
        return self._array_of(key, str, "texts")

    def numbers(self, key: str) -> list[Any] | None:
        """The array of a key, which must be one of numbers, integers or not; None where it is missing."""
        return self._array_of(key, (int, float), "numbers")

    def _array_of(self, key: str, kind: Any, name: str) -> list[Any] | None:
        values = self.array(key)
        # All values of an array are of one type.
        if values and not isinstance(values[0], kind):
            self._refuse(f"{key}: {name} are needed; convert the model again")
        return values

    def metadata(self) -> Mapping[str, Any]:
        """Every key that holds one value, and short arrays as lists."""
        short = {key: self.array(key) for key, value in self.values.items() if self._is_short(value)}
        return {key: value for key, value in self.values.items() if not isinstance(value, _LazyArray)} | short

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values, float32."""
        info = self.tensors[name]
        raw = np.frombuffer(self._data, np.uint8, info.size, info.start)
        if info.kind == "F32":
            return raw.view("<f4").reshape(info.shape).copy()
        if info.kind == "F16":
            return raw.view("<f2").reshape(info.shape).astype(np.float32)
        try:
            import gguf
        except ModuleNotFoundError:
            raise MissingDependencyError("gguf", "export", "GGUF") from None
        row = info.size // prod(info.shape[:-1])
        with np.errstate(all="ignore"):
            values = gguf.dequantize(raw.reshape(*info.shape[:-1], row), gguf.GGMLQuantizationType[info.kind])
        return np.ascontiguousarray(values, np.float32)

    @staticmethod
    def _is_short(value: Any) -> bool:
        return isinstance(value, _LazyArray) and value.kind != _STRING and value.count <= 1 << 12

    def _refuse(self, reason: str) -> NoReturn:
        raise InterchangeError(f"{self.path}: {reason}")

    def _read_header(self) -> None:
        if self._data[:4] != MAGIC:
            self._refuse("is no GGUF file; name a .gguf file, a .pt checkpoint or a folder")
        self._position = 4
        version = self._unpack("I")
        if version not in (2, 3):
            remedy = "its bytes are in another order" if version in (2 << 24, 3 << 24) else "Smidgen reads 2 and 3"
            self._refuse(f"GGUF version {version}: {remedy}; convert the model again")
        num_tensors, num_keys = self._unpack("Q"), self._unpack("Q")
        # A key takes at least 8 + 4 + 1 bytes, a tensor 8 + 4 + 8 + 4 + 8.
        for count, least, what in ((num_keys, 13, "keys"), (num_tensors, 32, "tensors")):
            if count > MAX_ENTRIES or count * least > len(self._data):
                self._refuse(f"declares {count} {what}, more than the file can hold; copy the file again")
        for _ in range(num_keys):
            key = self._string("a key", MAX_NAME)
            if key in self.values:
                self._refuse(f"key {key!r} comes twice; convert the model again")
            self.values[key] = self._value(self._unpack("I"), key)
        infos = [self._tensor_info() for _ in range(num_tensors)]
        self._place(infos)

    def _place(self, infos: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        alignment = self.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            self._refuse(f"general.alignment = {alignment}: a power of two from 8 to 65536 is needed")
        base = -(-self._position // alignment) * alignment
        for name, shape, number, offset in infos:
            if number not in _TYPES:
                self._refuse(f"tensor {name!r} has type {number}; Smidgen reads {', '.join(_BLOCKS)}")
            kind, weights, size = _TYPES[number]
            if shape[-1] % weights:
                self._refuse(f"tensor {name!r}: rows of {shape[-1]} do not divide into {kind}'s blocks of {weights}")
            length = prod(shape) // weights * size
            if offset % alignment:
                self._refuse(f"tensor {name!r} begins at {offset}, no multiple of the alignment {alignment}")
            if base + offset + length > len(self._data):
                self._refuse(f"tensor {name!r} ends beyond the file, which is cut short; copy the file again")
            if name in self.tensors:
                self._refuse(f"tensor {name!r} comes twice; convert the model again")
            self.tensors[name] = TensorInfo(name, shape, kind, base + offset, length)
        for before, after in pairwise(sorted(self.tensors.values(), key=lambda info: info.start)):
            if before.start + before.size > after.start:
                self._refuse(f"tensors {before.name!r} and {after.name!r} overlap; convert the model again")

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string("a tensor's name", MAX_NAME)
        count = self._unpack("I")
        if not 1 <= count <= MAX_DIMENSIONS:
            self._refuse(f"tensor {name!r} has {count} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        shape = tuple(self._unpack("Q") for _ in range(count))[::-1]
        # Half a byte of bits is the least that a weight takes; a product of sizes beyond the file cannot be right.
        if 0 in shape or prod(shape) > 8 * len(self._data):
            self._refuse(f"tensor {name!r} has shape {list(shape)}, more than the file can hold")
        return name, shape, self._unpack("I"), self._unpack("Q")

    def _value(self, kind: int, key: str) -> Any:
        if kind in _NUMBERS:
            return self._unpack(_NUMBERS[kind])
        if kind == _STRING:
            return self._string(key)
        if kind != _ARRAY:
            self._refuse(f"key {key!r} has a value of type {kind}, which does not exist")
        inner, count = self._unpack("I"), self._unpack("Q")
        if inner == _ARRAY:
            self._refuse(f"key {key!r} holds arrays in an array; Smidgen reads flat ones")
        if inner != _STRING and inner not in _NUMBERS:
            self._refuse(f"key {key!r} holds values of type {inner}, which does not exist")
        smallest = 8 if inner == _STRING else struct.calcsize("<" + _NUMBERS[inner])
        if count * smallest > len(self._data) - self._position:
            self._refuse(f"key {key!r} declares {count} values, more than the file can hold; copy the file again")
        start = self._position
        if inner == _STRING:
            self._strings += count
            if self._strings > MAX_STRINGS:
                self._refuse(f"key {key!r}: more than {MAX_STRINGS} strings in the file")
            self._skip_strings(count, key)
        else:
            self._position += count * smallest
        return _LazyArray(inner, count, start)

    def _skip_strings(self, count: int, key: str) -> None:
        unpack, data, size, position = struct.Struct("<Q").unpack_from, self._data, len(self._data), self._position
        for _ in range(count):
            position += 8 + unpack(data, position)[0]
            if position > size:
                self._refuse(f"key {key!r} ends beyond the file, which is cut short; copy the file again")
        self._position = position

    def _string(self, what: str, longest: int | None = None) -> str:
        length = self._unpack("Q")
        if length > len(self._data) - self._position or (longest is not None and length > longest):
            self._refuse(f"{what} is {length} bytes long, more than can be; copy the file again")
        raw = self._data[self._position : self._position + length]
        self._position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(f"{what} is no UTF-8; the file is damaged, copy it again")

    def _numbers(self, value: _LazyArray) -> NDArray[Any]:
        return np.frombuffer(self._data, np.dtype(_NUMBERS[value.kind]).newbyteorder("<"), value.count, value.start)

    def _unpack(self, form: str) -> Any:
        (value,) = struct.unpack_from("<" + form, self._data, self._position)
        self._position += struct.calcsize("<" + form)
        return value


def is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def open_gguf(path: Path) -> Iterator[GgufFile]:
    """The file, mapped, with its header read. Raises InterchangeError in one line where it is no GGUF, cut short, or
    declares what it cannot hold."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 24:
                raise InterchangeError(f"{path}: is no GGUF file; name a .gguf file, a .pt checkpoint or a folder")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise InterchangeError(f"{path}: cannot be read: {error.strerror}") from None
    # Not closed by hand: arrays may still look into it.
    yield GgufFile(path, data)
