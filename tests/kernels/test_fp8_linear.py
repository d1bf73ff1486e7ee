"""The three products of each recipe against float32, against torch._scaled_mm, compiled, and with broken values."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from smidgen.kernels import fp8_dispatch
from smidgen.kernels.fp8 import E4M3
from smidgen.kernels.fp8_linear import DelayedScale, block_linear, delayed_linear, tensorwise_linear
from smidgen.kernels.fp8_tensorwise import E5M2, absolute_max, dynamic_scale

Product = Callable[[Tensor, Tensor], Tensor]


def operands(dtype: torch.dtype = torch.float32, tokens: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """x [2, tokens, 160], weight [144, 160], gradient [2, tokens, 144]."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, tokens, 160, generator=generator).to(dtype)
    weight = torch.randn(144, 160, generator=generator) * 0.02
    gradient = torch.randn(2, tokens, 144, generator=generator).to(dtype) * 1e-3
    return x.requires_grad_(), weight.requires_grad_(), gradient


def delayed_scales(*tensors: Tensor) -> list[DelayedScale]:
    """As if the last steps had seen just these tensors: of input, weight and gradient."""
    formats = (E4M3, E4M3, E5M2)
    scales = [dynamic_scale(absolute_max(t.detach()), f) for t, f in zip(tensors, formats, strict=True)]
    return [DelayedScale(scale, torch.zeros(())) for scale in scales]


def recipe(name: str) -> Product:
    if name == "delayed":
        scales = delayed_scales(*operands())
        return lambda x, weight: delayed_linear(x, weight, *scales)
    return {"tensorwise": tensorwise_linear, "block": block_linear}[name]


def passes(product: Product, x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Result, input gradient and weight gradient."""
    y = product(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


def relative_error(result: Tensor, exact: Tensor) -> float:
    return ((result.double() - exact.double()).norm() / exact.double().norm()).item()


RECIPES = ["tensorwise", "delayed", "block"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", RECIPES)
def test_products_are_right_within_the_error_of_their_formats(name: str, dtype: torch.dtype) -> None:
    x, weight, gradient = operands(dtype)
    results = passes(recipe(name), x, weight, gradient)
    exact = passes(lambda x, w: x.float() @ w.T, x, weight, gradient.float())
    assert [r.dtype for r in results] == [dtype, dtype, torch.float32]
    assert [r.shape for r in results] == [gradient.shape, x.shape, weight.shape]
    errors = [relative_error(r, e) for r, e in zip(results, exact, strict=True)]
    # e4m3 rounds by 2.6 % (root mean square) and e5m2 by 5.2 %; two independent factors add up as √(a² + b²).
    gradient_error = 0.036 if name == "block" else 0.059
    for error, expected in zip(errors, (0.036, gradient_error, gradient_error), strict=True):
        assert 0.8 * expected < error < 1.15 * expected


@pytest.mark.parametrize("name", ["tensorwise", "delayed"])
@pytest.mark.parametrize("tokens", [32, 3])
def test_torch_scaled_mm_equals_the_reference(name: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs on a CPU too; the number of tokens is padded to what the hardware wants."""
    x, weight, gradient = operands(tokens=tokens)
    expected = passes(recipe(name), x, weight, gradient)
    monkeypatch.setattr(fp8_dispatch, "tensorwise_backend", lambda device: "scaled_mm")
    for result, reference in zip(passes(recipe(name), x, weight, gradient), expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-5, atol=1e-6 * reference.abs().max().item())


@pytest.mark.parametrize("name", RECIPES)
def test_compiles_without_a_graph_break_to_the_same(name: str) -> None:
    torch._dynamo.reset()
    x, weight, gradient = operands()
    product = recipe(name)
    compiled = torch.compile(recipe(name), backend="aot_eager", fullgraph=True)
    for result, reference in zip(
        passes(compiled, x, weight, gradient), passes(product, x, weight, gradient), strict=True
    ):
        assert torch.equal(result, reference)


@pytest.mark.parametrize("compiled", [False, True])
def test_delayed_scaling_records_the_largest_value_of_all_passes_and_keeps_its_scales(compiled: bool) -> None:
    torch._dynamo.reset()
    x, weight, gradient = operands()
    scales = delayed_scales(x, weight, gradient)
    before = [scale.scale.clone() for scale in scales]

    def product(x: Tensor, weight: Tensor) -> Tensor:
        return delayed_linear(x, weight, *scales)

    if compiled:
        product = torch.compile(product, backend="aot_eager", fullgraph=True)
    for factor in (1.0, 3.0, 2.0):
        product(x * factor, weight).backward(gradient * factor)
    expected = [3 * absolute_max(x), absolute_max(weight), 3 * absolute_max(gradient)]
    torch.testing.assert_close([scale.amax for scale in scales], [e.detach() for e in expected])
    assert [s.scale for s in scales] == before


def test_two_passes_before_their_backward_passes() -> None:
    """As preference objectives have it: the recorded value changes between the two backward passes."""
    x, weight, gradient = operands()
    scales = delayed_scales(x, weight, gradient)
    first, second = (delayed_linear(x, weight, *scales) for _ in range(2))
    ((first * gradient).sum() + 2 * (second * gradient).sum()).backward()
    torch.testing.assert_close(scales[2].amax, 2 * absolute_max(gradient))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("name", RECIPES)
def test_broken_values_show_in_the_result(name: str, broken: float) -> None:
    for spoiled in range(3):
        tensors = [t.detach().clone() for t in operands()]
        tensors[spoiled].view(-1)[7] = broken
        x, weight, gradient = tensors
        y, x_gradient, weight_gradient = passes(recipe(name), x.requires_grad_(), weight.requires_grad_(), gradient)
        for result, factors in ((y, (0, 1)), (x_gradient, (1, 2)), (weight_gradient, (0, 2))):
            assert result.isfinite().all() == (spoiled not in factors)


@pytest.mark.parametrize("name", RECIPES)
def test_zeros_give_zeros(name: str) -> None:
    x, weight, gradient = (torch.zeros_like(t).requires_grad_() for t in operands())
    assert all(not result.any() for result in passes(recipe(name), x, weight, gradient))


def test_without_gradients_only_the_product_runs() -> None:
    x, weight, gradient = operands()
    scales = delayed_scales(x, weight, gradient)
    y = delayed_linear(x.detach(), weight, *scales)
    y.backward(gradient)
    assert weight.grad is not None
    assert x.grad is None
    with torch.no_grad():
        assert not delayed_linear(x, weight, *scales).requires_grad


def test_two_ranks_that_share_a_weight_compute_what_one_computes() -> None:
    """Tensor parallelism: scales are those of the whole tensor, tile or block."""
    script = Path(__file__).with_name("divided_fp8_linear.py")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script)], env=os.environ | shared | {"RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], errors[0][-3000:] + errors[1][-3000:]
