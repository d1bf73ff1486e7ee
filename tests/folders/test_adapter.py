"""Adapter folders against PEFT: it loads ours onto transformers' class, we load its own; both with equal logits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.config import Lora, Quantization
from smidgen.folders import model_config
from smidgen.folders.adapter import name_base
from smidgen.model import Decoder
from smidgen.model.lora import adapter_tensors, adapters, add_lora
from smidgen.quantization import quantize
from smidgen.runtime.errors import ConfigError, ModelFolderError

peft = pytest.importorskip("peft")

LATENT = ("q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
CASES = {
    "grouped-query": ("elite-tiny", Lora(rank=4, alpha=8.0)),
    "some, rslora": ("rscalm-tiny", Lora(rank=3, alpha=5.0, targets=("q_proj", "v_proj"), rslora=True)),
    # PEFT takes the feed-forward of every DeepSeek model for fused experts: there it adapts only attention.
    "latent": ("tilda-tiny", Lora(rank=4, alpha=8.0, targets=LATENT)),
    "sandwich, one layer": ("gemma3-tiny", Lora(rank=2, alpha=4.0, targets=("model.layers.1.*",))),
    "ternary": ("tinylm-gqa-tiny", Lora(rank=4, alpha=8.0, targets=("gate_proj", "o_proj"))),
}


def with_adapters(folder: Path, settings: Lora) -> Decoder:
    """The model of a folder with adapters that are not zero."""
    model = name_base(add_lora(smidgen.load(folder), settings, seed=1), folder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in adapter_tensors(model).items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


@pytest.fixture
def saved(randomized_decoder: Callable[..., Any], tmp_path: Path) -> Callable[[str], Path]:
    def save(preset: str) -> Path:
        folder = tmp_path / "base"
        smidgen.save(randomized_decoder(preset, {"model.vocab_size": 97, "model.num_layers": 2}), folder)
        return folder

    return save


def theirs(base: Path, adapter: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, adapter).double().eval()


IDS = torch.randint(0, 97, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", CASES)
def test_peft_computes_our_logits(case: str, saved: Callable[[str], Path], tmp_path: Path) -> None:
    preset, settings = CASES[case]
    base = saved(preset)
    model = with_adapters(base, settings)
    smidgen.save(model, tmp_path / "adapter")
    plain = smidgen.load(base).double()(IDS)
    ours = model.double()(IDS)
    assert (ours - plain).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(theirs(base, tmp_path / "adapter")(IDS).logits, ours, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preset", "targets"), [("elite-tiny", "all-linear"), ("tilda-tiny", list(LATENT))])
def test_we_load_what_peft_writes(preset: str, targets: Any, saved: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = saved(preset)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=targets, init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    ours = smidgen.load(tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), adapted(IDS).logits, atol=2e-5, rtol=2e-4)
    assert model_config(tmp_path / "adapter") == model_config(base)


def test_our_folder_comes_back_to_the_bit(saved: Callable[[str], Path], tmp_path: Path) -> None:
    model = with_adapters(saved("elite-tiny"), Lora(rank=4, alpha=8.0, dropout=0.1))
    smidgen.save(model, tmp_path / "adapter")
    again = smidgen.load(tmp_path / "adapter")
    assert again.adapter is not None
    assert model.adapter is not None
    assert again.adapter.settings.dropout == 0.1
    assert again.adapter.base_digest == model.adapter.base_digest
    assert torch.equal(again(IDS), model(IDS))
    assert [name for name, p in again.named_parameters() if p.requires_grad] == list(adapter_tensors(again))
    assert (tmp_path / "adapter" / "generation_config.json").is_file()


def test_an_adapter_never_meets_another_base(saved: Callable[[str], Path], tmp_path: Path) -> None:
    base = saved("elite-tiny")
    smidgen.save(with_adapters(base, Lora(rank=2)), tmp_path / "adapter")
    smidgen.save(smidgen.build(model_config(base), seed=9), base)
    with pytest.raises(ModelFolderError, match="was trained on other weights than those of"):
        smidgen.load(tmp_path / "adapter")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("peft_type", "LOHA", 'peft_type = "LOHA": Smidgen implements LoRA'),
        ("use_dora", True, "use_dora = true: Smidgen implements plain LoRA"),
        ("bias", "all", 'bias = "all"'),
        ("r", 0, "rank = 0"),
        ("base_model_name_or_path", "someone/model", "base_model_name_or_path = someone/model: no such folder"),
        ("base_model_name_or_path", None, "base_model_name_or_path = null"),
    ],
)
def test_what_is_no_plain_adapter_is_refused(
    field: str, value: Any, message: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    smidgen.save(with_adapters(saved("elite-tiny"), Lora(rank=2)), tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ModelFolderError, match=message):
        smidgen.load(tmp_path / "adapter")


def test_targets(randomized_decoder: Callable[..., Any]) -> None:
    model = randomized_decoder("tilda-tiny", {"model.num_layers": 2})
    with pytest.raises(ConfigError, match=r"tuning.lora.targets = query: names no projection; use down_proj"):
        add_lora(model, Lora(targets=("query",)))
    add_lora(model, Lora(targets=("kv_b_proj", "model.layers.1.mlp.*")))
    assert [name for name, _ in adapters(model)] == [
        "model.layers.0.self_attn.kv_b_proj",
        "model.layers.1.self_attn.kv_b_proj",
        "model.layers.1.mlp.gate_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.mlp.down_proj",
    ]


@pytest.mark.parametrize("preset", ["tilda-tiny", "tinylm-tiny", "elite-tiny"])
def test_an_adapter_answers_alike_with_and_without_cache(
    preset: str, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    from smidgen.inference.frozen import frozen

    model = with_adapters(saved(preset), Lora(rank=4, alpha=8.0)).double()
    with torch.no_grad():
        whole = model(IDS)
        fast = frozen(model)
        cache = fast.new_cache(2)
        pieces = [fast(part, cache=cache) for part in (IDS[:, :5], IDS[:, 5:6], IDS[:, 6:])]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_an_adapter_on_a_quantised_base_is_one_on_its_values(
    scheme: Any, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "quantised"
    dense = smidgen.load(saved("elite-tiny"))
    smidgen.save(quantize(dense, Quantization(scheme=scheme)), base)
    model = with_adapters(base, Lora(rank=4, alpha=8.0))
    smidgen.save(model, tmp_path / "adapter")
    again = smidgen.load(tmp_path / "adapter")
    assert torch.equal(again(IDS), model(IDS))
    for name, module in adapters(again):
        dense.get_submodule(name).weight.data = module.effective_weight(torch.float32)
    for name, parameter in dense.named_parameters():
        if name in dict(again.named_parameters()):
            parameter.data = dict(again.named_parameters())[name].data
    with torch.no_grad():
        torch.testing.assert_close(model(IDS), dense(IDS), atol=1e-5, rtol=1e-4)
    model(IDS).sum().backward()
    assert all(weight.grad is not None for weight in adapter_tensors(model).values())
