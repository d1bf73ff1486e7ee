"""Tokens: several files behave as one stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.data.tokens import Tokens
from smidgen.runtime.errors import DataError


def tokens_of(lengths: list[int]) -> Tokens:
    ids = np.arange(sum(lengths), dtype=np.uint16)
    return Tokens(np.split(ids, np.cumsum(lengths)[:-1]), [Path(f"{number}.bin") for number in range(len(lengths))])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(-3, 50), st.integers(-3, 50))
def test_slices_are_those_of_one_array(lengths: list[int], start: int, stop: int) -> None:
    tokens = tokens_of(lengths)
    whole = np.arange(sum(lengths), dtype=np.uint16)
    assert len(tokens) == len(whole)
    assert tokens[start:stop].tolist() == whole[start:stop].tolist()
    assert tokens[:].dtype == np.uint16
    assert (np.asarray(tokens) == whole).all()


def test_single_ids_and_windows_across_files() -> None:
    tokens = tokens_of([3, 0, 4])
    assert [tokens[position] for position in (0, 3, -1)] == [0, 3, 6]
    with pytest.raises(IndexError):
        tokens[7]
    assert tokens.windows(np.array([1, 5]), 4).tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]


def test_an_id_outside_the_vocabulary_is_named_with_its_file_and_position() -> None:
    tokens = tokens_of([3, 4])
    tokens.check_vocab(7)
    with pytest.raises(DataError, match=r"^1\.bin: token 5 at position 2 .*model\.vocab_size"):
        tokens.check_vocab(5)
