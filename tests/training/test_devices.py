from __future__ import annotations

import re
import time

import pytest
import torch

from smidgen.runtime.errors import ConfigError
from smidgen.training.device_peaks import PEAKS
from smidgen.training.devices import device_name, peak_flops, published_peak, resolve_device


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.5),
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.1),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_published_peaks(name: str, tflops: float) -> None:
    assert published_peak(name) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    ("name", "dtype", "tflops"),
    [
        ("NVIDIA H200", torch.float8_e4m3fn, 1979),
        ("NVIDIA H200", torch.float8_e5m2, 1979),
        ("NVIDIA H200", torch.float32, 67),
        ("NVIDIA GeForce RTX 4090", torch.float8_e4m3fn, 330.3),
        ("NVIDIA GeForce RTX 3090", torch.float8_e4m3fn, None),
        ("Tesla T4", torch.float16, 65),
        ("Tesla T4", torch.bfloat16, None),
        ("AMD Instinct MI300X", torch.float8_e4m3fn, 2614.9),
        ("NVIDIA H200", torch.float64, None),
    ],
)
def test_a_type_has_its_own_peak(name: str, dtype: torch.dtype, tflops: float | None) -> None:
    assert published_peak(name, dtype) == (None if tflops is None else pytest.approx(tflops * 1e12))


def test_tf32_counts_where_it_is_allowed() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert published_peak("NVIDIA H100 80GB HBM3", torch.float32) == pytest.approx(494.7e12)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("name", PEAKS)
def test_the_table_is_consistent(name: str) -> None:
    peaks = PEAKS[name]
    assert peaks.source
    assert peaks.fp32 is not None
    if peaks.bf16 is not None:
        assert peaks.bf16 == peaks.fp16 > 1.5 * peaks.fp32
        assert peaks.fp8 is None or peaks.fp8 == pytest.approx(2 * peaks.bf16, rel=0.02)
        assert peaks.tf32 is None or peaks.tf32 == pytest.approx(peaks.bf16 / 2, rel=0.02)


def test_no_name_matches_two_rows() -> None:
    names = [
        "NVIDIA H200",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 3090 Ti",
        "AMD Instinct MI250X",
    ]
    for name in names:
        assert sum(re.fullmatch(pattern, name) is not None for pattern in PEAKS) == 1


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GH200 480GB MIG 1g.12gb",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla T4",
        "NVIDIA A10G",
        "Orin",
    ],
)
def test_an_unknown_gpu_has_no_peak(name: str) -> None:
    assert published_peak(name) is None


def test_the_cpu_is_measured_once_and_quickly() -> None:
    cpu = torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        start = time.perf_counter()
        measured = peak_flops(cpu, dtype)
        assert time.perf_counter() - start < 5  # a third of a second, on a machine that is not overloaded
        assert 1e8 < measured < 1e15
        assert peak_flops(cpu, dtype) == measured


def test_a_device_without_a_figure_is_unknown() -> None:
    assert peak_flops(torch.device("mps"), torch.bfloat16) is None
    assert peak_flops(torch.device("cpu"), torch.float8_e4m3fn) is None


def test_devices_that_are_not_there_are_refused() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ConfigError, match=r"training\.device = tpu-v5: not a device"):
        resolve_device("tpu-v5")
    with pytest.raises(ConfigError, match="not available"):
        resolve_device("cuda:63")
    with pytest.raises(ConfigError, match="not available"):
        resolve_device("xpu")


def test_the_cpu_is_named_with_its_threads() -> None:
    assert device_name(torch.device("cpu")).startswith(f"cpu, {torch.get_num_threads()} thread")
