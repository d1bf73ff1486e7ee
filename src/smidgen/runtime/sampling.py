"""What a caller may ask of a generation. One definition for every engine."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from smidgen.runtime.errors import SmidgenError

Overflow = Literal["error", "slide"]
"""What happens to a request that would run out of context."""


class SamplingError(SmidgenError):
    """A sampling parameter is out of range."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token, and when to stop.

    The logits processors apply in this order, each as transformers defines it unless another source is named: logit
    bias, repetition penalty, frequency and presence penalty, no-repeat n-grams, temperature, top-k, top-p, min-p.
    `temperature == 0` is greedy: bias and penalties still apply, the filters cannot change the result.
    """

    max_new_tokens: int = 128
    """Upper bound on generated tokens, at least 1."""
    temperature: float = 1.0
    """Logits are divided by it; 0 means greedy."""
    top_k: int = 0
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Nucleus sampling: keep the smallest set whose probability reaches it, in (0, 1]."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as probable as the most probable one, in [0, 1]."""
    repetition_penalty: float = 1.0
    """Divide positive and multiply negative logits of tokens already in prompt or answer (CTRL, 2019)."""
    presence_penalty: float = 0.0
    """Subtracted from the logits of tokens that occur in the answer so far, in [-2, 2] (OpenAI's interface)."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it occurs in the answer so far, in [-2, 2] (OpenAI's interface)."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Pairs of a token id and a number that is added to its logit."""
    no_repeat_ngram_size: int = 0
    """Forbid any n-gram of this length to occur twice in prompt and answer; 0 is off."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer; the answer is cut before them."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the answer, beside the model's own end tokens."""
    ignore_eos: bool = False
    """Do not stop at the model's end tokens (benchmarks)."""
    seed: int | None = None
    """Seed of this request's own random generator; None draws one."""
    logprobs: int | None = None
    """Report the chosen token's log-probability and those of this many most probable tokens (0: chosen only)."""

    overflow: Overflow = "error"
    """When prompt and answer exceed the context: refuse the request, or let the oldest tokens leave."""

    def __post_init__(self) -> None:
        checks = [
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "between -2 and 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "between -2 and 2"),
            ("logit_bias", _is_bias(self.logit_bias), "pairs of a token id (each once) and a finite number"),
            ("overflow", self.overflow in get_args(Overflow), " or ".join(get_args(Overflow))),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 (off) or more"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more"),
            ("stop", not isinstance(self.stop, str) and all(self.stop), "a tuple of non-empty strings"),
        ]
        for name, valid, remedy in checks:
            if not valid:
                raise SamplingError(f"{name} = {getattr(self, name)!r}: use {remedy}")


def _is_bias(pairs: tuple[tuple[int, float], ...]) -> bool:
    return all(token >= 0 and isfinite(value) for token, value in pairs) and len(dict(pairs)) == len(pairs)
