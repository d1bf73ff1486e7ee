"""One new token for each row, from tensors that stay where they are: the step that a CUDA graph can hold.

The step reads tokens, positions and cache, writes the cache, and leaves the most probable next token in place of the
last one and the positions moved on: while every row is greedy, the next step can start before the host has read this
one's tokens. On a GPU each combination of a number of rows and a span of the cache is compiled and captured once, then
replayed. Elsewhere the same functions are simply called, on as many rows and as much of the cache as there are.

B rows of the batch, S slots of the cache that are looked at, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from smidgen.config import LayerType
from smidgen.inference.frozen import head_product
from smidgen.inference.lowering import make_runner
from smidgen.inference.replay import replayed
from smidgen.model import Cache, Decoder
from smidgen.model.attention import LayerInputs
from smidgen.model.cache import LayerCache
from smidgen.model.decoder import Layer

logger = logging.getLogger(__name__)

NOTHING_LEFT, NOT_FINITE = -1, -2
"""In place of a token: every token is forbidden; the logits are NaN or infinite."""
SHORTEST_SPAN = 256
"""Slots of the cache that a captured step looks at, at least; longer spans double."""


def checked(logits: Tensor, chosen: Tensor, largest: Tensor) -> Tensor:
    """`chosen` [B], or what is wrong with a row whose largest logit is `largest` [B]."""
    # In whole numbers, not by torch.where of two: those would be copied from the host, which a CUDA graph refuses.
    problem = NOT_FINITE + (largest == -torch.inf).long() * (NOTHING_LEFT - NOT_FINITE)
    return torch.where(largest.isfinite(), chosen, problem)


def run_layer(layer: Layer, x: Tensor, inputs: LayerInputs, cache: LayerCache) -> Tensor:
    """A layer over [B, 1, D]; a function of its own, so that layers of equal shape are compiled once."""
    return layer._forward(x, inputs, cache)


def begin(
    model: Decoder, tokens: Tensor, positions: Tensor, active: Tensor, span: int, cache: Cache
) -> tuple[Tensor, dict[LayerType, LayerInputs]]:
    """What enters the first layer, and what all layers share."""
    return model.embed(tokens[:, None]), model.token_inputs(positions, active, span, cache)


def end(model: Decoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [B, V], float32 at least, and the likeliest token [B] or what is wrong with the row."""
    hidden: Tensor = model.model.norm(x[:, 0])
    logits = head_product(model, hidden)
    largest, chosen = logits.max(-1)
    return logits, checked(logits, chosen, largest)


def end_in_place(
    model: Decoder, x: Tensor, tokens: Tensor, positions: Tensor, active: Tensor, logits: Tensor, result: Tensor
) -> None:
    """`end` into tensors that stay: fused with what computes them, writing takes no kernels of its own."""
    new_logits, new_result = end(model, x)
    logits.copy_(new_logits)
    result.copy_(new_result)
    # A row with a problem ends; its token must still be one that can be looked up.
    tokens.copy_(new_result.clamp(min=0))
    positions.add_(active)


class Pending(Protocol):
    """The tokens of a step that was started."""

    def tokens(self) -> list[int]:
        """The likeliest token of each row; waits for the device."""


@dataclass
class _Ready:
    result: Tensor

    def tokens(self) -> list[int]:
        values: list[int] = self.result.tolist()
        return values


@dataclass
class _OnItsWay:
    host: Tensor
    copied: torch.cuda.Event

    def tokens(self) -> list[int]:
        self.copied.synchronize()
        values: list[int] = self.host.tolist()
        return values


class DecodingStep:
    """The next token of the first rows of a cache, by direct calls."""

    runs_ahead = False
    """Whether a step may be started before the tokens of the last one are read."""

    def __init__(self, model: Decoder, cache: Cache) -> None:
        self._model = model
        self._layers = model.layers
        self._cache = cache
        self._device = cache.layers[0].keys.device
        model.move_frequencies(self._device)
        size = cache.batch_size
        self._tokens = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._positions = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._active = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._begin: Callable[..., Any] = begin
        self._layer: Callable[..., Any] = run_layer

    def load(self, tokens: list[int], positions: list[int], active: list[bool]) -> None:
        """Set the token and its position of each of the first rows; rows that are not active take no part."""
        padding = [0] * (len(self._tokens) - len(tokens))
        values = torch.tensor([tokens + padding, positions + padding, [*map(int, active), *padding]])
        self._tokens.copy_(values[0])
        self._positions.copy_(values[1])
        self._active.copy_(values[2])

    def start(self, count: int, longest: int) -> Pending:
        """Take the step for the first `count` rows, none of which stands at `longest` or beyond."""
        return _Ready(self._run(count, longest)[1])

    def logits(self, count: int, longest: int) -> Tensor:
        """The step again, for rows that are sampled by the host: their logits [count, V], free to overwrite."""
        return self._run(count, longest)[0]

    def _run(self, rows: int, span: int) -> tuple[Tensor, Tensor]:
        logits, result = end(self._model, self._through_layers(rows, span))
        self._tokens[:rows].copy_(result.clamp(min=0))
        self._positions[:rows].add_(self._active[:rows])
        return logits, result

    def _through_layers(self, rows: int, span: int) -> Tensor:
        tokens, positions, active = self._tokens[:rows], self._positions[:rows], self._active[:rows]
        cache = self._cache.rows(0, rows)
        x, inputs = self._begin(self._model, tokens, positions, active, span, cache)
        for layer, own in zip(self._layers, cache.layers, strict=True):
            x = self._layer(layer, x, inputs[layer.layer_type], own)
        return x


class GraphedDecodingStep(DecodingStep):
    """The same through CUDA graphs: for each number of rows and span of the cache one, captured when first needed.

    `compiled`: fuse what stands between the products with PyTorch's compiler; where that fails it is logged and the
    uncompiled step is captured. `capture` is `cuda_graph`, or in tests what stands for it.
    """

    runs_ahead = True

    def __init__(
        self,
        model: Decoder,
        cache: Cache,
        compiled: bool = True,
        capture: Callable[[Callable[[], object]], Callable[[], object]] | None = None,
        backend: str = "inductor",
    ) -> None:
        super().__init__(model, cache)
        self._capture = capture or CudaGraphs().capture
        self._graphs: dict[tuple[int, int], Callable[[], object]] = {}
        self._is_compiled = compiled
        self._end: Callable[..., Any] = end_in_place
        if compiled:
            # It also makes products with a single row one kernel with what surrounds them.
            options: dict[str, Any] | None = {"coordinate_descent_tuning": True} if backend == "inductor" else None
            self._begin, self._layer, self._end = (
                torch.compile(function, fullgraph=True, dynamic=False, backend=backend, options=options)
                for function in (begin, run_layer, end_in_place)
            )
        size = cache.batch_size
        # Two: while the host reads the one, the next step's tokens come into the other.
        is_pinned = self._device.type == "cuda"
        self._host = [torch.zeros(size, dtype=torch.int64, pin_memory=is_pinned) for _ in range(2)]
        self._result = torch.zeros(size, dtype=torch.int64, device=self._device)
        vocabulary, dtype = model.config.vocab_size, torch.float64 if self._is_double else torch.float32
        self._logits = torch.zeros(size, vocabulary, dtype=dtype, device=self._device)

    @property
    def _is_double(self) -> bool:
        return self._cache.layers[0].keys.dtype == torch.float64

    def start(self, count: int, longest: int) -> Pending:
        self._replay(count, longest)
        self._host.reverse()
        host = self._host[0][:count]
        host.copy_(self._result[:count], non_blocking=True)
        if self._device.type != "cuda":
            return _Ready(host)  # two buffers: this one is written again by the step after the next
        copied = torch.cuda.Event()
        copied.record()
        return _OnItsWay(host, copied)

    def logits(self, count: int, longest: int) -> Tensor:
        self._replay(count, longest)
        return self._logits[:count]

    def _replay(self, count: int, longest: int) -> None:
        size = self._size(count, longest)
        graph = self._graphs.get(size)
        if graph is None:
            graph = self._graphs[size] = self._captured(*size)
        graph()

    def _size(self, count: int, longest: int) -> tuple[int, int]:
        """Rows and span of the step that is captured for so many rows, none of which stands at `longest` or beyond."""
        return rows_of_graph(count, self._cache.batch_size), span_of_graph(longest, self._cache.max_seq_len)

    def _captured(self, rows: int, span: int) -> Callable[[], object]:
        def step() -> None:
            x = self._through_layers(rows, span)
            fixed = (self._tokens, self._positions, self._active, self._logits, self._result)
            self._end(self._model, x, *(buffer[:rows] for buffer in fixed))

        held = [buffer.clone() for buffer in (self._tokens, self._positions, self._active)]
        self._active.zero_()  # what warms up keeps nothing in the cache
        try:
            with _many_shapes() if self._is_compiled else nullcontext():
                return self._capture(step)
        # The compiler is a large machine over the user's drivers and toolchain; decoding must not depend on it.
        except Exception as error:
            if not self._is_compiled:
                raise
            logger.warning("decoding runs uncompiled, several times slower: %s", " ".join(str(error).split())[:500])
            self._is_compiled = False
            self._begin, self._layer, self._end = begin, run_layer, end_in_place
            return self._capture(step)
        finally:
            for buffer, before in zip((self._tokens, self._positions, self._active), held, strict=True):
                buffer.copy_(before)


class ReplayedDecodingStep(GraphedDecodingStep):
    """On a CPU: a single row's step by its recorded operations (see inference/replay.py), others by direct calls."""

    runs_ahead = False

    def __init__(self, model: Decoder, cache: Cache) -> None:
        # The library knows no float64.
        runner = None if cache.layers[0].keys.dtype == torch.float64 else make_runner()
        super().__init__(model, cache, compiled=False, capture=partial(replayed, runner=runner))
        # What is small costs the library next to nothing.
        model.rotates_by_matrix = runner is None

    def start(self, count: int, longest: int) -> Pending:
        return super().start(count, longest) if count == 1 else DecodingStep.start(self, count, longest)

    def logits(self, count: int, longest: int) -> Tensor:
        return super().logits(count, longest) if count == 1 else DecodingStep.logits(self, count, longest)

    def _size(self, count: int, longest: int) -> tuple[int, int]:
        return count, span_of_graph(longest, self._cache.max_seq_len)


class CudaGraphs:
    """Captures functions over fixed tensors; all graphs share one pool of memory, as one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def capture(self, function: Callable[[], object]) -> Callable[[], object]:
        """A function that does the same by one launch. `function` is called three times before it is captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            function()
        return graph.replay


def rows_of_graph(count: int, largest: int) -> int:
    """Rows of the smallest captured step that holds `count`: powers of two up to 16, multiples of 16 beyond."""
    size = 1 << (count - 1).bit_length() if count <= 16 else -(-count // 16) * 16
    return min(size, largest)


def span_of_graph(longest: int, largest: int) -> int:
    """Slots that the smallest captured step looks at when `longest` are needed."""
    span = SHORTEST_SPAN
    while span < longest:
        span *= 2
    return min(span, largest)


def _many_shapes() -> AbstractContextManager[Any]:
    """The compiler gives up on a function after a few shapes; here each is wanted."""
    import torch._dynamo

    stack = ExitStack()
    names = ("recompile_limit", "accumulated_recompile_limit")
    known: dict[str, Any] = {name: 4096 for name in names if hasattr(torch._dynamo.config, name)}
    stack.enter_context(torch._dynamo.config.patch(known))
    return stack
