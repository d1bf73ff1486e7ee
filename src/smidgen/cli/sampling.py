"""The sampling flags that the commands share which let a model write."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_args

from smidgen.runtime.sampling import Overflow, SamplingError, SamplingParams

_FLAGS: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"type": int, "metavar": "N", "help": "write at most N tokens"},
    "temperature": {"type": float, "metavar": "T", "help": "divide the logits by T; 0 always takes the likeliest"},
    "top_k": {"type": int, "metavar": "K", "help": "draw from the K likeliest tokens; 0 from all"},
    "top_p": {"type": float, "metavar": "P", "help": "draw from the likeliest tokens that sum to P"},
    "min_p": {"type": float, "metavar": "P", "help": "draw from tokens at least P times as likely as the likeliest"},
    "repetition_penalty": {"type": float, "metavar": "X", "help": "make tokens that occurred less likely; 1 is off"},
    "presence_penalty": {"type": float, "metavar": "X", "help": "subtract X from tokens that the answer has; 0 is off"},
    "frequency_penalty": {
        "type": float,
        "metavar": "X",
        "help": "subtract X each time the answer has a token; 0 is off",
    },
    "logit_bias": {"action": "append", "metavar": "ID:X", "help": "add X to the logit of this token; repeatable"},
    "no_repeat_ngram_size": {"type": int, "metavar": "N", "help": "let no N tokens occur twice in a row; 0 is off"},
    "stop": {"action": "append", "metavar": "TEXT", "help": "end before this text; may be given several times"},
    "stop_token_ids": {"action": "append", "type": int, "metavar": "ID", "help": "end at this token, too; repeatable"},
    "ignore_eos": {"action": "store_true", "help": "go on after the model's end tokens"},
    "overflow": {
        "choices": get_args(Overflow),
        "help": "when the context is full: refuse, or let the oldest tokens leave",
    },
    "seed": {"type": int, "metavar": "N", "help": "the same seed gives the same text"},
    "logprobs": {"type": int, "metavar": "N", "help": "with --json: each token's log-probability and the N largest"},
}


def add_sampling_flags(parser: argparse.ArgumentParser, without: frozenset[str] = frozenset(), **defaults: Any) -> None:
    """A flag for every field of SamplingParams but `without`: `--top-k`, and `--top_k` as Python spells it."""
    group = parser.add_argument_group("sampling")
    for name, options in _FLAGS.items():
        if name in without:
            continue
        default = defaults.get(name, getattr(SamplingParams(), name))
        shown = f" (default: {default})" if default not in (None, False, ()) else ""
        flag = f"--{name.replace('_', '-')}"
        group.add_argument(flag, **{**options, "help": options["help"] + shown}, default=None, dest=name)
        if "_" in name:
            group.add_argument(f"--{name}", **{**options, "help": argparse.SUPPRESS}, default=None, dest=name)
    parser.set_defaults(sampling_defaults=defaults)


def sampling_params(args: argparse.Namespace) -> SamplingParams:
    """The parameters that the flags give. Raises SamplingError for a value out of range."""
    given = {field.name: getattr(args, field.name, None) for field in fields(SamplingParams)}
    if given["logit_bias"] is not None:
        given["logit_bias"] = [_bias(text) for text in given["logit_bias"]]
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    return SamplingParams(**{**args.sampling_defaults, **values})


def given_sampling_flags(args: argparse.Namespace) -> list[str]:
    """Those of `add_sampling_flags` that stand in the command."""
    return [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(args, name, None) is not None]


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition(":")
    try:
        return int(token), float(value)
    except ValueError:
        raise SamplingError(f"logit_bias = {text}: write a token id and a number, as 13:-100") from None
