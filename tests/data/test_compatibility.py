from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from smidgen.data.compatibility import check_tokenizer
from smidgen.runtime.errors import DataError


@dataclass
class Named:
    """A tokenizer, as far as the check looks at it."""

    fingerprint: str
    kind: str = "byte_bpe"
    vocab_size: int = 300


@dataclass
class Tokens:
    made_by: Named | None

    @property
    def tokenizer_fingerprint(self) -> str | None:
        return self.made_by.fingerprint if self.made_by else None

    def tokenizer(self) -> Any:
        return self.made_by


def test_the_models_own_tokenizer_and_unknown_ones_pass() -> None:
    tokenizer: Any = Named("abc")
    check_tokenizer(Tokens(Named("abc")), "data", tokenizer, "runs/demo")
    check_tokenizer(Tokens(None), "data", tokenizer, "runs/demo")


def test_another_tokenizer_is_refused_in_a_line_that_names_both() -> None:
    tokenizer: Any = Named("0123456789abcdef")
    with pytest.raises(DataError) as raised:
        check_tokenizer(Tokens(Named("fedcba9876543210", "sentencepiece", 500)), "data", tokenizer, "runs/demo")
    assert str(raised.value) == (
        "data: was prepared with another tokenizer (sentencepiece, 500 ids, fingerprint fedcba987654) than that of "
        "runs/demo (byte_bpe, 300 ids, fingerprint 0123456789ab); prepare the text again with "
        "--tokenizer.path runs/demo"
    )
