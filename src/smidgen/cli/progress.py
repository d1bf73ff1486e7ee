"""How a training looks: a live display in a terminal, plain lines in a pipe. Both on standard error."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from smidgen.training.evaluate import Evaluation
from smidgen.training.observer import Observer, Plan, Snapshot
from smidgen.training.report.formats import duration
from smidgen.training.resume import describe_changes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_SECONDS_BETWEEN_LINES = 5.0
_STOPPING = "finishing the step, then saving (Ctrl-C again quits at once)"


def training_progress() -> Observer:
    """The display that suits standard error."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()


class PlainProgress(Observer):
    """A line every few seconds, and one for each evaluation and checkpoint."""

    def started(self, plan: Plan) -> None:
        self.pace = Pace(plan)
        self.printed = 0.0
        for line in header(plan):
            print(line, file=sys.stderr)

    def stepped(self, snapshot: Snapshot) -> None:
        self.pace.add(snapshot)
        now = time.monotonic()
        last = snapshot.step == self.pace.plan.total_steps
        if now - self.printed > _SECONDS_BETWEEN_LINES or last:
            self.printed = now
            figures = ", ".join(f"{name} {value}" for name, value in describe_snapshot(snapshot))
            left = f", {self.pace.left(snapshot.step)}"
            print(f"step {snapshot.step}/{self.pace.plan.total_steps}: {figures}{left}", file=sys.stderr, flush=True)

    def compiling(self) -> None:
        print("compiling the layers …", file=sys.stderr, flush=True)

    def compiled(self, seconds: float) -> None:
        print(f"compiled, first passes included, in {seconds:.0f} s", file=sys.stderr, flush=True)

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        print(f"step {step}: {describe_evaluation(evaluation)}", file=sys.stderr, flush=True)

    def saved(self, step: int, checkpoint: Path) -> None:
        print(f"step {step}: saved {checkpoint}", file=sys.stderr, flush=True)

    def noted(self, step: int, kind: str, message: str) -> None:
        print(f"step {step}: {message}", file=sys.stderr, flush=True)

    def stopping(self, signal: Signals) -> None:
        # Not print: the signal may have come in the middle of one, and standard error cannot be entered twice.
        os.write(2, f"\n{signal.name}: {_STOPPING}\n".encode())


class LiveProgress(Observer):
    """A bar with figures that stays at the bottom, evaluations above it."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self.snapshot: Snapshot | None = None
        self.evaluation: Evaluation | None = None
        self.activity = ""
        self.console = console or Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, get_renderable=self._render, refresh_per_second=5, transient=True)

    def started(self, plan: Plan) -> None:
        self.pace = Pace(plan)
        for line in header(plan):
            self.console.print(line, soft_wrap=True)
        self.live.start()

    def stepped(self, snapshot: Snapshot) -> None:
        self.pace.add(snapshot)
        self.snapshot = snapshot
        self.activity = ""

    def compiling(self) -> None:
        self.activity = "compiling the layers …"

    def compiled(self, seconds: float) -> None:
        self.activity = ""
        self.console.print(f"compiled, first passes included, in {seconds:.0f} s")

    def evaluating(self, step: int) -> None:
        self.activity = "evaluating"

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.activity = ""
        self.console.print(f"step {step:>6}  {describe_evaluation(evaluation)}")

    def saving(self, step: int) -> None:
        self.activity = "saving"

    def saved(self, step: int, checkpoint: Path) -> None:
        self.activity = ""

    def noted(self, step: int, kind: str, message: str) -> None:
        self.console.print(f"step {step:>6}  {message}", markup=False)

    def stopping(self, signal: Signals) -> None:
        self.activity = _STOPPING

    def close(self) -> None:
        self.live.stop()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self.snapshot is None:
            return Text(self.activity or "first step …", style="dim")
        snapshot, total = self.snapshot, self.pace.plan.total_steps
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        bar.add_row(
            Text(f"step {snapshot.step}/{total}", style="bold"),
            ProgressBar(total=total, completed=snapshot.step),
            Text(f"{snapshot.step / total:4.0%}  {self.pace.left(snapshot.step)}"),
        )
        figures = Text()
        shown = describe_snapshot(snapshot)
        if self.evaluation is not None:
            shown.append(("val", f"{self.evaluation.loss:.3f}"))
        for name, value in shown:
            figures.append(f"{name} ", style="dim").append(f"{value}   ")
        if self.activity:
            figures.append(self.activity, style="yellow")
        return Group(bar, figures)


class Pace:
    """How long the rest takes, from the time that recent steps took, evaluations and checkpoints included."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.begun = time.monotonic()
        self.marks = [(self.begun, plan.first_step)]

    def add(self, snapshot: Snapshot) -> None:
        self.marks.append((time.monotonic(), snapshot.step))
        # The last half minute counts, and the last two snapshots at least: the start is slower than the rest.
        while len(self.marks) > 2 and self.marks[-1][0] - self.marks[1][0] > 30:
            self.marks.pop(0)

    def left(self, step: int) -> str:
        """The time left after `step`, and how long all steps of this process will have taken: `3:10 left of 4:25`."""
        (begun, first), (now, last) = self.marks[0], self.marks[-1]
        if last == first:
            return "? left"
        left = (now - begun) / (last - first) * (self.plan.total_steps - step)
        return f"{duration(left)} left of {duration(now - self.begun + left)}"


def header(plan: Plan) -> list[str]:
    """What is about to be done."""
    from smidgen.cli.tables import format_count

    config, training = plan.config, plan.config.training
    sequences = training.batch_size * training.gradient_accumulation_steps
    seq_len = plan.tokens_per_step // sequences
    if plan.peak_flops is None:
        peak = "unknown peak"
    else:
        measured = "measured" if plan.device.startswith("cpu") else "published"
        peak = f"peak {plan.peak_flops / 1e12:.3g} TFLOP/s ({measured})"
    epochs = plan.total_steps * sequences / plan.sequences_per_epoch
    total = format_count(plan.total_steps * plan.tokens_per_step)
    folders = config.data.path or " + ".join(config.data.mixture or ())
    lines = [
        f"model   {config.description or 'decoder'}: {plan.num_parameters:,} parameters",
        f"device  {plan.device}; {training.precision}; {peak}",
        f"data    {folders}: {format_count(plan.sequences_per_epoch * seq_len)} tokens an epoch",
        f"steps   {plan.total_steps:,} of {sequences} × {seq_len} tokens: {total} tokens, {epochs:.3g} epochs",
        f"run     {plan.run}",
    ]
    if plan.num_trained is not None:
        share = plan.num_trained / (plan.num_parameters + plan.num_trained)
        lines.insert(1, f"lora    {plan.num_trained:,} parameters are trained, {share:.2%} of all; the rest is frozen")
    conversion = plan.conversion
    if conversion.recipe is not None:
        kept = ", ".join(sorted({f"{name.rsplit('.', 1)[-1]} ({reason})" for name, reason in conversion.kept}))
        lines.append(f"fp8     {len(conversion.converted)} projections by {conversion.backend}; not: {kept or 'none'}")
    if plan.resumed_from is not None:
        lines.append(f"resume  from step {plan.first_step}")
    if plan.changes:
        lines.append(f"changed {describe_changes(plan.changes)}")
    return lines


def describe_snapshot(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Figures of a step with their names; what is unknown says so."""
    figures = [("loss", f"{snapshot.loss:.3f}")]
    if snapshot.bits_per_byte is not None:
        figures.append(("bits/byte", f"{snapshot.bits_per_byte:.3f}"))
    return [
        *figures,
        ("lr", f"{snapshot.lr:.2e}"),
        ("grad norm", f"{snapshot.grad_norm:.2f}"),
        ("tok/s", f"{snapshot.tokens_per_second:,.0f}"),
        ("MFU", "unknown" if snapshot.mfu is None else f"{snapshot.mfu:.1%}"),
    ]


def describe_evaluation(evaluation: Evaluation) -> str:
    """An evaluation in one line."""
    if evaluation.figures:
        figures = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in evaluation.figures.items())
        return f"validation loss {evaluation.loss:.4f}{figures}"
    per_byte = "" if evaluation.bits_per_byte is None else f", {evaluation.bits_per_byte:.4f} bits/byte"
    return f"validation loss {evaluation.loss:.4f}, perplexity {evaluation.perplexity:.2f}{per_byte}"
