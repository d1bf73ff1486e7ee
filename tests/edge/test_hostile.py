"""Corrupted and hostile folders: one clear error before native code sees a number, never a crash."""

from __future__ import annotations

import json
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smidgen.edge
from smidgen.runtime.errors import ModelFolderError, SmidgenError


@pytest.fixture
def folder(saved_model: Callable[..., Any], tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(saved_model("elite-tiny", {"model.num_layers": 1})[1], copy)
    return copy


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def read_file(folder: Path) -> tuple[dict[str, Any], bytes]:
    data = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_file(folder: Path, header: dict[str, Any], body: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 1 << 40},
        {"hidden_size": -1},
        {"hidden_size": "128"},
        {"num_hidden_layers": 100_000},
        {"num_hidden_layers": 0},
        {"vocab_size": 301},
        {"num_key_value_heads": 3},
        {"head_dim": 31},
        {"rms_norm_eps": float("nan")},
        {"rope_theta": 0},
        {"model_type": "gpt2"},
        {"hidden_act": "tanh"},
        {"rope_parameters": {"rope_type": "llama3"}},
        {"max_position_embeddings": True},
        {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "layer_types": [[]]},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit(folder: Path, fields: dict[str, Any]) -> None:
    change_config(folder, **fields)
    with pytest.raises(ModelFolderError) as caught:
        smidgen.edge.load(folder)
    assert "\n" not in str(caught.value)


NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop(NAME),
        lambda header: header.update(extra=header[NAME]),
        lambda header: header[NAME].update(shape=[1, 1]),
        lambda header: header[NAME].update(dtype="I64"),
        lambda header: header[NAME].update(dtype="F99"),
        lambda header: header[NAME].update(data_offsets=[0, 1 << 50]),
        lambda header: header[NAME].update(data_offsets=[-8, 8]),
        lambda header: header[NAME].update(shape=[1 << 40, 1 << 40]),
        lambda header: header[NAME].update(shape="x"),
        lambda header: header.update({NAME: None}),
    ],
)
def test_a_header_that_lies(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    header, body = read_file(folder)
    change(header)
    write_file(folder, header, body)
    with pytest.raises(ModelFolderError):
        smidgen.edge.load(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, 0.5, 0.999])
def test_a_file_cut_off(folder: Path, keep: float) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(ModelFolderError):
        smidgen.edge.load(folder)


def test_a_weight_that_is_not_a_number(folder: Path) -> None:
    header, body = read_file(folder)
    begin = header[NAME]["data_offsets"][0]
    write_file(folder, header, body[:begin] + struct.pack("<f", float("nan")) + body[begin + 4 :])
    with pytest.raises(ModelFolderError, match="q_proj: holds NaN"):
        smidgen.edge.load(folder)


def test_an_index_that_leaves_the_folder(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {NAME: "../other.safetensors"}}))
    with pytest.raises(ModelFolderError, match="a file of this folder"):
        smidgen.edge.load(folder)


def corrupt_and_try(folder: Path, rounds: int, seed: int) -> None:
    """Random damage to header and configuration: a SmidgenError or a model that answers."""
    rng = random.Random(seed)
    paths = [folder / "model.safetensors", folder / "config.json"]
    originals = [path.read_bytes() for path in paths]
    header_end = 8 + struct.unpack("<Q", originals[0][:8])[0]
    for _ in range(rounds):
        which = rng.randrange(2)
        data = bytearray(originals[which])
        limit = header_end if which == 0 else len(data)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(min(limit, len(data)))
            if rng.random() < 0.5:
                data[place] = rng.randrange(256)
            elif which == 1 or rng.random() < 0.2:
                del data[place : place + rng.randrange(1, 5)]
            else:
                data[place] = ord(rng.choice('0123456789,:[]{}"'))
        paths[which].write_bytes(bytes(data))
        try:
            engine = smidgen.edge.load(folder, threads=1, max_seq_len=16)
            engine.forward([1, 2])
            engine.close()
        except (SmidgenError, MemoryError):
            pass
        finally:
            paths[which].write_bytes(originals[which])


def test_random_damage(folder: Path) -> None:
    corrupt_and_try(folder, 150, 1)


@pytest.mark.torture
def test_much_random_damage(folder: Path) -> None:
    corrupt_and_try(folder, 20_000, random.SystemRandom().randrange(1 << 30))
