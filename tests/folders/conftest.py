"""What the tests of model folders share: the cases of benchmarks/parity.py, and a quiet, offline transformers."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

# Both are read when transformers is first imported; modelling files of our own are copied to the second.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="smidgen-test-modules-")
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def _quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


@pytest.fixture
def randomize() -> Callable[..., Any]:
    """`randomize(model)`: fill every parameter of a transformers model, gains around 1 (or 0 where 1 is added)."""
    import torch

    def fill(model: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                values = torch.randn(parameter.shape, generator=generator)
                if parameter.dim() == 1:
                    parameter.copy_(parameter + 0.3 * values)
                else:
                    parameter.copy_(values * parameter.shape[1] ** -0.5)
        return model.eval()

    return fill
