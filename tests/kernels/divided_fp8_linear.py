"""One of two ranks that share a weight: each recipe must give what one rank gives. Run by test_fp8_linear.py."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from smidgen.kernels.fp8_fake import fake_fp8_activation, fake_fp8_weight
from smidgen.kernels.fp8_linear import DelayedScale, block_linear, delayed_linear, tensorwise_linear
from smidgen.kernels.ternary import fake_int8, fake_ternary

WAYS: dict[str, tuple[Placement, Placement, Placement]] = {
    "output features": (Replicate(), Shard(0), Shard(2)),
    "input features": (Shard(2), Shard(1), Replicate()),
}
"""What is divided: placements of input, weight and the result's gradient."""


def passes(recipe: str, x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """Result, gradients, and what delayed scaling recorded."""
    scales = [DelayedScale(torch.tensor(s), torch.zeros(())) for s in (100.0, 4000.0, 1e7)]
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    products = {
        "tensorwise": lambda: tensorwise_linear(x, weight),
        "delayed": lambda: delayed_linear(x, weight, *scales),
        "block": lambda: block_linear(x, weight),
        "block in the model": lambda: fake_fp8_activation(x) @ fake_fp8_weight(weight, x.dtype).t(),
        "ternary": lambda: fake_int8(x) @ fake_ternary(weight, x.dtype).t(),
    }
    y = products[recipe]()
    results = [y.detach(), *torch.autograd.grad(y, (x, weight), gradient), *(scale.amax for scale in scales)]
    return [r.full_tensor() if isinstance(r, DTensor) else r for r in results]


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(*size, generator=generator) for size in ((2, 12, 160), (144, 160), (2, 12, 144))]
    whole[1] *= torch.logspace(-3, 0, 160)  # ranks' largest values differ
    whole[2] *= 1e-4
    for recipe in ("tensorwise", "delayed", "block", "block in the model", "ternary"):
        expected = passes(recipe, *whole)
        for way, placements in WAYS.items():
            divided = [distribute_tensor(t, mesh, [p]) for t, p in zip(whole, placements, strict=True)]
            for result, reference in zip(passes(recipe, *divided), expected, strict=True):
                close = torch.allclose(result, reference, rtol=1e-4, atol=1e-5 * reference.abs().max().item())
                assert close, f"{recipe}, divided by {way}"
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
