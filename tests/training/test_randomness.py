from __future__ import annotations

import json
import random

import numpy as np
import torch

from smidgen.training.randomness import capture_randomness, restore_randomness, seed_everything

CPU = torch.device("cpu")


def draw() -> tuple[list[float], list[float], list[float]]:
    return (
        [random.random(), random.random(), random.gauss(0, 1)],
        [*np.random.random(3).tolist(), np.random.standard_normal()],
        [*torch.rand(3).tolist(), torch.randn(()).item()],
    )


def test_generators_go_on_where_they_were() -> None:
    seed_everything(3)
    draw()  # leaves half a pair of normal numbers in Python's and numpy's generators
    tensors, values = capture_randomness(CPU)
    expected = draw()
    seed_everything(99)
    restore_randomness(CPU, tensors, json.loads(json.dumps(values)))
    assert draw() == expected


def test_seeds_decide() -> None:
    seed_everything(2**40)
    first = draw()
    seed_everything(2**40)
    assert draw() == first
    seed_everything(2**40 + 1)
    assert draw() != first
