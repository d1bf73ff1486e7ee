"""One run: its steps, evaluations and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from smidgen.config import Config, dump_config
from smidgen.folders.run import Retention, RunFolder
from smidgen.folders.weights import WEIGHTS
from smidgen.model import Decoder, count_parameters, flops_per_token, load_architecture
from smidgen.model.lora import trainable_share
from smidgen.runtime.errors import TrainingError
from smidgen.runtime.files import write_text
from smidgen.training.averaging import Averaging, restore_averaging, weights_to_keep
from smidgen.training.base import as_trained
from smidgen.training.compiling import compile_training, first_pass
from smidgen.training.devices import device_name, peak_flops, training_kernels
from smidgen.training.evaluate import evaluate
from smidgen.training.guards import StepGuard, diagnosis
from smidgen.training.interrupts import StopSignals
from smidgen.training.memory import reuse_freed_memory
from smidgen.training.metrics import MetricsFile, NoMetrics, drop_after
from smidgen.training.objectives import to_device
from smidgen.training.observer import Observer, Plan
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.origin import Origin
from smidgen.training.parallel import (
    Parts,
    Ranks,
    agree_on_amax,
    divided_as,
    divided_like,
    load_parts,
    own_parts,
    parallelize,
    whole_copy,
)
from smidgen.training.precision import (
    agree_on_overflow,
    apply_precision,
    commit_amax,
    compute_dtype,
    discard_amax,
    load_precision_state,
    make_scaler,
    precision_state,
)
from smidgen.training.randomness import seed_everything
from smidgen.training.reporting import Reporter, Workload
from smidgen.training.saving import CheckpointWriter, Copy
from smidgen.training.schedule_free import ScheduleFreeAdamW
from smidgen.training.schedules import learning_rate, weight_decay
from smidgen.training.state import (
    capture_state,
    read_averaging,
    read_precision,
    read_trainer_state,
    restore_state,
)
from smidgen.training.task import Task


class Trainer:
    """One run in one process, or one rank's part in it: everything that `run` needs is made on construction."""

    def __init__(
        self,
        config: Config,
        task: Task,
        run: RunFolder,
        device: torch.device,
        total_steps: int,
        signals: StopSignals,
        origin: Origin,
        observer: Observer,
        ranks: Ranks,
    ) -> None:
        training = config.training
        self.ranks = ranks
        self.training, self.task, self.run_folder, self.device = training, task, run, device
        self.total_steps, self.signals, self.observer = total_steps, signals, observer
        self.state, self.checkpoint = origin.state, origin.checkpoint
        self.saved_step = self.copied_step = origin.state.step
        self.failure = ""
        self.lr = 0.0
        self.begun = time.perf_counter() - self.state.seconds

        if device.type == "cpu":
            reuse_freed_memory()
        # Ranks draw different numbers: no two of them drop out the same activations.
        seed_everything(training.seed + ranks.rank)
        self.is_divided = ranks.degrees.shard * ranks.degrees.tensor > 1
        # Each rank makes or reads only its parts, except of a new run's base and of adapters.
        has_parts = self.is_divided and config.tuning.lora is None
        has_parts = has_parts and (self.checkpoint is not None or task.seed is not None)
        if has_parts:
            self.model = as_trained(load_architecture(config.model), config)
        else:
            self.model = self._starting_model().to(device)
        conversion = apply_precision(self.model, training.precision, device)
        self.model.set_dropout(training.dropout)
        self.model.train()
        self.model.set_activation_checkpointing(training.activation_checkpointing)
        self.is_to_compile = training.compile
        if training.compile:
            compile_training(self.model)
        self.parallel = parallelize(self.model, task.objective.loss, ranks)
        if has_parts:
            self.parallel.allocate(device)
            self._fill_parts()
        seq_len = training.seq_len or config.model.max_seq_len
        self.tokens_per_pass = training.batch_size * seq_len * task.data.rows_per_sequence
        self.optimizer = make_optimizer(self.model, training.optimizer)
        self.scaler = make_scaler(training.precision, device, self.tokens_per_pass)
        retention = Retention(training.keep_last, training.keep_best, training.keep_every)
        decay = training.ema_decay
        self.averaging = None if decay is None else Averaging(self.model, decay)
        if self.checkpoint is not None:
            self._restore(self.checkpoint)
            if ranks.is_main:
                run.refresh(retention)
        self.guard = StepGuard(self.state.losses, training.spikes, self.scaler.is_enabled())
        # Of a model that every rank has whole, the main rank writes all.
        writers = ranks.beside() if self.is_divided else Ranks()
        self.writer = CheckpointWriter(run, retention, task.storage, task.tokenizer, writers)

        if ranks.is_main:
            write_text(run.config_path, dump_config(config))
            drop_after(run.metrics_path, self.state.step)
        self.metrics = MetricsFile(run.metrics_path) if ranks.is_main else NoMetrics()
        if self.checkpoint is not None:
            self.metrics.write("resume", self.state.step, changes=origin.changes)
        in_fp8 = conversion.backend is not None and conversion.backend != "reference"
        peak = peak_flops(device, torch.float8_e4m3fn if in_fp8 else compute_dtype(training.precision))
        workload = Workload(
            tokens_per_step=self.tokens_per_pass * training.gradient_accumulation_steps,
            flops_per_token=flops_per_token(config.model, seq_len),
            peak_flops=None if peak is None else peak * ranks.size,
            bytes_per_token=task.data.train_bytes_per_token,
        )
        observer.restore(self.state.trackers)
        observer.started(
            Plan(
                config=config,
                run=run.path,
                num_parameters=count_parameters(config.model),
                device=device_name(device) if ranks.size == 1 else f"{ranks.size} × {device_name(device)}",
                peak_flops=workload.peak_flops,
                total_steps=total_steps,
                tokens_per_step=workload.tokens_per_step,
                sequences_per_epoch=task.data.train.per_epoch,
                resumed_from=self.checkpoint,
                first_step=self.state.step,
                changes=origin.changes,
                conversion=conversion,
                num_trained=None if self.model.adapter is None else trainable_share(self.model)[0],
            )
        )
        self.reporter = Reporter(self.state, workload, self.metrics, observer)

    def run(self) -> Path | None:
        """Take the steps that are left, or those until a stop is asked for; returns the last checkpoint."""
        with training_kernels(self.device, deterministic=self.training.deterministic):
            return self._run()

    def _run(self) -> Path | None:
        training, state = self.training, self.state
        try:
            is_to_stop = self._stop()
            while state.step < self.total_steps and not is_to_stop:
                self._step()
                if self.guard.exhausted:
                    self._save(validation_loss=None)
                    raise diagnosis(self.model, state.step, self.guard.reason, self.lr)
                with self.reporter.paused():
                    is_to_stop, is_to_show = self._hear_ranks()
                    if is_to_show:
                        self._show_model()
                    if self._due(training.eval_every) or self._due(training.checkpoint_every):
                        self._evaluate_and_save()
                        is_to_stop = self._stop()
                    self._hear_of_checkpoints(wait=False)
            if self.copied_step < state.step:
                self._save(validation_loss=None)
        finally:
            self._hear_of_checkpoints(wait=True)
            self.writer.close()
            self.metrics.close()
        self._agree_on_checkpoint()
        if self.saved_step < state.step:
            raise TrainingError(
                f"{self.run_folder.path}: the checkpoint of step {state.step} could not be written ({self.failure}); "
                f"make room, and the same command goes on from step {self.saved_step}"
            )
        return self.checkpoint

    def _step(self) -> None:
        """One optimiser step, or one that the guard refuses: then the weights stay as they are."""
        training, state = self.training, self.state
        state.step += 1
        self.lr = learning_rate(training, state.step, self.total_steps)
        decay = weight_decay(training, state.step, self.total_steps)
        set_rates(self.optimizer, self.lr, decay)
        figures = self._compile() if self.is_to_compile else self._accumulate_gradients()
        verdict = self.guard.judge(figures["loss"] / max(figures["weight"], 1), figures["grad_norm"])
        if verdict == "take":
            self.optimizer.step()
            agree_on_amax(self.model, self.ranks)
            commit_amax(self.model)
            if self.averaging is not None:
                self.averaging.update()
        else:
            discard_amax(self.model)
        if self.scaler.is_enabled():
            agree_on_overflow(self.scaler, self.optimizer, figures["grad_norm"])
            self.scaler.update()
        state.seconds = time.perf_counter() - self.begun
        if self.guard.reason:
            self.reporter.event("spike" if verdict == "take" else verdict, self.guard.reason)
        self.reporter.step(figures, self.lr, decay, taken=verdict == "take", logged=self._due(training.log_every))
        if verdict == "roll_back":
            self._roll_back()

    def _compile(self) -> dict[str, float]:
        """The first forward and backward passes of a compiled model, whose time counts in no rate."""
        self.is_to_compile = False
        with self.reporter.paused(), first_pass(self.observer.compiling, self.observer.compiled):
            return self._accumulate_gradients()

    def _stop(self) -> bool:
        """Whether some rank was asked to stop, or is out of time."""
        return self.ranks.any(self.signals.stop)

    def _hear_ranks(self) -> tuple[bool, bool]:
        """Whether to stop, as `_stop` says, and whether the observer wants to see the model: one call for both."""
        flags = torch.tensor([self.signals.stop, self.observer.wants_model(self.state.step)], dtype=torch.int32)
        is_to_stop, is_to_show = self.ranks.largest(flags).tolist()
        return bool(is_to_stop), bool(is_to_show)

    def _show_model(self) -> None:
        """Let the observer see the model as it would be saved."""
        with weights_to_keep(self.optimizer, self.averaging):
            shown = whole_copy(self.model, self.ranks) if self.is_divided else self.model
            if shown is not None:
                self.observer.shown_model(self.state.step, shown, self.task.tokenizer)

    def _fill_parts(self) -> None:
        """Give a divided model the weights of the checkpoint, or random ones."""
        if self.checkpoint is not None:
            load_parts(self.checkpoint / "model" / WEIGHTS, dict(self.model.named_parameters()))
        else:
            assert self.task.seed is not None
            self.model.initialize(self.task.seed, divided_as)

    def _starting_model(self) -> Decoder:
        if self.checkpoint is None:
            return self.task.starting_model()
        return self.task.storage.load(self.checkpoint / "model")

    def _accumulate_gradients(self) -> dict[str, float]:
        """Forward and backward passes of a step: leaves the clipped mean gradient in the parameters.

        Returns the sums of loss, weight and the objective's figures, and the gradient's norm before clipping.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        passes, share = self.training.gradient_accumulation_steps, self.training.batch_size // self.ranks.batch_size
        for number in range(passes):
            first = self.state.cursor + self.ranks.batch_rank * share
            batch = to_device(self.task.data.train.batch(first, share), self.device)
            with self.parallel.accumulating(is_last=number == passes - 1):
                loss, weight, figures = self.parallel.loss(self.model, batch)
                self.scaler.scale(loss).backward()
            for name, value in {"loss": loss.detach(), "weight": weight, **figures}.items():
                sums[name] = sums[name] + value if name in sums else value
            self.state.cursor += self.training.batch_size
            self.state.tokens += self.tokens_per_pass
        self.parallel.finish_gradients()
        totals = self.ranks.sum(torch.stack([value.float() for value in sums.values()]))
        self.scaler.unscale_(self.optimizer)
        weight = totals[list(sums).index("weight")]
        norm = average_and_clip(self.model.parameters(), weight, self.training.gradient_clip)
        # The one place where a step waits for the device: whether it may be taken depends on these.
        values = torch.cat([totals, norm.float()[None]]).tolist()
        return dict(zip([*sums, "grad_norm"], values, strict=True))

    def _roll_back(self) -> None:
        """Return to the last checkpoint, with the data that follows what was read; without a checkpoint, only skip."""
        self._hear_of_checkpoints(wait=True)
        self._agree_on_checkpoint()
        if self.checkpoint is None:
            return
        if self.is_divided and self.model.adapter is None:
            self._fill_parts()
        else:
            saved = dict(self.task.storage.load(self.checkpoint / "model").named_parameters())
            with torch.no_grad():
                for name, weight in divided_like(self.model, saved).items():
                    self.model.get_parameter(name).copy_(weight)
        self._restore(self.checkpoint)
        earlier = read_trainer_state(self.checkpoint)
        # The cursor stays behind the data that was read, and the count of refused steps goes on.
        self.state.step, self.state.window = earlier.step, earlier.window
        self.state.losses.return_to(earlier.losses)
        self.metrics.return_to(self.state.step)

    def _restore(self, checkpoint: Path) -> None:
        """Put everything beside the model, which is the checkpoint's, back to where it was."""
        restore_state(checkpoint, self.model, self.optimizer, self.scaler, self.device, self.ranks)
        load_precision_state(self.model, read_precision(checkpoint))
        weights = read_averaging(checkpoint, self.model)
        if weights:
            restore_averaging(self.model, self.averaging, weights)
        if isinstance(self.optimizer, ScheduleFreeAdamW):
            self.optimizer.train()

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.total_steps

    def _evaluate_and_save(self) -> None:
        """Measure the validation loss; every checkpoint gets its own, so that the best of them can be told."""
        evaluation, data = None, self.task.data
        if data.validation is not None:
            self.observer.evaluating(self.state.step)
            with weights_to_keep(self.optimizer, self.averaging):
                evaluation = evaluate(
                    self.model,
                    self.parallel,
                    data.validation,
                    self.training.batch_size,
                    self.device,
                    data.validation_bytes_per_token,
                    cancelled=self._stop,
                    ranks=self.ranks,
                )
                self.parallel.finish_evaluation()
        if evaluation is not None:
            self.reporter.evaluation(evaluation)
        if self._due(self.training.checkpoint_every):
            self._save(None if evaluation is None else evaluation.loss)

    def _save(self, validation_loss: float | None) -> None:
        """Copy everything for a checkpoint, and let the thread write it."""
        self._hear_of_checkpoints(wait=True)
        self.state.seconds = time.perf_counter() - self.begun
        self.state.trackers = self.observer.state()
        self.metrics.sync()
        with weights_to_keep(self.optimizer, self.averaging):
            averaging = {} if self.averaging is None else self.averaging.tensors()
            model, weights = self._copy_model()
            captured = capture_state(
                self.state,
                self.model,
                self.optimizer,
                self.scaler,
                precision_state(self.model),
                averaging,
                self.device,
                self.ranks,
            )
        self.copied_step = self.state.step
        if self.ranks.is_main or self.is_divided:
            self.observer.saving(self.state.step)
            self.writer.begin(Copy(self.state.step, model, weights, captured, validation_loss))

    def _copy_model(self) -> tuple[Decoder, Parts]:
        """What this rank is to save of the model: the whole, or its parts and the structure of the whole.

        Adapters are small: the main rank saves them whole.
        """
        if self.is_divided and self.model.adapter is None:
            parts = own_parts(dict(self.model.named_parameters()), self.ranks)
            return load_architecture(self.model.config), parts
        copy = whole_copy(self.model, self.ranks)
        return load_architecture(self.model.config) if copy is None else copy, Parts()

    def _hear_of_checkpoints(self, *, wait: bool) -> None:
        """Tell how the checkpoint that was being written ended."""
        for outcome in self.writer.outcomes(wait=wait):
            if outcome.checkpoint is None:
                self.failure = outcome.failure
                last = "no checkpoint" if self.checkpoint is None else self.checkpoint.name
                self.reporter.event(
                    "save_failed",
                    f"the checkpoint of step {outcome.step} could not be written: {outcome.failure}; "
                    f"training goes on, {last} stands",
                )
            else:
                self.checkpoint, self.saved_step = outcome.checkpoint, outcome.step
                self.observer.saved(outcome.step, outcome.checkpoint)

    def _agree_on_checkpoint(self) -> None:
        """Only the main rank's thread writes: let all know how that ended."""
        news = self.checkpoint, self.saved_step, self.failure
        self.checkpoint, self.saved_step, self.failure = self.ranks.broadcast(news)
