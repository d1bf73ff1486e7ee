"""Safetensors files by the standard library: the header is checked in full before anybody trusts a number in it."""

from __future__ import annotations

import itertools
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.edge.library import BFLOAT16, FLOAT8, FLOAT16, FLOAT32, INT8, INT32, UINT8, library
from smidgen.runtime.errors import ModelFolderError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_LARGEST_HEADER = 100 << 20
_DTYPES = {
    "F32": (FLOAT32, 4),
    "BF16": (BFLOAT16, 2),
    "F16": (FLOAT16, 2),
    "I8": (INT8, 1),
    "U8": (UINT8, 1),
    "I32": (INT32, 4),
    "F8_E4M3": (FLOAT8, 1),
}
_OTHERS = {"F64": 8, "I64": 8, "I16": 2, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "F8_E5M2": 1}
"""Types that a file may hold beside, with their bytes; no tensor of a model that we run has them."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a mapped file."""

    name: str
    file: Path
    dtype_name: str
    dtype: int
    """EdgeDtype; 0 for types that no weight may have."""
    shape: tuple[int, ...]
    address: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class MappedWeights:
    """The tensors of a folder's safetensors files, mapped into memory until `close`.

    Raises ModelFolderError when a file is missing, cut off or damaged, or a header contradicts itself.
    """

    def __init__(self, folder: Path) -> None:
        self._maps: list[tuple[int, int]] = []
        self._unmap = library().edge_unmap  # at the end of a process, modules may be gone before this object
        self.tensors: dict[str, StoredTensor] = {}
        try:
            for path in _files(folder):
                self._add(path)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> None:
        header, start, size = read_header(path)
        address = library().edge_map(os.fsencode(path), size)
        if not address:
            raise ModelFolderError(f"{path}: cannot be mapped into memory; is it being written, or memory short?")
        self._maps.append((address, size))
        for name, (dtype_name, shape, begin) in header.items():
            if name in self.tensors:
                raise ModelFolderError(f"{path}: tensor '{name}' stands in {self.tensors[name].file.name} too")
            dtype = _DTYPES.get(dtype_name, (0, 0))[0]
            self.tensors[name] = StoredTensor(name, path, dtype_name, dtype, shape, address + start + begin)

    def close(self) -> None:
        """Give the files back; nothing may use the tensors after this."""
        while self._maps:
            self._unmap(*self._maps.pop())
        self.tensors = {}


def read_header(path: Path) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], int, int]:
    """Type, shape and begin of each tensor; where the data starts; the size of the file.

    Every tensor lies inside the file, at an address that suits its type, has the bytes that its shape says, and shares
    none with another. Raises ModelFolderError.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
                raise ModelFolderError(f"{path}: no safetensors file, or cut off; copy it again")
            header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_duplicates)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path}: damaged header: {error}; copy the file again") from None
    if not isinstance(header, dict):
        raise ModelFolderError(f"{path}: damaged header: no JSON object; copy the file again")
    data = size - 8 - length
    result = {}
    ranges = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, begin, end = _entry(path, name, entry)
        itemsize = _DTYPES[dtype][1] if dtype in _DTYPES else _OTHERS.get(dtype, 0)
        if not itemsize:
            raise ModelFolderError(f"{path}: tensor '{name}' has the unknown type {dtype!r:.40}")
        if end > data or math.prod(shape) * itemsize != end - begin:
            raise ModelFolderError(f"{path}: tensor '{name}' does not fit its place in the file; copy the file again")
        if (8 + length + begin) % itemsize:
            raise ModelFolderError(f"{path}: tensor '{name}' is not aligned; save the model again with safetensors")
        ranges.append((begin, end, name))
        result[name] = (dtype, shape, begin)
    ranges.sort()
    for (_, end, name), (begin, _, other) in itertools.pairwise(ranges):
        if begin < end:
            raise ModelFolderError(f"{path}: tensors '{name}' and '{other}' overlap; copy the file again")
    return result, 8 + length, size


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if isinstance(entry, dict):
        dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
        if (
            isinstance(dtype, str)
            and isinstance(shape, list)
            and len(shape) <= 8
            and isinstance(offsets, list)
            and len(offsets) == 2
            and all(_is_size(number) for number in (*shape, *offsets))
            and offsets[0] <= offsets[1]
        ):
            return dtype, tuple(shape), offsets[0], offsets[1]
    raise ModelFolderError(f"{path}: tensor '{name:.60}': damaged entry in the header; copy the file again")


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 48


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise ModelFolderError(f"{folder / WEIGHTS}: missing: this folder has no weights")
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted(set(names))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise ModelFolderError(f"{index}: weight_map: an object of tensor and file names is needed") from None
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFolderError(f"{index}: weight_map names {name!r:.60}: a file of this folder is needed")
    return [folder / name for name in files]
