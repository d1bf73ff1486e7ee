"""Free memory: the system's, or the control group's where that is less."""

from __future__ import annotations

from pathlib import Path

from smidgen.runtime.memory import available_memory

GIB = 2**30


def test_the_lesser_counts_and_files_are_given_back(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    meminfo.write_text(f"MemTotal:       32 kB\nMemAvailable:   {20 * GIB // 1024} kB\nHugePages_Total:   0\n")
    group.mkdir()
    assert available_memory(meminfo, group) == 20 * GIB
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    assert available_memory(meminfo, group) == 20 * GIB
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    assert available_memory(meminfo, group) == GIB
    (group / "memory.stat").write_text(f"anon 77\nactive_file {GIB}\ninactive_file {GIB // 2}\n")
    assert available_memory(meminfo, group) == 2.5 * GIB
    (group / "memory.max").write_text(f"{GIB}\n")
    assert available_memory(meminfo, group) == 0
    assert available_memory() > 0
    assert available_memory(tmp_path / "none", tmp_path / "none") > 0
