"""What makers state of their accelerators: dense matrix products a second, by type.

A figure that we do not know is None, and so is everything of a device that we do not know: no utilisation is better
than a wrong one. Names must match whole, for a laptop's GPU or a slice of one (MIG) has another peak.

Figures are dense: where a data sheet states them with structured sparsity, half of it. 16-bit and FP8 products
accumulate in float32 (a GeForce is faster, and useless for training, with 16-bit sums). `fp32` is without TF32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Peaks:
    """TFLOP/s of dense products; None where the maker states none or the device has none."""

    bf16: float | None
    fp16: float | None
    fp8: float | None
    tf32: float | None
    fp32: float | None
    source: str


def _gpu(source: str, sixteen_bits: float, *, fp8: float | None, tf32: float | None, fp32: float) -> Peaks:
    """A device whose bf16 and fp16 products are equally fast."""
    return Peaks(sixteen_bits, sixteen_bits, fp8, tf32, fp32, source)


_HOPPER_SXM = _gpu("NVIDIA H100 and H200 data sheets, SXM", 989.5, fp8=1979.0, tf32=494.7, fp32=67.0)
_HOPPER_NVL = _gpu("NVIDIA H100 and H200 data sheets, NVL", 835.5, fp8=1670.5, tf32=417.5, fp32=60.0)
_A100 = _gpu("NVIDIA A100 data sheet", 312.0, fp8=None, tf32=156.0, fp32=19.5)
_MI300X = _gpu("AMD Instinct MI300X and MI325X data sheets", 1307.4, fp8=2614.9, tf32=653.7, fp32=163.4)

_GA102 = "NVIDIA GA102 (Ampere) white paper"
_ADA = "NVIDIA Ada white paper"
_RTX_BLACKWELL = "NVIDIA RTX Blackwell white paper"
_V100 = "NVIDIA V100 data sheet"

PEAKS: dict[str, Peaks] = {
    # Blackwell
    r"NVIDIA B200": _gpu("NVIDIA HGX B200 data sheet, an eighth", 2250.0, fp8=4500.0, tf32=1125.0, fp32=75.0),
    r"NVIDIA GB200": _gpu("NVIDIA GB200 NVL72 data sheet, a 72nd", 2500.0, fp8=5000.0, tf32=1250.0, fp32=80.0),
    r"NVIDIA GeForce RTX 5090": _gpu(_RTX_BLACKWELL, 209.5, fp8=419.0, tf32=104.8, fp32=104.8),
    r"NVIDIA GeForce RTX 5080": _gpu(_RTX_BLACKWELL, 112.6, fp8=225.1, tf32=56.3, fp32=56.3),
    r"NVIDIA GeForce RTX 5070 Ti": _gpu(_RTX_BLACKWELL, 87.9, fp8=175.8, tf32=43.9, fp32=43.9),
    # Hopper
    r"NVIDIA H200": _HOPPER_SXM,
    r"NVIDIA H200 NVL": _HOPPER_NVL,
    r"NVIDIA H100 80GB HBM3|NVIDIA H100 SXM.*": _HOPPER_SXM,
    r"NVIDIA H100 NVL": _HOPPER_NVL,
    r"NVIDIA H100 PCIe": _gpu("NVIDIA H100 data sheet, PCIe", 756.5, fp8=1513.0, tf32=378.0, fp32=51.0),
    r"NVIDIA GH200 .*": _gpu("NVIDIA GH200 data sheet", 989.5, fp8=1979.0, tf32=494.7, fp32=67.0),
    # Ada
    r"NVIDIA L4": _gpu("NVIDIA L4 data sheet", 121.0, fp8=242.5, tf32=60.0, fp32=30.3),
    r"NVIDIA L40": _gpu("NVIDIA L40 data sheet", 181.1, fp8=362.0, tf32=90.5, fp32=90.5),
    r"NVIDIA L40S": _gpu("NVIDIA L40S data sheet", 362.1, fp8=733.0, tf32=183.0, fp32=91.6),
    r"NVIDIA RTX 6000 Ada Generation": _gpu(_ADA, 364.2, fp8=728.5, tf32=182.1, fp32=91.1),
    r"NVIDIA GeForce RTX 4090": _gpu(_ADA, 165.2, fp8=330.3, tf32=82.6, fp32=82.6),
    r"NVIDIA GeForce RTX 4080": _gpu(_ADA, 97.5, fp8=194.9, tf32=48.7, fp32=48.7),
    r"NVIDIA GeForce RTX 4070 Ti": _gpu(_ADA, 80.2, fp8=160.4, tf32=40.1, fp32=40.1),
    # Ampere
    r"NVIDIA A100[- ](SXM4|PCIE|PG509).*|NVIDIA A100 80GB PCIe": _A100,
    r"NVIDIA A30": _gpu("NVIDIA A30 data sheet", 165.0, fp8=None, tf32=82.0, fp32=10.3),
    r"NVIDIA A40": _gpu("NVIDIA A40 data sheet", 149.7, fp8=None, tf32=74.8, fp32=37.4),
    r"NVIDIA A10": _gpu("NVIDIA A10 data sheet", 125.0, fp8=None, tf32=62.5, fp32=31.2),
    r"NVIDIA A16": _gpu("NVIDIA A16 data sheet, a quarter", 17.9, fp8=None, tf32=9.0, fp32=4.5),
    r"NVIDIA A2": _gpu("NVIDIA A2 data sheet", 18.0, fp8=None, tf32=9.0, fp32=4.5),
    r"NVIDIA RTX A6000": _gpu(_GA102, 154.8, fp8=None, tf32=77.4, fp32=38.7),
    r"NVIDIA RTX A5000": _gpu("NVIDIA RTX A5000 data sheet", 111.1, fp8=None, tf32=55.6, fp32=27.8),
    r"NVIDIA RTX A4000": _gpu("NVIDIA RTX A4000 data sheet", 76.7, fp8=None, tf32=38.3, fp32=19.2),
    r"NVIDIA GeForce RTX 3090": _gpu(_GA102, 71.0, fp8=None, tf32=35.6, fp32=35.6),
    r"NVIDIA GeForce RTX 3090 Ti": _gpu(_ADA, 80.0, fp8=None, tf32=40.0, fp32=40.0),
    r"NVIDIA GeForce RTX 3070": _gpu(_GA102, 40.6, fp8=None, tf32=20.3, fp32=20.3),
    # Older: no bf16
    r"Tesla V100-SXM[23]-.*": Peaks(None, 125.0, None, None, 15.7, _V100),
    r"Tesla V100-PCIE-.*": Peaks(None, 112.0, None, None, 14.0, _V100),
    r"Tesla V100S-PCIE-32GB": Peaks(None, 130.0, None, None, 16.4, _V100),
    r"Tesla T4": Peaks(None, 65.0, None, None, 8.1, "NVIDIA T4 data sheet"),
    # AMD; an MI250 is two devices to PyTorch
    r"AMD Instinct MI3(00|25)X.*": _MI300X,
    r"AMD Instinct MI300A": _gpu("AMD Instinct MI300A data sheet", 980.6, fp8=1961.2, tf32=490.3, fp32=122.6),
    r"AMD Instinct MI350X": _gpu("AMD Instinct MI350X data sheet", 2306.9, fp8=4613.7, tf32=None, fp32=144.2),
    r"AMD Instinct MI355X": _gpu("AMD Instinct MI355X data sheet", 2516.6, fp8=5033.2, tf32=None, fp32=157.3),
    r"AMD Instinct MI250X.*": _gpu("AMD Instinct MI250X data sheet, half", 191.5, fp8=None, tf32=None, fp32=47.9),
    r"AMD Instinct MI250": _gpu("AMD Instinct MI250 data sheet, half", 181.0, fp8=None, tf32=None, fp32=45.3),
    r"AMD Instinct MI210": _gpu("AMD Instinct MI210 data sheet", 181.0, fp8=None, tf32=None, fp32=45.3),
}
"""By the whole name that PyTorch gives the device, as a regular expression."""


def peaks_of(name: str) -> Peaks | None:
    """What the maker of the device called `name` states, or None where we do not know it."""
    if " MIG " in name:
        return None
    return next((peaks for pattern, peaks in PEAKS.items() if re.fullmatch(pattern, name)), None)
