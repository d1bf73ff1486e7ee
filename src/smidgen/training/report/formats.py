"""Numbers and names as a reader of the page sees them."""

from __future__ import annotations

import html
from typing import Any


def escape(value: object) -> str:
    """Text made safe for HTML, in content and in quoted attributes."""
    return html.escape(str(value), quote=True)


def count(value: float) -> str:
    """`1234567` as `1.23M`."""
    for divisor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:.3g}{unit}"
    return f"{value:.3g}"


def figure(value: float) -> str:
    """A loss or a norm: four figures, without a tail of zeros."""
    return f"{value:.4g}"


def rate(value: float) -> str:
    """A learning rate: `0.001` as `1e-3`."""
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def duration(seconds: float) -> str:
    """`3725` as `1:02:05`, `65` as `1:05`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def size(value: float) -> str:
    """Bytes: `1536` as `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def or_unknown(value: Any, form: Any) -> str:
    """A figure in its form; what is not known says so."""
    return "unknown" if value is None else form(value)
