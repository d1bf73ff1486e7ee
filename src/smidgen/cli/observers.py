"""Who hears of a training that a command starts: the terminal, the run folder's records, and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.progress import training_progress
from smidgen.training.observer import Observers

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.config.tracking import TrackingConfig
    from smidgen.model import Decoder
    from smidgen.runtime.protocols import Tokenizer

_SEED = 1
"""Of all samples, so that those of different steps differ by the model alone."""


def training_observers(config: Config, run: Path) -> Observers:
    """The display that suits standard error, and all that records the training. Use it as a context."""
    from smidgen.training.tracking import make_trackers

    return Observers([training_progress(), *make_trackers(config, run, write_samples)])


def write_samples(model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], tracking: TrackingConfig) -> list[str]:
    """Continue prompts as the section `tracking` says; a prompt that leaves less room gets a shorter answer."""
    from smidgen.inference import generate
    from smidgen.runtime.generation import encode_prompt

    texts = []
    for prompt in prompts:
        room = model.config.max_seq_len - len(encode_prompt(tokenizer, prompt))
        length = max(1, min(tracking.sample_tokens, room))
        temperature = tracking.sample_temperature
        texts.append(generate(model, tokenizer, prompt, max_new_tokens=length, temperature=temperature, seed=_SEED))
    return texts
