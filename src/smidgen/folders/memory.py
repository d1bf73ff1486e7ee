"""Whether a model fits the memory of this machine, asked before any is taken."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from smidgen.config import ModelConfig
from smidgen.model import Decoder, count_parameters, load_architecture
from smidgen.runtime.errors import ModelFolderError
from smidgen.runtime.memory import GIB, available_memory


def structure_of(config: ModelConfig, source: Path) -> Decoder:
    """The decoder's shapes and names, without memory; raises ModelFolderError for sizes that no machine can hold."""
    try:
        return load_architecture(config)
    except (RuntimeError, TypeError, OverflowError):
        raise ModelFolderError(
            f"{source}: its configuration asks for matrices larger than any machine holds; copy it again"
        ) from None


def check_memory(source: Path, weights: Iterable[Tensor]) -> None:
    """Raise ModelFolderError, with the sum, when `weights` (also those of the meta device) exceed the free memory."""
    count = needed = 0
    for weight in weights:
        count += weight.numel()
        needed += weight.numel() * weight.element_size()
    _check(source, count, needed)


def check_random_model(source: str | Path, config: ModelConfig) -> None:
    """The same before float32 weights are drawn for a configuration."""
    count = count_parameters(config)
    _check(source, count, 4 * count)


def _check(source: Path | str, count: int, needed: int) -> None:
    available = available_memory()
    if needed > available:
        raise ModelFolderError(
            f"{source}: {count:,} weights of {needed / count:g} bytes take {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free; use a machine with more memory, or a smaller model"
        )
