"""The default count of threads: cores, not their halves, and no more than a container may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from smidgen.edge.threads import MOST, count_cores, default_threads, share_of_time


def test_two_halves_of_a_core_count_once(tmp_path: Path) -> None:
    for processor, core in enumerate([0, 1, 0, 1]):
        topology = tmp_path / f"cpu{processor}" / "topology"
        topology.mkdir(parents=True)
        for name, value in (("physical_package_id", 0), ("die_id", 0), ("core_id", core)):
            (topology / name).write_text(f"{value}\n")
    assert count_cores({0, 1, 2, 3}, tmp_path) == 2
    assert count_cores({0, 2}, tmp_path) == 1
    assert count_cores({5, 6, 7}, tmp_path) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", MOST), ("150000 100000\n", 2), ("100000 100000\n", 1), ("50000 100000\n", 1), ("odd", MOST)],
)
def test_the_quota_of_a_container(text: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert share_of_time(tmp_path) == expected
    assert share_of_time(tmp_path / "none") == MOST


def test_this_machine() -> None:
    assert 1 <= default_threads() <= MOST
