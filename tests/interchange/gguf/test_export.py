"""GGUF files, read back by the `gguf` package's own reader; llama.cpp itself judges them in tests/interop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from smidgen.config import Quantization, load_config
from smidgen.interchange.gguf.architectures import gguf_architecture
from smidgen.interchange.gguf.export import export_gguf
from smidgen.interchange.gguf.types import TYPES, encode_codes
from smidgen.model import Decoder
from smidgen.model.linear import Linear
from smidgen.quantization import quantize
from smidgen.runtime.errors import InterchangeError, SmidgenError
from smidgen.tokenization import BaseTokenizer, train_tokenizer

TEXTS = ["Once upon a time there was a cat.", "The cat sat; the dog ran 123 times!", "naïve café über ☃"] * 4


@pytest.fixture(scope="module")
def byte_bpe() -> BaseTokenizer:
    return train_tokenizer("byte_bpe", TEXTS, 290)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return fields, tensors


def test_every_weight_comes_back_from_an_f32_file(decoder: Decoder, tmp_path: Path) -> None:
    export_gguf(decoder, tmp_path / "model.gguf", None, "f32")
    fields, tensors = read(tmp_path / "model.gguf")
    architecture = gguf_architecture(decoder.config)
    assert fields["general.architecture"] == architecture.name
    assert fields[f"{architecture.name}.block_count"] == decoder.config.num_layers
    entries = architecture.entries(decoder.config)
    assert {entry.ours for entry in entries} == {name for name, _ in decoder.named_parameters()}
    for entry in entries:
        parts = [torch.from_numpy(tensors.pop(name).copy()) for name in entry.theirs]
        weight = entry.join(parts)
        module = decoder.get_submodule(entry.ours.removesuffix(".weight"))
        expected = module.effective_weight(torch.float32) if isinstance(module, Linear) else module.weight
        if entry.theirs[0].replace(".weight", ".scale") in tensors:
            weight = weight * torch.from_numpy(tensors.pop(entry.theirs[0].replace(".weight", ".scale")).copy())
        torch.testing.assert_close(weight, expected.detach(), rtol=1e-6, atol=1e-7)
    assert not tensors


@pytest.mark.parametrize(
    ("kind", "finer"), [("q4_0", ("Q8_0", "BF16")), ("q8_0", ("Q8_0", "BF16")), ("f16", ("F16", "F16"))]
)
def test_a_mixed_model_stays_mixed(
    kind: str, finer: tuple[str, str], randomized_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    """Overrides in more bits than the file's type keep them; the others are of that type."""
    overrides = {"down_proj": "int8", "o_proj": "bf16", "k_proj": "int4/64"}
    mixed = quantize(randomized_decoder("elite-tiny"), Quantization(scheme="int4", overrides=overrides))
    export_gguf(mixed, tmp_path / "model.gguf", None, kind)
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert (types["blk.0.ffn_down.weight"], types["blk.0.attn_output.weight"]) == finer
    assert types["blk.0.attn_k.weight"] == types["blk.1.ffn_up.weight"] == kind.upper()


@pytest.mark.parametrize("kind", TYPES)
def test_types_of_a_ternary_model_are_exact(
    kind: str, randomized_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    sizes = {"model.vocab_size": 64, "model.num_layers": 1, "model.hidden_size": 256, "model.attention.head_dim": 64}
    decoder = randomized_decoder("tinylm-gqa-tiny", {**sizes, "model.feed_forward.intermediate_size": 256})
    report = export_gguf(decoder, tmp_path / "model.gguf", None, kind)
    _, tensors = read(tmp_path / "model.gguf")
    layer = decoder.layers[0]
    for name, module in (("attn_q", layer.self_attn.q_proj), ("ffn_down", layer.mlp.down_proj)):
        weight = tensors[f"blk.0.{name}.weight"] * tensors[f"blk.0.{name}.scale"]
        np.testing.assert_allclose(weight, module.effective_weight(torch.float32).detach(), rtol=1e-6)
    assert report.types[kind] == 7 or kind in ("f32", "f16", "bf16", "q8_0")


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 1e-2), ("q4_0", 0.15)])
def test_rounded_types_stay_close(
    kind: str, tolerance: float, randomized_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1})
    export_gguf(decoder, tmp_path / "model.gguf", None, kind)
    _, tensors = read(tmp_path / "model.gguf")
    weight = decoder.layers[0].mlp.down_proj.weight.detach().numpy()
    error = np.linalg.norm(tensors["blk.0.ffn_down.weight"] - weight) / np.linalg.norm(weight)
    assert 0 < error < tolerance
    assert np.array_equal(tensors["output_norm.weight"], decoder.model.norm.weight.detach().numpy())


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "tq1_0", "tq2_0"])
def test_codes_are_encoded_without_loss(kind: str) -> None:
    codes = np.random.default_rng(0).integers(-1, 2, (3, 512)).astype(np.float32)
    codes[1] = 0
    encoded = encode_codes(codes, kind)
    assert np.array_equal(gguf.dequantize(encoded, gguf.GGMLQuantizationType[kind.upper()]), codes)


def test_byte_level_vocabulary(
    randomized_decoder: Callable[..., Decoder], byte_bpe: BaseTokenizer, tmp_path: Path
) -> None:
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 300, "model.num_layers": 1})
    export_gguf(decoder, tmp_path / "model.gguf", byte_bpe, end_ids=[byte_bpe.eos_id, 2])
    fields, _ = read(tmp_path / "model.gguf")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    tokens = fields["tokenizer.ggml.tokens"]
    assert [byte_bpe.token_to_id(token) for token in tokens[: byte_bpe.vocab_size]] == [*range(byte_bpe.vocab_size)]
    assert len(tokens) == 300
    assert fields["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 3, 1]
    assert fields["tokenizer.ggml.token_type"][-1] == 5
    assert fields["tokenizer.ggml.eos_token_id"] == byte_bpe.eos_id
    assert fields["tokenizer.ggml.eot_token_id"] == 2
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.chat_template"] == byte_bpe.chat_template


def test_sentencepiece_vocabulary(randomized_decoder: Callable[..., Decoder], tmp_path: Path) -> None:
    tokenizer = train_tokenizer("sentencepiece", TEXTS, 340)
    decoder = randomized_decoder("rscalm-tiny", {"model.vocab_size": 340, "model.num_layers": 1})
    export_gguf(decoder, tmp_path / "model.gguf", tokenizer)
    fields, _ = read(tmp_path / "model.gguf")
    assert fields["tokenizer.ggml.model"] == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"] is True
    types = fields["tokenizer.ggml.token_type"]
    assert types[:6] == [2, 3, 3, 3, 3, 3]
    assert types.count(6) == 256
    scores = fields["tokenizer.ggml.scores"]
    assert scores[262:270] == sorted(scores[262:270], reverse=True)


@pytest.mark.parametrize(
    ("preset", "overrides", "kind", "message"),
    [
        ("tinylm-tiny", {}, "f16", "no architecture with latent attention, ternary layers"),
        ("quickstart", {}, "f16", "pre norms, sliding windows, norms of queries and keys, scaled embeddings together"),
        ("elite-tiny", {"model.feed_forward.activation": "relu2"}, "f16", "computes silu there"),
        ("gemma3-tiny", {"model.attention.query_pre_attn_scalar": 16.0}, "f16", "query_pre_attn_scalar"),
        ("tinylm-gqa-tiny", {"model.tie_word_embeddings": False}, "f16", "no head of its own"),
        ("elite-tiny", {}, "tq2_0", "-1, 0 and 1 only"),
        ("elite-tiny", {}, "q5_k", "use one of f32"),
    ],
)
def test_what_llama_cpp_lacks_is_refused_in_one_line(
    preset: str, overrides: dict[str, Any], kind: str, message: str, tmp_path: Path
) -> None:
    model = load_config(preset, {"model.num_layers": 1, "model.vocab_size": 64, **overrides}).model
    with pytest.raises(InterchangeError, match=message) as caught:
        export_gguf(Decoder(model).initialize(0), tmp_path / "model.gguf", None, kind)
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_tokenizer_larger_than_the_model_is_refused(
    randomized_decoder: Callable[..., Decoder], byte_bpe: BaseTokenizer, tmp_path: Path
) -> None:
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1})
    with pytest.raises(InterchangeError, match="do not belong together"):
        export_gguf(decoder, tmp_path / "model.gguf", byte_bpe)


def test_a_failed_export_leaves_the_earlier_file(
    randomized_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF, earlier")
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full_disk)
    with pytest.raises(OSError, match="No space"):
        export_gguf(decoder, path, None)
    assert path.read_bytes() == b"GGUF, earlier"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("kind", ["characters"])
def test_tokenizers_that_llama_cpp_lacks_name_the_way_out(
    kind: str, randomized_decoder: Callable[..., Decoder], tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, None)
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1})
    with pytest.raises(SmidgenError, match="--no-tokenizer"):
        export_gguf(decoder, tmp_path / "model.gguf", tokenizer)
