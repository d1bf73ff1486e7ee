"""How far logits and gradients are from transformers', family by family and shape by shape.

    python benchmarks/parity.py [--json FILE] [--full-size]

Each case builds a model, randomises every parameter (norms included), saves it as a model folder, and loads that with
`AutoModelForCausalLM.from_pretrained`. The largest difference is taken over batches without padding and with padding on
either side, and divided by transformers' largest value. tests/folders/test_parity.py holds every case to its bar.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import smidgen
from smidgen.config import ModelConfig, TernaryLinear, load_config
from smidgen.folders.architectures import architecture_of
from smidgen.model import Decoder, cross_entropy

FLOAT32_BAR = 1e-4
FLOAT64_BAR = 1e-9
"""For models that round activations: a difference of 1e-7 flips a code, so float32 cannot be compared."""


@dataclass(frozen=True)
class Case:
    """A model to compare: a preset with overrides."""

    preset: str
    shape: str
    overrides: dict[str, Any]
    tokens: int = 80
    backward: bool = False

    @property
    def name(self) -> str:
        return f"{self.preset}: {self.shape}"

    @property
    def config(self) -> ModelConfig:
        return load_config(self.preset, self.overrides).model

    @property
    def dtype(self) -> torch.dtype:
        linear = self.config.linear
        rounds_activations = linear.kind == "fp8_block" or (
            isinstance(linear, TernaryLinear) and linear.activation_bits is not None
        )
        return torch.float64 if rounds_activations else torch.float32

    @property
    def bar(self) -> float:
        return FLOAT64_BAR if self.dtype == torch.float64 else FLOAT32_BAR


@dataclass(frozen=True)
class Difference:
    """Largest difference from transformers, and transformers' own largest value."""

    largest: float
    scale: float
    where: str = field(default="", compare=False)

    @property
    def relative(self) -> float:
        return self.largest / self.scale


def small(**overrides: Any) -> dict[str, Any]:
    """Overrides of the model section, below a few layers and a short context; `__` stands for a dot."""
    shape = {"num_layers": 2, "max_seq_len": 256, "vocab_size": 1009} | overrides
    model = {f"model.{name.replace('__', '.')}": value for name, value in shape.items()}
    return model | {"training.seq_len": None}


def proportions(preset: str, divisor: int, num_layers: int = 3) -> dict[str, Any]:
    """The preset with all widths divided: the same heads, groups, ratios and layer pattern."""
    model = load_config(preset).model
    widths = {
        "attention": ["head_dim", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"],
        "feed_forward": ["intermediate_size"],
    }
    overrides = small(num_layers=num_layers, hidden_size=model.hidden_size // divisor)
    for section, names in widths.items():
        part = getattr(model, section)
        for name in names:
            if hasattr(part, name):
                overrides[f"model.{section}.{name}"] = getattr(part, name) // divisor
    window = getattr(model.attention, "sliding_window", None)
    if window is not None:
        overrides["model.attention.sliding_window"] = window // 16
        overrides["model.attention.query_pre_attn_scalar"] = model.attention.query_pre_attn_scalar / divisor
    return overrides


YARN = {"attention__yarn__original_max_seq_len": 64, "attention__yarn__factor": 4.0}
NOTHING: dict[str, Any] = {}
CASES = [
    Case("elite-112m", "proportions", proportions("elite-112m", 4), backward=True),
    Case("elite-tiny", "one KV head", small(attention__num_kv_heads=1), backward=True),
    Case("elite-tiny", "head size apart", small(hidden_size=96, attention__head_dim=40)),
    Case("elite-tiny", "untied, padded vocabulary", small(tie_word_embeddings=False, vocab_padding_multiple=64)),
    Case("elite-tiny", "GeGLU, eps 1e-3", small(feed_forward__activation="gelu_tanh", norm__eps=1e-3)),
    Case("elite-tiny", "gated relu², θ 5e5", small(feed_forward__activation="relu2", attention__rope_theta=5e5)),
    Case("elite-tiny", "width not divisible by heads", small(hidden_size=100, attention__num_heads=6)),
    Case("rscalm-138m", "proportions", proportions("rscalm-138m", 4)),
    Case("rscalm-350m", "proportions", proportions("rscalm-350m", 8)),
    Case("rscalm-700m", "proportions", proportions("rscalm-700m", 8)),
    Case("gemma3-270m", "proportions, T over the window", proportions("gemma3-270m", 4, num_layers=6), backward=True),
    Case("gemma3-tinystories", "odd vocabulary", proportions("gemma3-tinystories", 8, 6) | {"model.vocab_size": 997}),
    Case("gemma3-tiny", "window of 5", small(num_layers=7, attention__sliding_window=5)),
    Case("gemma3-tiny", "two KV heads, head size apart", small(attention__num_heads=4, attention__num_kv_heads=2)),
    Case("gemma3-tiny", "untied, sliding only", small(tie_word_embeddings=False, layer_pattern=["sliding"])),
    Case(
        "gemma3-tiny",
        "full only, scale apart",
        small(
            layer_pattern=["full"],
            attention__sliding_window=None,
            attention__sliding_rope_theta=None,
            attention__query_pre_attn_scalar=100.0,
        ),
    ),
    Case("gemma3-tiny", "scale not a whole number", small(attention__query_pre_attn_scalar=99.5)),
    Case("tilda-70m", "proportions", proportions("tilda-70m", 4), backward=True),
    Case("tilda-tiny", "no q-LoRA", small(attention__q_lora_rank=0), backward=True),
    Case("tilda-tiny", "YaRN", small(**YARN), tokens=200, backward=True),
    Case("tilda-tiny", "YaRN, defaults, long context", small(max_seq_len=8192)),
    Case("tilda-tiny", "tied, padded vocabulary", small(tie_word_embeddings=True, vocab_padding_multiple=128)),
    Case("tilda-tiny", "one head, wide values", small(attention__num_heads=1, attention__v_head_dim=64)),
    Case("tilda-tiny", "eps 1e-3", small(norm__eps=1e-3)),
    Case("tilda-tiny", "block FP8", small(linear__kind="fp8_block")),
    Case(
        "tilda-tiny",
        "block FP8, scales powers of two",
        small(hidden_size=200, linear__kind="fp8_block", linear__power_of_two_scales=True),
    ),
    Case("tinylm-gqa-300m", "proportions", proportions("tinylm-gqa-300m", 8), backward=True),
    Case("tinylm-gqa-tiny", "one KV head, relu²", small(attention__num_kv_heads=1, feed_forward__activation="relu2")),
    Case("tinylm-gqa-tiny", "untied, eps 1e-3", small(tie_word_embeddings=False, norm__eps=1e-3)),
    Case("tinylm-gqa-tiny", "head size apart", small(attention__head_dim=24)),
    Case("tinylm-gqa-tiny", "activations left alone", small(linear__activation_bits=None)),
    Case("tinylm-gqa-tiny", "dense", small(linear__kind="dense")),
    Case("tinylm-300m", "proportions", proportions("tinylm-300m", 8), backward=True),
    Case("tinylm-tiny", "no q-LoRA, YaRN", small(attention__q_lora_rank=0, **YARN), tokens=160),
    Case("tinylm-tiny", "relu², ungated", small(feed_forward__activation="relu2", feed_forward__gated=False)),
    Case("elite-tiny", "LayerNorm", small(norm__kind="layer_norm")),
    Case("elite-tiny", "QK-norm", small(attention__qk_norm=True)),
    Case("elite-tiny", "sandwich, scaled embeddings", small(norm__placement="sandwich", scale_embeddings=True)),
    Case(
        "gemma3-tiny",
        "LayerNorm, pre, ternary",
        small(num_layers=6, norm__kind="layer_norm", norm__placement="pre", linear__kind="ternary"),
    ),
]
FULL_SIZE = [
    Case("elite-112m", "full size", NOTHING, tokens=48),
    Case("tilda-70m", "full size", NOTHING, tokens=48),
    Case("gemma3-tinystories", "full size", NOTHING, tokens=48),
]


def randomized(config: ModelConfig, seed: int = 0) -> Decoder:
    """A decoder with every parameter random, so that none can be misplaced unseen: gains around 1, unit activations."""
    decoder = smidgen.build(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                gain_at_zero = 1.0 if config.norm.kind == "rms_norm_plus_one" else 0.0
                parameter.copy_(1.0 - gain_at_zero + 0.3 * values)
            else:
                is_lookup = "embed_tokens" in name and not config.scale_embeddings
                parameter.copy_(values * (1.0 if is_lookup else parameter.shape[1] ** -0.5))
    return decoder


def oracle(decoder: Decoder, folder: Path) -> nn.Module:
    """transformers' model of the folder that `decoder` is saved to, eval mode."""
    from transformers import AutoModelForCausalLM

    smidgen.save(decoder, folder)
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


def batches(vocab_size: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Random ids [2, T] with their attention mask: without padding, padded on the left, padded on the right."""
    ids = torch.randint(0, vocab_size, (2, tokens), generator=torch.Generator().manual_seed(1))
    unpadded = torch.ones_like(ids)
    left, right = unpadded.clone(), unpadded.clone()
    left[1, : tokens // 3] = 0
    right[1, -tokens // 3 :] = 0
    return [(ids, unpadded), (ids, left), (ids, right)]


def peer_logits(peer: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """transformers' logits with the positions that its `generate` would give."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    # BitNet's rounding is compiled; compilation may fuse and reorder float32, so the reference is the eager one.
    with torch.compiler.set_stance("force_eager"):
        return peer(ids, attention_mask=mask, position_ids=positions).logits


@torch.no_grad()
def forward_difference(case: Case, folder: Path) -> Difference:
    """Largest difference of logits at real tokens, over the three kinds of batches."""
    decoder = randomized(case.config)
    peer = oracle(decoder, folder).to(case.dtype)
    decoder.to(case.dtype)
    largest, scale = 0.0, 0.0
    for ids, mask in batches(case.config.vocab_size, case.tokens):
        theirs, ours = peer_logits(peer, ids, mask), decoder(ids, None if mask.all() else mask)
        difference = (ours - theirs).abs()[mask.bool()].max().item()
        # NaN on either side must not be lost in a comparison.
        largest = max(largest, difference) if difference == difference else float("inf")
        scale = max(scale, theirs.abs()[mask.bool()].max().item())
    return Difference(largest, scale)


def backward_difference(case: Case, folder: Path, dtype: torch.dtype) -> Difference:
    """Largest relative difference of any parameter's gradient, each relative to that gradient's largest element."""
    decoder = randomized(case.config)
    peer = oracle(decoder, folder).to(dtype)
    decoder.to(dtype)
    ids, mask = batches(case.config.vocab_size, case.tokens)[0]
    labels = ids.roll(-1, dims=1).flatten()
    total, count = cross_entropy(decoder.hidden(ids).flatten(0, 1), decoder.head_weight, labels)
    (total / count).backward()
    F.cross_entropy(peer_logits(peer, ids, mask).flatten(0, 1), labels).backward()
    theirs = {name: parameter.grad for name, parameter in peer.named_parameters()}
    worst = Difference(0.0, 1.0)
    for name, parameter in decoder.named_parameters():
        peer_grad = theirs.pop(name)
        assert peer_grad is not None
        assert parameter.grad is not None, name
        ours = parameter.grad[: peer_grad.shape[0]]
        difference = Difference((ours - peer_grad).abs().max().item(), peer_grad.abs().max().item(), name)
        worst = worst if difference.relative <= worst.relative else difference
    assert not theirs, f"parameters of transformers' model without a counterpart: {sorted(theirs)}"
    return worst


def measure(case: Case) -> Iterator[tuple[str, Difference]]:
    """Every comparison of a case, with what it compares and in which precision."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        yield f"forward {_short(case.dtype)}", forward_difference(case, folder)
        if case.backward:
            for dtype in dict.fromkeys([case.dtype, torch.float64]):
                yield f"backward {_short(dtype)}", backward_difference(case, folder, dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results to FILE")
    parser.add_argument("--full-size", action="store_true", help="also three presets as they are (a minute)")
    options = parser.parse_args()
    _silence_transformers()
    results = []
    print(f"{'preset':<19} {'shape':<32} {'transformers class':<22} {'compared':<17} relative difference")
    for case in CASES + (FULL_SIZE if options.full_size else []):
        peer_name = architecture_of(case.config).class_name
        for metric, difference in measure(case):
            print(
                f"{case.preset:<19} {case.shape:<32} {peer_name:<22} {metric:<17} {difference.relative:.1e}", flush=True
            )
            results.append(
                {
                    "case": case.name,
                    "metric": metric,
                    "unit": "largest difference, largest value",
                    "ours": difference.largest,
                    "peer": difference.scale,
                    "peer_name": f"transformers {peer_name}",
                    "ratio": difference.relative,
                }
            )
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}"
        report = {"machine": machine, "date": datetime.date.today().isoformat(), "results": results}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _silence_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


if __name__ == "__main__":
    main()
