"""The ternary Triton kernels without a GPU: what they compute, in the interpreter, and that they compile for GPUs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def test_kernels_equal_the_references_in_the_interpreter(run_interpreted: Callable[[str], None]) -> None:
    run_interpreted("interpreted_ternary_triton.py")


@pytest.mark.parametrize("capability", [80, 90])
def test_products_compile_to_int8_tensor_core_instructions(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from smidgen.kernels import ternary_triton

    kernel: Any = ternary_triton._ternary_gemm
    pointers = {"a": "*i8", "packed": "*u8", "token_scale": "*fp32", "weight_scale": "*fp32", "c": "*bf16"}
    constants = {"BLOCK_M": 64, "BLOCK_R": 32, "BLOCK_K": 64}
    signature = pointers | dict.fromkeys(("m", "packed_rows", "k"), "i32") | dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name, t in signature.items() if t != "constexpr"},
    )
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 3})
    instruction = r"wgmma\.mma_async\S*s32\.s8\.s8|mma\.sync\S*s32\.s8\.s8\.s32"
    assert re.search(instruction, binary.asm["ptx"])
    assert binary.metadata.shared <= 99 * 1024
