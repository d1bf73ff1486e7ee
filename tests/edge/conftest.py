"""What tests of the edge engine share: small random models in folders, and a skip where the library was not built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.edge.library import instruction_sets, library, library_path


@pytest.fixture(autouse=True)
def _native_library() -> None:
    if not library_path().is_file():
        pytest.skip("the native library was not built: no compiler")
    library()


@pytest.fixture(params=["scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "neon"])
def isa(request: pytest.FixtureRequest) -> str:
    """Every instruction set; those that this processor lacks are skipped."""
    if request.param not in instruction_sets():
        pytest.skip(f"this processor or this build has no {request.param}")
    return str(request.param)


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory, randomized_decoder: Callable[..., Any]) -> Callable[..., Any]:
    """`saved_model(preset, overrides)`: a random decoder and the folder it was saved in, made once."""
    import smidgen

    made: dict[str, tuple[Any, Path]] = {}

    def make(preset: str, overrides: dict[str, Any] | None = None) -> tuple[Any, Path]:
        key = f"{preset} {overrides}"
        if key not in made:
            model = randomized_decoder(preset, {"model.vocab_size": 300, **(overrides or {})})
            folder = tmp_path_factory.mktemp("edge") / "model"
            smidgen.save(model, folder)
            made[key] = model, folder
        return made[key]

    return make
