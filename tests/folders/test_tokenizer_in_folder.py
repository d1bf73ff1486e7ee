"""A model folder with its tokenizer: one pair of `Auto` calls in transformers, one name for every command of ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import smidgen
from smidgen.folders.run import Retention, RunFolder
from smidgen.model import Decoder
from smidgen.runtime.errors import TokenizerError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import train_tokenizer

TEXT = ["The cat sat on the mat, and the dog sat by the door.", "A bird sang; the cat looked up at the bird."] * 30


@pytest.fixture(params=["byte_bpe", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(request.param, TEXT, 300)


@pytest.fixture
def decoder(tokenizer: Tokenizer) -> Decoder:
    return smidgen.build("elite-tiny", {"model.num_layers": 1, "model.vocab_size": tokenizer.vocab_size})


@torch.no_grad()
def test_text_in_gives_the_same_logits_in_transformers(tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path) -> None:
    smidgen.save(decoder, tmp_path, tokenizer)
    theirs, their_tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id
    assert theirs.config.bos_token_id == tokenizer.bos_id
    ids = smidgen.load_tokenizer(tmp_path).encode(TEXT[0])
    assert their_tokenizer.encode(TEXT[0], add_special_tokens=False) == ids
    logits = smidgen.load(tmp_path)(torch.tensor([ids]))
    assert torch.allclose(logits, theirs.eval()(torch.tensor([ids])).logits, rtol=1e-4, atol=1e-5)


def test_a_run_gives_the_tokenizer_of_its_checkpoint(tokenizer: Tokenizer, decoder: Decoder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked():
        run.config_path.write_text("base: elite-tiny\n")
        run.write_checkpoint(
            1, lambda folder: smidgen.save(decoder, folder / "model", tokenizer) and None, 1.0, Retention(1)
        )
    assert smidgen.load_tokenizer(tmp_path / "run").fingerprint == tokenizer.fingerprint


def test_another_tokenizer_takes_the_place_of_the_first(decoder: Decoder, tokenizer: Tokenizer, tmp_path: Path) -> None:
    smidgen.save(decoder, tmp_path / "model", tokenizer)
    other = train_tokenizer("characters", TEXT, 300)
    smidgen.save(decoder, tmp_path / "model", other)
    assert smidgen.load_tokenizer(tmp_path / "model").fingerprint == other.fingerprint


def test_a_model_without_tokenizer_says_so(decoder: Decoder, tmp_path: Path) -> None:
    smidgen.save(decoder, tmp_path)
    with pytest.raises(TokenizerError):
        smidgen.load_tokenizer(tmp_path)
