"""The Triton kernels without a GPU: what they compute, in the interpreter, and that they compile for GPUs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

INTEGER, FLOAT, E4M3, BF16 = "i32", "*fp32", "*fp8e4nv", "*bf16"


def test_kernels_equal_the_references_in_the_interpreter(run_interpreted: Callable[[str], None]) -> None:
    run_interpreted("interpreted_fp8_triton.py")


def compiled(kernel: Any, capability: int, signature: dict[str, Any], warps: int, stages: int = 3) -> Any:
    """`kernel` for a GPU that need not be there. Numbers in `signature` are constants; sizes are divisible by 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: t if isinstance(t, str) else "constexpr" for name, t in signature.items()},
        {(names.index(name),): value for name, value in signature.items() if not isinstance(value, str)},
        {(names.index(name),): [["tt.divisibility", 16]] for name, t in signature.items() if isinstance(t, str)},
    )
    options = {"num_warps": warps, "num_stages": stages}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from smidgen.kernels import fp8_triton

    return fp8_triton


@pytest.mark.parametrize(("capability", "stages", "shared_memory"), [(90, 4, 227), (89, 2, 99)])
@pytest.mark.parametrize("rows_per_scale", [1, 128])
def test_gemm_compiles_to_fp8_tensor_core_instructions(
    kernels: Any, capability: int, stages: int, shared_memory: int, rows_per_scale: int
) -> None:
    sizes = dict.fromkeys(("m", "n", "k", "a_scale_tile"), INTEGER)
    strides = {"a_scale_row": 1, "b_scale_row": INTEGER, "b_scale_tile": 1}
    if rows_per_scale == 1:
        strides |= {"b_scale_row": 1, "b_scale_tile": INTEGER}
    pointers = {"a": E4M3, "b": E4M3, "c": BF16, "a_scale": FLOAT, "b_scale": FLOAT}
    constants = {"ROWS_PER_SCALE": rows_per_scale, "BLOCK_M": 128, "BLOCK_N": 128, "GROUP_M": 8}
    binary = compiled(kernels._fp8_gemm, capability, pointers | sizes | strides | constants, warps=8, stages=stages)
    instruction = r"wgmma\.mma_async\S*f32\.e4m3\.e4m3" if capability == 90 else r"mma\.sync\S*e4m3\.e4m3\.f32"
    assert re.search(instruction, binary.asm["ptx"])
    assert "cp.async" in binary.asm["ptx"]
    assert binary.metadata.shared <= shared_memory * 1024


@pytest.mark.parametrize("capability", [90, 89])
def test_quantisers_compile_to_wide_loads_and_hardware_rounding(kernels: Any, capability: int) -> None:
    matrix = {"values": E4M3, "scale": FLOAT, "rows": INTEGER, "columns": INTEGER}
    by_rows, by_columns = {"x_row": INTEGER, "x_column": 1}, {"x_row": 1, "x_column": INTEGER}
    act = matrix | {"x": BF16, "scale_row": 1, "scale_tile": INTEGER, "POWER_OF_TWO": True, "ROWS": 64}
    weight = matrix | {"x": FLOAT, "tiles": INTEGER, "POWER_OF_TWO": False}
    dequant = matrix | {"result": BF16, "tiles": INTEGER}
    for kernel, signature in (
        (kernels._act_quant, act | by_rows),
        (kernels._act_quant, act | by_columns),
        (kernels._weight_quant, weight | by_rows),
    ):
        ptx = compiled(kernel, capability, signature, warps=8).asm["ptx"]
        assert "cvt.rn.satfinite.e4m3x2" in ptx
        assert "ld.global.v4.b32" in ptx
    assert "e4m3x2" in compiled(kernels._weight_dequant, capability, dequant, warps=8).asm["ptx"]
