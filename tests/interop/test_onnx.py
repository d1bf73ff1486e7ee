"""Exported graphs in onnxruntime, and whole folders in onnxruntime-genai and transformers.js."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.interchange.onnx.export import export_onnx
from smidgen.interchange.onnx.graph import Graph
from smidgen.interchange.onnx.session import Session
from smidgen.runtime.errors import ModelFolderError

pytestmark = pytest.mark.interop

LONGEST = 60
FAMILIES = ("elite", "rscalm", "gemma3", "tilda", "tinylm-gqa", "tinylm")
ERROR = {"fp32": 1e-4, "fp16": 3e-2, "int8": 0.2, "int4": 0.5}


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_in_onnxruntime(family: str, models: Callable[[str], Any], table: Any, tmp_path: Path) -> None:
    model = models(family)
    if family == "gemma3":
        with pytest.raises(ModelFolderError, match="overflow it") as caught:
            export_onnx(model.decoder, tmp_path / "refused", model.tokenizer, ["fp16"])
        table.refused(family, "ONNX fp16", "onnxruntime", caught.value)
    precisions = [name for name in ERROR if not (family == "gemma3" and name == "fp16")]
    written = export_onnx(model.decoder, tmp_path / "model", model.tokenizer, precisions, [model.tokenizer.eos_id])
    ours, graph = model.logits().numpy(), Graph(model.decoder)
    expected = [model.continuation(ids, LONGEST) for ids in model.prompts]
    is_ternary = model.decoder.config.linear.kind == "ternary"
    for variant in written:
        dtype = np.float16 if variant.precision == "fp16" else np.float32
        found = Session(variant.path, graph, dtype).run(model.probe)
        difference = float(np.linalg.norm(ours - found) / np.linalg.norm(ours))
        continuations = [_continued(Session(variant.path, graph, dtype), ids, model) for ids in model.prompts]
        same = sum(map(list.__eq__, expected, continuations))
        table.add(family, f"ONNX {variant.precision}", "onnxruntime", difference, None, f"{same}/{len(expected)}")
        # Rounding activations to 8 bits turns a difference of 1e-7 into one of a whole step.
        assert difference < max(ERROR[variant.precision], 5e-2 if is_ternary else 0)
        if variant.precision in ("fp32", "fp16"):
            assert same == len(expected)


def _continued(session: Session, ids: list[int], model: Any) -> list[int]:
    """Greedy, token by token through the graph's caches, the end token included."""
    found: list[int] = []
    logits = session.run(ids)
    while len(found) < LONGEST and model.tokenizer.eos_id not in found:
        found.append(int(logits[-1].argmax()))
        logits = session.run(found[-1:])
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_in_onnxruntime_genai(
    family: str,
    models: Callable[[str], Any],
    strings: list[str],
    genai: Callable[..., dict[str, Any]],
    table: Any,
    tmp_path: Path,
) -> None:
    model = models(family)
    export_onnx(model.decoder, tmp_path / "model", model.tokenizer, ["fp32"], [model.tokenizer.eos_id])
    texts = strings[::10]
    answer = genai(model=str(tmp_path / "model"), texts=texts, prompts=model.prompts, max_new_tokens=LONGEST)
    expected = [model.continuation(ids, LONGEST) for ids in model.prompts]
    same = sum(map(list.__eq__, expected, answer["continuations"]))
    agreement = sum(model.tokenizer.encode(text) == ids for text, ids in zip(texts, answer["tokens"], strict=True))
    program = f"onnxruntime-genai {answer['version']}"
    table.add(family, "ONNX fp32", program, None, agreement / len(texts), f"{same}/{len(expected)}")
    assert same == len(expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_in_transformers_js(
    family: str,
    models: Callable[[str], Any],
    strings: list[str],
    transformers_js: Callable[..., dict[str, Any]],
    table: Any,
    tmp_path: Path,
) -> None:
    model = models(family)
    precisions = {"fp32": "fp32", "int8": "q8", "int4": "q4"}
    export_onnx(model.decoder, tmp_path / "model", model.tokenizer, list(precisions), [model.tokenizer.eos_id])
    texts = strings[::10]
    answer = transformers_js(
        model=str(tmp_path / "model"),
        precisions=list(precisions.values()),
        texts=texts,
        prompts=model.prompts,
        max_new_tokens=LONGEST,
    )
    expected = [model.continuation(ids, LONGEST) for ids in model.prompts]
    agreement = sum(model.tokenizer.encode(text) == ids for text, ids in zip(texts, answer["tokens"], strict=True))
    for ours, theirs in precisions.items():
        same = sum(map(list.__eq__, expected, answer["continuations"][theirs]))
        program = f"transformers.js {answer['version']}"
        table.add(family, f"ONNX {ours}", program, None, agreement / len(texts), f"{same}/{len(expected)}")
        if ours == "fp32":
            assert same == len(expected)
    assert agreement == len(texts)
