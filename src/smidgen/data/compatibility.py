"""Whether tokens and a model mean the same thing by an id."""

from __future__ import annotations

from typing import Protocol

from smidgen.runtime.errors import DataError
from smidgen.runtime.protocols import Tokenizer

_SHOWN_DIGITS = 12


class Tokenized(Protocol):
    """Tokens on disk: a `Dataset` or a `DatasetMixture`."""

    @property
    def tokenizer_fingerprint(self) -> str | None:
        """None where it is not known."""

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that made the ids."""


def check_tokenizer(data: Tokenized, name: object, tokenizer: Tokenizer, model: object) -> None:
    """Raise DataError, naming both, unless the data was made by the model's tokenizer.

    `name` is the data's folder and `model` what the user calls the model. Foreign files, which name no tokenizer, pass.
    """
    if data.tokenizer_fingerprint in {None, tokenizer.fingerprint}:
        return
    theirs = data.tokenizer()
    assert theirs is not None
    raise DataError(
        f"{name}: was prepared with another tokenizer ({_describe(theirs)}) than that of {model} "
        f"({_describe(tokenizer)}); prepare the text again with --tokenizer.path {model}"
    )


def _describe(tokenizer: Tokenizer) -> str:
    return f"{tokenizer.kind}, {tokenizer.vocab_size} ids, fingerprint {tokenizer.fingerprint[:_SHOWN_DIGITS]}"
