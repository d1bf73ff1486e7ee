"""Which curves a run has, and how several runs share them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from smidgen.training.curves import POINTS_UNSMOOTHED, smooth
from smidgen.training.report import formats
from smidgen.training.report.chart import COLOURS, Chart, Series
from smidgen.training.report.formats import escape
from smidgen.training.report.run_data import Points, RunData


def run_charts(runs: Sequence[RunData]) -> str:
    """All charts, the loss first."""
    marks = _marks(runs[0]) if len(runs) == 1 else []
    charts = [
        _loss_chart(runs, marks),
        Chart("Learning rate", "", _each(runs, "lr"), formats.rate, from_zero=True, marks=marks),
        Chart(
            "Gradient norm",
            "before clipping",
            _each(runs, "grad_norm"),
            formats.figure,
            limits=_limits([y for run in runs for _, y in run.points("grad_norm")]),
            marks=marks,
        ),
        Chart(
            "Throughput",
            "tokens a second",
            _each(runs, "tokens_per_second"),
            formats.count,
            from_zero=True,
            marks=marks,
        ),
        Chart("MFU", _mfu_unit(runs), _each(runs, "mfu"), formats.percent, from_zero=True, marks=marks),
    ]
    return "".join(chart.html() for chart in charts)


def legend(runs: Sequence[RunData]) -> str:
    """Which colour is which."""
    if len(runs) == 1:
        keys = [("training", 0)] + ([("validation", 1)] if runs[0].validation else [])
    else:
        keys = [(run.name, index) for index, run in enumerate(runs)]
    entries = "".join(f"<span>{key(colour)}{escape(label)}</span>" for label, colour in keys)
    how = "" if len(runs) == 1 else '<span class="dim">lines: training · with dots: validation</span>'
    return f'<div class="legend">{entries}{how}</div>'


def key(colour: int) -> str:
    """The swatch of a colour."""
    return f'<span class="key c{colour % COLOURS}{" again" if colour >= COLOURS else ""}"></span>'


def _loss_chart(runs: Sequence[RunData], marks: list[tuple[float, str]]) -> Chart:
    series: list[Series] = []
    values: list[float] = []
    for index, run in enumerate(runs):
        single = len(runs) == 1
        raw = run.points("loss")
        held_out = run.points("loss", run.validation)
        values += [y for _, y in raw + held_out]
        if len(raw) > POINTS_UNSMOOTHED:
            series.append(Series(run.name, raw, index, "faint"))
        series.append(Series("training" if single else f"{run.name}, training", _smoothed(raw), index))
        label = "validation" if single else f"{run.name}, validation"
        series.append(Series(label, held_out, 1 if single else index, "dots"))
    unit = "nats a token"
    return Chart("Loss", unit, series, formats.figure, limits=_limits(values), marks=marks, wide=True)


def _each(runs: Sequence[RunData], name: str) -> list[Series]:
    return [Series(run.name, run.points(name), index) for index, run in enumerate(runs)]


def _smoothed(points: Points) -> Points:
    if len(points) <= POINTS_UNSMOOTHED:
        return points
    means = smooth(np.array([y for _, y in points]), len(points) // 40)
    return [(x, float(mean)) for (x, _), mean in zip(points, means, strict=True)]


def _limits(values: list[float]) -> tuple[float, float] | None:
    """A few outliers, such as those of the first steps, lie outside where they would flatten the rest."""
    if not values:
        return None
    low, high, most = min(values), max(values), float(np.quantile(values, 0.98))
    top = high if high - low < 2 * (most - low) else most
    margin = 0.06 * (top - low) or 0.05 * abs(top) or 1.0
    return low - margin, top + margin


def _marks(run: RunData) -> list[tuple[float, str]]:
    return [(float(e["step"]), f"resumed after step {e['step']}") for e in run.events if e["kind"] == "resume"]


def _mfu_unit(runs: Sequence[RunData]) -> str:
    peaks = {event.get("peak_flops") for run in runs for event in run.events if event["kind"] in ("start", "resume")}
    peak = peaks.pop() if len(peaks) == 1 else None
    return f"of {peak / 1e12:.3g} TFLOP/s" if isinstance(peak, int | float) else "of the device's peak"
