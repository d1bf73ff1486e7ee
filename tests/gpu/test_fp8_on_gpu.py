"""FP8 products on the hardware against the references, through whole linear layers, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.kernels import fp8_dispatch
from smidgen.model.fp8 import RECIPES, Recipe, use_fp8
from smidgen.model.linear import Linear, Quantizer


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", [(256, 768, 2048), (200, 512, 192), (1024, 2048, 768)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_linear_layer_computes_what_the_reference_computes(
    recipe: Recipe, shape: tuple[int, int, int], compiled: bool, cuda: torch.device
) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU with FP8 products")
    rows, in_features, out_features = shape
    generator = torch.Generator().manual_seed(0)
    weight = 0.02 * torch.randn(out_features, in_features, generator=generator)
    x = torch.randn(rows, in_features, generator=generator).bfloat16()
    gradient = (1e-3 * torch.randn(rows, out_features, generator=generator)).bfloat16()

    def run(device: torch.device) -> list[Tensor]:
        linear = Linear(in_features, out_features, Quantizer()).to(device)
        linear.weight.data.copy_(weight)
        layer = torch.nn.Sequential(linear)
        conversion = use_fp8(layer, recipe, device)
        assert conversion.backend == (
            "reference" if device.type == "cpu" else "triton" if recipe == "fp8_block" else "scaled_mm"
        )
        run_layer = torch.compile(layer) if compiled and device.type == "cuda" else layer
        leaf = x.to(device).requires_grad_()
        out = run_layer(leaf)
        return [
            t.float().cpu()
            for t in (out.detach(), *torch.autograd.grad(out, (leaf, linear.weight), gradient.to(device)))
        ]

    exact = [
        (x.float() @ weight.T),
        (gradient.float() @ weight),
        (gradient.float().T @ x.float()),
    ]
    for ours, reference, true in zip(run(cuda), run(torch.device("cpu")), exact, strict=True):
        # The hardware sums with fewer bits in the forward pass, and a last bit of bf16 on top.
        assert ((ours - reference).norm() / reference.norm()).item() < 1e-2
        # Similarity as the block FP8 of DeepSeek-V3 is judged: 1 - 2⟨x, y⟩ / (‖x‖² + ‖y‖²). e5m2 gradients are coarser.
        similarity = 2 * (ours * true).sum() / (ours.square().sum() + true.square().sum())
        assert 1 - similarity.item() < (1e-3 if recipe == "fp8_block" else 3e-3)


def test_backends_are_the_hardwares(cuda: torch.device) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU with FP8 products")
    assert fp8_dispatch.tensorwise_backend(cuda) == "scaled_mm"
    assert fp8_dispatch.block_backend(cuda) == "triton"
