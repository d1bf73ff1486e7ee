"""Chat templates by name: the formats that well-known families of models were taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from smidgen.runtime.chat_template import DEFAULT_CHAT_TEMPLATE


@dataclass(frozen=True, slots=True)
class ChatStyle:
    """A template and the tokens that it needs in the vocabulary."""

    template: str
    """Jinja2 source."""
    tokens: tuple[str, ...]
    """Special tokens that it writes, beside the tokenizer's own bos and eos."""
    needs_bos: bool = False
    needs_eos: bool = False


_ALTERNATION = (
    "{%- for message in turns %}"
    "{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
    "{{- raise_exception('after the system message, turns of user and assistant must alternate') }}"
    "{%- endif %}"
    "{%- endfor %}"
)
_SYSTEM_APART = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}"
    "{%- else %}"
    "{%- set system = none %}{%- set turns = messages %}"
    "{%- endif %}"
)

_LLAMA2 = (
    _SYSTEM_APART + _ALTERNATION + "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}"
    "{{- bos_token + '[INST] ' }}"
    "{%- if loop.first and system is not none %}"
    "{{- '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}"
    "{%- endif %}"
    "{{- message['content'] | trim + ' [/INST]' }}"
    "{%- else %}"
    "{{- ' ' + message['content'] | trim + ' ' + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
)

_GEMMA = (
    "{{- bos_token }}" + _SYSTEM_APART + _ALTERNATION + "{%- for message in turns %}"
    "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
    "{%- if loop.first and system is not none %}{{- system + '\n\n' }}{%- endif %}"
    "{{- message['content'] | trim + '<end_of_turn>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
)

_DEEPSEEK = (
    "{{- bos_token }}" + _SYSTEM_APART + "{%- if system is not none %}{{- system }}{%- endif %}"
    "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}"
    "{{- '<｜User｜>' + message['content'] }}"
    "{%- elif message['role'] == 'assistant' %}"
    "{{- '<｜Assistant｜>' + message['content'] + eos_token }}"
    "{%- else %}"
    "{{- raise_exception('after the system message, turns are of user or assistant') }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"
)

CHAT_STYLES: Mapping[str, ChatStyle] = {
    "chatml": ChatStyle(DEFAULT_CHAT_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
    "llama2": ChatStyle(_LLAMA2, (), needs_bos=True, needs_eos=True),
    "gemma": ChatStyle(_GEMMA, ("<start_of_turn>", "<end_of_turn>"), needs_bos=True),
    "deepseek": ChatStyle(_DEEPSEEK, ("<｜User｜>", "<｜Assistant｜>"), needs_bos=True, needs_eos=True),
}
"""The styles by the names that `tuning.chat_template` takes."""
