"""Curves of runs as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.runtime.errors import MissingDependencyError, TrainingError
from smidgen.training.metrics import read_metrics

# Okabe and Ito (2008): distinguishable to colour-blind readers.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
POINTS_UNSMOOTHED = 60


def draw_curves(runs: Sequence[str | Path], out: str | Path) -> None:
    """Draw training loss, validation loss and learning rate over steps to `out` (PNG, PDF or SVG by its suffix).

    Several runs are laid over each other. Raises TrainingError where a run has no metrics yet.
    """
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError("matplotlib", "train", "drawing curves") from None
    from matplotlib.figure import Figure

    metrics = {Path(run): _read(Path(run)) for run in runs}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 6.2), layout="constrained")
        loss_axes, rate_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for index, (run, (train, validation)) in enumerate(metrics.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            _draw_losses(loss_axes, run.name, train, validation, colour, single=len(metrics) == 1)
            rate_axes.plot(_column(train, "step"), _column(train, "lr"), color=colour, linewidth=1.6)
        _limit_losses(
            loss_axes, [line["loss"] for train, validation in metrics.values() for line in train + validation]
        )
        loss_axes.set_ylabel("loss, nats a token")
        loss_axes.legend(loc="upper right")
        if len(metrics) == 1:
            _add_bits_per_byte(loss_axes, next(iter(metrics.values())))
            loss_axes.set_title(next(iter(metrics)).name, loc="left", fontweight="bold")
        rate_axes.set_ylabel("learning rate")
        rate_axes.set_xlabel("step")
        rate_axes.xaxis.set_major_formatter("{x:,.0f}")
        rate_axes.set_ylim(bottom=0)
        rate_axes.set_xlim(left=0)
        rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3), useMathText=True)
        figure.savefig(out, dpi=150)


_STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "legend.frameon": False,
    "axes.titlesize": 12,
}

Lines = list[dict[str, Any]]


def _read(run: Path) -> tuple[Lines, Lines]:
    lines = list(read_metrics(run / "metrics.jsonl"))
    train = [line for line in lines if line["kind"] == "train"]
    if not train:
        raise TrainingError(f"{run}: no metrics to draw; name a run folder whose training has begun")
    return train, [line for line in lines if line["kind"] == "validation"]


def _draw_losses(axes: Any, name: str, train: Lines, validation: Lines, colour: str, *, single: bool) -> None:
    steps, losses = _column(train, "step"), _column(train, "loss")
    label = "training" if single else f"{name}, training"
    if len(losses) > POINTS_UNSMOOTHED:
        axes.plot(steps, losses, color=colour, linewidth=0.8, alpha=0.25)
        losses = smooth(losses, len(losses) // 40)
        label += ", running mean"
    axes.plot(steps, losses, color=colour, linewidth=1.6, alpha=0.9 if single else 0.6, label=label)
    if validation:
        best = min(validation, key=lambda line: line["loss"])
        at, held_out = _column(validation, "step"), _column(validation, "loss")
        label = f"validation, best {best['loss']:.3f} at step {best['step']}"
        accent = _COLOURS[1] if single else colour
        axes.plot(
            at,
            held_out,
            color=accent,
            linewidth=1.6,
            marker="o",
            markersize=4.5,
            markerfacecolor="white",
            label=label if single else f"{name}, {label}",
        )


def _limit_losses(axes: Any, losses: list[float]) -> None:
    """Leave a few outliers outside, such as the very first steps, where they would flatten the rest."""
    low, high, most = min(losses), max(losses), float(np.quantile(losses, 0.98))
    top = high if high - low < 2 * (most - low) else most
    margin = 0.05 * max(top - low, 1e-6)
    axes.set_ylim(low - margin, top + margin)


def _add_bits_per_byte(axes: Any, metrics: tuple[Lines, Lines]) -> None:
    """A second scale on the right, where bytes are known: of the validation text, else of the training text."""
    line = (metrics[1] or metrics[0])[-1]
    if line.get("bits_per_byte") is None or line["loss"] == 0:
        return
    ratio = line["bits_per_byte"] / line["loss"]
    right = axes.secondary_yaxis("right", functions=(lambda loss: loss * ratio, lambda bits: bits / ratio))
    right.set_ylabel("bits a byte")


def smooth(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over `radius` neighbours on either side.

    Near the start, where curves are steep, over fewer and as many on both sides; near the end, where they are flat,
    over those that there are, so that the last point is a mean too.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(index, radius)
    after = np.minimum(before, index[::-1])
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def _column(lines: Lines, name: str) -> np.ndarray:
    return np.array([math.nan if line.get(name) is None else line[name] for line in lines], dtype=float)
