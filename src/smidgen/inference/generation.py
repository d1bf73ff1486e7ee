"""`smidgen.generate`: continue prompts with a decoder in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from smidgen.inference.engine import TorchEngine
from smidgen.model import Decoder
from smidgen.runtime.generation import default_length, encode_prompt, generate_texts
from smidgen.runtime.protocols import Tokenizer
from smidgen.runtime.sampling import SamplingParams

MAX_BATCH_SIZE = 16
"""Prompts that `generate` runs at once; more wait for a slot."""


@overload
def generate(model: Decoder, tokenizer: Tokenizer, prompt: str, **sampling: Any) -> str: ...
@overload
def generate(model: Decoder, tokenizer: Tokenizer, prompt: Sequence[str], **sampling: Any) -> list[str]: ...
def generate(model: Decoder, tokenizer: Tokenizer, prompt: str | Sequence[str], **sampling: Any) -> str | list[str]:
    """Continue a prompt, or several at once; returns the continuations, without the prompts.

    `sampling` are the fields of SamplingParams: `max_new_tokens` (see `default_length`), `temperature` (0: greedy),
    `top_k`, `top_p`, `min_p`, `repetition_penalty`, `no_repeat_ngram_size`, `stop` (a string or several), `seed` … An
    answer ends before a stop string, at the tokenizer's end token, or after `max_new_tokens`. With a seed, a prompt's
    answer does not depend on the other prompts. The model computes in its `compute_dtype` and is not changed.

    Raises SamplingError for parameters out of range, ContextLengthError when a prompt and its answer exceed the
    context. Each call prepares the model and a cache anew: a program that answers many requests keeps a TorchEngine
    and uses `smidgen.runtime.generation`.
    """
    for name in ("stop", "stop_token_ids"):
        if name in sampling:
            value = sampling[name]
            sampling[name] = (value,) if isinstance(value, str | int) else tuple(value)
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    ids = [encode_prompt(tokenizer, text) for text in prompts]
    params = SamplingParams(**{"max_new_tokens": default_length(model.config.max_seq_len, ids), **sampling})
    texts = [c.text for c in generate_texts(engine_for(model, tokenizer, ids, params), tokenizer, ids, params)]
    return texts[0] if isinstance(prompt, str) else texts


def engine_for(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    eos_ids: Sequence[int] | None = None,
) -> TorchEngine:
    """An engine whose cache is just large enough for these prompts (token ids) and their answers.

    `eos_ids`: the end tokens; left out, the tokenizer's.
    """
    if eos_ids is None:
        eos_ids = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    longest = max(map(len, prompts), default=0) + params.max_new_tokens
    return TorchEngine(
        model,
        eos_ids,
        max_batch_size=min(max(len(prompts), 1), MAX_BATCH_SIZE),
        # What does not fit the model is refused, prompt by prompt, when it is submitted.
        max_seq_len=min(longest, model.config.max_seq_len),
    )
