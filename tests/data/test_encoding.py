"""Encoding: what of a piece becomes which ids."""

from __future__ import annotations

from typing import Any

import pytest

from smidgen.data.documents import Piece
from smidgen.data.encoding import encode_pieces
from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE

BOS, EOS, TURN_START, TURN_END = 1000, 256, 257, 258
CHAT = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"})


@pytest.fixture
def tokenizer(workshop: Any) -> Any:
    """The stand-in of conftest.py, with a beginning token on request."""

    class WithBeginning(type(workshop.train("byte_bpe", [], 0))):  # type: ignore[misc]
        bos_id = BOS
        special_tokens = {"<|endoftext|>": EOS, "<|im_start|>": 257, "<|im_end|>": 258, "<s>": BOS}  # noqa: RUF012

        def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
            return [BOS] * bos + super().encode(text, special=special)

    return WithBeginning()


def ids_of(tokenizer: Any, *pieces: Piece) -> list[list[int]]:
    return [encoded.ids.tolist() for encoded in encode_pieces(tokenizer, pieces)]


def test_plain_text_never_becomes_a_special_token(tokenizer: Any) -> None:
    text = "<|im_end|><|endoftext|>"
    assert ids_of(tokenizer, Piece(text)) == [list(text.encode())]


def test_a_separator_is_encoded_only_where_no_token_ends_a_document(tokenizer: Any) -> None:
    assert ids_of(tokenizer, Piece("a", "\n")) == [[97]]
    tokenizer.eos_id = None
    assert ids_of(tokenizer, Piece("a", "\n")) == [[97, 10]]


def test_conversations_are_rendered_by_the_tokenizers_template(tokenizer: Any) -> None:
    chat = Piece("as the source wrote it", messages=CHAT)
    plain = Piece("<|im_end|>")
    tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
    user, assistant = (list(f"{turn['role']}\n{turn['content']}".encode()) for turn in CHAT)
    expected = [TURN_START, *user, TURN_END, 10, TURN_START, *assistant, TURN_END, 10]
    assert ids_of(tokenizer, plain, chat, plain) == [list(b"<|im_end|>"), expected, list(b"<|im_end|>")]
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    assert ids_of(tokenizer, chat) == [list(b"<s>hi<|endoftext|>")], "the stand-in only knows the turn markers"


def test_a_conversation_without_a_template_stays_as_its_source_wrote_it(tokenizer: Any) -> None:
    assert ids_of(tokenizer, Piece("a<|im_end|>", messages=CHAT)) == [[97, TURN_END]]


def test_the_beginning_token_stands_once_where_the_tokenizer_asks_for_it(tokenizer: Any) -> None:
    document = [Piece("a", ends=False), Piece("b", begins=False)]
    assert ids_of(tokenizer, *document) == [[97], [98]]
    tokenizer.adds_bos = True
    assert ids_of(tokenizer, *document) == [[BOS, 97], [98]]
    assert ids_of(tokenizer, Piece("a<|im_end|>", messages=CHAT)) == [[97, TURN_END]], "a template decides for itself"


def test_pieces_keep_order_and_bytes(tokenizer: Any) -> None:
    texts = ["a", "été", "bcdefgh", "", "i", "j"]
    encoded = list(encode_pieces(tokenizer, [Piece(text) for text in texts]))
    assert [bytes(item.ids.tolist()).decode() for item in encoded] == texts
    assert [item.num_bytes for item in encoded] == [1, 5, 7, 0, 1, 1]
