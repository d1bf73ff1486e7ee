"""Muon (Jordan et al., 2024): steps of the momentum's nearest orthogonal matrix, for matrices whole or divided."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smidgen.kernels.bf16 import multiplies_bf16_fast
from smidgen.training.parallel.gather import divided_as, whole

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration `X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X` (Jordan's): steepest at zero."""
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
_WIDE = 1.5
"""Width over height m / n from which iterating on XXᵀ alone takes fewer FLOP: 4·n²·m + 34·n³, not 20·n²·m + 10·n³."""


class Muon(torch.optim.Optimizer):
    """PyTorch's `torch.optim.Muon` with Nesterov's momentum, in the type of products that is fast on the device.

    Steps are as large as AdamW's (Liu et al., 2025): `0.2·√max(out, in)` times the orthogonal matrix. PyTorch
    multiplies in bfloat16 everywhere, which a processor without such products does several times slower than float32.

    Of DTensors, a matrix at a time, the momentum's update is gathered and every rank orthogonalises it for itself: one
    gather a matrix and step, and no memory beyond one whole matrix. State: `momentum_buffer`, divided as the matrix.
    """

    def __init__(self, matrices: Sequence[nn.Parameter], momentum: float) -> None:
        """`matrices` of 2 dimensions; the rates in the group are set before every step."""
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every matrix that has a gradient; the same on every rank."""
        assert closure is None
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter.grad)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                direction = orthogonalize(whole(parameter.grad.lerp(mean, momentum)))
                parameter.mul_(1 - lr * group["weight_decay"])
                size = lr * 0.2 * math.sqrt(max(parameter.shape))
                parameter.add_(divided_as(direction, parameter), alpha=-size)


def orthogonalize(matrix: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """About `UVᵀ` of `matrix = USVᵀ`, by five Newton-Schulz iterations: singular values come near 1 (0.7 to 1.2).

    In `dtype`: bfloat16 or float32; by default bfloat16 where the device multiplies it fast, else float32.
    """
    if dtype is None:
        dtype = torch.bfloat16 if multiplies_bf16_fast(matrix.device) else torch.float32
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x.to(dtype)
    x = x / x.norm().clamp(min=_SMALLEST_NORM)
    # Iterating on XXᵀ alone squares singular values, of which bfloat16 would leave little.
    is_wide = dtype == torch.float32 and x.shape[1] > _WIDE * x.shape[0]
    x = _iterate_on_gram(x) if is_wide else _iterate(x)
    return x.T if is_tall else x


def _iterate(x: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_on_gram(x: Tensor) -> Tensor:
    """The same where `x` is wide: an iteration is a polynomial `P` of the symmetric `G = XXᵀ`, `X ← P·X`, `G ← P·G·P`.
    The product of all `P` meets `x` once."""
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.T
    product: Tensor | None = None
    for iteration in range(_ITERATIONS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial if product is None else polynomial @ product
        if iteration < _ITERATIONS - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ x
