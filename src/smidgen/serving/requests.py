"""What a client may ask for: bodies of requests, checked field by field, to prompts and sampling parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.runtime.chat_template import ChatTemplateError
from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.generation import encode_chat, encode_prompt
from smidgen.runtime.protocols import Tokenizer
from smidgen.runtime.sampling import SamplingParams
from smidgen.serving.errors import ApiError, invalid
from smidgen.serving.fields import Fields, check_integer, check_text, kind, shown

MAX_STOP = 16
"""Stop strings of one request."""
MAX_STOP_LENGTH = 1024
"""Characters of a stop string: text is held back as long as it may begin one."""
MAX_TOP_LOGPROBS = 20
MAX_SCORES = 1 << 17
"""Log-probabilities of prompts that one request may ask for."""
MAX_LOGIT_BIAS = 1024
"""Tokens that one request may favour or ban."""
MAX_SEED = 2**63 - 1
LEGACY_LENGTH = 16
"""Tokens of a completion that names no `max_tokens`, as the interface defines it."""

_ROLES = ("system", "developer", "user", "assistant")
_NOT_HERE = "this server does not have it; leave it out"
_CHAT_ONLY_ELSEWHERE = (
    "audio", "function_call", "functions", "metadata", "modalities", "parallel_tool_calls", "prediction",
    "prompt_cache_key", "reasoning_effort", "safety_identifier", "service_tier", "store", "tool_choice", "tools",
    "verbosity", "web_search_options",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Facts:
    """What checking a request needs to know of the model."""

    model: str
    vocab_size: int
    context: int
    max_choices: int
    max_answers: int
    """Prompts times choices of one request."""
    scores_prompts: bool = True
    """Whether the engine can tell log-probabilities of a prompt."""
    end_of_turn: tuple[int, ...] = ()
    """Tokens that end the assistant's turn, as the chat template writes it."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A checked request: `prompts` are token ids, each answered `n` times with `params`."""

    prompts: tuple[tuple[int, ...], ...]
    params: SamplingParams
    n: int
    stream: bool
    include_usage: bool
    echo: bool
    only_echo: bool = False
    """Nothing is generated: `params.max_new_tokens` is without meaning."""

    @property
    def answers(self) -> tuple[list[tuple[int, ...]], list[SamplingParams]]:
        """Prompt and parameters of every answer: the choices of the first prompt, of the second, … A seed gives each
        choice its own successor, so that they differ and can be had again."""
        params = [
            self.params if self.params.seed is None else replace(self.params, seed=(self.params.seed + i) % 2**63)
            for i in range(self.n)
        ]
        return [prompt for prompt in self.prompts for _ in params], params * len(self.prompts)


def chat_request(body: dict[str, Any], tokenizer: Tokenizer, facts: Facts) -> GenerationRequest:
    """A request for the assistant's next message. Raises ApiError naming the field."""
    fields = Fields(body)
    _check_model(fields, facts)
    fields.refuse(_CHAT_ONLY_ELSEWHERE, _NOT_HERE)
    response_format = fields.get("response_format")
    if response_format is not None and response_format != {"type": "text"}:
        raise invalid("response_format", 'only {"type": "text"} is possible here', "unsupported_parameter")
    messages = _messages(fields.get("messages"))
    logprobs, top_logprobs = fields.flag("logprobs"), fields.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top_logprobs is not None and not logprobs:
        raise invalid("top_logprobs", "needs logprobs = true")
    most = fields.integer("max_completion_tokens", 1)
    older = fields.integer("max_tokens", 1)
    if most is not None and older is not None:
        raise invalid("max_tokens", "an older name of max_completion_tokens; give one of them")
    shared = _shared(fields, facts)
    fields.finish()
    try:
        ids = tuple(encode_chat(tokenizer, messages))
    except (ChatTemplateError, TokenizerError) as error:
        raise invalid("messages", str(error)) from None
    field = "max_completion_tokens" if older is None else "max_tokens"
    length = _length([ids], "messages", most if older is None else older, field, facts, None)
    if not shared.sampling["ignore_eos"]:
        shared.sampling["stop_token_ids"] = (*facts.end_of_turn, *shared.sampling["stop_token_ids"])
    reported = (top_logprobs or 0) if logprobs else None
    params = SamplingParams(max_new_tokens=length, logprobs=reported, **shared.sampling)
    return GenerationRequest((ids,), params, shared.n, shared.stream, shared.include_usage, echo=False)


def completion_request(body: dict[str, Any], tokenizer: Tokenizer, facts: Facts) -> GenerationRequest:
    """A request to continue text or tokens. Raises ApiError naming the field."""
    fields = Fields(body)
    _check_model(fields, facts)
    fields.refuse(("suffix",), _NOT_HERE)
    prompts = _prompts(fields.get("prompt"), tokenizer, facts)
    logprobs = fields.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    echo = fields.flag("echo")
    if echo and logprobs is not None and not facts.scores_prompts:
        raise invalid("logprobs", "not together with echo: this engine does not score prompts", "unsupported_parameter")
    most = fields.integer("max_tokens", 0 if echo else 1)
    shared = _shared(fields, facts)
    best_of = fields.integer("best_of", 1)
    if best_of is not None and best_of != shared.n:
        raise invalid(
            "best_of", f"{best_of} differs from n = {shared.n}; every choice is returned", "unsupported_parameter"
        )
    fields.finish()
    if len(prompts) * shared.n > facts.max_answers:
        raise invalid("prompt", f"{len(prompts)} prompts of {shared.n} choices are above {facts.max_answers} answers")
    scores = sum(map(len, prompts)) * shared.n * (1 + (logprobs or 0))
    if echo and logprobs is not None and scores > MAX_SCORES:
        raise invalid(
            "logprobs", f"with echo {scores:,} log-probabilities of prompts, above {MAX_SCORES:,}; send fewer prompts"
        )
    length = _length(prompts, "prompt", most, "max_tokens", facts, LEGACY_LENGTH)
    params = SamplingParams(max_new_tokens=max(1, length), logprobs=logprobs, **shared.sampling)
    return GenerationRequest(tuple(prompts), params, shared.n, shared.stream, shared.include_usage, echo, length == 0)


def tokenize_request(body: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    """Token ids of `text`, or of `messages` as the model would be given them."""
    fields = Fields(body)
    text, messages = fields.text("text"), fields.get("messages")
    bos, special = fields.flag("bos"), fields.flag("special")
    fields.finish()
    if (text is None) == (messages is None):
        raise invalid("text", "give either text or messages")
    if messages is not None:
        if bos or special:
            raise invalid("bos" if bos else "special", "only beside text; the chat template decides for messages")
        try:
            return encode_chat(tokenizer, _messages(messages))
        except (ChatTemplateError, TokenizerError) as error:
            raise invalid("messages", str(error)) from None
    assert text is not None
    if bos and tokenizer.bos_id is None:
        raise invalid("bos", "this tokenizer has no token that begins a text")
    try:
        return tokenizer.encode(text, bos=bos, special=special)
    except TokenizerError as error:
        raise invalid("text", str(error)) from None


def detokenize_request(body: dict[str, Any], tokenizer: Tokenizer) -> str:
    """The text of `tokens`."""
    fields = Fields(body)
    tokens, skip_special = fields.get("tokens"), fields.flag("skip_special")
    fields.finish()
    ids = _ids("tokens", tokens, tokenizer.vocab_size)
    try:
        return tokenizer.decode(ids, skip_special=skip_special)
    except TokenizerError as error:
        raise invalid("tokens", str(error)) from None


@dataclass(frozen=True, slots=True)
class _Shared:
    """Fields that both kinds of requests have."""

    n: int
    stream: bool
    include_usage: bool
    sampling: dict[str, Any]


def _check_model(fields: Fields, facts: Facts) -> None:
    model = fields.text("model")
    if model is not None and model != facts.model:
        raise ApiError(
            404, f"model: {shown(model)!r} is not served here; use {facts.model!r}", "model", "model_not_found"
        )


def _shared(fields: Fields, facts: Facts) -> _Shared:
    stream = fields.flag("stream")
    options, include_usage = fields.get("stream_options"), False
    if options is not None:
        if not isinstance(options, dict):
            raise invalid("stream_options", f"{kind(options)} where an object is expected")
        if not stream:
            raise invalid("stream_options", "needs stream = true")
        inner = Fields(options, "stream_options.")
        include_usage = inner.flag("include_usage")
        inner.finish()
    fields.text("user")  # who asks: a note for the operator of a public service
    n = fields.integer("n", 1, facts.max_choices)
    sampling: dict[str, Any] = {
        "temperature": fields.number("temperature", 0, 2),
        "top_p": fields.number("top_p", 0, 1, above=True),
        "top_k": fields.integer("top_k", 0, 2**31),
        "min_p": fields.number("min_p", 0, 1),
        "presence_penalty": fields.number("presence_penalty", -2, 2),
        "frequency_penalty": fields.number("frequency_penalty", -2, 2),
        "repetition_penalty": fields.number("repetition_penalty", 0, 10, above=True),
        "no_repeat_ngram_size": fields.integer("no_repeat_ngram_size", 0, 1000),
        "seed": fields.integer("seed", -MAX_SEED - 1, MAX_SEED),
        "logit_bias": _logit_bias(fields.get("logit_bias"), facts.vocab_size),
        "stop": _stop(fields.get("stop")),
        "stop_token_ids": _stop_token_ids(fields.get("stop_token_ids"), facts),
        "ignore_eos": fields.flag("ignore_eos"),
    }
    if sampling["seed"] is not None:
        sampling["seed"] %= 2**63
    return _Shared(n or 1, stream, include_usage, {name: v for name, v in sampling.items() if v is not None})


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise invalid(
            "messages", "required: a list of messages" if value is None else f"{kind(value)} where a list is expected"
        )
    if not value:
        raise invalid("messages", "empty; a chat needs at least one message")
    return [_message(f"messages[{number}]", message) for number, message in enumerate(value)]


def _message(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise invalid(name, f"{kind(value)} where an object with role and content is expected")
    fields = Fields(value, f"{name}.")
    role = fields.text("role")
    if role not in _ROLES:
        problem = "required" if role is None else f"{shown(role)!r} is unknown here"
        raise invalid(f"{name}.role", f"{problem}; use one of {', '.join(_ROLES)}")
    content = fields.get("content")
    if isinstance(content, list):
        content = "".join(_part(f"{name}.content[{i}]", part) for i, part in enumerate(content))
    if content is None:
        raise invalid(f"{name}.content", "required: text")
    message = {"role": "system" if role == "developer" else role, "content": check_text(f"{name}.content", content)}
    speaker = fields.text("name")
    if speaker is not None:
        message["name"] = speaker
    fields.refuse(("audio", "function_call", "refusal", "tool_calls", "tool_call_id"), _NOT_HERE)
    fields.finish()
    return message


def _part(name: str, value: Any) -> str:
    if not isinstance(value, dict):
        raise invalid(name, f"{kind(value)} where an object is expected")
    fields = Fields(value, f"{name}.")
    if fields.get("type") != "text":
        raise invalid(f"{name}.type", "only 'text' is possible here")
    text = fields.text("text")
    if text is None:
        raise invalid(f"{name}.text", "required: text")
    fields.finish()
    return text


def _prompts(value: Any, tokenizer: Tokenizer, facts: Facts) -> list[tuple[int, ...]]:
    if isinstance(value, str):
        return [_text_prompt("prompt", value, tokenizer)]
    if not isinstance(value, list):
        problem = "required: text or token ids" if value is None else f"{kind(value)} where text or a list is expected"
        raise invalid("prompt", problem)
    if not value:
        raise invalid("prompt", "an empty list; give text or token ids")
    if isinstance(value[0], int):
        return [_ids("prompt", value, facts.vocab_size)]
    if len(value) > facts.max_answers:
        raise invalid("prompt", f"{len(value)} prompts are above {facts.max_answers}")
    prompts = []
    for number, prompt in enumerate(value):
        name = f"prompt[{number}]"
        if isinstance(prompt, list):
            prompts.append(_ids(name, prompt, facts.vocab_size))
        else:
            prompts.append(_text_prompt(name, prompt, tokenizer))
    return prompts


def _text_prompt(name: str, value: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    try:
        return tuple(encode_prompt(tokenizer, check_text(name, value)))
    except TokenizerError as error:
        raise invalid(name, str(error)) from None


def _ids(name: str, value: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        problem = (
            "required: a list of token ids" if value is None else f"{kind(value)} where a list of token ids is expected"
        )
        raise invalid(name, problem)
    if not value:
        raise invalid(name, "empty; give at least one token id")
    return tuple(check_integer(f"{name}[{i}]", token, 0, vocab_size - 1) for i, token in enumerate(value))


def _length(
    prompts: Sequence[Sequence[int]], prompt_field: str, most: int | None, field: str, facts: Facts, default: int | None
) -> int:
    """Tokens that each answer may have. A prompt that leaves no room is refused, never cut."""
    longest = max(map(len, prompts))
    space = facts.context - longest
    if space < (0 if most == 0 else 1):
        raise invalid(
            prompt_field,
            f"{longest} tokens are too many for the model's context of {facts.context}, which also takes the answer; "
            "shorten it",
            "context_length_exceeded",
        )
    if most is None:
        return space if default is None else min(default, space)
    if most > space:
        raise invalid(
            field,
            f"{_short(most)} beside {longest} tokens of {prompt_field} exceed the model's context of {facts.context}; "
            f"use {space} or less",
            "context_length_exceeded",
        )
    return most


def _short(number: int) -> str:
    return str(number) if number < 10**20 else "more than 10^20"


def _logit_bias(value: Any, vocab_size: int) -> tuple[tuple[int, float], ...] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid("logit_bias", f"{kind(value)} where an object of token ids is expected")
    if len(value) > MAX_LOGIT_BIAS:
        raise invalid("logit_bias", f"{len(value)} tokens are above {MAX_LOGIT_BIAS}")
    fields = Fields(value, "logit_bias.")
    biases: dict[int, float] = {}
    for text in value:
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < vocab_size):
            raise invalid(f"logit_bias.{shown(text)}", f"no token id; they are 0 to {vocab_size - 1}")
        bias = fields.number(text, -100, 100)
        if bias is None:
            raise invalid(f"logit_bias.{text}", "null where a number is expected")
        if int(text) in biases:
            raise invalid(f"logit_bias.{text}", "given twice")
        biases[int(text)] = bias
    return tuple(biases.items())


def _stop(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    strings = value if isinstance(value, list) else [value]
    if len(strings) > MAX_STOP:
        raise invalid("stop", f"{len(strings)} strings are above {MAX_STOP}")
    for number, text in enumerate(strings):
        name = f"stop[{number}]" if isinstance(value, list) else "stop"
        if not check_text(name, text):
            raise invalid(name, "empty text would stop at once; leave it out")
        if len(text) > MAX_STOP_LENGTH:
            raise invalid(name, f"{len(text)} characters are above {MAX_STOP_LENGTH}")
    return tuple(strings)


def _stop_token_ids(value: Any, facts: Facts) -> tuple[int, ...]:
    if value is None or value == []:
        return ()
    ids = _ids("stop_token_ids", value, facts.vocab_size)
    if len(ids) > MAX_LOGIT_BIAS:
        raise invalid("stop_token_ids", f"{len(ids)} tokens are above {MAX_LOGIT_BIAS}")
    return ids
