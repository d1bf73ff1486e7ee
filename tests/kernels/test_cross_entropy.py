"""The loss's Triton kernel without a GPU; its reference is tested in tests/model/test_loss.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_equals_the_reference_in_the_interpreter(run_interpreted: Callable[[str], None]) -> None:
    run_interpreted("interpreted_cross_entropy_triton.py")
