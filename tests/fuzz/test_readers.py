"""Every reader on damaged files: one line of an error or a model, no crash, no hang, no memory beyond the file's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from smidgen.folders import load_folder, read_model_config
from smidgen.interchange.gguf.importing import import_gguf
from smidgen.interchange.gguf.reader import open_gguf
from smidgen.runtime.errors import SmidgenError
from smidgen.tokenization import load_tokenizer

pytestmark = pytest.mark.usefixtures("small_address_space")

QUICK = 40
TORTURE = int(os.environ.get("SMIDGEN_FUZZ_CASES", "100000"))
SHARES = {
    "config": 0.2,
    "safetensors": 0.2,
    "gguf_byte_bpe": 0.15,
    "gguf_pieces": 0.15,
    "tokenizer_json": 0.15,
    "tokenizer_config": 0.05,
    "pieces": 0.1,
}
"""Of the cases of a torture."""


def _passes(check: Callable[[], Any]) -> bool:
    try:
        check()
    except SmidgenError:
        return False
    return True


def _fuzz(kind: str, cases: int, first: int, valid: Path, work: Path, judge: Any, draw: Any, damage: Any) -> None:
    """Damage the files of a kind `cases` times, seeds counting from `first`, and read them."""
    for name in ("model", "pieces"):
        shutil.copytree(valid / name, work / name, dirs_exist_ok=True)
    for seed in range(first, first + cases):
        chance = draw(seed)
        where = f"{kind}, seed {seed}"
        if kind in ("config", "safetensors"):
            name = "config.json" if kind == "config" else "model.safetensors"
            data = (valid / "model" / name).read_bytes()
            changed = (
                damage.json_bytes(damage.mutate_json, data, chance)
                if kind == "config"
                else damage.mutate_safetensors(data, chance)
            )
            (work / "model" / name).write_bytes(changed)
            size = sum(path.stat().st_size for path in (work / "model").iterdir())
            judge.read(partial(load_folder, work / "model"), size, where)
            if kind == "config":
                begun = _is_json(changed)
            else:
                begun = 8 < int.from_bytes(changed[:8], "little") < len(changed) and _is_json(
                    changed[8 : 8 + int.from_bytes(changed[:8], "little")]
                )
        elif kind.startswith("gguf"):
            data = (valid / f"{kind.removeprefix('gguf_')}.gguf").read_bytes()
            path = work / "x.gguf"
            path.write_bytes(damage.mutate_gguf(data, chance))
            judge.read(partial(import_gguf, path), len(data), where)
            begun = _passes(partial(_open, path))
        else:
            folder, name = {
                "tokenizer_json": ("model", "tokenizer.json"),
                "tokenizer_config": ("model", "tokenizer_config.json"),
                "pieces": ("pieces", "tokenizer.model"),
            }[kind]
            data = (valid / folder / name).read_bytes()
            if kind == "pieces":
                changed = damage.mutate_protobuf(data, chance)
            else:
                changed = damage.json_bytes(damage.mutate_json, data, chance)
            (work / folder / name).write_bytes(changed)
            size = sum(path.stat().st_size for path in (work / folder).iterdir())
            judge.read(partial(_use, work / folder), size, where)
            begun = _is_json(changed) if kind != "pieces" else changed[:1] == data[:1]
        judge.total += 1
        judge.past_header += begun


def _open(path: Path) -> None:
    with open_gguf(path):
        pass


def _use(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.decode(tokenizer.encode("Once upon 12 ☃ <|im_start|>", special=True))


def _is_json(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


@pytest.mark.parametrize("kind", SHARES)
def test_damaged_files(kind: str, valid: Path, tmp_path: Path, judge: Any, draw: Any, damage: Any) -> None:
    _fuzz(kind, QUICK, 0, valid, tmp_path, judge, draw, damage)
    assert judge.past_header >= 0.3 * judge.total


@pytest.mark.torture
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", SHARES)
def test_many_damaged_files(
    kind: str, part: int, valid: Path, tmp_path: Path, judge: Any, draw: Any, damage: Any
) -> None:
    cases = round(TORTURE * SHARES[kind] / 4)
    _fuzz(kind, cases, 10**6 * (part + 1), valid, tmp_path, judge, draw, damage)
    share = judge.past_header / judge.total
    print(f"{kind}: {judge.total} cases, {share:.0%} past the header, slowest {judge.slowest:.3f} s")
    assert share >= 0.3


def test_the_configuration_alone_is_read_safely(valid: Path) -> None:
    assert read_model_config(valid / "model").num_layers == 1


def test_damage_depends_on_its_seed_alone(draw: Any, damage: Any) -> None:
    header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}

    def damaged() -> list[str]:
        return [json.dumps(damage.mutate_json(header, draw(seed))) for seed in range(5_000)]

    assert damaged() == damaged()
