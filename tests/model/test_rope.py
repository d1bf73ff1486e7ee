"""Rotary embeddings: both layouts are rotations, and YaRN follows its formula."""

from __future__ import annotations

import math

import pytest
import torch

from smidgen.config import Yarn
from smidgen.model.rope import (
    inverse_frequencies,
    rotate_halves,
    rotate_interleaved,
    rotation,
    rotation_matrix,
    yarn_frequencies,
    yarn_softmax_factor,
)


@pytest.mark.parametrize("rotate", [rotate_halves, rotate_interleaved])
def test_scores_depend_on_the_distance_only(rotate) -> None:  # type: ignore[no-untyped-def]
    frequencies = inverse_frequencies(16, 10_000.0)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 16, generator=generator) for _ in range(2))

    def score(i: int, j: int) -> float:
        q = rotate(query, rotation(torch.tensor([[i]]), frequencies))
        k = rotate(key, rotation(torch.tensor([[j]]), frequencies))
        return float((q * k).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)


def test_the_two_layouts_are_one_rotation_in_another_order() -> None:
    by = rotation(torch.arange(5)[None], inverse_frequencies(8, 100.0))
    x = torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(0))
    halves = torch.cat([x[..., 0::2], x[..., 1::2]], dim=-1)
    rotated = rotate_halves(halves, by)
    interleaved = rotate_interleaved(x, by)
    torch.testing.assert_close(torch.cat([interleaved[..., 0::2], interleaved[..., 1::2]], dim=-1), rotated)


def test_yarn_keeps_fast_frequencies_and_divides_slow_ones() -> None:
    plain, stretched = inverse_frequencies(64, 10_000.0), yarn_frequencies(64, 10_000.0, Yarn())
    low = math.floor(64 * math.log(4096 / (32 * 2 * math.pi)) / (2 * math.log(10_000)))
    high = math.ceil(64 * math.log(4096 / (1 * 2 * math.pi)) / (2 * math.log(10_000)))
    assert torch.equal(stretched[: low + 1], plain[: low + 1])
    torch.testing.assert_close(stretched[high:], plain[high:] / 40)
    between = stretched[low + 1 : high]
    assert ((between < plain[low + 1 : high]) & (between > plain[low + 1 : high] / 40)).all()


def test_yarn_softmax_factor() -> None:
    assert yarn_softmax_factor(Yarn()) == pytest.approx((0.1 * math.log(40) + 1) ** 2)
    assert yarn_softmax_factor(Yarn(factor=1.0)) == 1.0


@pytest.mark.parametrize("rotate", [rotate_halves, rotate_interleaved])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_token_is_rotated_by_a_matrix_as_by_sums(rotate, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    x = torch.randn(2, 3, 1, 16).to(dtype)
    by = rotation(torch.tensor([[77], [5]]), inverse_frequencies(16, 10_000.0))
    whole = by._replace(matrix=rotation_matrix(by, interleaved=rotate is rotate_interleaved))
    tolerance = {torch.float64: 0.0, torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(rotate(x, whole), rotate(x, by), rtol=tolerance, atol=tolerance)
