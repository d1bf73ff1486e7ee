"""A model that does not fit is refused with the sum before anything is packed; the sum is what an engine takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smidgen.edge
from smidgen.edge import memory
from smidgen.runtime.errors import ModelFolderError

CASES = [
    ("elite-tiny", {"weights": "bf16"}),
    ("elite-tiny", {"weights": "int4", "cache": "int8", "max_batch_size": 3}),
    ("elite-tiny", {"weights": "int8", "cache": "float32"}),
    ("gemma3-tiny", {"weights": "float32", "max_batch_size": 2}),
    ("tilda-tiny", {"cache": "int8"}),
    ("tinylm-tiny", {"ternary": "2bit"}),
    ("tinylm-gqa-tiny", {"ternary": "2bit", "cache": "bfloat16"}),
]


@pytest.mark.parametrize(("preset", "options"), CASES)
def test_the_sum_is_what_an_engine_takes(
    preset: str, options: dict[str, Any], saved_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = saved_model(preset)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("smidgen.edge.loading.check_memory", lambda folder, *sizes: asked.append(sizes[:2]))
    with_engine = smidgen.edge.load(folder, **options)
    [(weights, cache)] = asked
    # Columns are filled up to 64, which small models feel.
    assert 0.6 * with_engine.weight_bytes < weights <= 1.05 * with_engine.weight_bytes
    assert cache == pytest.approx(with_engine.cache_bytes, rel=0.02, abs=4096)


def test_a_model_larger_than_memory_is_refused(
    saved_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = saved_model("elite-tiny")
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    sum_ = r"weights of 0\.0 GiB and a cache of 0\.0 GiB for 4 x 256 tokens take 0\.0 GiB, and 0\.0 GiB are free; lower"
    with pytest.raises(ModelFolderError, match=sum_):
        smidgen.edge.load(folder, max_batch_size=4)


def test_a_cache_larger_than_memory_is_refused(saved_model: Callable[..., Any]) -> None:
    _, folder = saved_model("elite-tiny")
    with pytest.raises(ModelFolderError, match=r"a cache of [\d,]+\.\d GiB for 1000000000 x 256 tokens"):
        smidgen.edge.load(Path(folder), max_batch_size=10**9)
