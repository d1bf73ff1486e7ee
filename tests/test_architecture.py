"""The layout's rules: folders import only folders above them, and the light ones stay free of heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = [
    "config",
    "runtime",
    "tokenization",
    "data",
    "kernels",
    "model",
    "quantization",
    "folders",
    "edge",
    "training",
    "tuning",
    "inference",
    "interchange",
    "evaluation",
    "serving",
    "cli",
]
# Errors have no dependencies of their own and are raised everywhere, the configuration included.
EVERYWHERE = {"smidgen.runtime.errors"}


def imports(path: Path) -> Iterator[str]:
    """Modules of smidgen that a file imports when it runs (not only for type checkers)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "smidgen":
                yield from (f"smidgen.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_folders_import_only_folders_above_them(repository: Path) -> None:
    package = repository / "src" / "smidgen"
    wrong = []
    for path in sorted(package.rglob("*.py")):
        folder = path.relative_to(package).parts[0]
        if folder not in ORDER:
            continue
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "smidgen" or len(parts) < 2 or module in EVERYWHERE or parts[1] not in ORDER:
                continue
            if ORDER.index(parts[1]) > ORDER.index(folder):
                wrong.append(f"{path.relative_to(package)} imports {module}")
    assert not wrong


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("smidgen", ["torch", "transformers", "pydantic", "numpy"]),
        ("smidgen.runtime", ["torch", "transformers", "pydantic"]),
        ("smidgen.tokenization", ["torch", "transformers", "pydantic"]),
        ("smidgen.edge.loading", ["torch", "transformers", "pydantic", "numpy"]),
        ("smidgen.cli.main", ["torch", "transformers", "pydantic", "numpy"]),
        ("smidgen.data", ["torch", "transformers"]),
        ("smidgen.folders", ["transformers"]),
        ("smidgen.training", ["transformers"]),
        ("smidgen.inference", ["transformers"]),
        ("smidgen.serving", ["torch", "transformers", "pydantic"]),
    ],
)
def test_importing_a_folder_loads_no_heavy_package(module: str, forbidden: list[str]) -> None:
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_model_is_imported_and_laid_out_without_the_compiler() -> None:
    """torch._dynamo costs a second of every start."""
    code = """
import sys
from smidgen.config import load_config
from smidgen.model import load_architecture
load_architecture(load_config("elite-tiny").model)
print("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_step_is_recorded_without_the_compiler() -> None:
    code = """
import sys, torch
from smidgen.inference.replay import replayed
total = torch.ones(2)
replayed(lambda: total.add_(total * 2))()
print(total.tolist(), "torch._dynamo" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[9.0, 9.0] False\n"
