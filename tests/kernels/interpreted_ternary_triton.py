"""The ternary Triton kernels on a CPU, in Triton's interpreter, against the references. Run by test_ternary_triton.py.

In a process of its own: TRITON_INTERPRET=1 chooses the interpreter when Triton is imported, for good.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.kernels import ternary_dispatch, ternary_packing, ternary_triton
from smidgen.kernels.ternary import int8_codes

assert ternary_triton.INTERPRETED, "run with TRITON_INTERPRET=1"

SHAPES = [(1, 4, 1), (3, 100, 130), (35, 140, 70)]
"""Tokens M, rows N and columns K."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(rows: int, columns: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return ternary_packing.pack_ternary(torch.randint(-1, 2, (rows, columns), generator=draw))


@pytest.mark.parametrize("shape", [(1, 1), (3, 1100)])
def test_activations_get_the_codes_of_the_reference(shape: tuple[int, int]) -> None:
    x = random(*shape) * torch.logspace(-6, 3, shape[0])[:, None]
    x[-1, 0] = 0
    for layout in (x, x.bfloat16(), x.t().contiguous().t(), torch.zeros_like(x)):
        codes, scale = ternary_triton.int8_quant(layout)
        expected, expected_scale = int8_codes(layout)
        assert codes.dtype == torch.int8
        assert torch.equal(scale, expected_scale)
        assert torch.equal(codes.float(), expected)


def test_ties_are_rounded_to_even() -> None:
    x = torch.arange(-127.0, 127.5, 0.5)[None]
    codes, scale = ternary_triton.int8_quant(x)
    assert scale.item() == 1.0
    assert torch.equal(codes.float(), x.round())


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_products_are_exact(m: int, n: int, k: int) -> None:
    codes = torch.randint(-128, 128, (m, k), generator=torch.Generator().manual_seed(2), dtype=torch.int8)
    one = torch.ones(m, 1)
    result = ternary_triton.ternary_product(codes, one, weights(n, k), torch.ones(1), torch.float32)
    assert torch.equal(result, ternary_packing.ternary_gemm(codes, weights(n, k)).float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_the_linear_equals_the_reference(
    m: int, n: int, k: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, packed, scale = random(2, m, k).to(dtype), weights(n, k), torch.tensor([0.37])
    expected = ternary_packing.ternary_linear(x, packed, scale)
    monkeypatch.setattr(ternary_dispatch, "ternary_backend", lambda device: "triton")
    result = ternary_dispatch.ternary_linear(x, packed, scale)
    assert result.dtype == dtype
    # The interpreter truncates to bfloat16.
    torch.testing.assert_close(result, expected, rtol=1e-6 if dtype == torch.float32 else 2**-7, atol=1e-6)


def test_operators_go_into_compiled_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ternary_dispatch, "ternary_backend", lambda device: "triton")
    x, packed, scale = random(5, 64), weights(32, 64), torch.tensor([0.5])
    compiled = torch.compile(ternary_dispatch.ternary_linear, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, packed, scale), ternary_packing.ternary_linear(x, packed, scale))


def test_a_packed_model_runs_on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    import smidgen
    from smidgen.config import Quantization
    from smidgen.inference.frozen import frozen
    from smidgen.model import quantized
    from smidgen.quantization import quantize

    model = smidgen.build("tinylm-gqa-tiny", {"model.num_layers": 1, "model.vocab_size": 64})
    packed = quantize(model, Quantization(scheme="ternary", activation_bits=8))
    ids = torch.tensor([[3, 14, 15, 9]])
    expected = packed(ids)
    for module in (ternary_dispatch, quantized):
        monkeypatch.setattr(module, "ternary_backend", lambda device: "triton")
    ready = frozen(packed)
    assert type(ready.layers[0].mlp.up_proj) is quantized.QuantizedLinear
    with torch.inference_mode():
        logits = ready(ids)
    assert (logits - expected).norm() < 0.02 * expected.norm()
