from __future__ import annotations

import time

import pytest
import torch

from smidgen.runtime.errors import ConfigError
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
    "name",
    ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", "Tesla T4", "NVIDIA A10G", "Orin"],
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
    assert peak_flops(torch.device("cuda"), torch.float32) is None


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
