"""An exported graph in onnxruntime: logits of a sequence in steps, and how far they are from ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smidgen.interchange.onnx.graph import Graph, names
from smidgen.model import Decoder
from smidgen.runtime.errors import MissingDependencyError

PROMPT, CONTINUATION = 12, 20
"""Tokens that are checked: a prompt in one pass, then one at a time."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """An exported graph beside the decoder that it was made of."""

    logits_difference: float
    """Largest |difference| of a logit, divided by the largest |logit|."""
    token_agreement: float
    """Share of positions with the same likeliest token."""


class Session:
    """A graph in onnxruntime on the CPU, with the caches that it hands back and forth."""

    def __init__(self, path: Path, graph: Graph, dtype: type[np.floating[Any]] = np.float32) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError("onnxruntime", "export", "running ONNX graphs") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = names(len(graph.shapes))
        self._caches = [cache.numpy().astype(dtype) for cache in graph.empty_caches(1)]
        self._length = 0

    def run(self, ids: Sequence[int]) -> np.ndarray:
        """Logits float32 [T, V] of the next tokens of the one sequence that this session is about."""
        length = self._length + len(ids)
        inputs = [
            np.array([ids], np.int64),
            np.ones((1, length), np.int64),
            np.arange(self._length, length, dtype=np.int64)[None],
            *self._caches,
        ]
        logits, *self._caches = self._session.run(None, dict(zip(self._names.inputs, inputs, strict=True)))
        self._length = length
        result: np.ndarray = logits[0].astype(np.float32)
        return result


@torch.inference_mode()
def compare(path: Path, graph: Graph, model: Decoder, dtype: type[np.floating[Any]]) -> Agreement:
    """Run the graph over random tokens, a prompt and then one at a time, and the decoder over the same at once."""
    length = min(PROMPT + CONTINUATION, model.config.max_seq_len)
    ids = torch.randint(0, model.config.vocab_size, (1, length), generator=torch.Generator().manual_seed(0))
    expected = model(ids)[0].float().numpy()
    session, tokens = Session(path, graph, dtype), ids[0].tolist()
    parts = [session.run(tokens[:PROMPT])] + [session.run([token]) for token in tokens[PROMPT:]]
    found = np.concatenate(parts)
    return Agreement(
        float(np.abs(found - expected).max() / np.abs(expected).max()),
        float((found.argmax(-1) == expected.argmax(-1)).mean()),
    )
