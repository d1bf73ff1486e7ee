"""What every benchmark writes: the machine, its versions, and results as ratios to a peer of the same run."""

from __future__ import annotations

import datetime
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "tiktoken", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, and versions of what the figures depend on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        **accelerator(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        **versions,
    }


def accelerator() -> dict[str, str]:
    """The name of the GPU and the CUDA version that torch was built for; nothing without one."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {"accelerator": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def result(
    case: str, metric: str, unit: str, ours: float, peer: float | None = None, peer_name: str | None = None
) -> dict[str, Any]:
    """One figure beside its peer's; `ratio` is ours / peer."""
    ratio = ours / peer if peer else None
    return {
        "case": case,
        "metric": metric,
        "unit": unit,
        "ours": ours,
        "peer": peer,
        "peer_name": peer_name,
        "ratio": ratio,
    }


def write(path: str | Path, results: list[dict[str, Any]]) -> None:
    """Write the results of a run as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"machine": machine(), "results": results}, indent=2) + "\n", encoding="utf-8")
