"""Seeds, and the state of every random generator that a training draws from."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

GENERATORS = ("torch", "numpy", "python", "cuda", "mps")
"""Names of the tensors that hold the generators' state."""


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, those of all GPUs included."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def capture_randomness(device: torch.device) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of all generators: tensors for safetensors, and values for JSON."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    assert version == 3
    assert name == "MT19937"
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "python": torch.tensor(words, dtype=torch.int64),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        tensors["mps"] = torch.mps.get_rng_state()
    values = {"numpy": [int(position), int(has_gauss), float(cached_gauss)], "python_gauss": gauss}
    return tensors, values


def restore_randomness(device: torch.device, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Put back what `capture_randomness` returned. A generator of a device that the run did not use keeps its seed."""
    random.setstate((3, tuple(tensors["python"].tolist()), values["python_gauss"]))
    position, has_gauss, cached_gauss = values["numpy"]
    keys = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, cached_gauss))
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    if device.type == "mps" and "mps" in tensors:
        torch.mps.set_rng_state(tensors["mps"])
