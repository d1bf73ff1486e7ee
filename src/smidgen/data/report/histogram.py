"""The histogram of document lengths as inline SVG."""

from __future__ import annotations

from html import escape

from smidgen.data.report.measure import Lengths

_WIDTH, _HEIGHT = 860, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 26, 40
_GAP = 2
_TICKS = 4


def draw_histogram(lengths: Lengths) -> str:
    """Bars of documents by length, each of which says its numbers when pointed at, with the median marked."""
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = _step(max(bin.documents for bin in lengths.bins))
    top = step * -(-max(bin.documents for bin in lengths.bins) // step)
    slot = plot_width / len(lengths.bins)
    parts = []
    for value in range(0, top + 1, step):
        y = _TOP + plot_height * (1 - value / top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>')
    every = max(1, round(64 / slot))
    for number, bin in enumerate(lengths.bins):
        x, height = _LEFT + number * slot, plot_height * bin.documents / top
        name = f"{bin.low:,}" if bin.low == bin.high else f"{bin.low:,} to {bin.high:,}"
        title = escape(f"{name} tokens: {bin.documents:,} documents")
        parts.append(
            f'<g class="slot"><title>{title}</title>'
            f'<rect class="hit" x="{x:.1f}" y="{_TOP}" width="{slot:.1f}" height="{plot_height}"/>'
            f'<path class="bar" d="{_bar(x + _GAP / 2, _TOP + plot_height, slot - _GAP, height)}"/></g>'
        )
        if number % every == 0:
            parts.append(f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - 22}">{bin.low:,}</text>')
    parts.append(_marker(lengths, slot, plot_height))
    middle = _LEFT + plot_width / 2
    parts.append(
        f'<text class="tick" x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">tokens a document (log scale)</text>'
    )
    label = f"Histogram of document lengths; median {lengths.median:,} tokens"
    opening = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    return f'<div class="scroll">{opening}{"".join(parts)}</svg></div>'


def _marker(lengths: Lengths, slot: float, plot_height: int) -> str:
    """A line through the bar that holds the median, at its place within the bar."""
    number, bin = next((n, bin) for n, bin in enumerate(lengths.bins) if bin.low <= lengths.median <= bin.high)
    x = _LEFT + slot * (number + (lengths.median - bin.low + 0.5) / (bin.high - bin.low + 1))
    anchor = "end" if x > _WIDTH / 2 else "start"
    shift = -6 if anchor == "end" else 6
    return (
        f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 14}" y2="{_TOP + plot_height}"/>'
        f'<text class="note" x="{x + shift:.1f}" y="{_TOP - 6}" text-anchor="{anchor}">median {lengths.median:,}</text>'
    )


def _bar(x: float, bottom: float, width: float, height: float) -> str:
    """A bar with its upper corners rounded."""
    radius = min(4.0, width / 2, height)
    return (
        f"M{x:.1f} {bottom:.1f}v{radius - height:.1f}q0 {-radius:.1f} {radius:.1f} {-radius:.1f}"
        f"h{width - 2 * radius:.1f}q{radius:.1f} 0 {radius:.1f} {radius:.1f}V{bottom:.1f}z"
    )


def _step(highest: int) -> int:
    """A round distance of ticks: 1, 2 or 5 times a power of ten, at least 1."""
    rough = highest / _TICKS
    power = 10 ** max(len(str(int(rough))) - 1, 0)
    return next(int(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough)
