"""The matrices with a row for each token: the embedding and an untied head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smidgen.config import ModelConfig


class VocabularyMatrix(nn.Module):
    """The weight [padded vocabulary, D] of the embedding or of an untied head."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(model.padded_vocab_size, model.hidden_size))

    def rows(self, ids: Tensor) -> Tensor:
        """The rows [..., D] of int64 ids [...]."""
        return F.embedding(ids, self.weight)

    def effective_weight(self) -> Tensor:
        """The matrix that products use, [at least the vocabulary, D]."""
        return self.weight

    @property
    def dtype(self) -> torch.dtype:
        """The type of rows and of the matrix."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the matrix lies."""
        return self.weight.device
