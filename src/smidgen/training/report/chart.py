"""Line charts as HTML and inline SVG that fit any width: the curves stretch, their labels do not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from smidgen.training.report.formats import count, escape
from smidgen.training.report.run_data import Points

_WIDTH, _HEIGHT = 1000, 400
_MOST_POINTS = 500
COLOURS = 8
"""Colours that the style sheet has; further runs begin again."""


@dataclass(frozen=True, slots=True)
class Series:
    """One curve."""

    label: str
    points: Points
    colour: int
    look: Literal["line", "faint", "dots"] = "line"
    """faint: behind another, and not asked for its values; dots: a line with its points marked."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart and how its values read."""

    title: str
    unit: str
    series: Sequence[Series]
    form: Callable[[float], str]
    """A value of y as text."""
    from_zero: bool = False
    limits: tuple[float, float] | None = None
    """Of y; a few outliers may lie outside. Left out: those of the values."""
    marks: Sequence[tuple[float, str]] = ()
    """Steps to point out, with a word on each."""
    wide: bool = False

    def html(self) -> str:
        """The figure; empty where there is nothing to draw."""
        drawn = [series for series in self.series if series.points]
        if not drawn:
            return ""
        x_low, x_high = _span([x for series in drawn for x, _ in series.points], from_zero=True)
        y_low, y_high = self.limits or _span([y for s in drawn for _, y in s.points], from_zero=self.from_zero)

        def across(x: float) -> float:
            return (x - x_low) / (x_high - x_low)

        def up(y: float) -> float:
            return (y - y_low) / (y_high - y_low)

        y_ticks = [tick for tick in ticks(y_low, y_high, 4) if y_low <= tick <= y_high]
        x_ticks = [tick for tick in ticks(x_low, x_high, 5) if x_low <= tick <= x_high]
        lines = "".join(f'<path class="grid" d="M0 {_HEIGHT * (1 - up(t)):.1f}H{_WIDTH}"/>' for t in y_ticks)
        lines += "".join(
            f'<path class="mark" d="M{_WIDTH * across(x):.1f} 0V{_HEIGHT}"><title>{escape(word)}</title></path>'
            for x, word in self.marks
            if x_low <= x <= x_high
        )
        for series in drawn:
            places = [(_WIDTH * across(x), _HEIGHT * (1 - up(y))) for x, y in thinned(series.points)]
            lines += _curve(series, places)
        y_labels = "".join(
            f'<span style="bottom:{100 * up(tick):.2f}%">{escape(self.form(tick))}</span>' for tick in y_ticks
        )
        x_labels = "".join(
            f'<span style="left:{100 * across(tick):.2f}%">{escape(count(tick))}</span>' for tick in x_ticks
        )
        values = [
            {
                "label": s.label,
                "colour": s.colour % COLOURS,
                "points": [(x, y, self.form(y)) for x, y in thinned(s.points)],
            }
            for s in drawn
            if s.look != "faint"
        ]
        data = {"x": [x_low, x_high], "y": [y_low, y_high], "series": values}
        return (
            f'<figure class="chart{" wide" if self.wide else ""}">'
            f'<figcaption>{escape(self.title)} <span class="unit">{escape(self.unit)}</span></figcaption>'
            f'<div class="frame"><div class="y">{y_labels}</div>'
            f'<div class="plot" data-chart="{escape(json.dumps(data))}">'
            f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(self.title)} over steps">{lines}</svg></div>'
            f'<div class="x">{x_labels}</div></div></figure>'
        )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values, `about` as many as asked for."""
    raw = (high - low) / max(about, 1)
    if not raw > 0 or not math.isfinite(raw):
        return [low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    # A product with the step, not a sum, so that no rounding gathers; -0.0 becomes 0.0.
    return [round(index * step, 12) + 0.0 for index in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(points: Points) -> Points:
    """At most about five hundred points that draw the same curve: lowest and highest of each stretch."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: Points = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        extremes = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(extremes)
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _span(values: list[float], *, from_zero: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if from_zero:
        low = min(low, 0.0)
        return low, high + 0.04 * (high - low) if high > low else low + 1
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _curve(series: Series, places: Points) -> str:
    """The path of a curve. A point alone, and each point of `dots`, is a stroke of no length with a round end."""
    classes = f"c{series.colour % COLOURS} {series.look}{' again' if series.colour >= COLOURS else ''}"
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places) if series.look == "dots" or len(places) == 1 else ""
    return f'<path class="{classes}" d="{path}"/>' + (f'<path class="{classes} point" d="{dots}"/>' if dots else "")
