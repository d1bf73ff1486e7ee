"""Dataset folders of conversations: tokens, and beside them a mask of what the assistant said.

    dataset.json  tokenizer/  train-00000.bin  train-00000.offsets.npy  train-00000.mask   and the same for val

A mask holds a byte for each token: 1 where it is the assistant's, 0 elsewhere. In a folder of pairs documents
alternate: chosen, rejected.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from smidgen.data.conversations.masking import ChatEncoder, MaskedTokens
from smidgen.data.conversations.reading import (
    DEFAULT_CHATS,
    Found,
    describe_source,
    read_conversations,
    read_preferences,
    split_sources,
)
from smidgen.data.conversations.schema import Messages, Preference
from smidgen.data.dataset import TOKENIZER_FOLDER, Dataset
from smidgen.data.documents import BadRecord
from smidgen.data.manifest import Manifest, ShardRecord, SplitName, digest_of_request
from smidgen.data.pipeline.results import BadInput, describe
from smidgen.data.writing import check_replaceable, empty_folder, partial_folder, publish
from smidgen.runtime.chat_template import ChatTemplateError
from smidgen.runtime.errors import DataError, TokenizerError
from smidgen.tokenization.base import BaseTokenizer

logger = logging.getLogger(__name__)

Kind = Literal["conversations", "preferences"]


@dataclass(frozen=True, slots=True)
class PreparedConversations:
    """A folder of conversations or pairs, and what became of the records."""

    dataset: Dataset
    manifest: Manifest
    already_prepared: bool

    @property
    def trained_tokens(self) -> int:
        """Tokens of the training split that the assistant said."""
        return int(self.manifest.options["trained_tokens"])


def prepare_conversations(
    sources: Sequence[str | Path],
    out: str | Path,
    tokenizer: BaseTokenizer,
    *,
    kind: Kind = "conversations",
    val_sources: Sequence[str | Path] = (),
    val_fraction: float = 0.02,
    documents: int = DEFAULT_CHATS,
    strict: bool = False,
) -> PreparedConversations:
    """Make the dataset folder `out` of the conversations (or pairs) in `sources`; the same input gives the same bytes.

    tokenizer: with a chat template, see `chat_tokenizer`. val_sources: held out whole; without them val_fraction of the
    conversations is, chosen by their first messages, so that equal prompts stay together. documents: training chats of
    the source storyworld, which brings validation chats of its own. strict: the first unusable record is an error.

    Raises DataError where nothing usable is found, where no token is the assistant's or all are.
    """
    names, val_names = split_sources(sources), list(dict.fromkeys(map(str, val_sources)))
    if not 0 <= val_fraction < 1:
        raise DataError(f"--val-fraction {val_fraction}: use a share from 0 to below 1")
    target = Path(out)
    records = [record for name in [*names, *val_names] for record in describe_source(name, documents)]
    request = {
        "kind": kind,
        "tokenizer": tokenizer.fingerprint,
        "chat_template": tokenizer.chat_template,
        "val_sources": val_names,
        "val_fraction": val_fraction,
    }
    wanted = digest_of_request(records, request)
    if check_replaceable(target):
        existing = Manifest.read(target)
        if existing.options.get("request") == wanted:
            return PreparedConversations(Dataset.open(target), existing, already_prepared=True)
    with partial_folder(target) as folder:
        empty_folder(folder)
        writer = _Writer(folder, tokenizer, kind, strict)
        for name in names:
            for found in _read(name, kind, documents):
                writer.add(found, found.split or _side(found, 0.0 if val_names else val_fraction))
        for name in val_names:
            for found in _read(name, kind, documents):
                writer.add(found, "val")
        splits = writer.finish()
        options = {**request, "request": wanted, "trained_tokens": writer.trained["train"]}
        manifest = Manifest(
            dtype=writer.dtype,
            vocab_size=tokenizer.vocab_size,
            tokenizer_kind=tokenizer.kind,
            tokenizer_fingerprint=tokenizer.fingerprint,
            eos_id=tokenizer.eos_id,
            splits=splits,
            sources=tuple(records),
            options=options,
            bad_input=writer.bad.to_json(),
        )
        tokenizer.save(folder / TOKENIZER_FOLDER)
        (folder / "dataset.json").write_text(manifest.to_json(), encoding="utf-8")
        publish(folder, target)
    return PreparedConversations(Dataset.open(target), manifest, already_prepared=False)


def encoded(encoder: ChatEncoder, value: Messages | Preference) -> list[MaskedTokens]:
    """The documents of a conversation or pair. Raises ChatTemplateError where it teaches nothing."""
    if isinstance(value, Preference):
        return [
            _checked(encoder.encode((*value.prompt, *answer), only_last=True))
            for answer in (value.chosen, value.rejected)
        ]
    return [_checked(encoder.encode(value))]


def _checked(tokens: MaskedTokens) -> MaskedTokens:
    if not tokens.mask.any():
        raise ChatTemplateError("no token is the assistant's")
    if tokens.mask.all():
        raise ChatTemplateError("every token is the assistant's: the prompt is missing")
    return tokens


def _read(name: str, kind: Kind, documents: int) -> Iterator[Found]:
    return read_conversations(name, documents) if kind == "conversations" else read_preferences(name)


def _side(found: Found, val_fraction: float) -> SplitName:
    """Where a conversation belongs, by what it begins with."""
    if isinstance(found.value, BadRecord):
        return "train"
    prompt = found.value.prompt if isinstance(found.value, Preference) else found.value[:-1]
    first = next((message for message in prompt if message["role"] == "user"), prompt[0])
    digest = hashlib.sha256(json.dumps(dict(first), sort_keys=True).encode()).digest()
    return "val" if int.from_bytes(digest[:8], "big") < val_fraction * 2**64 else "train"


class _Writer:
    """Writes the files of both splits as conversations come."""

    def __init__(self, folder: Path, tokenizer: BaseTokenizer, kind: Kind, strict: bool) -> None:
        self.folder, self.strict = folder, strict
        self.encoder = ChatEncoder(tokenizer)
        self.dtype: Literal["uint16", "uint32"] = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        self.bad = BadInput()
        self.trained: Counter[str] = Counter()
        self.splits = {name: _SplitFiles(folder, name, np.dtype(self.dtype)) for name in ("train", "val")}

    def add(self, found: Found, split: SplitName) -> None:
        """Write one conversation, or count why it cannot be."""
        if isinstance(found.value, BadRecord):
            self._refuse(found.value, found.source)
            return
        try:
            documents = encoded(self.encoder, found.value)
        except (ChatTemplateError, TokenizerError) as error:
            kind = "template" if isinstance(error, ChatTemplateError) else "tokenizer"
            self._refuse(BadRecord(kind, str(error), found.position, found.unit), found.source)
            return
        for tokens in documents:
            self.trained[split] += int(tokens.mask.sum())
            self.splits[split].add(tokens)

    def finish(self) -> dict[SplitName, tuple[ShardRecord, ...]]:
        """Close the files; raises DataError where there is nothing to train on."""
        for kind, count in self.bad.counts.items():
            logger.warning("%d records left out (%s), such as: %s", count, kind, describe(self.bad.examples[kind][0]))
        splits: dict[SplitName, tuple[ShardRecord, ...]] = {
            cast(SplitName, name): (files.finish(),) for name, files in self.splits.items()
        }
        if not splits["train"][0].documents:
            first = self.bad.first()
            raise DataError("no conversation to train on" if first is None else f"no conversation to train on: {first}")
        if not splits["val"][0].documents:
            logger.warning("no conversation is held out: no validation loss; name some with --val-data")
        return splits

    def _refuse(self, record: BadRecord, source: str) -> None:
        if self.strict:
            raise DataError(record.describe(source))
        self.bad.add(record, source)


@dataclass(slots=True)
class _SplitFiles:
    folder: Path
    name: str
    dtype: np.dtype[Any]
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    num_bytes: int = 0
    _files: dict[str, BinaryIO] = field(default_factory=dict)
    _digests: dict[str, Any] = field(default_factory=dict)

    def add(self, tokens: MaskedTokens) -> None:
        self._write("bin", tokens.ids.astype(self.dtype.newbyteorder("<")).tobytes())
        self._write("mask", tokens.mask.astype(np.uint8).tobytes())
        self.offsets.append(self.offsets[-1] + len(tokens.ids))

    def finish(self) -> ShardRecord:
        for ending in ("bin", "mask"):
            self._write(ending, b"")
            self._files[ending].close()
        np.save(self.folder / self._named("offsets.npy"), np.frombuffer(self.offsets, np.int64))
        return ShardRecord(
            file=self._named("bin"),
            offsets=self._named("offsets.npy"),
            tokens=self.offsets[-1],
            documents=len(self.offsets) - 1,
            bytes=0,
            sha256=self._digests["bin"].hexdigest(),
            mask=self._named("mask"),
            mask_sha256=self._digests["mask"].hexdigest(),
        )

    def _named(self, ending: str) -> str:
        return f"{self.name}-00000.{ending}"

    def _write(self, ending: str, data: bytes) -> None:
        if ending not in self._files:
            self._files[ending] = (self.folder / self._named(ending)).open("wb")
            self._digests[ending] = hashlib.sha256()
        self._files[ending].write(data)
        self._digests[ending].update(data)
