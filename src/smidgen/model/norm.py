"""Normalisations. All are computed in float32 and return the dtype of their input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen import config
from smidgen.kernels import lean

_ZERO = torch.zeros(())


class RMSNorm(nn.Module):
    """`x · rsqrt(mean x² + eps) · w` over the last dimension (Zhang & Sennrich, 2019)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self._floor = torch.tensor((size * eps) ** 0.5, dtype=torch.float32, device="cpu")

    def gain(self) -> Tensor:
        return self.weight

    def set_gain(self, value: float) -> None:
        """Fill the weight so that the normalised input is multiplied by `value`."""
        with torch.no_grad():
            self.weight.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        if _is_one_token(x):
            return self._by_length(x)
        if lean.is_worthwhile(x, self.weight):
            return lean.RMSNorm.apply(x, self.gain(), self.eps)
        x_float = x.float()
        normalized = x_float * torch.rsqrt(x_float.square().mean(-1, keepdim=True) + self.eps)
        return (normalized * self.gain()).to(x.dtype)

    def _by_length(self, x: Tensor) -> Tensor:
        """The same as `√n · x · w / √(|x|² + n · eps)`, in fewer operations."""
        size = x.shape[-1]
        x_float = x.float()
        length = torch.linalg.vector_norm(x_float, dim=-1, keepdim=True)
        divisor = torch.hypot(length, self._floor)
        return torch.addcdiv(_ZERO, x_float * self.gain(), divisor, value=size**0.5).to(x.dtype)


class RMSNormPlusOne(RMSNorm):
    """`x · rsqrt(mean x² + eps) · (1 + w)`, w starting at 0 (Gemma)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__(size, eps)
        self.set_gain(1.0)

    def gain(self) -> Tensor:
        return 1.0 + self.weight

    def set_gain(self, value: float) -> None:
        super().set_gain(value - 1.0)

    def plain(self) -> RMSNorm:
        """The same with a weight that is not added to 1 at every call; it does not follow this one's."""
        norm = RMSNorm(len(self.weight), self.eps)
        norm.weight = nn.Parameter(self.gain().detach(), requires_grad=False)
        return norm


class LayerNorm(RMSNorm):
    """`(x - mean) / √(var + eps) · w`, without a bias (Ba et al., 2016)."""

    def forward(self, x: Tensor) -> Tensor:
        return (F.layer_norm(x.float(), x.shape[-1:], eps=self.eps) * self.weight).to(x.dtype)


def _is_one_token(x: Tensor) -> bool:
    """Whether `x` is a vector or the heads [1, 1, H, d] of one, in at most 32 bits, on a CPU, and wants no gradient."""
    return (
        (x.numel() == x.shape[-1] or (x.dim() == 4 and x.shape[0] == x.shape[1] == 1))
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
    )


def make_norm(norm: config.Norm, size: int) -> RMSNorm:
    """A normalisation of `size` features as the configuration's `model.norm` section describes it."""
    kinds = {"rms_norm": RMSNorm, "rms_norm_plus_one": RMSNormPlusOne, "layer_norm": LayerNorm}
    return kinds[norm.kind](size, norm.eps)
