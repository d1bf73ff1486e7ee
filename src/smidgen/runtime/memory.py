"""How much memory this process can still have, asked before any is taken."""

from __future__ import annotations

import os
from pathlib import Path

GIB = 2**30


def available_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process can still have: the system's available memory, or its control group's if that is less.

    What the group holds of files counts as free, for it is given back when memory is asked for. Where neither is told,
    half of the computer's memory.
    """
    amounts = []
    if meminfo.exists():
        amounts.append(_fields(meminfo)["MemAvailable:"] * 1024)
    limit, used, kinds = group / "memory.max", group / "memory.current", group / "memory.stat"
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        held = _fields(kinds) if kinds.exists() else {}
        files = held.get("inactive_file", 0) + held.get("active_file", 0)
        amounts.append(max(int(limit.read_text()) - max(int(used.read_text()) - files, 0), 0))
    return min(amounts) if amounts else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _fields(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    parts = (line.split() for line in path.read_text().splitlines())
    return {part[0]: int(part[1]) for part in parts if len(part) > 1 and part[1].isdigit()}
