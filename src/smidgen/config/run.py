"""The whole configuration of a run, and its sections for tokenizer and data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from smidgen.config.cleaning import CleaningConfig
from smidgen.config.model import ModelConfig
from smidgen.config.parts import Part, impossible
from smidgen.config.tracking import TrackingConfig
from smidgen.config.training import TrainingConfig
from smidgen.config.tuning import TuningConfig

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
    mixture: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """Instead of path, several dataset folders and the weight of each: {web: 3, code: 1}; weight 0 leaves one out."""
    sampling: Literal["shuffled", "random_windows"] = "shuffled"
    """shuffled: every window of the data once an epoch, in an order drawn from the seed; random_windows: any start."""
    packing: Literal["split", "best_fit"] = "split"
    """split: documents end to end, cut where a sequence is full; best_fit: only documents longer than one are cut."""
    document_masks: bool = True
    """Tokens attend only within their own document."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.mixture is not None:
            if self.path is not None:
                raise impossible("mixture", self.mixture, "data.path is set too; give one of them (the other null)")
            if not any(self.mixture.values()):
                raise impossible(
                    "mixture", self.mixture, "gives no folder a weight above 0; write e.g. {web: 3, code: 1}"
                )
        if self.packing == "best_fit" and self.sampling != "shuffled":
            raise impossible("packing", "best_fit", f"goes with sampling shuffled, not {self.sampling}")
        if self.packing == "best_fit" and not self.document_masks:
            raise impossible("packing", "best_fit", "keeps documents apart, which needs document_masks true")
        return self


class Config(Part):
    """A whole run: what a preset file holds and what a run folder's config.yaml records."""

    description: str = ""
    """One line on what this is."""
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    cleaning: CleaningConfig = CleaningConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()
    tuning: TuningConfig = TuningConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        training, model = self.training, self.model
        if training.precision == "fp16" and model.norm.kind == "rms_norm_plus_one":
            raise impossible(
                "training.precision",
                "fp16",
                "activations of models with norm.kind rms_norm_plus_one overflow fp16; use bf16 or fp32",
            )
        if training.precision.startswith("fp8") and model.linear.kind == "ternary":
            raise impossible(
                "training.precision",
                training.precision,
                "model.linear.kind ternary has its own quantisation; use bf16 or fp32",
            )
        if training.seq_len is not None and training.seq_len > model.max_seq_len:
            raise impossible(
                "training.seq_len",
                training.seq_len,
                f"exceeds model.max_seq_len {model.max_seq_len}; shorten it or raise model.max_seq_len",
            )
        return self
