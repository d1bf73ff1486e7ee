"""Decoding in bfloat16 on a CPU without instructions for it, as every CPU is here: other routes, the same answers."""

from __future__ import annotations

import pytest
import torch
from oracle import make_model, make_prompts, tokens

from smidgen.config import load_config
from smidgen.inference import frozen, lowering
from smidgen.inference.decoding import DecodingStep
from smidgen.inference.engine import TorchEngine
from smidgen.kernels import bf16
from smidgen.model.attend import Visibility, attend
from smidgen.model.norm import make_norm
from smidgen.model.vocabulary import VocabularyMatrix
from smidgen.runtime import SamplingParams


@pytest.fixture(autouse=True)
def _emulating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "multiplies_bf16_fast", lambda _: False)
    monkeypatch.setattr(frozen, "SMALL_MATRIX", 512)


@pytest.fixture
def _without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "is_available", lambda: False)


@pytest.mark.usefixtures("_without_library")
@pytest.mark.parametrize(("rows", "columns"), [(16, 24), (64, 24), (24, 64)])
@pytest.mark.parametrize("count", [1, 3, 9])
def test_products_of_every_layout(rows: int, columns: int, count: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(rows, columns).bfloat16()
    x = torch.randn(1, count, columns).bfloat16()
    own = frozen.laid_out(weight)
    assert torch.equal(own, weight)
    assert own.is_contiguous() == (rows < 2 * columns)
    expected = (x.double() @ weight.double().t()).bfloat16()
    torch.testing.assert_close(frozen.product(x, own), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.usefixtures("_without_library")
def test_rows_of_a_matrix_by_columns() -> None:
    matrix = VocabularyMatrix(load_config("elite-tiny").model)
    torch.nn.init.normal_(matrix.weight)
    own = frozen.FrozenVocabulary(matrix, torch.bfloat16)
    assert not own.weight.is_contiguous()
    ids = torch.tensor([[3, 0, 7]])
    assert torch.equal(own.rows(ids), matrix.rows(ids).bfloat16())


@pytest.mark.parametrize("batch", [1, 3])
def test_attention_of_one_token(batch: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(batch, 4, 1, 16).bfloat16()
    key, value = (torch.randn(batch, 2, 20, 16).bfloat16()[:, :, :13] for _ in range(2))
    added = torch.zeros(batch, 1, 1, 13)
    added[:, :, :, 9:] = -torch.inf
    found = attend(query, key, value, Visibility(added=added), scale=0.25)
    scores = (query.double().view(batch, 2, 2, 16) @ key.double().transpose(2, 3)) * 0.25
    expected = ((scores + added).softmax(-1) @ value.double()).view(batch, 4, 1, 16).bfloat16()
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-7)
    everything = attend(query, key, value, Visibility(everything=True), scale=0.25)
    expected = (scores.softmax(-1) @ value.double()).view(batch, 4, 1, 16).bfloat16()
    torch.testing.assert_close(everything, expected, rtol=2**-7, atol=2**-7)


def test_a_gain_that_is_not_added_at_every_call() -> None:
    norm = make_norm(load_config("gemma3-tiny").model.norm, 32)
    torch.nn.init.normal_(norm.weight)
    ready = frozen.frozen(make_model("gemma3-tiny"))
    assert not any(type(module).__name__ == "RMSNormPlusOne" for module in ready.modules())
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        assert torch.equal(norm.plain()(x), norm(x))  # type: ignore[operator]


@pytest.mark.usefixtures("_without_library")
@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny"])
def test_recorded_and_direct_steps_agree(preset: str) -> None:
    model, prompts = make_model(preset), make_prompts((3, 40))
    model.compute_dtype = torch.bfloat16
    params = SamplingParams(max_new_tokens=30, temperature=0)
    recorded = tokens(TorchEngine(model, max_batch_size=1), prompts, params)
    assert recorded == tokens(TorchEngine(model, max_batch_size=1, decoding=DecodingStep), prompts, params)
