"""No rank of a sharded run ever has the whole: what saving and starting take of each, and what the files are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as distributed_checkpoint
from safetensors.torch import load_file, save_file

from smidgen.folders import load
from smidgen.folders.run import verify_checkpoint


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, run_ranks: Callable[..., None]) -> Path:
    """A run of two steps on two ranks, resumed for two more; beside it what each rank measured."""
    folder = tmp_path_factory.mktemp("sharded")
    for steps in (2, 4):
        worker = Path(__file__).with_name("memory_worker.py")
        run_ranks(2, worker, folder / "run", folder / f"result-{steps}", steps)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("steps", [2, 4])
def test_starting_and_saving_take_the_rank_s_part_and_no_more(sharded: Path, rank: int, steps: int) -> None:
    figures = json.loads((sharded / f"result-{steps}-{rank}").read_text())
    print({name: f"{value / 1e6:.0f} MB" for name, value in figures.items()})
    weights, imports = figures["weights"], 64 << 20
    assert weights > 4 * 18e6
    # Half of the weights and of their average; going on, of two moments too, and of the training weights, once read.
    assert figures["starting"] < (1.0 if steps == 2 else 2.5) * weights + imports
    # A copy of half of all four, most of it where a step had its gathered weights and gradients; the whole is twice it.
    assert figures["saving"] < weights


def test_the_files_are_those_of_one_process(sharded: Path, tmp_path: Path) -> None:
    last = sharded / "run" / "last"
    assert verify_checkpoint(last).step == 4
    for file in ("model/model.safetensors", "state/optimizer.safetensors", "state/averaging.safetensors"):
        metadata = {"format": "pt"} if file.startswith("model") else None
        save_file(load_file(last / file), tmp_path / "again.safetensors", metadata)
        assert (tmp_path / "again.safetensors").read_bytes() == (last / file).read_bytes(), file


def test_torch_s_distributed_checkpoint_and_transformers_read_them(sharded: Path) -> None:
    last = sharded / "run" / "last"
    expected = load_file(last / "model" / "model.safetensors")
    read = {name: torch.empty_like(tensor) for name, tensor in expected.items()}
    reader = distributed_checkpoint.HuggingFaceStorageReader(str(last / "model"))
    distributed_checkpoint.load(read, storage_reader=reader, no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    transformers = pytest.importorskip("transformers")
    ids = torch.arange(8)[None]
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(last / "model", dtype=torch.float32)(ids).logits
        torch.testing.assert_close(load(last)(ids), theirs, rtol=1e-4, atol=1e-5)
