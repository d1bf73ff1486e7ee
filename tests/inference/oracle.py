"""Models, prompts, and what the plain decoder makes of them: no cache, no batch, no engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smidgen.config import load_config
from smidgen.inference.engine import TorchEngine
from smidgen.model import Decoder
from smidgen.runtime import Event, SamplingParams

DTYPES = {
    "elite-tiny": torch.float32,
    "gemma3-tiny": torch.float32,
    # Rounded activations are chaotic: a difference of 1e-7 flips a code.
    "tilda-tiny": torch.float64,
    "tinylm-tiny": torch.float64,
    "tinylm-gqa-tiny": torch.float64,
}
PROMPT_LENGTHS = (5, 70, 1, 33, 18)


def make_model(preset: str, dtype: torch.dtype = torch.float32) -> Decoder:
    """Weights large enough that every context gives another distribution."""
    overrides: dict[str, object] = {"model.vocab_size": 300, "model.num_layers": 2}
    if preset == "gemma3-tiny":
        # With random weights a scaled embedding that is also the head repeats its input.
        overrides = {"model.vocab_size": 300, "model.tie_word_embeddings": False}
    model = Decoder(load_config(preset, overrides).model).initialize(0).eval().to(dtype)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
    return model


def make_prompts(lengths: Sequence[int] = PROMPT_LENGTHS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for length in lengths]


def greedy_without_engine(model: Decoder, prompt: Sequence[int], count: int) -> list[int]:
    """Every token from a full forward pass without a cache."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def run(engine: TorchEngine, requests: Sequence[int]) -> dict[int, list[Event]]:
    events: dict[int, list[Event]] = {request: [] for request in requests}
    for _ in range(10_000):
        for event in engine.step():
            events[event.request].append(event)
        if all(history and history[-1].finish_reason for history in events.values()):
            return events
    raise AssertionError("the requests did not end")


def tokens(engine: TorchEngine, prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[list[int | None]]:
    requests = [engine.submit(prompt, params) for prompt in prompts]
    events = run(engine, requests)
    return [[event.token for event in events[request]] for request in requests]
