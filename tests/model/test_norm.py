"""Normalisation of one token on a processor, which is computed in fewer calls, beside that of several."""

from __future__ import annotations

import pytest
import torch

from smidgen.config import load_config
from smidgen.model.norm import make_norm


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_token_is_normalised_as_several_are(preset: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = make_norm(load_config(preset, {}).model.norm, 96)
    with torch.no_grad():
        norm.weight.normal_()
        x = torch.randn(2, 3, 96).to(dtype) * torch.tensor([1e-3, 1.0, 100.0])[:, None]
        x[0, 0] = 0
        x = x.to(dtype)
        several = norm(x)
        alone = torch.stack([torch.cat([norm(token[None, None]) for token in row], dim=1)[0] for row in x])
    assert alone.dtype == dtype
    torch.testing.assert_close(alone, several, rtol=2**-7 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    assert norm(x[:1, :1]).requires_grad
