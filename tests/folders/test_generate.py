"""transformers' `generate` on a saved folder against greedy decoding of our own, token by token."""

from __future__ import annotations

from pathlib import Path

import parity
import pytest
import torch
from torch import Tensor

from smidgen.model import Decoder

CASES = [
    parity.Case("elite-tiny", "Llama", parity.small(attention__num_kv_heads=1)),
    parity.Case("gemma3-tiny", "Gemma 3, window of 7", parity.small(num_layers=6, attention__sliding_window=7)),
    parity.Case("tilda-tiny", "DeepSeek-V3, YaRN", parity.small(**parity.YARN)),
    parity.Case("tinylm-gqa-tiny", "BitNet", parity.small()),
    parity.Case("tinylm-tiny", "own modelling file", parity.small()),
    parity.Case(
        "gemma3-tiny",
        "own modelling file, window of 7",
        parity.small(num_layers=6, attention__sliding_window=7, norm__kind="layer_norm"),
    ),
]
NEW_TOKENS = 16


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> parity.Case:
    return request.param


def prompts(vocab_size: int) -> tuple[Tensor, Tensor]:
    """Two prompts of 5 and 12 tokens, padded on the left as transformers wants it."""
    ids = torch.randint(0, vocab_size, (2, 12), generator=torch.Generator().manual_seed(4))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    return ids, mask


def greedy(decoder: Decoder, prompt: Tensor) -> list[int]:
    """The most probable continuation of one prompt [T], a whole forward pass for each token."""
    ids = prompt
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, decoder(ids[None])[0, -1].argmax()[None]])
    return ids[len(prompt) :].tolist()


def greedy_with_cache(decoder: Decoder, ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The same for a padded batch [B, T], through the cache."""
    cache = decoder.new_cache(ids.shape[0])
    logits = decoder(ids, mask, cache=cache)[:, -1]
    tokens = []
    for _ in range(NEW_TOKENS):
        tokens.append(logits.argmax(-1))
        logits = decoder(tokens[-1][:, None], cache=cache)[:, -1]
    return torch.stack(tokens, dim=1).tolist()


@torch.no_grad()
def test_greedy_tokens_are_the_same(case: parity.Case, tmp_path: Path) -> None:
    decoder = parity.randomized(case.config).double()
    ids, mask = prompts(case.config.vocab_size)
    expected = [greedy(decoder, row[kept.bool()]) for row, kept in zip(ids, mask, strict=True)]
    assert greedy_with_cache(decoder, ids, mask) == expected
    peer = parity.oracle(decoder, tmp_path / "model").double()
    with torch.compiler.set_stance("force_eager"):
        theirs = peer.generate(
            ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    assert theirs[:, ids.shape[1] :].tolist() == expected
