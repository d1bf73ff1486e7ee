"""A model card: what the model is, how to load it, and the numbers that were measured."""

from __future__ import annotations

from smidgen.config import LatentAttention, ModelConfig
from smidgen.interchange.measurements import Measurements
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
) -> str:
    """The text of README.md, with the front matter that the hub reads."""
    has_chat = tokenizer is not None and tokenizer.chat_template is not None
    tags = ["smidgen", config.attention.kind.replace("_", "-"), *(["conversational"] if has_chat else [])]
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    lines += ["---", "", f"# {name}", "", f"A decoder-only language model of {parameters:,} parameters.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in _facts(config, class_name, dtype, size))]
    if tokenizer is not None:
        lines.append(f"| tokenizer | {tokenizer.vocab_size:,} ids |")
    lines += ["", "## Measured", "", *_measured(measurements)]
    lines += ["", "## Use", "", "```python", *_usage(name, needs_trust, tokenizer is not None), "```"]
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
        ("weights", f"{dtype}, {size / 1e6:,.1f} MB"),
    ]


def _measured(measurements: Measurements | None) -> list[str]:
    if measurements is None or measurements.loss is None:
        return ["The run that made this model recorded no validation."]
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


def _usage(name: str, needs_trust: bool, has_tokenizer: bool) -> list[str]:
    trust = ", trust_remote_code=True" if needs_trust else ""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", ""]
    lines.append(f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})')
    if has_tokenizer:
        lines += [
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            'inputs = tokenizer("Once upon a time", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]))",
        ]
    return lines
