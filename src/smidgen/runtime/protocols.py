"""The contracts between parts: what a tokenizer and an engine are. No torch, no pydantic here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from smidgen.runtime.sampling import SamplingParams

FinishReason = Literal["stop", "length", "cancelled"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids and back. Loading and encoding need no torch."""

    kind: str
    """`byte_bpe`, `sentencepiece`, `characters` or `pretrained`."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: every id is in [0, vocab_size)."""

    @property
    def bos_id(self) -> int | None:
        """Token that begins a document, if the tokenizer has one."""

    @property
    def adds_bos(self) -> bool:
        """Whether texts begin with `bos_id` where the model was trained (Llama's convention)."""

    @property
    def eos_id(self) -> int | None:
        """Token that ends a document (end of text)."""

    @property
    def pad_id(self) -> int | None:
        """Padding token. Padding is masked by position, never by this id."""

    @property
    def special_tokens(self) -> dict[str, int]:
        """Text of every special token, with its id."""

    @property
    def chat_template(self) -> str | None:
        """Jinja2 source that renders messages to text, if the tokenizer carries one."""

    @property
    def fingerprint(self) -> str:
        """Hex digest over everything that decides ids: two tokenizers with equal fingerprints encode alike."""

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        """Token ids of `text`. `special` makes text that spells a special token become that token."""

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        """`encode` of each text, on all cores where the engine can."""

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD."""

    def save(self, folder: Path) -> None:
        """Write the files transformers' AutoTokenizer reads: tokenizer.json or tokenizer.model, and its config."""


@dataclass(frozen=True, slots=True)
class Event:
    """One token of one request, or its end."""

    request: int
    """What `submit` returned."""
    token: int | None
    """The new token; None when the request ended without one (cancelled). End tokens are reported too."""
    finish_reason: FinishReason | None = None
    """Set on the last event of a request: an end token, the length limit, or `cancel`."""
    logprob: float | None = None
    """Log-probability of `token` under the model, before temperature and filters (if asked for)."""
    top_logprobs: tuple[tuple[int, float], ...] = ()
    """The most probable tokens with their log-probabilities (if asked for)."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts about the loaded model that callers of an engine need."""

    engine: str
    vocab_size: int
    max_seq_len: int
    eos_ids: tuple[int, ...]
    num_parameters: int
    max_batch_size: int


class Engine(Protocol):
    """Runs a model for many requests at once. Batching, caches and sampling live behind it."""

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, ids: Sequence[int], params: SamplingParams) -> int:
        """Queue a prompt of at least one token; returns the request's number.

        Raises ContextLengthError when prompt and `max_new_tokens` exceed the context.
        """

    def step(self) -> list[Event]:
        """One iteration over all active requests; at most one new token a request.

        Empty when nothing is active, or when all that was read were parts of prompts. It takes no longer than a pass,
        so that a request that is cancelled between two steps ends within a token.
        """

    def cancel(self, request: int) -> None:
        """End a request; its last event comes with the next `step`. Unknown or finished requests are ignored."""
