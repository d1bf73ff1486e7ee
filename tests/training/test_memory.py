from __future__ import annotations

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, torch
from smidgen.training.memory import reuse_freed_memory
if {reuse}:
    reuse_freed_memory()
for _ in range(15):
    torch.ones(20_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(20_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_blocks_are_used_again_without_page_faults() -> None:
    faults = {
        reuse: int(
            subprocess.run(
                [sys.executable, "-c", COUNT_FAULTS.format(reuse=reuse)], capture_output=True, check=True
            ).stdout
        )
        for reuse in (False, True)
    }
    if faults[False] < 1000:
        pytest.skip("this C library reuses large blocks by itself")
    assert faults[True] < faults[False] / 10
