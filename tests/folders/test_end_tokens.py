"""Which tokens end an answer, as a folder says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smidgen.folders.end_tokens import end_tokens, end_tokens_of
from smidgen.runtime.errors import ModelFolderError
from smidgen.tokenization import BaseTokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> BaseTokenizer:
    return train_tokenizer("byte_bpe", ["a text"], 260)


@pytest.mark.parametrize(("value", "more"), [(None, ()), (7, (7,)), ([7, 5], (7, 5)), ([], ())])
def test_the_tokenizers_own_comes_first(
    tmp_path: Path, tokenizer: BaseTokenizer, value: object, more: tuple[int, ...]
) -> None:
    assert end_tokens(tmp_path, tokenizer) == (tokenizer.eos_id,)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    assert end_tokens(tmp_path, tokenizer) == (tokenizer.eos_id, *more)


@pytest.mark.parametrize("value", [1.5, "2", [1, "a"], True, -1, {}])
def test_what_is_no_id_is_refused(tmp_path: Path, tokenizer: BaseTokenizer, value: object) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(ModelFolderError, match=r"generation_config.json: eos_token_id = .*: an id or a list of ids"):
        end_tokens(tmp_path, tokenizer)


def test_a_preset_has_none(tokenizer: BaseTokenizer) -> None:
    assert end_tokens_of("elite-tiny", tokenizer) == ()
