"""Which device a training runs on, and how many operations a second that device can do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch

from smidgen.runtime.errors import ConfigError
from smidgen.training.device_peaks import peaks_of

_FP8_TYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
_PROBE_SECONDS = 0.3
_PROBE_SIZE = 1024


def resolve_device(name: str) -> torch.device:
    """The device of `training.device`; auto takes cuda, else mps, else cpu. Raises ConfigError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"training.device = {name}: not a device; use auto, cpu, cuda, cuda:1 or mps") from None
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }.get(device.type, 0)
    if (device.index or 0) >= available:
        raise ConfigError(f"training.device = {name}: not available on this machine; use auto or cpu")
    return device


def device_name(device: torch.device) -> str:
    """The device as a person knows it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return device.type


@contextmanager
def training_kernels(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Around a training, its compilation and its backward passes: which of PyTorch's kernels it takes.

    On Hopper and newer GPUs cuDNN's attention is the fastest in training (forward and backward pass of 16 × 2048
    tokens, 12 heads of 64 over 3: 1.10 ms on an H200, flash attention 1.79 ms); PyTorch by itself prefers the latter.
    Both add up gradients in whatever order threads come; with `deterministic` the same input gives the same bits, by
    slower kernels. A CPU's always do.
    """
    if device.type != "cuda":
        yield
        return
    with ExitStack() as stack:
        if deterministic:
            # cuBLAS reads it when its first product begins.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            switches: Any = torch.utils.deterministic
            stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
            stack.callback(setattr, switches, "fill_uninitialized_memory", switches.fill_uninitialized_memory)
            torch.use_deterministic_algorithms(True)
            switches.fill_uninitialized_memory = False
        elif torch.version.hip is None and torch.cuda.get_device_capability(device) >= (9, 0):
            from torch.nn.attention import SDPBackend, sdpa_kernel

            kernels = [
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.MATH,
            ]
            stack.enter_context(sdpa_kernel(kernels, set_priority=True))
        yield


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of dense matrix products in `dtype`: published for GPUs, measured for the CPU; None where unknown.

    For float8 types it is the rate of FP8 products, whatever their recipe; a CPU has none.
    """
    if device.type == "cpu":
        return None if dtype in _FP8_TYPES else _measured_cpu_flops(dtype, torch.get_num_threads())
    if device.type == "cuda":
        return published_peak(torch.cuda.get_device_name(device), dtype)
    return None


def published_peak(name: str, dtype: torch.dtype = torch.bfloat16) -> float | None:
    """FLOP/s of products in `dtype` that the maker of the GPU called `name` states, or None where we do not know it.

    float32 products count as TF32 where `torch.set_float32_matmul_precision` allows it.
    """
    peaks = peaks_of(name)
    if peaks is None:
        return None
    if dtype in _FP8_TYPES:
        tflops = peaks.fp8
    elif dtype == torch.float32:
        tflops = peaks.fp32 if torch.get_float32_matmul_precision() == "highest" else peaks.tf32
    else:
        tflops = {torch.bfloat16: peaks.bf16, torch.float16: peaks.fp16}.get(dtype)
    return None if tflops is None else tflops * 1e12


@cache
def _measured_cpu_flops(dtype: torch.dtype, threads: int) -> float:
    """The best rate of repeated square products within a third of a second."""
    a = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    b = torch.ones(_PROBE_SIZE, _PROBE_SIZE, dtype=dtype)
    fastest = float("inf")
    begun = time.perf_counter()
    while time.perf_counter() - begun < _PROBE_SECONDS:
        start = time.perf_counter()
        torch.mm(a, b)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * _PROBE_SIZE**3 / fastest
