"""Whether a model fits the memory of this machine, asked before any is taken."""

from __future__ import annotations

import os
from pathlib import Path

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


def check_memory(source: Path, num_parameters: int, bytes_each: int = 4) -> None:
    """Raise ModelFolderError, with the sum, when the weights in `source` are more than the memory that is free."""
    needed, available = num_parameters * bytes_each, available_memory()
    if needed > available:
        raise ModelFolderError(
            f"{source}: {num_parameters:,} parameters of {bytes_each} bytes take {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free; use a machine with more memory, or a smaller model"
        )
