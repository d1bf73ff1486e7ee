"""torch.compile of a training's layers, and the honest word on how long it took."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError


def compile_training(model: Decoder, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile the layers of `model` for passes that want gradients; nothing happens before the first of them.

    Layers are compiled, not the whole loss: layers of one type share their code, so the time does not grow with depth,
    and each is one graph without breaks, in whatever kind of linear layer, with dropout and activation checkpointing.
    Evaluation and generation, which see many shapes, run as they are. Shapes are static: another batch size or length
    compiles anew. Call it once the model computes, drops and checkpoints as it will.

    Forgets what this process had compiled before: else the graphs of earlier models count towards the limit of graphs
    a function may have. Raises ConfigError where there is no C++ compiler.
    """
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in candidates if name):
        raise ConfigError("training.compile = true: needs a C++ compiler; install g++ or leave training.compile false")
    torch.compiler.reset()
    model.compile_training(backend)


@contextmanager
def first_pass(begun: Callable[[], None], ended: Callable[[float], None]) -> Iterator[None]:
    """Around the first forward and backward pass of a compiled model, which is when it is compiled.

    Calls `begun()`, and at the end `ended(seconds)`: the wall time of everything inside, the pass itself included.
    """
    begun()
    start = time.perf_counter()
    # A terminal sends Ctrl-C to compilers too, and the step to be finished needs what they make: they inherit that it
    # is blocked. This process hears of it by its other threads, or else at the end.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    ended(time.perf_counter() - start)
