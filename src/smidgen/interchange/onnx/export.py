"""A model folder with ONNX graphs: `onnx/model*.onnx` beside config.json and the tokenizer, and `genai_config.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smidgen.config import ModelConfig
from smidgen.folders import save
from smidgen.folders.architectures import REMOTE_FILES, architecture_of
from smidgen.folders.atomic import new_folder
from smidgen.folders.model_folder import CONFIG, SECTION
from smidgen.folders.weights import WEIGHTS
from smidgen.interchange.onnx import variants
from smidgen.interchange.onnx.graph import Graph, names, write_graph
from smidgen.interchange.onnx.session import Agreement, compare
from smidgen.interchange.onnx.variants import FILES, PRECISIONS, Precision
from smidgen.interchange.source import update_json, write_ends
from smidgen.model import Decoder
from smidgen.model.cache import LayerShape
from smidgen.runtime.errors import ModelFolderError
from smidgen.runtime.protocols import Tokenizer

_KNOWN_TO_TRANSFORMERS_JS = {"llama", "gemma3_text", "deepseek_v3"}


@dataclass(frozen=True, slots=True)
class Variant:
    """One graph that was written."""

    precision: Precision
    path: Path
    size: int
    """Bytes, of a file beside it too."""
    agreement: Agreement


def export_onnx(
    model: Decoder,
    folder: str | Path,
    tokenizer: Tokenizer | None,
    precisions: Sequence[str] = ("fp32",),
    end_ids: Sequence[int] = (),
) -> list[Variant]:
    """Write `model` as ONNX graphs of these precisions (fp32, fp16, int8, int4) into a new folder.

    Every graph is run in onnxruntime, a prompt and then token by token, beside the decoder; what came of it is
    returned. The folder appears whole or not at all. Raises ModelFolderError for a folder that exists, an unknown
    precision, or fp16 of a model whose activations overflow it.
    """
    target = Path(folder).resolve()
    wanted = _checked(precisions, model.config)
    if target.exists():
        raise ModelFolderError(f"{folder}: exists; name a new folder")
    with new_folder(target) as staged:
        save(model, staged, tokenizer)
        for name in (WEIGHTS, SECTION, *REMOTE_FILES):
            (staged / name).unlink(missing_ok=True)
        write_ends(staged, end_ids, tokenizer)
        graphs = staged / "onnx"
        graphs.mkdir()
        written = []
        for precision in wanted:
            variant, cache = _write(model, graphs, precision)
            written.append(variant)
        if "fp32" not in wanted:
            for name in (FILES["fp32"], f"{FILES['fp32']}.data"):
                (graphs / name).unlink(missing_ok=True)
        update_json(staged / CONFIG, config_changes(model.config, cache))
        text = json.dumps(genai_config(model.config, cache, FILES[wanted[0]], tokenizer, end_ids), indent=2)
        (staged / "genai_config.json").write_text(text + "\n", encoding="utf-8")
    return [
        Variant(variant.precision, target / "onnx" / variant.path.name, variant.size, variant.agreement)
        for variant in written
    ]


def _checked(precisions: Sequence[str], config: ModelConfig) -> list[Precision]:
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        raise ModelFolderError(f"precision {', '.join(unknown) or '(none)'}: use some of {', '.join(PRECISIONS)}")
    if "fp16" in precisions and config.norm.kind == "rms_norm_plus_one":
        raise ModelFolderError(
            "precision fp16: activations of models with norm.kind rms_norm_plus_one overflow it; use fp32, int8 or int4"
        )
    return [name for name in PRECISIONS if name in precisions]


def _write(model: Decoder, folder: Path, precision: Precision) -> tuple[Variant, LayerShape]:
    """One graph, and what a layer of it caches; the quantised ones are made of the fp32 graph, written first where it
    is not there."""
    path, base = folder / FILES[precision], folder / FILES["fp32"]
    dtype = torch.float16 if precision == "fp16" else torch.float32
    if precision in ("fp32", "fp16"):
        graph = write_graph(model, path, dtype)
        variants.name_lengths(path)
    else:
        graph = Graph(model) if base.exists() else write_graph(model, base)
        quantize = variants.quantize_int8 if precision == "int8" else variants.quantize_int4
        quantize(base, path)
        variants.name_lengths(path)
    size = sum(part.stat().st_size for part in (path, path.with_name(f"{path.name}.data")) if part.exists())
    numpy_dtype = np.float16 if precision == "fp16" else np.float32
    return Variant(precision, path, size, compare(path, graph, model, numpy_dtype)), graph.shapes[0]


def config_changes(config: ModelConfig, cache: LayerShape) -> dict[str, Any]:
    """Changes to config.json that make it say of the graphs what it said of the weights.

    transformers.js chooses its decoder class by `model_type` and knows neither BitNet nor our own; all that it does
    beside running the graph is to hand the caches on, which is the same for all of them.
    """
    # The graphs hold weights of their own; what would be said of a file's is wrong of them.
    changes: dict[str, Any] = {"quantization_config": None, "auto_map": None}
    if architecture_of(config).model_type not in _KNOWN_TO_TRANSFORMERS_JS:
        changes |= {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.attention.num_heads,
            "num_key_value_heads": cache.heads,
            "head_dim": cache.key_size,
        }
    return changes


def genai_config(
    config: ModelConfig, cache: LayerShape, file: str, tokenizer: Tokenizer | None, end_ids: Sequence[int]
) -> dict[str, Any]:
    """What onnxruntime-genai wants to know of a folder whose graph is `onnx/<file>`, with the cache of a layer."""
    named = names(1)
    numbered = [name.replace(".0.", ".%d.") for name in (*named.inputs[3:], *named.outputs[1:])]
    ends = list(end_ids)
    begin = None if tokenizer is None else tokenizer.bos_id
    pad = None if tokenizer is None else tokenizer.pad_id
    first_end = ends[0] if ends else 0
    # It takes its decoder classes by the name of the architecture; all of those with this kind of cache are alike.
    model_type = architecture_of(config).model_type
    known = {"llama": "llama", "gemma3_text": "gemma3_text"}
    return {
        "model": {
            "type": known.get(model_type, "llama"),
            "vocab_size": config.vocab_size,
            "context_length": config.max_seq_len,
            "bos_token_id": first_end if begin is None else begin,
            "eos_token_id": ends if len(ends) > 1 else first_end,
            "pad_token_id": first_end if pad is None else pad,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": f"onnx/{file}",
                "head_size": cache.key_size,
                "hidden_size": config.hidden_size,
                "num_attention_heads": config.attention.num_heads,
                "num_hidden_layers": config.num_layers,
                "num_key_value_heads": cache.heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": numbered[0],
                    "past_value_names": numbered[1],
                },
                "outputs": {"logits": "logits", "present_key_names": numbered[2], "present_value_names": numbered[3]},
            },
        },
        "search": {"do_sample": False, "max_length": config.max_seq_len, "past_present_share_buffer": False},
    }
