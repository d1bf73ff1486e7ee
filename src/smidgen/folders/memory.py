"""Whether a model fits the memory of this machine, asked before any is taken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from smidgen.config import ModelConfig
from smidgen.model import Decoder, load_architecture
from smidgen.runtime.errors import ModelFolderError

GIB = 2**30


def available_memory() -> int:
    """Bytes that this process can still have: the system's available memory, or its control group's if that is less.

    Where neither is told, half of the computer's memory.
    """
    amounts = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        amounts.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        amounts.append(max(int(limit.read_text()) - int(used.read_text()), 0))
    return min(amounts) if amounts else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


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
    available = available_memory()
    if needed > available:
        raise ModelFolderError(
            f"{source}: {count:,} weights of {needed / count:g} bytes take {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free; use a machine with more memory, or a smaller model"
        )
