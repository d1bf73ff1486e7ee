"""A base's tokenizer made fit for chats: its template, and the tokens that the template needs."""

from __future__ import annotations

from pathlib import Path

from smidgen.runtime.chat_styles import CHAT_STYLES
from smidgen.runtime.chat_template import ChatTemplateError
from smidgen.runtime.errors import ConfigError
from smidgen.runtime.generation import end_of_turn_ids
from smidgen.tokenization.base import BaseTokenizer


def chat_tokenizer(tokenizer: BaseTokenizer, template: str | None) -> BaseTokenizer:
    """The tokenizer with the chat template that `template` names.

    template: a name of `CHAT_STYLES`, a file of Jinja2, or None for the tokenizer's own, else chatml. Markers of a
    named style that the vocabulary lacks become special tokens with new ids: written out as ordinary text they could
    be forged by a message, and an end marker of several tokens ends no answer.
    Raises ConfigError for a template that is none, needs a bos or eos token that there is not, or lets the assistant's
    turn end without a special token: a model could not learn to stop.
    """
    if template is None and tokenizer.chat_template is not None:
        result, named = tokenizer, "the base's"
    elif template is None or template in CHAT_STYLES:
        named = template or "chatml"
        style = CHAT_STYLES[named]
        for token, is_missing in {
            "bos": style.needs_bos and tokenizer.bos_id is None,
            "eos": style.needs_eos and tokenizer.eos_id is None,
        }.items():
            if is_missing:
                raise ConfigError(
                    f"tuning.chat_template = {named}: needs a {token} token, which the tokenizer lacks; use chatml"
                )
        result = tokenizer.with_special_tokens(style.tokens).with_chat_template(style.template)
    else:
        named = template
        try:
            source = Path(template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ConfigError(
                f"tuning.chat_template = {template}: neither {', '.join(CHAT_STYLES)} nor a readable file"
            ) from None
        result = tokenizer.with_chat_template(source)
    try:
        ends = end_of_turn_ids(result)
    except ChatTemplateError as error:
        raise ConfigError(f"tuning.chat_template = {named}: {error}") from None
    if not ends:
        raise ConfigError(
            f"tuning.chat_template = {named}: the assistant's turn ends with no special token, so that a model could "
            "not learn to stop; use one that writes eos_token there, or chatml"
        )
    return result
