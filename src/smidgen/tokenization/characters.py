"""One id a character, in sorted order: nanoGPT's character-level recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from smidgen.runtime.errors import TokenizerError
from smidgen.tokenization.base import ByteTokensMixin
from smidgen.tokenization.byte_bpe_files import Document
from smidgen.tokenization.files import TOKENIZER_JSON
from smidgen.tokenization.settings import TokenizerSettings
from smidgen.tokenization.special import TokenFinder
from smidgen.tokenization.texts import training_texts

_PRE_TOKENIZER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}


class CharacterTokenizer(ByteTokensMixin):
    """A vocabulary of single characters; a text with any other character is refused."""

    kind = "characters"

    def __init__(self, vocabulary: Mapping[str, int], special_tokens: Mapping[str, int], settings: TokenizerSettings):
        """`vocabulary`: ids of single characters; `special_tokens` have ids of their own."""
        super().__init__(settings, special_tokens)
        self._vocabulary = dict(vocabulary)
        self._finder = TokenFinder(special_tokens)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""
        return max([*self._vocabulary.values(), *self._special_tokens.values()]) + 1

    def token_to_id(self, token: str) -> int | None:
        """The id of a character or special token."""
        return self._special_tokens.get(token, self._vocabulary.get(token))

    def id_to_token(self, token: int) -> str | None:
        """The character or special token with this id."""
        data = self._table.get(token)
        return None if data is None else data.decode("utf-8")

    def _token_table(self) -> dict[int, bytes]:
        entries = {**self._vocabulary, **self._special_tokens}
        return {number: token.encode("utf-8") for token, number in entries.items()}

    def _encode(self, text: str, special: bool) -> list[int]:
        ids: list[int] = []
        try:
            for part in self._finder.split(text) if special else (text,):
                if isinstance(part, int):
                    ids.append(part)
                else:
                    ids += [self._vocabulary[character] for character in part]
        except KeyError as error:
            raise self._unknown_character(text, error.args[0]) from None
        return ids

    def _unknown_character(self, text: str, character: str) -> TokenizerError:
        return TokenizerError(
            f"character {character!r} (U+{ord(character):04X}) at position {text.index(character)}: not among the "
            f"{len(self._vocabulary)} characters of the tokenizer; leave it out, or train on text that has it"
        )

    def _extended(self, tokens: Mapping[str, int]) -> CharacterTokenizer:
        return CharacterTokenizer(self._vocabulary, {**self._special_tokens, **tokens}, self._settings)

    def _identity(self) -> Any:
        return [self.kind, self._vocabulary]

    def _files(self) -> dict[str, str | bytes]:
        return {
            **self._settings.files(),
            TOKENIZER_JSON: json.dumps(self._document(), ensure_ascii=False, indent=2) + "\n",
        }

    def _document(self) -> Document:
        properties = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {"id": number, "content": token, **properties} for token, number in self._special_tokens.items()
            ],
            "normalizer": None,
            "pre_tokenizer": _PRE_TOKENIZER,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            # The named unknown token does not exist: as here, an unknown character is an error.
            "model": {"type": "WordLevel", "vocab": self._vocabulary, "unk_token": "<unk>"},
        }


def from_document(document: Document, settings: TokenizerSettings) -> CharacterTokenizer | None:
    """The tokenizer in a tokenizer.json that was written here; None when it holds another kind."""
    model = document["model"]
    if (
        not isinstance(model, dict)
        or model.get("type") != "WordLevel"
        or document.get("pre_tokenizer") != _PRE_TOKENIZER
    ):
        return None
    special_tokens = {token["content"]: token["id"] for token in document.get("added_tokens") or ()}
    vocabulary = {token: number for token, number in model.get("vocab", {}).items() if token not in special_tokens}
    if any(len(token) != 1 for token in vocabulary):
        return None
    return CharacterTokenizer(vocabulary, special_tokens, settings)


def train_characters(
    texts: Iterable[str], vocab_size: int | None = None, eos_token: str | None = None
) -> CharacterTokenizer:
    """The characters of the texts in sorted order, from id 0. The texts are read once.

    vocab_size: a limit; more characters than that are an error. eos_token: a special token to add after them.
    """
    seen: set[str] = set()
    for text in training_texts(texts):
        seen.update(text)
    characters = sorted(seen)
    special_tokens = {} if eos_token is None else {eos_token: len(characters)}
    needed = len(characters) + len(special_tokens)
    if vocab_size is not None and needed > vocab_size:
        raise TokenizerError(
            f"vocab_size = {vocab_size}: the texts have {len(characters)} different characters; use at least {needed}, "
            "or a tokenizer of kind byte_bpe"
        )
    vocabulary = {character: number for number, character in enumerate(characters)}
    return CharacterTokenizer(vocabulary, special_tokens, TokenizerSettings(eos_token=eos_token))
