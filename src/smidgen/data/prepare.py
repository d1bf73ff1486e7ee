"""From text to a dataset folder: survey the sources, train or load the tokenizer, encode, write, publish."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.data.dataset import TOKENIZER_FOLDER, Dataset
from smidgen.data.documents import Piece, TextUnit
from smidgen.data.encoding import encode_pieces
from smidgen.data.holdout import Holdout, Survey
from smidgen.data.manifest import (
    MANIFEST_NAME,
    Manifest,
    ShardRecord,
    SourceRecord,
    SplitName,
    TokenType,
    digest_of_request,
)
from smidgen.data.sources import Source, open_sources
from smidgen.data.writing import ShardWriter, check_replaceable, replaced_folder
from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

if TYPE_CHECKING:
    from smidgen.config import TokenizerConfig

logger = logging.getLogger(__name__)

DEFAULT_VOCAB_SIZE = 4096
"""Ids trained when `tokenizer.vocab_size` is left out: enough for a small corpus, and small heads."""

Progress = Callable[[str, int, int], None]
"""Told (stage, bytes of text done, bytes in all) often; stages are `reading`, `training the tokenizer`, `encoding`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The outcome of `prepare`."""

    dataset: Dataset
    manifest: Manifest
    already_prepared: bool
    """The folder was there, made of the same sources with the same options; nothing was done."""


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    tokenizer: TokenizerConfig,
    *,
    split_documents: TextUnit | None = None,
    field: str | None = None,
    documents: int | None = None,
    holdout: Holdout | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Turn text into the dataset folder `out`; the same input gives the same bytes.

    sources: files, folders, globs, or `storyworld`; see `sources.find_files`.
    tokenizer: with a path it is loaded, else trained, on the training documents only (characters: the alphabet of
        all documents, as nanoGPT does).
    split_documents: what a document of a text file is; the whole file if None. JSON Lines hold one a line.
    field: field of JSON Lines that holds the text; `text` if None.
    documents: training documents to draw from storyworld.
    holdout: how validation documents are chosen.
    seed: of the choice of validation documents, and of storyworld.
    overwrite: replace a dataset folder that was made of other sources or options.

    Each document ends with the tokenizer's end-of-text token. A tokenizer without one (characters) sees documents
    followed by what separated them in the file, so that their ids are those of the file.

    Raises DataError and TokenizerError naming file and line, value, and remedy. Whatever happens, `out` is either
    whole or as it was before.
    """
    if not 0 <= seed < 1 << 64:
        raise DataError(f"--seed {seed}: use a whole number from 0 to 2**64 - 1")
    holdout = holdout or Holdout()
    report = progress or (lambda stage, done, total: None)
    target = Path(out)
    replaces = check_replaceable(target)
    opened = open_sources(
        sources, split_documents=split_documents, field=field, documents=documents, holdout=holdout, seed=seed
    )
    loaded = _load(tokenizer)
    records = tuple(source.record() for source in opened)
    options = {
        "tokenizer": _requested(tokenizer, loaded),
        "split_documents": split_documents or "file",
        "field": field or "text",
        "val_fraction": holdout.fraction,
        "val_documents": holdout.documents,
        "val_split": holdout.method,
        "seed": seed,
    }
    if replaces and not overwrite:
        return _existing(target, digest_of_request(records, options))

    survey = _survey(opened, holdout, seed, records, report)

    def pieces() -> Iterator[Piece]:
        return survey.route(piece for source in opened for piece in source.pieces())

    used = loaded or _train(tokenizer, pieces, survey.bytes, report)
    with replaced_folder(target) as folder:
        manifest = _write(folder, used, pieces(), records, options, survey.bytes, report)
    return Prepared(Dataset.open(target), manifest, already_prepared=False)


def _existing(target: Path, request: str) -> Prepared:
    """What stands at `target`, if it is what would be made now."""
    try:
        manifest, dataset = Manifest.read(target), Dataset.open(target)
    except DataError as error:
        raise DataError(f"--out {target}: holds a damaged dataset, to be replaced with --overwrite: {error}") from None
    if manifest.request != request:
        raise DataError(
            f"--out {target}: holds a dataset of other sources or options; "
            "choose another --out, or replace it with --overwrite"
        )
    return Prepared(dataset, manifest, already_prepared=True)


def _load(config: TokenizerConfig) -> Tokenizer | None:
    """The tokenizer that `tokenizer.path` names, checked against the other fields; None when one is to be trained."""
    if config.path is None:
        return None
    from smidgen.tokenization import load_tokenizer

    tokenizer = load_tokenizer(config.path)
    if "kind" in config.model_fields_set and config.kind not in {"pretrained", tokenizer.kind}:
        raise DataError(
            f"tokenizer.kind = {config.kind}: {config.path} is of kind {tokenizer.kind}; leave one of the two out"
        )
    if config.vocab_size not in {None, tokenizer.vocab_size}:
        raise DataError(
            f"tokenizer.vocab_size = {config.vocab_size}: {config.path} has {tokenizer.vocab_size} ids; leave it out"
        )
    return tokenizer


def _requested(config: TokenizerConfig, loaded: Tokenizer | None) -> dict[str, Any]:
    if loaded is not None:
        return {"fingerprint": loaded.fingerprint}
    return {"kind": config.kind, "vocab_size": config.vocab_size}


def _survey(
    sources: Sequence[Source], holdout: Holdout, seed: int, records: Sequence[SourceRecord], report: Progress
) -> Survey:
    """Read everything once: bad input is found before any long work, and the choice of held-out documents is made."""
    survey = Survey(holdout, seed)
    total = sum(record.bytes or 0 for record in records)
    finished = 0
    for source, record in zip(sources, records, strict=True):
        documents, text_bytes = survey.all_documents, survey.bytes
        for piece in source.pieces():
            survey.add(piece)
            # Text is shorter than the JSON that holds it, so a file may end before its share is counted.
            done = finished + survey.bytes - text_bytes
            report("reading", done if record.bytes is None else min(done, finished + record.bytes), max(total, done))
        finished += record.bytes or 0
        if survey.all_documents == documents:
            logger.warning("%s: holds no text", record.name)
    if survey.all_documents == 0:
        raise DataError(f"{records[0].name}: holds no text{_others(records)}; name a source that does")
    survey.check()
    report("reading", total or survey.bytes, total or survey.bytes)
    return survey


def _others(records: Sequence[SourceRecord]) -> str:
    return f", nor do the other {len(records) - 1} files" if len(records) > 1 else ""


def _train(config: TokenizerConfig, pieces: Callable[[], Iterator[Piece]], total: int, report: Progress) -> Tokenizer:
    from smidgen.tokenization import train_tokenizer

    def texts() -> Iterator[str]:
        done = 0
        for piece in pieces():
            done += len(piece.text.encode())
            report("training the tokenizer", done, total)
            if config.kind == "characters":
                yield piece.text + piece.separator
            elif piece.split == "train":
                # Of a conversation only what is said: its markers are special tokens, not text to learn from.
                yield from (m["content"] for m in piece.messages) if piece.messages else (piece.text,)

    vocab_size = config.vocab_size
    if vocab_size is None and config.kind != "characters":
        vocab_size = DEFAULT_VOCAB_SIZE
    return train_tokenizer(config.kind, texts(), vocab_size)


def _write(
    folder: Path,
    tokenizer: Tokenizer,
    pieces: Iterator[Piece],
    records: tuple[SourceRecord, ...],
    options: dict[str, Any],
    total: int,
    report: Progress,
) -> Manifest:
    dtype: TokenType = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    names: tuple[SplitName, ...] = ("train", "val")
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(ShardWriter(folder, name, np.dtype(dtype).newbyteorder("<"), tokenizer.eos_id))
            for name in names
        }
        done = 0
        for encoded in encode_pieces(tokenizer, pieces):
            split = encoded.piece.split
            assert split is not None, "the survey routes every piece"
            writers[split].append(encoded.ids, encoded.num_bytes, encoded.piece.ends)
            done += len(encoded.piece.text.encode())
            report("encoding", done, total)
        splits: dict[SplitName, tuple[ShardRecord, ...]] = {
            name: (writer.finish(),) for name, writer in writers.items()
        }
    manifest = Manifest(
        dtype=dtype,
        vocab_size=tokenizer.vocab_size,
        tokenizer_kind=tokenizer.kind,
        tokenizer_fingerprint=tokenizer.fingerprint,
        eos_id=tokenizer.eos_id,
        splits=splits,
        sources=records,
        options=options,
    )
    tokenizer.save(folder / TOKENIZER_FOLDER)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest
