"""Tests in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run_interpreted() -> Callable[[str], None]:
    """`run_interpreted(file)`: run a file of tests of this folder with Triton's kernels interpreted; fails if one does.

    In a process of its own, since Triton chooses the interpreter when it is imported, for good.
    """

    def run(name: str) -> None:
        finished = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(name))],
            env=os.environ | {"TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]

    return run
