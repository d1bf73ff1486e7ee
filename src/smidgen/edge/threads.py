"""How many threads help: one for each core, of what this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

MOST = 64


def default_threads() -> int:
    """One for each core that this process may use, and no more than its share of the processor's time.

    More threads than cores only wait for each other, and so do two on the halves of one core: what they share, the
    units that multiply and the way to memory, is what decoding and prompts are bound by.
    """
    if not hasattr(os, "sched_getaffinity"):
        return max(1, min(os.cpu_count() or 1, MOST))
    cores = count_cores(os.sched_getaffinity(0), Path("/sys/devices/system/cpu"))
    return max(1, min(cores, share_of_time(Path("/sys/fs/cgroup")), MOST))


def count_cores(processors: Iterable[int], system: Path) -> int:
    """Different cores among logical processors; each is one of its own where the system does not say."""
    return len({_core(number, system / f"cpu{number}" / "topology") for number in processors})


def _core(number: int, topology: Path) -> tuple[str, ...]:
    if not (topology / "core_id").is_file():
        return (str(number),)
    files = (topology / name for name in ("physical_package_id", "die_id", "core_id"))
    return tuple(file.read_text().strip() if file.is_file() else "" for file in files)


def share_of_time(group: Path) -> int:
    """Processors that the control group's quota of time comes to, a part of one counted as one (containers)."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return MOST if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return MOST
