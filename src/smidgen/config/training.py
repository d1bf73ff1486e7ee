"""The section `training`: everything about the optimisation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from smidgen.config.optimization import ActivationCheckpointing, AdamW, Optimizer, Schedule, ScheduleFreeAdamW
from smidgen.config.parallel import ParallelConfig
from smidgen.config.parts import Part, impossible

AUTO_BATCH_SIZE = 0
"""The number that stands for batch_size auto until it is resolved."""


def _read_batch_size(value: Any) -> Any:
    if value == "auto":
        return AUTO_BATCH_SIZE
    if type(value) is int and value < 1:
        raise PydanticCustomError("batch_size", "use a whole number greater than 0, or auto")
    return value


BatchSize = Annotated[
    int, BeforeValidator(_read_batch_size), PlainSerializer(lambda value: "auto" if value == AUTO_BATCH_SIZE else value)
]


class TrainingConfig(Part):
    """The optimisation."""

    max_steps: PositiveInt | None = None
    """Optimiser steps. Give this or epochs."""
    epochs: PositiveFloat | None = None
    """Passes over the training data; turned into steps when the data is known."""
    batch_size: BatchSize = 8
    """Sequences in a forward pass, over all ranks; auto finds what fits (docs/optimization.md), the run records it."""
    tokens_per_step: PositiveInt | None = None
    """With batch_size auto: batch_size and gradient_accumulation_steps are chosen so that a step has exactly these."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes whose gradients make one step."""
    seq_len: PositiveInt | None = None
    """Tokens a sequence. Left out: model.max_seq_len."""
    lr: PositiveFloat = 3e-4
    """Highest learning rate."""
    schedule: Schedule = Schedule()
    optimizer: Optimizer = AdamW()
    """How gradients become steps."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay rate a step of an exponential moving average of the weights, which evaluations and checkpoints then see;
    null keeps none."""
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
    """Newest checkpoints kept."""
    keep_best: PositiveInt = 1
    """Checkpoints of lowest validation loss kept."""
    keep_every: PositiveInt | None = None
    """Checkpoints whose step is a multiple of this are kept for ever."""
    max_time: PositiveFloat | None = None
    """Hours after which this process saves and stops; the same command goes on."""
    spikes: Literal["report", "skip", "roll_back"] = "report"
    """What a step whose loss lies six standard deviations above the recent ones does: it is taken and reported; its
    gradient is dropped; or the run returns to its last checkpoint and goes on with the data that follows."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics.jsonl."""
    seed: NonNegativeInt = 1337
    """Of the starting weights, the order of the data, and dropout."""
    deterministic: bool = False
    """On a GPU: only kernels that give the same bits for the same input, so that a resumed run ends with the weights of
    one that was never stopped, to the bit; slower. On a CPU that holds always."""
    activation_checkpointing: ActivationCheckpointing = "none"
    """What layers keep for the backward pass. none: everything. selective: results of projections and attention, the
    rest is computed again. full: the layer's input; the whole layer is computed twice."""
    compile: bool = False
    """torch.compile the model."""
    parallel: ParallelConfig = ParallelConfig()
    """How the ranks that torchrun starts share the work."""
    device: str = "auto"
    """auto: cuda, then mps, then cpu; or a torch device."""
    precision: Literal["auto", "bf16", "fp32", "fp16", "fp8_tensorwise", "fp8_delayed", "fp8_block"] = "auto"
    """Type of activations and products. auto: bf16 where the device multiplies it itself, else fp32; the run records
    which. Master weights and optimiser state are float32. fp8: bf16 with the products of projections in FP8, by one
    scale a tensor (of the tensor itself, or delayed), or a block."""

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
        if self.tokens_per_step is not None:
            self._check_tokens_per_step(self.tokens_per_step)
        decay_steps = self.schedule.decay_steps
        if decay_steps is not None and self.max_steps is not None and decay_steps > self.max_steps:
            raise impossible(
                "schedule.decay_steps", decay_steps, f"exceeds training.max_steps {self.max_steps}; shorten it"
            )
        if isinstance(self.optimizer, ScheduleFreeAdamW):
            self._check_schedule_free()
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

    def _check_tokens_per_step(self, tokens: int) -> None:
        if self.batch_size != AUTO_BATCH_SIZE:
            raise impossible("tokens_per_step", tokens, "goes with batch_size auto; remove it or use that")
        if self.gradient_accumulation_steps != 1:
            raise impossible(
                "gradient_accumulation_steps",
                self.gradient_accumulation_steps,
                "tokens_per_step decides it; set it to 1",
            )

    def _check_schedule_free(self) -> None:
        if self.schedule.kind != "constant":
            raise impossible(
                "schedule.kind",
                self.schedule.kind,
                "schedule_free_adamw averages instead of lowering the rate; use schedule.kind constant",
            )
        if self.ema_decay is not None:
            raise impossible(
                "ema_decay", self.ema_decay, "schedule_free_adamw averages the weights itself; leave ema_decay null"
            )
