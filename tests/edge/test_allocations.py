"""A pass takes no memory: a preloaded library counts what the native step asks of the heap."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("native") / "count_allocations.c"
PROGRAM = """
import ctypes, sys
import smidgen.edge
from smidgen.runtime.sampling import SamplingParams

counter = ctypes.CDLL(None).allocations
counter.restype = ctypes.c_long
engine = smidgen.edge.load(sys.argv[1], threads=2, max_batch_size=2)
native = engine._library.edge_step
counts = []

def counted(*arguments):
    before = counter()
    status = native(*arguments)
    counts.append(counter() - before)
    return status

class Library:
    edge_step = staticmethod(counted)
    def __getattr__(self, name):
        return getattr(real, name)

real, engine._library = engine._library, Library()
for seed in (1, 2):
    params = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=seed, logprobs=2,
                            max_new_tokens=50, ignore_eos=True)
    engine.submit(list(range(seed, seed + 140)), params)
while not engine.step():
    pass  # the first prompt is longer than a pass
while engine.step():
    pass
assert len(counts) >= 50
assert counter() > 1000, "the counter was not preloaded"
print(sum(counts))
"""


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tinylm-tiny"])
def test_steps_take_nothing_from_the_heap(saved_model: Callable[..., Any], tmp_path: Path, preset: str) -> None:
    compiler = shutil.which("gcc")
    if compiler is None or platform.libc_ver()[0] != "glibc":
        pytest.skip("counting allocations needs gcc and glibc")
    shim = tmp_path / "count.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(SOURCE), "-o", str(shim)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(saved_model(preset, {"model.num_layers": 2})[1])],
        env={**os.environ, "LD_PRELOAD": str(shim)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"
