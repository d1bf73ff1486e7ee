"""A model card: what the model is, how to load it, and the numbers that were measured."""

from __future__ import annotations

from smidgen.config import LatentAttention, ModelConfig
from smidgen.interchange.measurements import Measurements, QuantizationLoss
from smidgen.runtime.protocols import Tokenizer


def model_card(
    *,
    name: str,
    config: ModelConfig,
    class_name: str,
    needs_trust: bool,
    parameters: int,
    dtype: str,
    size: int,
    tokenizer: Tokenizer | None,
    measurements: Measurements | None,
    loss: QuantizationLoss | None = None,
) -> str:
    """The text of README.md, with the front matter that the hub reads. `loss`: what a quantised model lost."""
    has_chat = tokenizer is not None and tokenizer.chat_template is not None
    tags = ["smidgen", config.attention.kind.replace("_", "-"), *(["conversational"] if has_chat else [])]
    library = "transformers" if loads_in_transformers(config) else "smidgen"
    lines = ["---", f"library_name: {library}", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    lines += ["---", "", f"# {name}", "", f"A decoder-only language model of {parameters:,} parameters.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in _facts(config, class_name, dtype, size))]
    if tokenizer is not None:
        lines.append(f"| tokenizer | {tokenizer.vocab_size:,} ids |")
    lines += ["", "## Measured", "", *(_measured(measurements) if loss is None else _lost(loss))]
    lines += ["", "## Use", "", *_usage(name, config, needs_trust, tokenizer is not None)]
    if has_chat:
        lines += ["", "The tokenizer has a chat template: `tokenizer.apply_chat_template(messages)` writes a chat."]
    if needs_trust:
        lines += ["", "transformers has no class of this shape; the modelling files beside the weights are Smidgen's."]
    return "\n".join([*lines, ""])


def _facts(config: ModelConfig, class_name: str, dtype: str, size: int) -> list[tuple[str, str]]:
    attention = config.attention
    if isinstance(attention, LatentAttention):
        heads = f"{attention.num_heads} heads, latent of {attention.kv_lora_rank}"
    else:
        heads = (
            f"{attention.num_heads} query heads, {attention.num_kv_heads} key and value heads of {attention.head_dim}"
        )
        if attention.sliding_window is not None:
            heads += f", window of {attention.sliding_window} in {config.layer_types.count('sliding')} layers"
    return [
        ("class", f"`{class_name}`"),
        ("layers", f"{config.num_layers}, width {config.hidden_size}"),
        ("attention", heads),
        ("feed-forward", f"{config.feed_forward.intermediate_size}, {config.feed_forward.activation}"),
        ("context", f"{config.max_seq_len:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,}"),
        ("weights", f"{_stored(config, dtype)}, {size / 1e6:,.1f} MB"),
    ]


def _stored(config: ModelConfig, dtype: str) -> str:
    """How the weights are stored, for people."""
    quantization = config.quantization
    if quantization is None:
        return dtype
    scheme: str = quantization.scheme
    if scheme == "int4":
        symmetry = "" if quantization.symmetric else ", with zero points"
        scheme += f" in groups of {quantization.group_size}{symmetry}"
    scheme += "".join(f", {pattern} {other}" for pattern, other in quantization.overrides.items())
    if quantization.activation_bits == 8:
        scheme += ", inputs rounded to 8 bits"
    return f"quantized: {scheme}; embedding {quantization.embedding}, head {quantization.head}"


def _measured(measurements: Measurements | None) -> list[str]:
    if measurements is None or measurements.loss is None:
        return ["No validation was recorded with this model."]
    rows = [("validation loss", f"{measurements.loss:.4f} nats a token")]
    if measurements.perplexity is not None:
        rows.append(("perplexity", f"{measurements.perplexity:.2f}"))
    if measurements.bits_per_byte is not None:
        rows.append(("bits per byte", f"{measurements.bits_per_byte:.4f}"))
    rows.append(("after", f"{measurements.step:,} steps"))
    if measurements.tokens is not None:
        rows.append(("trained on", f"{measurements.tokens:,} tokens"))
    return [
        "On the run's own validation split:",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in rows),
    ]


def _lost(loss: QuantizationLoss) -> list[str]:
    before, after = loss.perplexity
    rows = [("perplexity", f"{before:.3f}", f"{after:.3f} ({after / before - 1:+.2%})")]
    if loss.bits_per_byte is not None:
        before, after = loss.bits_per_byte
        rows.append(("bits per byte", f"{before:.4f}", f"{after:.4f} ({after - before:+.4f})"))
    rows.append(("same most probable token", "", f"{loss.agreement:.2%}"))
    return [
        f"Beside the model that it was made from, on {loss.tokens:,} tokens of `{loss.text}`:",
        "",
        "| | before | quantised |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def loads_in_transformers(config: ModelConfig) -> bool:
    """Whether transformers has a layer for each matrix of a model; see docs/quantization.md."""
    quantization = config.quantization
    if quantization is None:
        return True
    stored = {storage for storage in config.projection_storages if storage.scheme != "bf16"}
    if len(stored) > 1 and not quantization.symmetric and any(storage.scheme == "int4" for storage in stored):
        return False
    if quantization.head == quantization.embedding == "bf16":
        return True
    if quantization.scheme in ("ternary", "fp8_block") or "int4" in (quantization.embedding, quantization.head):
        return False
    return not config.tie_word_embeddings and (quantization.scheme != "int4" or quantization.symmetric)


def _usage(name: str, config: ModelConfig, needs_trust: bool, has_tokenizer: bool) -> list[str]:
    if not loads_in_transformers(config):
        reason = "transformers has no layer for its matrices as they are stored; Smidgen does:"
        return [reason, "", "```sh", f'smidgen generate {name} "Once upon a time"', "```"]
    classes, options, lines = ["AutoModelForCausalLM", "AutoTokenizer"], "", []
    quantization = config.quantization
    if needs_trust:
        options += ", trust_remote_code=True"
    if quantization is not None and quantization.scheme in ("int8", "int4", "fp8_tensor"):
        lines = ["It needs `pip install compressed-tensors`.", ""]
        if quantization.scheme == "int4" and not quantization.symmetric:
            classes.append("CompressedTensorsConfig")
            options += ", quantization_config=CompressedTensorsConfig(dequantize=True)"
    lines += ["```python", f"from transformers import {', '.join(classes)}", ""]
    lines.append(f'model = AutoModelForCausalLM.from_pretrained("{name}"{options})')
    if has_tokenizer:
        lines += [
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            'inputs = tokenizer("Once upon a time", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))",
        ]
    return [*lines, "```"]
