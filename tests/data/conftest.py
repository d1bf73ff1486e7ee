"""A tokenizer small enough to check by hand, standing in for the real ones."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smidgen.runtime.errors import TokenizerError

MARKERS = {"<|im_start|>": 257, "<|im_end|>": 258}


class ByteTokenizer:
    """UTF-8 bytes, an end-of-text token (256), and ChatML's two markers."""

    kind = "byte_bpe"
    bos_id = None
    adds_bos = False
    pad_id = None
    eos_id = 256
    chat_template = None
    fingerprint = "bytes"
    vocab_size = 259
    special_tokens = {"<|endoftext|>": 256, **MARKERS}  # noqa: RUF012

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        if not special:
            return list(text.encode())
        parts = re.split(r"(<\|im_start\|>|<\|im_end\|>)", text)
        return [i for part in parts for i in ([MARKERS[part]] if part in MARKERS else part.encode())]

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        return [self.encode(text, bos, special) for text in texts]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return bytes(i for i in ids if i < 256).decode()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps({"kind": self.kind}))


class LetterTokenizer(ByteTokenizer):
    """The characters of a text, sorted; no end-of-text token."""

    kind = "characters"
    eos_id = None  # type: ignore[assignment]
    special_tokens = {}  # noqa: RUF012

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self.vocab_size = len(letters)
        self.fingerprint = hashlib.sha256(letters.encode()).hexdigest()

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        if unknown := set(text) - set(self.letters):
            raise TokenizerError(f"unknown characters {sorted(unknown)}")
        return [self.letters.index(letter) for letter in text]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return "".join(self.letters[i] for i in ids)

    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "letters.txt").write_text(self.letters)


@dataclass
class Workshop:
    """What the stand-ins were asked to do."""

    trained_on: list[str] = field(default_factory=list)

    def train(self, kind: str, texts: Iterable[str], vocab_size: int) -> ByteTokenizer:
        self.trained_on = list(texts)
        if kind == "characters":
            return LetterTokenizer("".join(sorted(set("".join(self.trained_on)))))
        return ByteTokenizer()

    def load(self, path: str | Path) -> ByteTokenizer:
        kind = json.loads((Path(path) / "tokenizer.json").read_text())["kind"]
        return LetterTokenizer((Path(path) / "letters.txt").read_text()) if kind == "characters" else ByteTokenizer()


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Put the stand-ins in the place of the real tokenizers."""
    workshop = Workshop()
    monkeypatch.setattr("smidgen.tokenization.train_tokenizer", workshop.train, raising=False)
    monkeypatch.setattr("smidgen.tokenization.load_tokenizer", workshop.load, raising=False)
    return workshop
