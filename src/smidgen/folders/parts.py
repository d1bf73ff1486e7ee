"""Safetensors files that many processes fill, each with its parts of the tensors.

One process makes the file, with its header and its full size; then each writes what it holds where it belongs. The
result is, to the byte, the file that one process alone would write: no reader needs to know how many wrote it, and none
of them ever had the whole.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A block of a tensor."""

    offsets: tuple[int, ...]
    """Where it begins, by dimension."""
    values: Tensor
    """On the CPU, contiguous."""


def make_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file with room for tensors like these, which may be on the meta device; all zeros."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def write_parts(path: Path, parts: Mapping[str, Part]) -> None:
    """Put parts where they belong in a file that `make_file` made; they are on the disk when this returns.

    Rows that the file's tensor lacks, such as the padding of a vocabulary, are left out.
    """
    with path.open("r+b", buffering=0) as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name, part in parts.items():
            entry = header[name]
            shape, begin = entry["shape"], 8 + length + entry["data_offsets"][0]
            values = part.values[: max(0, shape[0] - part.offsets[0])] if shape else part.values
            _write_block(file.fileno(), begin, shape, part.offsets, values)
        os.fsync(file.fileno())


def read_part(file: Any, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """A block of a tensor of an open safetensors file (`safe_open`); rows that the file lacks are zeros."""
    stored = file.get_slice(name)
    if not sizes:
        whole: Tensor = file.get_tensor(name)
        return whole
    rows = max(0, min(sizes[0], stored.get_shape()[0] - offsets[0]))
    spans = [slice(offset, offset + size) for offset, size in zip(offsets, (rows, *sizes[1:]), strict=True)]
    if not rows or 0 in sizes:
        return torch.zeros(sizes)
    values: Tensor = stored[tuple(spans)]
    if rows < sizes[0]:
        values = torch.cat([values, values.new_zeros(sizes[0] - rows, *sizes[1:])])
    return values.contiguous()


def _write_block(descriptor: int, begin: int, shape: list[int], offsets: tuple[int, ...], values: Tensor) -> None:
    """Write a block of the tensor of `shape` whose first byte is `begin`, in as few pieces as it lies in."""
    if not shape:
        _write_all(descriptor, values, begin)
        return
    row = math.prod(shape[1:]) * values.element_size()
    begin += offsets[0] * row
    if list(values.shape[1:]) == shape[1:]:
        _write_all(descriptor, values, begin)
    else:
        for number, inner in enumerate(values):
            _write_block(descriptor, begin + number * row, shape[1:], offsets[1:], inner)


def _write_all(descriptor: int, values: Tensor, position: int) -> None:
    content = memoryview(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    while content:
        written = os.pwrite(descriptor, content, position)
        content, position = content[written:], position + written
