"""The modelling file that goes into model folders: transformers loads it where smidgen is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import smidgen
from smidgen.folders import architectures, model_folder
from smidgen.folders.architectures.own import Own

TINYLM = parity.Case("tinylm-tiny", "as it is", parity.small(vocab_size=211))

WITHOUT_SMIDGEN = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "smidgen":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
try:
    import smidgen
except ImportError:
    pass
else:
    raise SystemExit("smidgen can be imported")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
folder, inputs, outputs = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval().double()
batch = load_file(inputs)
with torch.no_grad():
    logits = model(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits
generated = model.generate(**batch, max_new_tokens=8, do_sample=False)
save_file({"logits": logits, "generated": generated.contiguous()}, outputs)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [TINYLM, *(case for case in parity.CASES if case.shape == "sandwich, scaled embeddings")],
    ids=lambda case: case.name,
)
def test_a_process_without_smidgen_gives_the_same_logits(case: parity.Case, tmp_path: Path) -> None:
    decoder = parity.randomized(case.config)
    smidgen.save(decoder, tmp_path / "model")
    ids, mask = parity.batches(case.config.vocab_size, 24)[1]
    batch = {"input_ids": ids, "attention_mask": mask}
    save_file(batch, tmp_path / "inputs.safetensors")
    subprocess.run(
        [
            *(sys.executable, "-c", WITHOUT_SMIDGEN),
            *(tmp_path / name for name in ("model", "inputs.safetensors", "outputs.safetensors")),
        ],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    theirs = load_file(tmp_path / "outputs.safetensors")
    with torch.no_grad():
        ours = decoder.double()(ids, mask)
    difference = (ours - theirs["logits"])[mask.bool()].abs().max() / theirs["logits"].abs().max()
    assert difference <= parity.FLOAT64_BAR
    assert theirs["generated"].shape == (2, 32)


@pytest.mark.parametrize(
    "case",
    [case for case in parity.CASES if case.shape in {"proportions", "window of 5", "YaRN", "no q-LoRA"}],
    ids=lambda case: case.name,
)
def test_the_modelling_file_agrees_with_transformers_own_classes(
    case: parity.Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = parity.randomized(case.config)
    expected = parity.oracle(decoder, tmp_path / "theirs").double()
    for module in (model_folder, architectures):
        monkeypatch.setattr(module, "architecture_of", lambda config: Own())
    actual = parity.oracle(decoder, tmp_path / "own").double()
    assert type(actual).__name__ == "SmidgenForCausalLM"
    with torch.no_grad():
        for ids, mask in parity.batches(case.config.vocab_size, case.tokens):
            theirs, ours = (parity.peer_logits(model, ids, mask)[mask.bool()] for model in (expected, actual))
            # Gemma's class rounds √width and its norms to float32.
            bar = 1e-5 if case.config.scale_embeddings else parity.FLOAT64_BAR
            assert (ours - theirs).abs().max() <= bar * theirs.abs().max()


def test_transformers_saves_and_loads_it_again(tmp_path: Path) -> None:
    peer = parity.oracle(parity.randomized(TINYLM.config), tmp_path / "ours")
    peer.save_pretrained(tmp_path / "theirs")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", trust_remote_code=True)
    for (name, one), (_, other) in zip(peer.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    # Without smidgen.yaml, config.json alone describes the model.
    assert not (tmp_path / "theirs" / "smidgen.yaml").exists()
    assert smidgen.load(tmp_path / "theirs").config == TINYLM.config


def test_the_trunk_alone_loads_with_auto_model(tmp_path: Path) -> None:
    decoder = parity.randomized(TINYLM.config)
    smidgen.save(decoder, tmp_path)
    trunk = AutoModel.from_pretrained(tmp_path, trust_remote_code=True).eval().double()
    ids, _ = parity.batches(TINYLM.config.vocab_size, 16)[0]
    with torch.no_grad():
        ours, theirs = decoder.double().hidden(ids), trunk(ids).last_hidden_state
    assert (ours - theirs).abs().max() <= parity.FLOAT64_BAR * theirs.abs().max()


def test_the_loss_is_that_of_next_tokens_and_reaches_every_weight(tmp_path: Path) -> None:
    peer = parity.oracle(parity.randomized(TINYLM.config), tmp_path)
    ids, _ = parity.batches(TINYLM.config.vocab_size, 16)[0]
    outputs = peer(ids, labels=ids)
    expected = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert outputs.loss.item() == pytest.approx(expected.item(), rel=1e-6)
    outputs.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in peer.parameters())


def test_the_last_logits_alone_are_the_same(tmp_path: Path) -> None:
    peer = parity.oracle(parity.randomized(TINYLM.config), tmp_path).double()
    ids, _ = parity.batches(TINYLM.config.vocab_size, 16)[0]
    with torch.no_grad():
        assert torch.allclose(peer(ids, logits_to_keep=3).logits, peer(ids).logits[:, -3:], rtol=1e-12)


def test_new_random_weights_are_sound(tmp_path: Path) -> None:
    smidgen.save(smidgen.build(TINYLM.config), tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert (config.num_hidden_layers, config.num_attention_heads) == (2, 4)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    weights = dict(model.named_parameters())
    assert weights["model.norm.weight"].eq(1).all()
    assert weights["model.layers.0.mlp.up_proj.weight"].std().item() == pytest.approx(0.02, rel=0.1)


def test_every_shipped_file_goes_into_the_folder(tmp_path: Path) -> None:
    smidgen.save(smidgen.build(TINYLM.config), tmp_path)
    remote = Path(model_folder.__file__).parent / "remote"
    shipped = {path.name for path in remote.glob("*.py")}
    assert shipped == set(architectures.REMOTE_FILES)
    auto_map: dict[str, Any] = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {f"{entry.split('.')[0]}.py" for entry in auto_map.values()} <= shipped
    assert all((tmp_path / name).is_file() for name in shipped)
