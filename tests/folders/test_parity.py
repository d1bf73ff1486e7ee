"""Every architecture against transformers: logits, gradients, and the course of a training."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest
import torch
import torch.nn.functional as F
from parity import CASES, FULL_SIZE, Case
from transformers import BitNetQuantConfig, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.integrations import replace_with_bitnet_linear
from transformers.models.bitnet.modeling_bitnet import BitNetRMSNorm

from smidgen.folders.architectures import ARCHITECTURES, architecture_of
from smidgen.folders.architectures.deepseek import DeepseekV3
from smidgen.model import cross_entropy

BACKWARD = [case for case in CASES if case.backward]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_logits_equal_transformers(case: Case, tmp_path: Path) -> None:
    assert parity.forward_difference(case, tmp_path / "model").relative <= case.bar


@pytest.mark.slow
@pytest.mark.parametrize("case", FULL_SIZE, ids=lambda case: case.name)
def test_logits_of_whole_presets_equal_transformers(case: Case, tmp_path: Path) -> None:
    assert parity.forward_difference(case, tmp_path / "model").relative <= case.bar


def test_the_cases_reach_every_class() -> None:
    reached = {architecture_of(case.config).class_name for case in CASES}
    assert reached == {architecture.class_name for architecture in ARCHITECTURES}


@pytest.mark.parametrize("case", [c for c in BACKWARD if c.dtype == torch.float32], ids=lambda case: case.name)
def test_gradients_equal_transformers_in_float32(case: Case, tmp_path: Path) -> None:
    difference = parity.backward_difference(case, tmp_path / "model", torch.float32)
    assert difference.relative <= 1e-4, difference.where


@pytest.mark.parametrize("case", BACKWARD, ids=lambda case: case.name)
def test_gradients_equal_transformers_in_float64(case: Case, tmp_path: Path) -> None:
    # transformers' Gemma computes norms and keeps √width in float32 whatever the model's type.
    bar = 1e-5 if case.config.scale_embeddings else 1e-9
    difference = parity.backward_difference(case, tmp_path / "model", torch.float64)
    assert difference.relative <= bar, difference.where


@torch.no_grad()
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.preset in {"tinylm-300m", "tinylm-tiny"} and c.config.feed_forward.gated]
)
def test_tinylm_equals_transformers_parts_put_together(case: Case) -> None:
    # No class of transformers is a TinyLM, but its parts are there: DeepSeek's decoder, BitNet's linears and norm.
    decoder = parity.randomized(case.config)
    peer = DeepseekV3ForCausalLM(DeepseekV3Config(**DeepseekV3().write(case.config)))
    online = BitNetQuantConfig(linear_class="autobitlinear", quantization_mode="online")
    replace_with_bitnet_linear(peer, ["lm_head"], online)
    weights = decoder.state_dict()
    for name, module in peer.named_modules():
        if name.endswith(("o_proj", "down_proj")):
            norm = BitNetRMSNorm(module.in_features, eps=case.config.norm.eps).double()
            key = name.replace("o_proj", "attn_sub_norm").replace("down_proj", "ffn_sub_norm") + ".weight"
            norm.weight.copy_(weights.pop(key))
            module.register_forward_pre_hook(lambda _, inputs, norm=norm: norm(inputs[0]))
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    peer.load_state_dict(weights, assign=True)
    peer.eval().double()
    decoder.double()
    for ids, mask in parity.batches(case.config.vocab_size, case.tokens):
        theirs, ours = parity.peer_logits(peer, ids, mask)[mask.bool()], decoder(ids, mask)[mask.bool()]
        assert (ours - theirs).abs().max() <= parity.FLOAT64_BAR * theirs.abs().max()


def test_fifty_steps_follow_transformers(tmp_path: Path) -> None:
    case = Case("elite-112m", "proportions", parity.proportions("elite-112m", 8, num_layers=2))
    ours = parity.randomized(case.config)
    theirs = parity.oracle(ours, tmp_path / "model")
    generator = torch.Generator().manual_seed(2)
    # A text of few words: there is something to learn, so the curve falls.
    words = torch.randint(0, case.config.vocab_size, (8, 12), generator=generator)
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1) for model in (ours, theirs)
    ]
    curves: tuple[list[float], list[float]] = ([], [])
    for _ in range(50):
        ids = words[torch.randint(0, 8, (4, 4), generator=generator)].flatten(1)
        inputs, labels = ids[:, :-1], ids[:, 1:].flatten()
        total, count = cross_entropy(ours.hidden(inputs).flatten(0, 1), ours.head_weight, labels)
        losses = (total / count, F.cross_entropy(theirs(inputs).logits.flatten(0, 1), labels))
        for loss, optimizer, curve in zip(losses, optimizers, curves, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
    assert curves[1][-1] < 0.5 * curves[1][0]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)
