"""Texts that the model writes on its way: samples.jsonl."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from smidgen.config.tracking import TrackingConfig
from smidgen.model import Decoder
from smidgen.runtime.errors import SmidgenError
from smidgen.runtime.protocols import Tokenizer
from smidgen.training.metrics import JsonLines, drop_after
from smidgen.training.observer import Observer, Plan

logger = logging.getLogger(__name__)

Sampler = Callable[[Decoder, Tokenizer, Sequence[str], TrackingConfig], list[str]]
"""Continues prompts with a model: the continuations, without the prompts. It may change the model's mode and draw
random numbers: both are put back."""


class TextSamples(Observer):
    """Lets the model continue `tracking.sample_prompts` every `tracking.sample_every` steps."""

    def __init__(self, tracking: TrackingConfig, run: Path, sampler: Sampler) -> None:
        self.tracking = tracking
        self.sampler = sampler
        self._path = run / "samples.jsonl"
        self._lines: JsonLines | None = None

    def started(self, plan: Plan) -> None:
        drop_after(self._path, plan.first_step)
        self._lines = JsonLines(self._path)

    def wants_model(self, step: int) -> bool:
        return self.tracking.sample_every is not None and step % self.tracking.sample_every == 0

    def shown_model(self, step: int, model: Decoder, tokenizer: Tokenizer | None) -> None:
        if tokenizer is None or self._lines is None:
            return
        prompts = self.tracking.sample_prompts
        training = model.training
        devices = [device for device in {p.device for p in model.parameters()} if device.type == "cuda"]
        try:
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                texts = self.sampler(model, tokenizer, prompts, self.tracking)
        except SmidgenError as error:
            logger.warning("step %d: no sample: %s", step, error)
            return
        finally:
            model.train(training)
        samples = [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
        self._lines.append({"kind": "sample", "step": step, "samples": samples})

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()
            self._lines = None
