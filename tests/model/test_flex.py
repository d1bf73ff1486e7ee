"""FlexAttention against attention through a mask in memory: the forward pass here, the backward pass on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.model import flex
from smidgen.model.attend import Visibility, attend

DOCUMENTS = {
    "none": None,
    "a row of one, a row of many": torch.stack([torch.zeros(300), torch.arange(300) // 37]).long(),
    "in any order": torch.randint(0, 3, (2, 300), generator=torch.Generator().manual_seed(0)),
}


def mask_in_memory(window: int | None, document_ids: Tensor | None, length: int) -> Tensor:
    index = torch.arange(length)[None]
    return Visibility(index, index, document_ids).block(window, slice(None), slice(None))


@pytest.mark.parametrize("window", [None, 1, 100, 128, 200])
@pytest.mark.parametrize("documents", DOCUMENTS)
def test_blocks_that_are_skipped_hold_nothing_and_whole_ones_everything(window: int | None, documents: str) -> None:
    document_ids = DOCUMENTS[documents]
    expected = mask_in_memory(window, document_ids, 300)[:, 0]
    blocks = flex.block_mask(300, window, document_ids, torch.device("cpu"))
    assert blocks.full_kv_num_blocks is not None
    assert blocks.full_kv_indices is not None
    for row in range(len(blocks.kv_indices)):
        for query in range(3):
            partial = blocks.kv_indices[row, 0, query, : blocks.kv_num_blocks[row, 0, query]].tolist()
            whole = blocks.full_kv_indices[row, 0, query, : blocks.full_kv_num_blocks[row, 0, query]].tolist()
            for key in range(3):
                part = expected[
                    min(row, len(expected) - 1), 128 * query : 128 * query + 128, 128 * key : 128 * key + 128
                ]
                if key in whole:
                    assert part.all()
                elif key not in partial:
                    assert not part.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "value_size", "window"), [(4, 2, 16, 16, None), (2, 2, 24, 16, 100)]
)
def test_the_result_is_that_of_a_mask(
    heads: int, kv_heads: int, size: int, value_size: int, window: int | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, 300, size, generator=generator)
    key = torch.randn(2, kv_heads, 300, size, generator=generator)
    value = torch.randn(2, kv_heads, 300, value_size, generator=generator)
    document_ids = DOCUMENTS["a row of one, a row of many"]
    index = torch.arange(300)[None]
    expected = attend(query, key, value, Visibility(index, index, document_ids), scale=0.3, window=window)
    blocks = flex.block_mask(300, window, document_ids, torch.device("cpu"))
    result = attend(query, key, value, Visibility(blocks=blocks), scale=0.3, window=window)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
