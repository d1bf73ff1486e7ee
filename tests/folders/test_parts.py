"""Files filled by parts: the bytes of safetensors' own writer, and blocks read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from smidgen.folders.parts import Part, make_file, read_part, write_parts


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "z.rows": torch.rand(7, 5, generator=random),
        "a.columns": torch.rand(4, 6, generator=random),
        "cube": torch.rand(3, 4, 5, generator=random),
        "count": torch.tensor(3),
        "norm é": torch.rand(9, generator=random).to(torch.bfloat16),
        "empty": torch.zeros(0, 3),
    }


def block(tensor: Tensor, *spans: tuple[int, int]) -> Part:
    values = tensor[tuple(slice(*span) for span in spans)]
    return Part(tuple(first for first, _ in spans), values.contiguous())


def test_what_many_write_is_what_one_would(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    rows, columns, cube = tensors["z.rows"], tensors["a.columns"], tensors["cube"]
    save_file(tensors, tmp_path / "one.safetensors", metadata={"format": "pt"})
    many = tmp_path / "many.safetensors"
    make_file(many, {name: tensor.to("meta") for name, tensor in tensors.items()}, {"format": "pt"})
    write_parts(
        many,
        {
            "z.rows": block(rows, (3, 7), (0, 5)),
            "a.columns": block(columns, (0, 4), (0, 2)),
            "cube": block(cube, (1, 3), (2, 4), (0, 5)),
            "count": Part((), tensors["count"]),
        },
    )
    write_parts(
        many,
        {
            "z.rows": block(rows, (0, 3), (0, 5)),
            "a.columns": block(columns, (0, 4), (2, 6)),
            "cube": block(cube, (1, 3), (0, 2), (0, 5)),
            "norm é": block(tensors["norm é"], (0, 9)),
        },
    )
    write_parts(many, {"cube": block(cube, (0, 1), (0, 4), (0, 5))})
    assert many.read_bytes() == (tmp_path / "one.safetensors").read_bytes()


def test_rows_that_the_file_lacks_are_left_out_and_read_as_zeros(tmp_path: Path) -> None:
    padded = torch.arange(1.0, 25).view(8, 3)
    path = tmp_path / "file.safetensors"
    make_file(path, {"embedding": padded[:5]})
    write_parts(path, {"embedding": block(padded, (0, 4), (0, 3))})
    write_parts(path, {"embedding": block(padded, (4, 8), (0, 3))})
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("embedding"), padded[:5])
        assert torch.equal(read_part(file, "embedding", (2, 1), (2, 2)), padded[2:4, 1:])
        assert torch.equal(read_part(file, "embedding", (4, 0), (2, 3)), torch.stack([padded[4], torch.zeros(3)]))
        assert torch.equal(read_part(file, "embedding", (6, 0), (2, 3)), torch.zeros(2, 3))
        assert read_part(file, "embedding", (8, 0), (0, 3)).shape == (0, 3)
