"""A dataset folder as training and evaluation see it: two token streams and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.foreign import find_token_files, fingerprint_files, map_tokens, open_token_files
from smidgen.data.manifest import MANIFEST_NAME, Manifest, ShardRecord, SplitName
from smidgen.data.tokens import Tokens
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

TOKENIZER_FOLDER = "tokenizer"


@dataclass(frozen=True, slots=True)
class Split:
    """One token stream, for training or validation."""

    name: SplitName
    tokens: Tokens
    """The ids; `tokens[a:b]` is a numpy array, and nothing else is read from disk."""
    document_offsets: NDArray[np.int64] | None
    """Start of every document and, last, the end of the stream; None when unknown (foreign files)."""
    num_bytes: int | None
    """UTF-8 bytes of the text; None when unknown."""
    eos_id: int | None
    """Token that ends documents, None if there is none."""
    vocab_size: int | None
    """Every id is below it; None when unknown."""
    mask: Tokens | None = None
    """Of conversations: 1 for each token that the assistant said, 0 elsewhere; uint8, as long as `tokens`."""

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int | None:
        return None if self.document_offsets is None else len(self.document_offsets) - 1

    def check_vocab(self, vocab_size: int) -> None:
        """Raise DataError unless every id is below `vocab_size`. Ids of unknown vocabularies are all read, once."""
        if self.vocab_size is None:
            self.tokens.check_vocab(vocab_size)
        elif self.vocab_size > vocab_size:
            raise DataError(
                f"model.vocab_size = {vocab_size}: the dataset's tokenizer has {self.vocab_size} ids; "
                f"set model.vocab_size to at least that, or prepare the data with the model's tokenizer"
            )


@dataclass(frozen=True, slots=True)
class Dataset:
    """The train and val splits of one folder. Token files stay on disk, memory-mapped."""

    path: Path
    train: Split
    val: Split
    dtype: np.dtype[Any]
    """uint16 or uint32, little-endian."""
    vocab_size: int | None
    """None for foreign files: they carry no vocabulary, so ids are checked against the model's."""
    tokenizer_fingerprint: str | None
    """None for foreign files."""
    fingerprint: str
    """Hex digest of the identity of the data: a resumed run compares it."""
    holds_pairs: bool = False
    """Documents alternate: an answer that is chosen, one that is rejected."""

    @classmethod
    def open(cls, path: str | Path) -> Dataset:
        """A folder that `prepare` wrote, one with nanoGPT's train.bin and val.bin, or one with llm.c's files.

        Raises DataError when the folder is none of these, or a file is missing, truncated or damaged.
        """
        folder = Path(path)
        if not folder.is_dir():
            kind = "is a file; name the folder that holds it" if folder.exists() else "no such folder"
            raise DataError(f"data.path = {folder}: {kind} ('smidgen prepare SOURCE --out DIR' makes a dataset folder)")
        if (folder / MANIFEST_NAME).is_file():
            return cls._open_own(folder, Manifest.read(folder))
        return cls._open_foreign(folder)

    @classmethod
    def _open_own(cls, folder: Path, manifest: Manifest) -> Dataset:
        dtype = np.dtype(manifest.dtype).newbyteorder("<")

        def split(name: SplitName) -> Split:
            records = manifest.splits[name]
            paths = [folder / record.file for record in records]
            shards = [map_tokens(path, dtype, record.tokens) for path, record in zip(paths, records, strict=True)]
            masks = [folder / record.mask for record in records if record.mask]
            return Split(
                name,
                Tokens(shards, paths),
                _read_offsets(folder, records),
                # The bytes that trained tokens stand for are not counted.
                None if masks else sum(record.bytes for record in records),
                manifest.eos_id,
                manifest.vocab_size,
                _masks(masks, records) if masks else None,
            )

        return cls(
            folder,
            split("train"),
            split("val"),
            dtype,
            manifest.vocab_size,
            manifest.tokenizer_fingerprint,
            manifest.fingerprint,
            holds_pairs=manifest.options.get("kind") == "preferences",
        )

    @classmethod
    def _open_foreign(cls, folder: Path) -> Dataset:
        files = find_token_files(folder)
        shards, token_format = open_token_files(files["train"] + files["val"])
        eos_id = token_format.separator_id
        cut = len(files["train"])
        train = Split("train", Tokens(shards[:cut], files["train"]), None, None, eos_id, None)
        val = Split("val", Tokens(shards[cut:], files["val"]), None, None, eos_id, None)
        fingerprint = fingerprint_files(files["train"] + files["val"])
        return cls(folder, train, val, token_format.dtype, None, None, fingerprint)

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the ids; None for foreign files, which carry none."""
        if self.tokenizer_fingerprint is None:
            return None
        from smidgen.tokenization import load_tokenizer

        tokenizer = load_tokenizer(self.path / TOKENIZER_FOLDER)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"{self.path / TOKENIZER_FOLDER}: not the tokenizer that made these tokens; prepare the data again"
            )
        return tokenizer


def _masks(paths: list[Path], records: tuple[ShardRecord, ...]) -> Tokens:
    counts = [record.tokens for record in records]
    return Tokens([map_tokens(path, np.dtype(np.uint8), n) for path, n in zip(paths, counts, strict=True)], paths)


def _read_offsets(folder: Path, records: tuple[ShardRecord, ...]) -> NDArray[np.int64]:
    """Document offsets of all shards in one array, counted from the start of the stream."""
    parts = []
    start = 0
    for record in records:
        path = folder / record.offsets
        try:
            offsets = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); prepare the data again") from None
        if offsets.dtype != np.int64 or offsets.shape != (record.documents + 1,) or offsets[-1] != record.tokens:
            raise DataError(f"{path}: does not match dataset.json; prepare the data again")
        parts.append(offsets if start == 0 else offsets[1:] + start)
        start += record.tokens
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
