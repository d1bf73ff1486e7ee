"""The whole configuration of a run, and its sections for tokenizer and data."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from smidgen.config.cleaning import CleaningConfig
from smidgen.config.model import ModelConfig
from smidgen.config.parts import Part, impossible
from smidgen.config.training import TrainingConfig

TokenizerKind = Literal["byte_bpe", "sentencepiece", "characters", "pretrained"]


class TokenizerConfig(Part):
    """Which tokenizer `prepare` trains or loads."""

    kind: TokenizerKind = "byte_bpe"
    """byte_bpe, sentencepiece and characters can be trained; pretrained loads any Hugging Face tokenizer."""
    vocab_size: PositiveInt | None = None
    """Ids to train, special tokens included. For kind pretrained it is checked, not chosen."""
    path: str | None = None
    """Existing tokenizer (file or folder) to use instead of training one; required for kind pretrained."""

    @model_validator(mode="after")
    def _check(self) -> TokenizerConfig:
        if self.kind == "pretrained" and self.path is None:
            raise impossible("path", None, "kind pretrained loads a tokenizer; name its file or folder")
        return self


class DataConfig(Part):
    """Where the tokens come from and how batches are drawn."""

    path: str | None = None
    """Dataset folder that `prepare` wrote, or a folder with train.bin and val.bin."""
    sampling: Literal["shuffled", "random_windows"] = "shuffled"
    """shuffled: every window of the data once an epoch, in an order drawn from the seed; random_windows: any start."""
    document_masks: bool = True
    """Tokens attend only within their own document."""


class Config(Part):
    """A whole run: what a preset file holds and what a run folder's config.yaml records."""

    description: str = ""
    """One line on what this is."""
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    cleaning: CleaningConfig = CleaningConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        training, model = self.training, self.model
        if training.precision == "fp16" and model.norm.kind == "rms_norm_plus_one":
            raise impossible(
                "training.precision",
                "fp16",
                "activations of models with norm.kind rms_norm_plus_one overflow fp16; use bf16 or fp32",
            )
        if training.precision == "fp8_block" and model.linear.kind == "ternary":
            raise impossible(
                "training.precision",
                "fp8_block",
                "model.linear.kind ternary has its own quantisation; use bf16 or fp32",
            )
        if training.seq_len is not None and training.seq_len > model.max_seq_len:
            raise impossible(
                "training.seq_len",
                training.seq_len,
                f"exceeds model.max_seq_len {model.max_seq_len}; shorten it or raise model.max_seq_len",
            )
        return self
