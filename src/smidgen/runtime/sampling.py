"""What a caller may ask of a generation. One definition for every engine."""

from __future__ import annotations

from dataclasses import dataclass

from smidgen.runtime.errors import SmidgenError


class SamplingError(SmidgenError):
    """A sampling parameter is out of range."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token, and when to stop.

    The logits processors apply in this order, each as transformers defines it: repetition penalty, no-repeat
    n-grams, temperature, top-k, top-p, min-p. `temperature == 0` is greedy: the penalties still apply, the
    filters cannot change the result.
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

    def __post_init__(self) -> None:
        checks = [
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "above 0"),
            ("no_repeat_ngram_size", self.no_repeat_ngram_size >= 0, "0 (off) or more"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more"),
            ("stop", not isinstance(self.stop, str) and all(self.stop), "a tuple of non-empty strings"),
        ]
        for name, valid, remedy in checks:
            if not valid:
                raise SamplingError(f"{name} = {getattr(self, name)!r}: use {remedy}")
