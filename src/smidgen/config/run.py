"""The sections beside the model: data, tokenizer and training, and the whole configuration of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    model_validator,
)

from smidgen.config.model import ModelConfig
from smidgen.config.parts import Part, impossible

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


class AdamW(Part):
    """AdamW (Loshchilov & Hutter, 2019). Weight decay acts on matrices only, never on norms."""

    kind: Literal["adamw"] = "adamw"
    """The optimiser."""
    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.95)
    """Decay rates of the gradient's running mean and mean square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of each step."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of a matrix's weights that a step at learning rate 1 would take away."""

    @model_validator(mode="after")
    def _check(self) -> AdamW:
        _check_betas(self.betas)
        return self


class Muon(Part):
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for embedding, head and norms.

    Muon's steps are scaled to the size of AdamW's (Liu et al., 2025), so that training.lr and weight_decay serve both.
    """

    kind: Literal["muon"] = "muon"
    """The optimiser."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay rate of Muon's running mean of the gradient (Nesterov's form)."""
    betas: Annotated[tuple[float, float], Strict(False)] = (0.9, 0.95)
    """AdamW's decay rates of the gradient's running mean and mean square."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator of each AdamW step."""
    weight_decay: NonNegativeFloat = 0.1
    """Share of a matrix's weights that a step at learning rate 1 would take away."""

    @model_validator(mode="after")
    def _check(self) -> Muon:
        _check_betas(self.betas)
        return self


Optimizer = Annotated[AdamW | Muon, Field(discriminator="kind")]


def _check_betas(betas: tuple[float, float]) -> None:
    if not all(0 <= beta < 1 for beta in betas):
        raise impossible("betas", list(betas), "each beta lies in [0, 1)")


class Schedule(Part):
    """Learning rate over steps: linear warm-up to `training.lr`, then `kind`."""

    kind: Literal["cosine", "linear", "constant", "two_stage"] = "cosine"
    """cosine and linear fall to eta_min at the last step. two_stage (BitNet b1.58): linear decay whose rate and
    weight decay both drop at half of the steps."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the rate rises from 0 to training.lr."""
    eta_min: NonNegativeFloat = 0.0
    """Learning rate at the end."""
    second_stage_lr: PositiveFloat | None = None
    """two_stage: learning rate from which the second half decays. Left out: two thirds of training.lr."""


class TrainingConfig(Part):
    """The optimisation."""

    max_steps: PositiveInt | None = None
    """Optimiser steps. Give this or epochs."""
    epochs: PositiveFloat | None = None
    """Passes over the training data; turned into steps when the data is known."""
    batch_size: PositiveInt = 8
    """Sequences in one forward pass."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes whose gradients make one step."""
    seq_len: PositiveInt | None = None
    """Tokens a sequence. Left out: model.max_seq_len."""
    lr: PositiveFloat = 3e-4
    """Highest learning rate."""
    schedule: Schedule = Schedule()
    optimizer: Optimizer = AdamW()
    """How gradients become steps."""
    gradient_clip: PositiveFloat | None = 1.0
    """Largest norm of the whole gradient; null never clips."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability, on attention weights and on the output of attention and feed-forward, in training only."""
    eval_every: PositiveInt = 250
    """Steps between evaluations on the validation split."""
    eval_tokens: PositiveInt | None = 262_144
    """Validation tokens an evaluation reads, always the same ones; null reads the whole split."""
    checkpoint_every: PositiveInt = 500
    """Steps between checkpoints; the last step always makes one."""
    keep_last: PositiveInt = 2
    """Checkpoints kept, beside the best."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    seed: NonNegativeInt = 1337
    """Of the starting weights, the order of the data, and dropout."""
    compile: bool = False
    """torch.compile the model."""
    device: str = "auto"
    """auto: cuda, then mps, then cpu; or a torch device."""
    precision: Literal["bf16", "fp32", "fp16", "fp8_block"] = "bf16"
    """Type of activations and products; master weights and optimiser state are float32."""

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.schedule.eta_min > self.lr:
            raise impossible(
                "schedule.eta_min",
                self.schedule.eta_min,
                f"lies above training.lr {self.lr:g}: the rate would rise; use at most training.lr",
            )
        if self.max_steps is not None and self.epochs is not None:
            raise impossible("epochs", self.epochs, "max_steps is set too; give one of them (the other null)")
        if self.schedule.kind == "constant" and self.schedule.eta_min:
            raise impossible(
                "schedule.eta_min",
                self.schedule.eta_min,
                "has no effect with schedule.kind constant; leave it 0 or use cosine or linear",
            )
        second_lr = self.schedule.second_stage_lr
        if second_lr is not None and self.schedule.kind != "two_stage":
            raise impossible("schedule.second_stage_lr", second_lr, "belongs to schedule.kind two_stage; remove it")
        if second_lr is not None and second_lr < self.schedule.eta_min:
            raise impossible(
                "schedule.second_stage_lr",
                second_lr,
                f"lies below schedule.eta_min {self.schedule.eta_min:g}: the rate would rise; use at least that",
            )
        return self


class Config(Part):
    """A whole run: what a preset file holds and what a run folder's config.yaml records."""

    description: str = ""
    """One line on what this is."""
    model: ModelConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
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
