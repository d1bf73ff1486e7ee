"""Token files of other projects, read as they are: nanoGPT's raw uint16 and llm.c's with a 1,024-byte header."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.runtime.errors import DataError

_HEADER_BYTES = 1024
_EVALUATION_MAGIC = 20240522
_SAMPLE_BYTES = 1 << 16

_GPT2_EOS_ID = 50256
_LLAMA3_BOS_ID = 128000


@dataclass(frozen=True, slots=True)
class TokenFormat:
    """How the tokens of a foreign file are stored."""

    name: str
    dtype: np.dtype[Any]
    header_bytes: int
    separator_id: int | None
    """Token that stands between documents, as far as the format tells."""


_NANOGPT = TokenFormat("nanoGPT", np.dtype("<u2"), 0, _GPT2_EOS_ID)
_NANOGPT_OWN_VOCABULARY = TokenFormat("nanoGPT", np.dtype("<u2"), 0, None)
# llm.c, dev/data/data_common.py: 256 int32, of which magic, version and number of tokens are used.
_LLM_C = {
    (20240520, 1): TokenFormat("llm.c", np.dtype("<u2"), _HEADER_BYTES, _GPT2_EOS_ID),
    (20240801, 7): TokenFormat("llm.c", np.dtype("<u4"), _HEADER_BYTES, _LLAMA3_BOS_ID),
}
_LLM_C_MAGICS = {magic for magic, _ in _LLM_C}


def find_token_files(folder: Path) -> dict[str, list[Path]]:
    """The .bin files of `folder` whose names contain train, and val, each sorted.

    Raises DataError when either is missing.
    """
    files = sorted(folder.glob("*.bin"))
    splits = {name: [path for path in files if name in path.name] for name in ("train", "val")}
    if not any(splits.values()):
        raise DataError(
            f"{folder}: no dataset folder (neither dataset.json nor train*.bin and val*.bin); "
            f"make one with 'smidgen prepare SOURCE --out {folder}'"
        )
    for name, paths in splits.items():
        if not paths:
            raise DataError(f"{folder}: no *{name}*.bin beside the other split's; add that file")
    return splits


def open_token_files(paths: list[Path]) -> tuple[list[NDArray[Any]], TokenFormat]:
    """Memory maps of the files' tokens and the one format they share; raises DataError for a damaged file."""
    shards, formats = [], []
    for path in paths:
        tokens, token_format = _open(path)
        shards.append(tokens)
        formats.append(token_format)
        if token_format != formats[0]:
            raise DataError(f"{path}: of another format than {paths[0]}; keep one format in a folder")
    return shards, formats[0]


def fingerprint_files(paths: list[Path]) -> str:
    """sha256 over names, sizes, and the first and last 64 KiB of each: identity without reading everything."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def map_tokens(path: Path, dtype: np.dtype[Any], count: int, header_bytes: int = 0) -> NDArray[Any]:
    """A read-only memory map of exactly `count` tokens; raises DataError when the file has more or fewer bytes."""
    expected = header_bytes + count * dtype.itemsize
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: this token file is missing; prepare or copy the data again") from None
    if size != expected:
        kind = "truncated" if size < expected else "longer than recorded"
        raise DataError(
            f"{path}: {kind}: {size:,} bytes where {count:,} tokens take {expected:,}; prepare or copy the data again"
        )
    if count == 0:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r", offset=header_bytes, shape=(count,))


def _open(path: Path) -> tuple[NDArray[Any], TokenFormat]:
    size = path.stat().st_size
    with path.open("rb") as file:
        header = np.frombuffer(file.read(12), "<i4") if size >= 12 else np.zeros(3, "<i4")
    magic, version, count = (int(value) for value in header)
    if magic == _EVALUATION_MAGIC:
        raise DataError(f"{path}: holds llm.c's multiple-choice questions, not a token stream; remove it")
    if magic in _LLM_C_MAGICS:
        token_format = _LLM_C.get((magic, version))
        if token_format is None:
            raise DataError(f"{path}: llm.c's header has version {version}; known are 1 (GPT-2) and 7 (Llama 3)")
        if count <= 0:
            raise DataError(f"{path}: llm.c's header says {count} tokens; write the file again")
    else:
        # meta.pkl (characters, or other vocabularies of nanoGPT's recipes) is a pickle: never opened, only noticed.
        own_vocabulary = (path.parent / "meta.pkl").exists()
        token_format = _NANOGPT_OWN_VOCABULARY if own_vocabulary else _NANOGPT
        count, remainder = divmod(size, token_format.dtype.itemsize)
        if count == 0 or remainder:
            raise DataError(f"{path}: {size:,} bytes are no whole number of uint16 tokens; write or copy it again")
    return map_tokens(path, token_format.dtype, count, token_format.header_bytes), token_format
