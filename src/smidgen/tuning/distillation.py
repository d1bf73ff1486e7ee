"""Distillation: a student learns a teacher's distributions. For a teacher's texts see `sequences`."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from smidgen.config import Config, Distillation
from smidgen.folders import load, load_tokenizer
from smidgen.model import Decoder, cross_entropy
from smidgen.model.divergence import Mixture, distillation_loss
from smidgen.runtime.errors import ConfigError
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
        assert isinstance(head, Tensor), "tensor parallelism is refused for distillation"
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
                f"text with --tokenizer.path {settings.teacher}, or let it learn the teacher's texts with --prompts"
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
