"""Saving and loading: what a folder holds, that it is never half written, and what a damaged one says."""

from __future__ import annotations

import errno
import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import smidgen
from smidgen.folders import atomic, load_folder, model_folder, read_model_config
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError, ModelFolderError

SMALL = {"model.num_layers": 1, "model.hidden_size": 32, "model.attention.head_dim": 8, "model.vocab_size": 50}


class Words:
    """A tokenizer of four special tokens, for what `save` takes from one."""

    kind = "characters"
    special_tokens: dict[str, int] = {}  # noqa: RUF012
    chat_template = None
    fingerprint = "words"

    def __init__(self, vocab_size: int = 50, pad_id: int | None = None) -> None:
        self.vocab_size = vocab_size
        self.bos_id, self.eos_id, self.pad_id = 1, 2, pad_id

    def encode(self, text: str, bos: bool = False, special: bool = False) -> list[int]:
        return [len(word) for word in text.split()]

    def encode_batch(self, texts: Sequence[str], bos: bool = False, special: bool = False) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        return " ".join("x" * i for i in ids)

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def decoder() -> Decoder:
    return smidgen.build("elite-tiny", SMALL, seed=3)


@pytest.fixture
def folder(decoder: Decoder, tmp_path: Path) -> Path:
    return smidgen.save(decoder, tmp_path / "model", Words())


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fields(folder: Path, name: str = "config.json") -> dict[str, Any]:
    return json.loads((folder / name).read_text())


def change(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(fields(folder) | changes))


def assert_refused(folder: Path, *named: str) -> None:
    with pytest.raises(ModelFolderError) as error:
        smidgen.load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in named), message


def test_a_folder_comes_back_as_it_was(decoder: Decoder, folder: Path) -> None:
    loaded = smidgen.load(folder)
    assert loaded.config == decoder.config
    assert not loaded.training
    for (name, one), (_, other) in zip(decoder.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_what_a_folder_holds(folder: Path) -> None:
    assert files(folder) == {
        *("config.json", "generation_config.json", "model.safetensors", "smidgen.yaml", "tokenizer.json")
    }
    config = fields(folder)
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float32")
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (1, 2, None)
    assert fields(folder, "generation_config.json") == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())


def test_without_a_tokenizer_transformers_gets_no_ids_of_its_own(decoder: Decoder, tmp_path: Path) -> None:
    smidgen.save(decoder, tmp_path / "model")
    assert fields(tmp_path / "model")["eos_token_id"] is None
    assert fields(tmp_path / "model", "generation_config.json") == {}


@pytest.mark.parametrize("tied", [True, False])
def test_padded_vocabulary_rows_stay_in_memory(tied: bool, tmp_path: Path) -> None:
    padding = {"model.vocab_padding_multiple": 64, "model.tie_word_embeddings": tied}
    decoder = smidgen.build("elite-tiny", SMALL | padding)
    smidgen.save(decoder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    assert tensors["model.embed_tokens.weight"].shape == (50, 32)
    loaded = smidgen.load(tmp_path / "model")
    assert loaded.model.embed_tokens.weight.shape == (64, 32)
    assert loaded.model.embed_tokens.weight[50:].eq(0).all()
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids), decoder(ids))


def test_settings_that_config_json_cannot_hold_survive(tmp_path: Path) -> None:
    overrides = {"model.attention.cache": "naive", "model.initialization.final_norm_gain": 3.0}
    decoder = smidgen.build("tilda-tiny", overrides)
    smidgen.save(decoder, tmp_path / "model")
    assert smidgen.load(tmp_path / "model").config == decoder.config


def test_saving_over_a_model_keeps_its_tokenizer_and_other_files(folder: Path) -> None:
    (folder / "README.md").write_text("notes")
    (folder / "model-00001-of-00002.safetensors").write_text("left behind")
    smidgen.save(smidgen.build("tinylm-tiny", {"model.num_layers": 1}), folder)
    assert {"README.md", "tokenizer.json", "modeling_smidgen.py"} <= files(folder)
    assert "model-00001-of-00002.safetensors" not in files(folder)
    assert (fields(folder)["model_type"], fields(folder)["eos_token_id"]) == ("smidgen", 2)
    smidgen.save(smidgen.build("elite-tiny", SMALL), folder, Words(pad_id=3))
    assert "modeling_smidgen.py" not in files(folder)
    assert fields(folder, "generation_config.json")["pad_token_id"] == 3
    assert smidgen.load(folder).config.vocab_size == 50


def test_saving_through_a_link_replaces_what_it_points_to(folder: Path) -> None:
    link = folder.with_name("link")
    link.symlink_to("model")
    smidgen.save(smidgen.build("elite-tiny", SMALL | {"model.vocab_size": 60}), link)
    assert link.is_symlink()
    assert smidgen.load(folder).config.vocab_size == 60


def test_an_interrupted_save_leaves_the_old_model(
    decoder: Decoder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(model_folder, "write_weights", fail)
    with pytest.raises(OSError, match="no space"):
        smidgen.save(smidgen.build("elite-tiny", SMALL, seed=9), folder)
    monkeypatch.undo()
    assert torch.equal(smidgen.load(folder).head_weight, decoder.head_weight)
    assert files(folder.parent) == {"model"}


def test_the_old_model_is_deleted_after_the_new_one_has_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is deleted leaves the new one; deleting takes long where models are large."""

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(atomic.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        smidgen.save(smidgen.build("elite-tiny", SMALL | {"model.vocab_size": 60}), folder)
    assert smidgen.load(folder).config.vocab_size == 60


def test_what_cannot_be_written_is_named(decoder: Decoder, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(decoder: Decoder, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(model_folder, "write_weights", full)
    with pytest.raises(OSError) as error:
        smidgen.save(decoder, folder)
    assert error.value.filename == str(folder / "model.safetensors")


def test_weights_that_the_disk_has_no_room_for_are_a_system_error(decoder: Decoder, tmp_path: Path) -> None:
    """safetensors has an error of its own for it; a limit on the size of files does what a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError) as error:
            smidgen.save(decoder, tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "model" / "model.safetensors")
    assert files(tmp_path) == set()


def test_folders_of_something_else_are_not_overwritten(decoder: Decoder, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ModelFolderError, match="holds other files and no model"):
        smidgen.save(decoder, tmp_path)
    with pytest.raises(ModelFolderError, match="is a file"):
        smidgen.save(decoder, tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"the tokenizer has 51 ids, the model vocab_size 50"):
        smidgen.save(decoder, tmp_path / "model", Words(vocab_size=51))


def test_config_json_edited_behind_smidgen_yaml_is_noticed(folder: Path) -> None:
    parameters = {"rope_type": "default", "rope_theta": 1e6}
    change(folder, rope_theta=1e6, rope_parameters=parameters)
    assert_refused(folder, "config.json: rope_theta = 1000000.0", "smidgen.yaml says 10000.0")
    (folder / "smidgen.yaml").unlink()
    assert read_model_config(folder).attention.rope_theta == 1e6


def test_a_damaged_smidgen_yaml_is_named(folder: Path) -> None:
    (folder / "smidgen.yaml").write_text("vocab_size: 50\nhiden_size: 32\n")
    with pytest.raises(ConfigError, match=r"smidgen.yaml: hiden_size: no such field; did you mean 'hidden_size'"):
        smidgen.load(folder)


def test_damaged_files_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:43], whole[: len(whole) // 2], b"\xff" * 64, whole + b"more"):
        weights.write_bytes(damaged)
        assert_refused(folder, "model.safetensors: damaged or unreadable")
    weights.unlink()
    assert_refused(folder, "model.safetensors: missing")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert_refused(folder, "never unpickles")
    for text in ("", "[]", "{", "nonsense"):
        (folder / "config.json").write_text(text)
        assert_refused(folder, "config.json")


def test_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    down = "model.layers.0.mlp.down_proj.weight"

    def refused(changed: dict[str, torch.Tensor], *named: str) -> None:
        save_file(changed, weights)
        assert_refused(folder, *named)

    refused({k: v for k, v in tensors.items() if k != down}, down, "missing")
    refused(tensors | {"model.layers.0.mlp.down_proj.bias": torch.ones(3)}, "down_proj.bias", "no place")
    refused(tensors | {down: torch.ones(3, 4)}, down, "[3, 4]", "[32, 384]")
    refused(tensors | {down: tensors[down].to(torch.int8)}, down, "I8")
    refused(tensors | {"lm_head.weight": torch.ones(50, 32)}, "tie_word_embeddings", "lm_head.weight")
    embedding = tensors["model.embed_tokens.weight"]
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(tensors | {"lm_head.weight": embedding.clone()} | frequencies, weights)
    assert torch.equal(smidgen.load(folder).head_weight, embedding)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 4000),
        ("hidden_size", 4 * 10**9),
        ("intermediate_size", 4 * 10**9),
        ("vocab_size", 4 * 10**9),
    ],
)
def test_absurd_sizes_are_refused_before_memory_is_taken(field: str, value: int, folder: Path) -> None:
    (folder / "smidgen.yaml").unlink()
    change(folder, **{field: value})
    assert_refused(folder, "do not belong together")


def test_half_precision_weights_become_float32(folder: Path) -> None:
    weights = folder / "model.safetensors"
    halved = {name: tensor.bfloat16() for name, tensor in load_file(weights).items()}
    save_file(halved, weights)
    for name, parameter in smidgen.load(folder).named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, halved[name].float()), name


def test_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    expected = smidgen.load(folder).state_dict()
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:4], names[4:])):
        save_file({name: tensors[name] for name in part}, folder / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(part, f"part-{number}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in load_folder(folder).state_dict().items())
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "../elsewhere.safetensors"}}))
    assert_refused(folder, "weight_map", "../elsewhere.safetensors")
    index.write_text(json.dumps({"weight_map": weight_map | {names[0]: "part-1.safetensors"}}))
    assert_refused(folder, "part-1.safetensors", names[0])
    index.write_text("{}")
    assert_refused(folder, "weight_map")
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "part-1.safetensors").unlink()
    assert_refused(folder, "part-1.safetensors")


def test_a_model_larger_than_memory_is_refused_with_the_sum(
    monkeypatch: pytest.MonkeyPatch, randomized_decoder: Callable[..., Any], tmp_path: Path
) -> None:
    smidgen.save(randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1}), tmp_path / "model")
    monkeypatch.setattr("smidgen.folders.memory.available_memory", lambda: 1000)
    with pytest.raises(ModelFolderError, match=r"weights of 4 bytes take 0\.0 GiB, and 0\.0 GiB are free"):
        smidgen.load(tmp_path / "model")


def test_sizes_that_no_machine_holds_are_refused(randomized_decoder: Callable[..., Any], tmp_path: Path) -> None:
    smidgen.save(randomized_decoder("elite-tiny", {"model.vocab_size": 64, "model.num_layers": 1}), tmp_path / "model")
    (tmp_path / "model" / "smidgen.yaml").unlink()
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "vocab_size": 2**63 - 1}))
    with pytest.raises(ModelFolderError, match="larger than any machine holds"):
        smidgen.load(tmp_path / "model")
