"""The native library under sanitizers, and its NEON kernels under an emulator: `make torture`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "src/smidgen/edge/native"
PRODUCTS = Path(__file__).with_name("native") / "products.cpp"
AARCH64 = Path("/usr/aarch64-linux-gnu")

EMULATED = ("products", "parity")

pytestmark = pytest.mark.torture


def build(folder: Path, *options: str) -> None:
    """The library in `folder`, from the sources of this checkout."""
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def test_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    """The edge engine's own tests, hostile folders included, in a process whose library is instrumented."""
    need("cmake", "g++")
    build(tmp_path, "-DSMIDGEN_SANITIZE=address,undefined", "-DCMAKE_CXX_COMPILER=g++")
    kernels = sorted(tmp_path.rglob("kernels_*.o"))
    assert len(kernels) > 1
    for path in kernels:  # every instruction set, not the scalar one alone
        symbols = subprocess.run(
            ["nm", "--undefined-only", str(path)], capture_output=True, text=True, check=True
        ).stdout
        assert "__asan_report" in symbols, path
        assert "__ubsan_handle" in symbols, path
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    tests = ["test_hostile.py", "test_engine.py", "test_sampling.py", "test_products.py", "test_quantized_folders.py"]
    environment = {
        **os.environ,
        "SMIDGEN_EDGE_LIBRARY": str(tmp_path / "libsmidgen_edge.so"),
        "LD_PRELOAD": " ".join(runtimes),
        # Python and PyTorch keep memory until the end; the engine's own leaks are not told from theirs.
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-m", "not torture", *(str(Path(__file__).with_name(name)) for name in tests)),
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_instructions_that_few_processors_have(tmp_path: Path) -> None:
    """AVX-VNNI and AVX512-BF16, their instructions replaced by what Intel documents; all else is the same."""
    need("cmake")
    build(tmp_path, "-DSMIDGEN_EMULATE=ON")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-k", "avxvnni or avx512bf16", *(str(Path(__file__).with_name(f"test_{name}.py")) for name in EMULATED)),
        ],
        env={
            **os.environ,
            "SMIDGEN_EDGE_LIBRARY": str(tmp_path / "libsmidgen_edge.so"),
            "OMP_NUM_THREADS": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    if "this processor or this build has no avx512bf16" in done.stdout:
        pytest.skip("this processor has no AVX-512: only AVX-VNNI was compared")


def test_neon_products_under_an_emulator(tmp_path: Path) -> None:
    """Every format's products, cross-compiled: the NEON kernels give what the scalar ones give."""
    need("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
    build(
        tmp_path,
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++",
    )
    program = tmp_path / "products"
    compiled = subprocess.run(
        [
            *("aarch64-linux-gnu-g++", "-std=c++17", "-O1", "-I", str(NATIVE), str(PRODUCTS), "-o", str(program)),
            *(f"-L{tmp_path}", "-lsmidgen_edge", f"-Wl,-rpath,{tmp_path}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    done = subprocess.run(
        ["qemu-aarch64", "-cpu", "max", "-L", str(AARCH64), str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "runs neon" in done.stdout
