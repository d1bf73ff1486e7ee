"""One model of `smidgen evaluate`: opened by either engine, measured, asked."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from smidgen.evaluation.likelihood import Logits
    from smidgen.evaluation.sliding import Perplexity
    from smidgen.evaluation.suite.asking import Answer, Subject
    from smidgen.evaluation.suite.items import Category, Form
    from smidgen.evaluation.suite.results import ModelResult
    from smidgen.model import Decoder
    from smidgen.runtime.protocols import Engine, Tokenizer


@dataclass(frozen=True)
class Opened:
    """A model under one of the engines; what is not needed is not loaded."""

    args: argparse.Namespace
    name: str

    @cached_property
    def decoder(self) -> Decoder:
        """PyTorch's model."""
        from smidgen.folders import load
        from smidgen.training.devices import resolve_device
        from smidgen.training.precision import apply_precision

        if self.args.threads is not None:
            import torch

            torch.set_num_threads(self.args.threads)
        device = resolve_device(self.args.device)
        model = load(self.name, device=device)
        apply_precision(model, self.args.precision, device)
        return model

    @cached_property
    def _edge(self) -> tuple[Engine, Tokenizer]:
        from smidgen.cli.engines import open_engine

        args = self.args
        return open_engine(
            self.name,
            "edge",
            device=args.device,
            precision=args.precision,
            max_batch_size=args.batch_size,
            threads=args.threads,
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from smidgen.folders import load_tokenizer

        return self._edge[1] if self.args.engine == "edge" else load_tokenizer(self.name)

    @cached_property
    def engine(self) -> Engine:
        """What writes answers."""
        if self.args.engine == "edge":
            return self._edge[0]
        from smidgen.folders.end_tokens import end_tokens_of
        from smidgen.inference import TorchEngine

        ends = end_tokens_of(self.name, self.tokenizer)
        # A cache for the longest context of a large model would not fit; no question needs more than this.
        room = min(self.decoder.config.max_seq_len, 2048)
        return TorchEngine(self.decoder, ends, max_batch_size=self.args.batch_size, max_seq_len=room)

    @cached_property
    def logits(self) -> Logits:
        """What scores texts."""
        from smidgen.evaluation.likelihood import ForwardLogits, TorchLogits

        if self.args.engine == "edge":
            engine: Any = self.engine
            return ForwardLogits(engine.forward, engine.info.max_seq_len)
        return TorchLogits(self.decoder, self.args.batch_size)

    @property
    def parameters(self) -> int:
        if self.args.engine == "edge":
            return self.engine.info.num_parameters
        from smidgen.model import count_parameters

        return count_parameters(self.decoder.config)

    @property
    def subject(self) -> Subject:
        from smidgen.evaluation.suite.asking import Subject

        return Subject(self.engine, self.tokenizer, self.logits, self.args.run_code)


def check_model(args: argparse.Namespace, model: str, *, asks: bool) -> None:
    """Raise the ModelFolderError or ChatTemplateError of a model that cannot be measured, without loading it.

    asks: it is to answer questions.
    """
    from smidgen.runtime.chat_template import ChatTemplateError

    tokenizer: Tokenizer | None = None
    needs_tokenizer = asks or args.text
    if args.engine == "edge":
        from smidgen.runtime.model_folders import stored_model
        from smidgen.tokenization import load_tokenizer

        folder = stored_model(model)
        tokenizer = load_tokenizer(folder) if needs_tokenizer else None
    else:
        from smidgen import folders

        folders.resolve(model)
        tokenizer = folders.load_tokenizer(model) if needs_tokenizer else None
    if args.mode == "chat" and tokenizer is not None and not tokenizer.chat_template:
        raise ChatTemplateError(f"{model}: has no chat template, so --mode chat has nothing to ask; use test")


def measure(args: argparse.Namespace, model: str, name: str, categories: Sequence[Category]) -> ModelResult:
    """Everything that was asked for, of one model."""
    from smidgen.evaluation.suite.results import ModelResult

    opened = Opened(args, model)
    loss = _loss(opened) if args.data or args.text else None
    answers = _answers(opened, name, categories) if categories else {}
    return ModelResult(name, opened.parameters, categories, answers, loss)


def _answers(opened: Opened, name: str, categories: Sequence[Category]) -> dict[Form, Sequence[Answer]]:
    from smidgen.evaluation.suite.asking import ask

    subject = opened.subject
    forms = subject.forms if opened.args.mode != "chat" else ("chat",)
    return {form: ask(subject, categories, form, _Progress(f"{name}, {form}")) for form in forms}


def _loss(opened: Opened) -> Mapping[str, Any]:
    from smidgen.evaluation.sliding import loss_estimate
    from smidgen.runtime.errors import ConfigError

    args = opened.args
    context = opened.engine.info.max_seq_len if args.engine == "edge" else opened.decoder.config.max_seq_len
    if args.seq_len is not None and args.seq_len > context:
        raise ConfigError(f"--seq-len = {args.seq_len}: exceeds the model's context of {context}")
    found = _by_logits(opened, context) if args.engine == "edge" else _by_torch(opened)
    interval = loss_estimate(found.blocks)
    return {
        "loss": found.loss,
        "interval": [interval.low, interval.high],
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
    }


def _by_torch(opened: Opened) -> Perplexity:
    from smidgen.data import Dataset, compatibility
    from smidgen.evaluation.perplexity import evaluate_dataset, evaluate_text
    from smidgen.folders.loading import optional_tokenizer

    args = opened.args
    options: dict[str, Any] = {"seq_len": args.seq_len, "batch_size": args.batch_size, "stride": args.stride}
    if args.data is None:
        return evaluate_text(opened.decoder, opened.tokenizer, _text(args), **options)
    dataset = Dataset.open(args.data)
    tokenizer = optional_tokenizer(opened.name)
    if tokenizer is not None:  # else the ids themselves are checked
        compatibility.check_tokenizer(dataset, dataset.path, tokenizer, opened.name)
    return evaluate_dataset(opened.decoder, dataset, split=args.split or "val", max_tokens=args.tokens, **options)


def _by_logits(opened: Opened, context: int) -> Perplexity:
    """The edge engine's loss: always by the sliding window, without overlap unless a stride asks for it."""
    import numpy as np

    from smidgen.data import Dataset, compatibility
    from smidgen.evaluation.sliding import SlidingWindows, documents, evaluate_logits, text_ids

    args = opened.args
    length = args.seq_len or context
    stride = args.stride or length - 1
    if args.data is None:
        text = _text(args)
        ids = text_ids(opened.tokenizer, text)
        return evaluate_logits(
            opened.logits, SlidingWindows([np.asarray(ids)], length, stride), len(text.encode()) / (len(ids) - 1)
        )
    dataset = Dataset.open(args.data)
    compatibility.check_tokenizer(dataset, dataset.path, opened.tokenizer, opened.name)
    name: Literal["train", "val"] = args.split or "val"
    split = dataset.train if name == "train" else dataset.val
    bytes_per_token = split.num_bytes / split.num_tokens if split.num_bytes else None
    windows = SlidingWindows(documents(dataset, name, args.tokens), length, stride)
    return evaluate_logits(opened.logits, windows, bytes_per_token)


def read_text(path: Path) -> str:
    """A file of UTF-8 text; raises DataError for one of another encoding."""
    from smidgen.runtime.errors import DataError

    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; convert it first") from None


def _text(args: argparse.Namespace) -> str:
    if args.text != "-":
        return read_text(Path(args.text))
    if not hasattr(args, "standard_input"):  # read once for all models
        args.standard_input = sys.stdin.read()
    text: str = args.standard_input
    return text


class _Progress:
    """A line on standard error: how many questions are answered, and how long the rest will take."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._begun = self._shown = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if done < total and now - self._shown < (0.2 if live else 10):
            return
        self._shown = now
        rate = done / max(now - self._begun, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if done < total else ""
        line = f"{self._title}: {done:,} of {total:,} answers, {rate:.1f} a second{left}"
        end = "\n" if done == total or not live else ""
        print(f"\r\033[K{line}" if live else line, end=end, file=sys.stderr, flush=True)
