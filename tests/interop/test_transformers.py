"""Exported folders in an older and in the pinned version of transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smidgen.interchange.hugging_face import export_hugging_face

pytestmark = pytest.mark.interop

LONGEST = 60
FAMILIES = ("elite", "rscalm", "gemma3", "tilda", "tinylm-gqa", "tinylm")
# bf16: our own float32 products of weights that are rounded to 8 bits of mantissa, against products in bf16.
ERROR = {"fp32": 1e-4, "bf16": 3e-2}


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("family", FAMILIES)
def test_family_and_dtype(
    family: str,
    dtype: str,
    models: Callable[[str], Any],
    strings: list[str],
    transformers: Callable[..., dict[str, Any]],
    table: Any,
    tmp_path: Path,
) -> None:
    model = models(family)
    export_hugging_face(model.folder, tmp_path / "model", dtype)
    texts = strings if dtype == "fp32" else strings[::20]
    answer = transformers(
        model=str(tmp_path / "model"),
        texts=texts,
        ids=[model.probe],
        prompts=model.prompts,
        max_new_tokens=LONGEST,
    )
    ours = model.logits()
    difference = ((ours - torch.tensor(answer["logits"][0])).norm() / ours.norm()).item()
    agreement = sum(model.tokenizer.encode(text) == ids for text, ids in zip(texts, answer["tokens"], strict=True))
    expected = [model.continuation(ids, LONGEST) for ids in model.prompts]
    same = sum(map(list.__eq__, expected, answer["continuations"]))
    cell = (difference, agreement / len(texts), f"{same}/{len(expected)}")
    table.add(family, f"Hugging Face {dtype}", f"transformers {answer['version']}", *cell)
    is_ternary = model.decoder.config.linear.kind == "ternary"
    # Rounding activations to 8 bits turns a difference of 1e-7 into one of a whole step.
    assert difference < (5e-2 if is_ternary else ERROR[dtype])
    assert agreement == len(texts)
    assert same == len(expected)
    assert answer["template"] == model.tokenizer.chat_template
