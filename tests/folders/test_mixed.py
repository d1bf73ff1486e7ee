"""Folders of unequal schemes: read as they were written, by transformers with our logits, and as others write them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from transformers import AutoModelForCausalLM

import smidgen
from smidgen.config import Quantization
from smidgen.folders.architectures.compressed_tensors import projection_names
from smidgen.folders.architectures.patterns import matcher
from smidgen.model import Decoder
from smidgen.quantization import quantize
from smidgen.runtime.errors import ModelFolderError

IDS = torch.randint(0, 64, (2, 12), generator=torch.Generator().manual_seed(0))
SMALL = {"model.num_layers": 3, "model.vocab_size": 64}

SENSITIVE = {"scheme": "int4", "overrides": {"down_proj": "int8", "layers.0.*": "bf16"}}
GROUPS = {"scheme": "int4", "group_size": 64, "overrides": {"layers.2.*": "int4/32", "[qk]_proj": "int8"}}
FP8 = {"scheme": "fp8_tensor", "overrides": {"o_proj": "bf16", "up_proj": "int8", "gate_proj": "int4"}}
ROUNDED = {"scheme": "int4", "activation_bits": 8, "overrides": {"down_proj": "int8", "o_proj": "bf16"}}
BLOCKS = {"scheme": "fp8_block", "overrides": {"o_proj": "bf16", "layers.1.mlp.*": "bf16"}}
VOCABULARY = {"scheme": "int4", "head": "int8", "embedding": "int8", "overrides": {"v_proj": "int8"}}


def mixed(preset: str, scheme: dict[str, Any], **overrides: Any) -> Decoder:
    model = smidgen.build(preset, SMALL | {f"model.{name}": value for name, value in overrides.items()})
    return quantize(model, Quantization(**scheme))


def stores(model: Decoder) -> dict[str, Any]:
    quantization = model.config.quantization
    assert quantization is not None
    return {name: quantization.storage(name) for name in projection_names(model.config)}


def without_ours(folder: Path, **changes: Any) -> Path:
    """The folder as if another tool had written it."""
    (folder / "smidgen.yaml").unlink(missing_ok=True)
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"].pop("smidgen", None)
    fields["quantization_config"] |= changes
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ("preset", "scheme", "tied"),
    [
        ("elite-tiny", SENSITIVE, True),
        ("elite-tiny", GROUPS, True),
        ("elite-tiny", FP8, True),
        ("elite-tiny", ROUNDED, True),
        ("elite-tiny", BLOCKS, True),
        ("elite-tiny", VOCABULARY, False),
        ("tilda-tiny", {"scheme": "int8", "overrides": {"kv_b_proj": "bf16", "mlp.*": "int4"}}, False),
        ("tinylm-tiny", {"scheme": "int4", "activation_bits": 8, "overrides": {"down_proj": "int8"}}, True),
    ],
)
def test_a_saved_model_is_loaded_as_it_was(preset: str, scheme: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    model = mixed(preset, scheme, tie_word_embeddings=tied)
    smidgen.save(model, tmp_path / "model")
    loaded = smidgen.load(tmp_path / "model")
    assert loaded.config == model.config
    assert torch.equal(loaded(IDS), model(IDS))
    if preset == "tinylm-tiny":
        return  # its class rounds inputs itself, which the others' description does not say
    # By what it says to others, each projection is found to be stored the same.
    again = smidgen.load(without_ours(tmp_path / "model"))
    assert stores(again) == stores(model)
    assert again.config.quantization is not None
    assert model.config.quantization is not None
    assert again.config.quantization.head == model.config.quantization.head
    assert torch.equal(again(IDS), model(IDS))


@pytest.mark.parametrize(
    "scheme", [SENSITIVE, GROUPS, FP8, VOCABULARY], ids=["sensitive", "groups", "fp8", "vocabulary"]
)
def test_transformers_gives_the_same_logits(scheme: dict[str, Any], tmp_path: Path) -> None:
    model = mixed("elite-tiny", scheme, tie_word_embeddings=scheme is not VOCABULARY)
    smidgen.save(model, tmp_path / "model")
    peer = nn.Module.float(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval())
    with torch.no_grad():
        torch.testing.assert_close(peer(IDS).logits, model(IDS), rtol=1e-4, atol=1e-5)


def test_transformers_keeps_what_fp8_blocks_leave_out(tmp_path: Path) -> None:
    model = mixed("elite-tiny", BLOCKS)
    smidgen.save(model, tmp_path / "model")
    peer = nn.Module.float(AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval())
    theirs = peer.get_submodule("model.layers.0.self_attn.o_proj").weight
    assert torch.equal(theirs, model.layers[0].self_attn.o_proj.weight)
    with torch.no_grad():  # transformers holds what it dequantises in bfloat16
        logits, expected = peer(IDS).logits, model(IDS)
    assert (logits - expected).norm() / expected.norm() < 1e-2


def test_groups_as_other_tools_write_them(tmp_path: Path) -> None:
    """By class, by name and by pattern: a name comes before a pattern, a pattern before a class."""
    model = mixed("elite-tiny", {"scheme": "int4", "overrides": {"layers.1.mlp.down_proj": "int8", "v_proj": "bf16"}})
    smidgen.save(model, tmp_path / "model")
    written = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]["config_groups"]
    int4, int8 = written["group_0"], written["group_1"]
    groups = {
        "group_0": int4 | {"targets": ["Linear"]},
        "group_1": int8 | {"targets": ["model.layers.1.mlp.down_proj"]},
    }
    folder = without_ours(tmp_path / "model", config_groups=groups, ignore=["lm_head", r"re:.*\.v_proj"])
    loaded = smidgen.load(folder)
    assert stores(loaded) == stores(model)
    assert torch.equal(loaded(IDS), model(IDS))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ignore": ["re:(a|a)*b\\1"]}, ["config_groups", "escape"]),
        ({"ignore": [3]}, ["ignore", "names"]),
        ({"config_groups": {"group_0": {"targets": ["Linear"]}}}, ["config_groups", "weights"]),
    ],
)
def test_groups_that_we_do_not_read_are_refused(changes: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    smidgen.save(mixed("elite-tiny", SENSITIVE), tmp_path / "model")
    with pytest.raises(ModelFolderError) as error:
        smidgen.load(without_ours(tmp_path / "model", **changes))
    assert all(part in str(error.value) for part in named), error.value
    assert "\n" not in str(error.value)


def test_groups_that_round_inputs_differently_are_refused(tmp_path: Path) -> None:
    smidgen.save(mixed("elite-tiny", {"scheme": "int4", "overrides": {"down_proj": "int8"}}), tmp_path / "model")
    groups = json.loads((tmp_path / "model" / "config.json").read_text())["quantization_config"]["config_groups"]
    groups["group_1"]["input_activations"] = {"num_bits": 8, "strategy": "token", "dynamic": True, "symmetric": True}
    with pytest.raises(ModelFolderError, match="round their inputs differently"):
        smidgen.load(without_ours(tmp_path / "model", config_groups=groups))


def test_a_section_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    smidgen.save(mixed("elite-tiny", SENSITIVE), tmp_path / "model")
    (tmp_path / "model" / "smidgen.yaml").unlink()
    path = tmp_path / "model" / "config.json"
    path.write_text(path.read_text().replace('"layers.0.*"', '"layers.7.*"'))
    with pytest.raises(ModelFolderError, match=r"config.json: quantization.overrides.layers.7.\* = bf16: matches no"):
        smidgen.load(tmp_path / "model")


NAMES = ["model.layers.0.mlp.down_proj", "model.layers.13.self_attn.q_proj", "lm_head", "model.embed_tokens", ""]
PATTERNS = [
    r".*layers\..*_proj(_with_mqa)?$",
    r".*layers\.(0|13|2)\.self_attn\.(q|k)_proj",
    r"model\.layers\.\d+\.mlp\.[a-z_]+$",
    r"^model\.layers\.(?:[0-9]|1[0-9])\..*",
    r".*[^a-z]head",
    "",
    "a|lm_head$|b",
    r"(l|lm)(m_)?_?head",
    r"(.|..)*_proj",
    r"[\]a-z.0-9]+",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_as_regular_expressions_do(pattern: str) -> None:
    assert [matcher(pattern)(name) for name in NAMES] == [bool(re.match(pattern, name)) for name in NAMES]


@pytest.mark.parametrize(
    "pattern", ["a{2}", "(a", "a)", "[a", "a**", "*a", "\\1", "(?=a)", "a" * 5000, "a*" * 9, "(" * 3000, "[b-a]"]
)
def test_patterns_that_are_not_read(pattern: str) -> None:
    with pytest.raises(ValueError, match=" "):
        matcher(pattern)


def test_no_pattern_takes_long() -> None:
    begun = time.perf_counter()
    for pattern in ("(a|a|aa)*b", "(.*.*.*)*X", "(a*)*(a*)*b", "((((((((a*)*)*)*)*)*)*)b)"):
        assert not matcher(pattern)("a" * 60)
    assert time.perf_counter() - begun < 1


def test_many_overrides_take_no_time() -> None:
    """Half as many as projections; and a number that no model has is refused before it is compared."""
    model = smidgen.build("elite-tiny", SMALL | {"model.num_layers": 40})
    names = projection_names(model.config)
    scheme = {name: "int8" for index, name in enumerate(names) if index % 2}
    begun = time.perf_counter()
    config = model.config.model_copy(update={"quantization": Quantization(scheme="int4", overrides=scheme)})
    validated = type(config).model_validate(config.model_dump())
    assert len(validated.projection_storages) == 2
    assert time.perf_counter() - begun < 1
    with pytest.raises(ValidationError, match="num_layers"):
        type(config).model_validate(config.model_dump() | {"num_layers": 1_000_000})
