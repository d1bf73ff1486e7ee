"""Distillation: a student learns a teacher's distributions, or the texts that a teacher writes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smidgen.config import Config, Distillation
from smidgen.folders import load, load_tokenizer
from smidgen.model import Decoder, cross_entropy
from smidgen.model.divergence import Mixture, distillation_loss
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.runtime.generation import encode_prompt, generate_texts
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams
from smidgen.training.objectives import Batch, Loss
from smidgen.training.observer import Observer, Summary
from smidgen.training.pretraining import open_dataset, pretrain, with_data_of_run

logger = logging.getLogger(__name__)


class DistillationObjective:
    """A mixture of cross-entropy and the divergence from the teacher; the weight is the number of labels.

    Evaluations (a student in eval mode) measure the cross-entropy alone, so that they compare with any training's.
    """

    def __init__(self, teacher: Decoder, mixture: Mixture) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.mixture = mixture

    def loss(self, model: Decoder, batch: Batch) -> Loss:
        hidden = model.hidden(batch.input_ids, positions=batch.positions, document_ids=batch.document_ids).flatten(0, 1)
        labels, head = batch.labels.flatten(), model.head_weight
        if not model.training:
            total, count = cross_entropy(hidden, head, labels)
            return total, count, {}
        if not isinstance(head, Tensor):
            raise ConfigError("training.parallel.tensor: distillation needs the student's head whole; use 1")
        seen = self._states(batch, hidden)
        total, entropy, divergence = distillation_loss(
            hidden, head, seen.flatten(0, 1), self.teacher.head_weight, labels, self.mixture
        )
        count = (labels != -100).sum()
        return total, count, {"cross_entropy": entropy, "divergence": divergence}

    @torch.no_grad()
    def _states(self, batch: Batch, hidden: Tensor) -> Tensor:
        if self.teacher.model.embed_tokens.device != hidden.device:
            self.teacher.to(hidden.device)
        self.teacher.compute_dtype = None if hidden.dtype == torch.float32 else hidden.dtype
        return self.teacher.hidden(batch.input_ids, positions=batch.positions, document_ids=batch.document_ids)


def distill(config: Config, run_path: str | Path, observer: Observer | None = None) -> Summary:
    """Train the student of `config` to be like `tuning.objective.teacher`; see `pretrain`.

    Raises ConfigError where the teacher has another tokenizer than the data, or another vocabulary.
    """
    settings = config.tuning.objective
    if not isinstance(settings, Distillation):
        raise ConfigError(f"tuning.objective.kind = {settings.kind}: distillation is needed here; name --teacher MODEL")
    config = with_data_of_run(config, run_path)
    data = open_dataset(config)
    if data.tokenizer_fingerprint is not None:
        theirs = load_tokenizer(settings.teacher).fingerprint
        if theirs != data.tokenizer_fingerprint:
            raise ConfigError(
                f"tuning.objective.teacher = {settings.teacher}: has another tokenizer than {data.names}; prepare the "
                f"text with --tokenizer.path {settings.teacher}, or let the teacher write: smidgen distill --write"
            )
    teacher = load(settings.teacher)
    size = data.vocab_size if config.tuning.base is None else config.model.vocab_size
    if size is not None and teacher.config.vocab_size != size:
        raise ConfigError(
            f"tuning.objective.teacher = {settings.teacher}: vocab_size {teacher.config.vocab_size}, the student's is "
            f"{size}; both must have one id for one token"
        )
    mixture = Mixture(settings.divergence, settings.temperature, settings.cross_entropy)
    return pretrain(config, run_path, observer, DistillationObjective(teacher, mixture))


def write_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    out: Path,
    params: SamplingParams,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Let a teacher continue every prompt, and write JSON lines `{"text": …, "prompt": …, "completion": …}` to `out`.

    For a student of any tokenizer (sequence-level distillation, Kim & Rush, 2016): `smidgen prepare` and `pretrain`
    take the texts, `sft` the pairs. Prompts that `out` has already, in the same order, are not written again: a stopped
    command goes on. Returns the number of new lines. Raises DataError where `out` belongs to other prompts.
    """
    done = _written(out, prompts)
    batch = max(1, engine.info.max_batch_size)
    with out.open("a", encoding="utf-8") as file:
        for start in range(done, len(prompts), batch):
            some = prompts[start : start + batch]
            ids = [encode_prompt(tokenizer, prompt) for prompt in some]
            seeded = params
            if params.seed is not None:
                # Every batch draws anew, and the same whether or not the command was stopped before it.
                from dataclasses import replace

                seeded = replace(params, seed=params.seed + start)
            for prompt, answer in zip(some, generate_texts(engine, tokenizer, ids, seeded), strict=True):
                line = {"text": prompt + answer.text, "prompt": prompt, "completion": answer.text}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            progress(min(start + batch, len(prompts)), len(prompts))
    return len(prompts) - done


def _written(out: Path, prompts: Sequence[str]) -> int:
    """How many prompts `out` has; an unfinished last line is cut off."""
    if not out.exists():
        return 0
    whole = out.read_bytes().rpartition(b"\n")[0]
    lines = whole.split(b"\n") if whole else []
    found = [json.loads(line).get("prompt") for line in lines]
    if found != list(prompts[: len(found)]):
        raise DataError(f"{out}: holds answers to other prompts; name another --write")
    with out.open("r+b") as file:
        file.truncate(len(whole) + bool(whole))
    return len(found)


def read_prompts(path: Path) -> list[str]:
    """Prompts from a file of one a line, or of JSON lines with a field `prompt` (`.jsonl`). Raises DataError."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if path.suffix == ".jsonl":
        prompts = []
        for number, line in enumerate(lines, 1):
            try:
                prompts.append(json.loads(line)["prompt"])
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}, line {number}: no object with a field 'prompt'; write one a line") from None
        lines = prompts
    if not lines or not all(isinstance(line, str) and line for line in lines):
        raise DataError(f"{path}: holds no prompts; write one a line")
    return lines
