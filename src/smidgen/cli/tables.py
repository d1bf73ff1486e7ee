"""Tables for people: drawn in a terminal, aligned plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """Print rows under headers to standard output; columns of numbers are right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(headers))]
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for header, is_right in zip(headers, right, strict=True):
            table.add_column(header, justify="right" if is_right else "left", no_wrap=is_right)
        for row in cells:
            table.add_row(*row)
        Console(highlight=False).print(table)
        return
    if title:
        print(title)
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    for row in [list(headers), *cells]:
        aligned = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(aligned).rstrip())


def format_bytes(count: float) -> str:
    """`1536` as `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_count(count: float) -> str:
    """`1234567` as `1.23M`."""
    for divisor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= divisor:
            return f"{count / divisor:.3g}{unit}"
    return f"{count:.3g}"


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in {"-", ""} or (cell[:1] == "-" and cell[1:2].isdigit())
