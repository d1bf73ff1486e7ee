"""Smidgen's models as lm-evaluation-harness's language model.

Texts become tokens as its `hf` model does it, so results on one folder are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from smidgen.evaluation.likelihood import ForwardLogits, Logits, TorchLogits, score_continuations
from smidgen.runtime.chat_template import ChatTemplateError, boundary_texts, render_chat
from smidgen.runtime.errors import MissingDependencyError, SmidgenError
from smidgen.runtime.generation import generate_texts
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams

try:
    import lm_eval.models  # noqa: F401 (its own models, which it registers only while there are none)
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "lm_eval":
        raise
    raise MissingDependencyError("lm-eval", "eval", "lm-evaluation-harness") from None

_LONGEST_ANSWER = 256
"""Tokens of an answer where a task names no number, as in lm_eval's `hf`."""
_UNDERSTOOD = {"until", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens", "do_sample"}
_SAMPLING = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float}


@register_model("smidgen")
class SmidgenLM(TemplateLM):
    """A MODEL argument of Smidgen as lm_eval's language model.

    `pretrained`: the MODEL. `engine`: torch or edge. `max_length`: of context and continuation together (the model's
    context if left out). `dtype`: fp32 or bf16. `add_bos_token`: put the begin-of-text token before texts; left out,
    where the tokenizer's folder asks for it.
    """

    def __init__(
        self,
        pretrained: str,
        engine: str = "torch",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "fp32",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__()
        if engine not in ("torch", "edge"):
            raise SmidgenError(f"engine = {engine}: use torch or edge")
        names = {"fp32": "fp32", "float32": "fp32", "auto": "fp32", "bf16": "bf16", "bfloat16": "bf16"}
        if dtype not in names:
            raise SmidgenError(f"dtype = {dtype}: use fp32 or bf16")
        # "auto" asks for the largest batch that fits: eight is what the engines hold by default.
        self._batch_size = int(batch_size) if str(batch_size).isdigit() else max_batch_size or 8
        self._name = pretrained
        self._engine, self._tokens, self._logits = _open(
            pretrained, engine, self._batch_size, device or "auto", names[dtype], threads
        )
        context = self._engine.info.max_seq_len
        if max_length is not None and not 1 <= max_length <= context:
            raise SmidgenError(f"max_length = {max_length}: use 1 to the model's context of {context}")
        self.max_length = max_length or context
        self._add_bos = self._tokens.adds_bos if add_bos_token is None else add_bos_token

    @property
    def tokenizer(self) -> Tokenizer:
        """What lm_eval asks for a chat template."""
        return self._tokens

    @property
    def tokenizer_name(self) -> str:
        return self._name.replace("/", "__")

    @property
    def batch_size(self) -> int:
        return self._batch_size

    @property
    def max_gen_toks(self) -> int:
        return _LONGEST_ANSWER

    @property
    def eot_token_id(self) -> int:
        if self._tokens.eos_id is None:
            raise SmidgenError(f"{self._name}: its tokenizer has no end-of-text token, which lm_eval begins texts with")
        return self._tokens.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context: begin-of-text, else end-of-text."""
        return self.eot_token_id if self._tokens.bos_id is None else self._tokens.bos_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; text that spells a special token becomes it, as chat templates need."""
        first = self._tokens.decode([self.prefix_token_id])
        bos = self._add_bos if add_special_tokens is None else add_special_tokens and self._tokens.adds_bos
        if add_special_tokens is None and first and string.startswith(first):
            bos = False
        ids = self._tokens.encode(string, special=True)
        return [self._tokens.bos_id, *ids] if bos and self._tokens.bos_id is not None else ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is what greedy decoding would give."""
        # The longest first: what does not fit the memory fails at once, and batches hold sequences of like length.
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index][1]) - len(requests[index][2]))
        scored: Iterator[Any] = score_continuations(self._bounded(), [requests[index][1:] for index in order])
        results: dict[int, tuple[float, bool]] = {}
        for index, found in zip(order, scored, strict=True):
            results[index] = (found.total, found.greedy)
            if requests[index][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[index][0], results[index])
        return [results[index] for index in range(len(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows as lm_eval cuts them."""
        totals = []
        for (text,) in (request.args for request in requests):
            windows = utils.get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            cut = [(None, *utils.make_disjoint_window(window)) for window in windows]
            total = sum(value for value, _ in self._loglikelihood_tokens(cut))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            totals.append(total)
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to a stop string, the end token, or the task's number of tokens."""
        prompts, params = [], []
        for context, arguments in (request.args for request in requests):
            own = self._sampling(arguments)
            room = self.max_length - own.max_new_tokens
            if room < 1:
                raise SmidgenError(
                    f"max_gen_toks = {own.max_new_tokens}: leaves no room for a prompt in a context of "
                    f"{self.max_length} tokens; give the task fewer"
                )
            # Too long a prompt loses its beginning, as with `hf`.
            prompts.append(self.tok_encode(context)[-room:] or [self.prefix_token_id])
            params.append(own)
        texts = [completion.text for completion in generate_texts(self._engine, self._tokens, prompts, params)]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text of a conversation; without a generation prompt, the last turn is left open to be continued."""
        template = self._tokens.chat_template
        if template is None:
            raise ChatTemplateError(f"{self._name}: has no chat template; leave out --apply_chat_template")
        text = render_chat(template, chat_history, add_generation_prompt, *boundary_texts(self._tokens))
        if not add_generation_prompt:
            last = chat_history[-1]["content"].strip()
            text = text[: text.rindex(last) + len(last)]
        return text

    def _bounded(self) -> Logits:
        return _Bounded(self._logits, self.max_length)

    def _sampling(self, arguments: dict[str, Any]) -> SamplingParams:
        until = arguments.get("until") or []
        limits = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
        limit = next((arguments[name] for name in limits if arguments.get(name) is not None), _LONGEST_ANSWER)
        values = {name: kind(arguments[name]) for name, kind in _SAMPLING.items() if arguments.get(name) is not None}
        if not arguments.get("do_sample"):
            values["temperature"] = 0.0
        for name in arguments.keys() - _UNDERSTOOD - _SAMPLING.keys():
            raise SmidgenError(f"generation_kwargs.{name}: unknown here; leave it out, or use lm_eval's hf model")
        stop = tuple(text for text in ([until] if isinstance(until, str) else until) if text)
        return SamplingParams(max_new_tokens=int(limit), stop=stop, **values)


class _Bounded:
    """Logits with a context shorter than the model's."""

    def __init__(self, logits: Logits, max_seq_len: int) -> None:
        self._logits = logits
        self.max_seq_len = max_seq_len

    def last_rows(self, sequences: Sequence[Sequence[int]], counts: Sequence[int]) -> Iterator[Any]:
        return self._logits.last_rows(sequences, counts)


def _open(
    model: str, engine: str, batch_size: int, device: str, precision: str, threads: int | None
) -> tuple[Engine, Tokenizer, Logits]:
    """The engine for generation, the tokenizer, and what scores texts."""
    if engine == "edge":
        import importlib

        edge = importlib.import_module("smidgen.edge")
        from smidgen.folders import load_tokenizer, resolve

        folder = resolve(model).folder
        options = {} if threads is None else {"threads": threads}
        opened = edge.load(str(folder), max_batch_size=batch_size, **options)
        return opened, load_tokenizer(model), ForwardLogits(opened.forward, opened.info.max_seq_len)
    from smidgen.folders import load, load_tokenizer
    from smidgen.folders.end_tokens import end_tokens_of
    from smidgen.inference import TorchEngine
    from smidgen.training.devices import resolve_device
    from smidgen.training.precision import apply_precision

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    where = resolve_device(device)
    tokenizer = load_tokenizer(model)
    decoder = load(model, device=where)
    apply_precision(decoder, precision, where)
    generator = TorchEngine(decoder, end_tokens_of(model, tokenizer), max_batch_size=batch_size)
    return generator, tokenizer, TorchLogits(decoder, batch_size)
