"""Text of a model on the terminal, as it comes."""

from __future__ import annotations

import os
import sys

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
# A model's text must not move the cursor or recolour the terminal: control characters but tab and newline.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def without_controls(text: str) -> str:
    """`text` with U+FFFD for every control character but tab and newline."""
    return text.translate(_CONTROLS)


class Terminal:
    """Standard output; in a pipe exactly the text, in a terminal with dim parts and without control characters."""

    def __init__(self) -> None:
        self.interactive = sys.stdout.isatty()
        self.styled = self.interactive and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def write(self, text: str) -> None:
        """Show text at once."""
        if text:
            sys.stdout.write(without_controls(text) if self.interactive else text)
            sys.stdout.flush()

    def end(self) -> None:
        """End an answer's last line."""
        self.write("\n")

    def write_dim(self, text: str) -> None:
        """Show text that stands back: what the model did not write."""
        if self.styled and text:
            sys.stdout.write(_DIM)
            self.write(text)
            sys.stdout.write(_PLAIN)
            sys.stdout.flush()
        else:
            self.write(text)
