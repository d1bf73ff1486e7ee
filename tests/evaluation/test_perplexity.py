"""Windows over one text, and losses against a plain forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smidgen.evaluation.perplexity import TextWindows, evaluate_text
from smidgen.runtime.errors import DataError
from smidgen.tokenization import train_tokenizer


@pytest.mark.parametrize(("length", "seq_len"), [(2, 8), (9, 8), (10, 8), (17, 8), (30, 7)])
def test_every_token_but_the_first_is_a_label_once(length: int, seq_len: int) -> None:
    ids = list(range(100, 100 + length))
    windows = TextWindows(ids, seq_len)
    batch = windows.batch(0, windows.per_epoch)
    labels = batch.labels[batch.labels >= 0]
    assert labels.tolist() == ids[1:]
    inputs = batch.input_ids[batch.labels >= 0]
    assert np.array_equal(inputs + 1, labels)


def test_a_short_text_equals_one_forward_pass(randomized_decoder: Callable[..., Any]) -> None:
    text = "One day the fox met the bear."
    tokenizer = train_tokenizer("byte_bpe", [text] * 3, 300)
    model = randomized_decoder("elite-tiny", {"model.vocab_size": tokenizer.vocab_size})
    assert tokenizer.eos_id is not None
    ids = torch.tensor([[tokenizer.eos_id, *tokenizer.encode(text)]])
    expected = F.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    result = evaluate_text(model, tokenizer, text)
    assert result.loss == pytest.approx(expected.item(), rel=1e-5)
    assert result.tokens == ids.shape[1] - 1
    with pytest.raises(DataError, match="nothing to predict"):
        evaluate_text(model, tokenizer, "")
