"""Conversations as the model will see them: every token, and whether it is learned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.data.conversations.masking import MaskedTokens
    from smidgen.tokenization import BaseTokenizer

_LEARNED, _OTHER, _PLAIN = ("\033[30;42m", "\033[30;102m"), ("\033[2m", "\033[2;4m"), "\033[0m"
"""Two colours each, which take turns so that the borders of tokens show."""


def preview(config: Config, sources: list[str], count: int) -> None:
    """Print the first conversations of each source; raises DataError where one teaches nothing."""
    from itertools import islice

    from smidgen.data.conversations.folder import encoded
    from smidgen.data.conversations.masking import ChatEncoder
    from smidgen.data.conversations.reading import read_conversations
    from smidgen.data.documents import BadRecord
    from smidgen.runtime.chat_template import ChatTemplateError
    from smidgen.runtime.errors import DataError, TokenizerError
    from smidgen.tuning.run import base_tokenizer

    tokenizer = base_tokenizer(config)
    encoder = ChatEncoder(tokenizer)
    for source in sources:
        for found in islice(read_conversations(source), count):
            if isinstance(found.value, BadRecord):
                raise DataError(found.value.describe(found.source))
            try:
                (tokens,) = encoded(encoder, found.value)
            except (ChatTemplateError, TokenizerError) as error:
                raise DataError(f"{found.where}: {error}") from None
            learned = int(tokens.mask.sum())
            print(f"{found.where}: {len(tokens.ids)} tokens, {learned} of them learned")
            print("".join(_painted(tokenizer, tokens, sys.stdout.isatty())))
            print()
    if not sys.stdout.isatty():
        print("Learned tokens stand in ⟦ ⟧, each apart by ·")


def _painted(tokenizer: BaseTokenizer, tokens: MaskedTokens, in_colour: bool) -> Iterator[str]:
    inside = False
    for number, (token, is_learned) in enumerate(zip(tokens.ids.tolist(), tokens.mask.tolist(), strict=True)):
        text = tokenizer.decode([token])
        if in_colour:
            colour = (_LEARNED if is_learned else _OTHER)[number % 2]
            # A line break inside a colour would paint the rest of the line.
            yield "\n".join(f"{colour}{part}{_PLAIN}" if part else "" for part in text.replace("\n", "↵\n").split("\n"))
        else:
            border = "⟦" if is_learned and not inside else "⟧" if inside and not is_learned else "·" if inside else ""
            yield border + text
            inside = is_learned
    if inside and not in_colour:
        yield "⟧"
