"""ONNX graphs in onnxruntime, a prompt and then token by token, against the decoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smidgen.interchange.onnx.export import config_changes, export_onnx, genai_config
from smidgen.interchange.onnx.graph import Graph, names, write_graph
from smidgen.runtime.errors import ModelFolderError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

MakeDecoder = Callable[..., Any]
SMALL: dict[str, Any] = {"model.num_layers": 2, "model.vocab_size": 96, "model.max_seq_len": 128}
CASES = {
    "elite-tiny": {},
    "gemma3-tiny": {"model.layer_pattern": ["sliding", "full"], "model.attention.sliding_window": 8},
    "tilda-tiny": {},
    "tinylm-tiny": {"model.linear.activation_bits": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_a_ragged_batch_in_steps_has_the_decoders_logits(
    family: str, randomized_decoder: MakeDecoder, tmp_path: Path
) -> None:
    decoder = randomized_decoder(family, SMALL | CASES[family])
    graph = write_graph(decoder, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    named = names(len(graph.shapes))
    assert [value.name for value in session.get_inputs()] == named.inputs
    assert [value.name for value in session.get_outputs()] == named.outputs
    ids = torch.randint(0, 96, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0  # padding on the left, as both programs batch
    with torch.inference_mode():
        expected = decoder(ids, attention_mask=mask).numpy()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    caches = [cache.numpy() for cache in graph.empty_caches(2)]
    begun, parts = 0, []
    for stop in (20, 21, 30):
        inputs = [ids[:, begun:stop].numpy(), mask[:, :stop].numpy(), positions[:, begun:stop].numpy(), *caches]
        logits, *caches = session.run(None, dict(zip(named.inputs, inputs, strict=True)))
        parts.append(logits)
        begun = stop
    found = np.concatenate(parts, axis=1)
    tokens = mask.bool().numpy()
    np.testing.assert_allclose(found[tokens], expected[tokens], atol=2e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_every_precision_in_a_folder_that_says_how_near_it_is(randomized_decoder: MakeDecoder, tmp_path: Path) -> None:
    decoder = randomized_decoder("elite-tiny", SMALL | {"model.num_layers": 1})
    written = {
        v.precision: v for v in export_onnx(decoder, tmp_path / "out", None, ["int4", "int8", "fp16", "fp32"], [2])
    }
    assert sorted(path.name for path in (tmp_path / "out/onnx").iterdir()) == [
        "model.onnx",
        "model_fp16.onnx",
        "model_q4.onnx",
        "model_quantized.onnx",
    ]
    assert written["fp32"].agreement.logits_difference < 1e-5
    assert written["fp32"].agreement.token_agreement == 1
    assert written["fp16"].agreement.logits_difference < 2e-2
    assert written["int8"].agreement.logits_difference < 0.1
    assert written["int4"].agreement.logits_difference < 0.5
    sizes = {name: variant.size for name, variant in written.items()}
    assert sizes["int4"] < 0.35 * sizes["fp32"]
    assert sizes["int8"] < 0.5 * sizes["fp32"]
    assert sizes["fp16"] < 0.7 * sizes["fp32"]
    genai = json.loads((tmp_path / "out/genai_config.json").read_text())["model"]
    assert genai["decoder"]["filename"] == "onnx/model.onnx"
    assert (genai["eos_token_id"], genai["decoder"]["head_size"]) == (2, 32)
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "llama"
    with pytest.raises(ModelFolderError, match="exists; name a new folder"):
        export_onnx(decoder, tmp_path / "out", None)


def test_what_cannot_be_is_refused_before_anything_is_written(randomized_decoder: MakeDecoder, tmp_path: Path) -> None:
    decoder = randomized_decoder(
        "gemma3-tiny",
        {"model.num_layers": 1, "model.layer_pattern": ["full"]}
        | {"model.attention.sliding_window": None, "model.attention.sliding_rope_theta": None},
    )
    with pytest.raises(ModelFolderError, match="overflow"):
        export_onnx(decoder, tmp_path / "out", None, ["fp16"])
    with pytest.raises(ModelFolderError, match=r"int3.*use some of fp32"):
        export_onnx(decoder, tmp_path / "out", None, ["int3"])
    assert not list(tmp_path.iterdir())


def test_latent_attention_keeps_every_heads_keys_and_values_in_one_size(randomized_decoder: MakeDecoder) -> None:
    """onnxruntime-genai knows one size for both; narrower ones end in zeros."""
    decoder = randomized_decoder("tilda-tiny", SMALL)
    shapes = Graph(decoder).shapes
    attention = decoder.config.attention
    assert attention.v_head_dim < attention.qk_head_dim
    assert {(s.heads, s.key_size, s.value_size) for s in shapes} == {
        (attention.num_heads, attention.qk_head_dim, attention.qk_head_dim)
    }
    assert decoder.layers[0].self_attn.absorb, "the decoder itself is not changed"


def test_what_a_folder_says_of_latent_attention_and_of_classes_that_transformers_js_lacks(
    randomized_decoder: MakeDecoder,
) -> None:
    for family, model_type in (("tilda-tiny", None), ("tinylm-tiny", "llama"), ("tinylm-gqa-tiny", "llama")):
        decoder = randomized_decoder(family, SMALL)
        attention, cache = decoder.config.attention, Graph(decoder).shapes[0]
        latent = attention.kind == "latent"
        size = attention.qk_head_dim if latent else attention.head_dim
        heads = attention.num_heads if latent else attention.num_kv_heads
        genai = genai_config(decoder.config, cache, "model.onnx", None, [2])["model"]["decoder"]
        assert (genai["head_size"], genai["num_key_value_heads"]) == (size, heads)
        changes = config_changes(decoder.config, cache)
        assert changes.get("model_type") == model_type
        if model_type is not None:
            assert (changes["head_dim"], changes["num_key_value_heads"]) == (size, heads)
