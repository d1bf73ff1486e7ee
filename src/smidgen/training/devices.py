"""Which device a training runs on, and how many operations a second that device can do."""

from __future__ import annotations

import re
import time
from functools import cache

import torch

from smidgen.runtime.errors import ConfigError

# Dense bf16 products with float32 accumulation, in TFLOP/s, by the name that torch gives the device. A name must
# match whole: a laptop's or a sliced GPU (MIG) has another peak, and an unknown one is better than a wrong one.
# Sources: NVIDIA's data sheets (where they state the figure with sparsity, half of it) of H100, H200, GH200, B200,
# GB200, A100, A30, A40, A10, L4, L40 and L40S; its architecture white papers GA102 (RTX 3090, RTX A6000), Ada
# (RTX 4080, RTX 4090, RTX 6000 Ada) and Blackwell (RTX 5090); AMD's data sheets of Instinct MI300X and MI325X.
_BF16_PEAK_TFLOPS = {
    r"NVIDIA H200": 989.5,
    r"NVIDIA H200 NVL": 835.5,
    r"NVIDIA H100 80GB HBM3|NVIDIA H100 SXM.*": 989.5,
    r"NVIDIA H100 NVL": 835.5,
    r"NVIDIA H100 PCIe": 756.5,
    r"NVIDIA GH200 .*": 989.5,
    r"NVIDIA B200": 2250.0,
    r"NVIDIA GB200": 2500.0,
    r"NVIDIA A100[- ](SXM4|PCIE|PG509).*|NVIDIA A100 80GB PCIe": 312.0,
    r"NVIDIA A30": 165.0,
    r"NVIDIA A40": 149.7,
    r"NVIDIA A10": 125.0,
    r"NVIDIA L4": 121.0,
    r"NVIDIA L40": 181.1,
    r"NVIDIA L40S": 362.1,
    r"NVIDIA GeForce RTX 3090": 71.0,
    r"NVIDIA GeForce RTX 4080": 97.5,
    r"NVIDIA GeForce RTX 4090": 165.2,
    r"NVIDIA GeForce RTX 5090": 209.5,
    r"NVIDIA RTX A6000": 154.8,
    r"NVIDIA RTX 6000 Ada Generation": 364.2,
    r"AMD Instinct MI3(00|25)X.*": 1307.4,
}
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


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s of dense matrix products in `dtype`: published for GPUs in 16 bits, measured for the CPU, else None."""
    if device.type == "cpu":
        return _measured_cpu_flops(dtype, torch.get_num_threads())
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        return published_peak(torch.cuda.get_device_name(device))
    return None


def published_peak(name: str) -> float | None:
    """FLOP/s of bf16 products that the maker of the GPU called `name` states, or None where we do not know it."""
    for pattern, tflops in _BF16_PEAK_TFLOPS.items():
        if re.fullmatch(pattern, name):
            return tflops * 1e12
    return None


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
