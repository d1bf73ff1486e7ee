"""From a base and conversations or pairs to a run: resume to the bit, the cache of the reference, new vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.config import Config
from smidgen.data.conversations.folder import prepare_conversations
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.tokenization.byte_bpe import train_byte_bpe
from smidgen.training.base import load_training_config
from smidgen.training.observer import Observer, Snapshot
from smidgen.tuning.defaults import TUNING_DEFAULTS
from smidgen.tuning.run import base_tokenizer, tune

FIELDS = {
    "training.device": "cpu",
    "training.precision": "fp32",
    "training.batch_size": 2,
    "training.max_steps": 4,
    "training.eval_every": 2,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "training.lr": 1e-3,
    "training.seq_len": 48,
}


class Interrupt(Observer):
    """Ends the run after a step."""

    def stepped(self, snapshot: Snapshot) -> None:
        import os
        import signal

        if snapshot.step == 2:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without a chat template and without its markers, conversations, and pairs."""
    root = tmp_path_factory.mktemp("tuning")
    tokenizer = train_byte_bpe(["what is one plus two? it is three."] * 9, 300)
    document = json.loads(str(tokenizer._files()["tokenizer.json"]))
    (root / "plain").mkdir()
    document["added_tokens"] = [t for t in document["added_tokens"] if not t["content"].startswith("<|im")]
    for marker in ("<|im_start|>", "<|im_end|>"):
        del document["model"]["vocab"][marker]
    (root / "plain" / "tokenizer.json").write_text(json.dumps(document))
    plain = smidgen.tokenization.load_tokenizer(root / "plain")
    assert "<|im_start|>" not in plain.special_tokens
    model = smidgen.build(
        "elite-tiny",
        {
            "model.vocab_size": plain.vocab_size,
            "model.hidden_size": 32,
            "model.num_layers": 1,
            "model.max_seq_len": 64,
            "model.attention.head_dim": 8,
            "model.feed_forward.intermediate_size": 32,
        },
        seed=3,
    )
    smidgen.save(model, root / "base", plain)
    with (root / "chats.jsonl").open("w") as file:
        for n in range(30):
            file.write(json.dumps({"question": f"what is {n}?", "answer": f"it is {n}."}) + "\n")
    with (root / "pairs.jsonl").open("w") as file:
        for n in range(30):
            record = {"prompt": f"what is {n}?", "chosen": f"it is {n}.", "rejected": "no."}
            file.write(json.dumps(record) + "\n")
    return root


def configured(folder: Path, kind: str, **fields: Any) -> Config:
    config = load_training_config(folder / "base", {**FIELDS, **fields}, TUNING_DEFAULTS[kind])
    source, name = ("pairs", "preferences") if kind == "dpo" else ("chats", "conversations")
    prepare_conversations(
        [folder / f"{source}.jsonl"], folder / name, base_tokenizer(config), kind=name, val_fraction=0.2
    )
    return config.model_copy(update={"data": config.data.model_copy(update={"path": str(folder / name)})})


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_it_resumes_to_the_bit(folder: Path, tmp_path: Path, kind: str) -> None:
    config = configured(folder, kind)
    assert tune(config, tmp_path / "whole").best_validation_loss is not None
    assert tune(config, tmp_path / "parts", Interrupt()).steps == 2
    assert tune(load_training_config(tmp_path / "parts"), tmp_path / "parts").steps_taken == 2
    one, other = (smidgen.load(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    if kind == "dpo":
        first = next(line for line in lines if line["kind"] == "train")
        assert first["loss"] == pytest.approx(0.6931, abs=1e-3)  # the policy is still the reference
        validation = next(line for line in lines if line["kind"] == "validation")
        assert {"accuracy", "margin"} <= validation.keys()
        assert validation["perplexity"] is None


def test_markers_that_the_base_lacks_get_ids_and_old_ones_mean_the_same(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, "sft", **{"training.lr": 1e-30})
    tune(config, tmp_path / "run")
    base, tuned = smidgen.load(folder / "base"), smidgen.load(tmp_path / "run")
    old = base.config.vocab_size
    assert tuned.config.vocab_size == old + 2
    ids = torch.arange(20)[None]
    torch.testing.assert_close(tuned(ids)[..., :old], base(ids), rtol=1e-4, atol=1e-4)
    tokenizer = smidgen.load_tokenizer(tmp_path / "run")
    assert {tokenizer.special_tokens[t] for t in ("<|im_start|>", "<|im_end|>")} == {old, old + 1}
    ends = json.loads((tmp_path / "run" / "last" / "model" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [tokenizer.eos_id, old + 1]
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "last" / "model")
    torch.testing.assert_close(theirs(ids).logits, tuned(ids), rtol=1e-4, atol=1e-4)


def test_the_reference_is_computed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(configured(folder, "dpo"), tmp_path / "one")
    monkeypatch.setattr("smidgen.tuning.reference._compute", lambda *_: pytest.fail("computed again"))
    tune(configured(folder, "dpo"), tmp_path / "two")


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    config = configured(folder, "sft")
    configured(folder, "dpo")
    pairs = config.model_copy(update={"data": config.data.model_copy(update={"path": str(folder / "preferences")})})
    with pytest.raises(DataError, match=r"holds pairs, and tuning.objective.kind sft conversations"):
        tune(pairs, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"tuning.base = null: objective.kind sft goes on from a model"):
        load_training_config("elite-tiny", {"tuning.objective.kind": "sft"})
    changed = config.tuning.model_copy(update={"chat_template": "deepseek"})
    with pytest.raises(DataError, match="another tokenizer or chat template"):
        tune(config.model_copy(update={"tuning": changed}), tmp_path / "run")
    with pytest.raises(DataError, match=r"training.seq_len = 3: no answer begins within so many tokens"):
        tune(configured(folder, "sft", **{"training.seq_len": 3}), tmp_path / "run")
