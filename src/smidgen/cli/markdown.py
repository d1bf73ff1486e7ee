"""Markdown on the terminal while it is being written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smidgen.cli.terminal import without_controls

if TYPE_CHECKING:
    from rich.console import Console


class MarkdownTerminal:
    """Shows an answer's Markdown: finished blocks for good, the one that is being written redrawn in place.

    Only the unfinished block is drawn anew, so an answer may be longer than the screen.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self._console = console or Console(highlight=False)
        self._block = ""
        self._live: Any = None

    def write(self, text: str) -> None:
        """Show more of the answer."""
        from rich.live import Live

        self._block += without_controls(text)
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        finished, self._block = split_blocks(self._block)
        if finished:
            self._live.update("", refresh=True)
            self._live.console.print(self._markdown(finished))
        self._live.update(self._markdown(self._block), refresh=True)

    def end(self) -> None:
        """The answer is finished, or was stopped."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._block.strip():
            self._console.print(self._markdown(self._block))
        self._block = ""

    def _markdown(self, text: str) -> Any:
        from rich.markdown import Markdown

        return Markdown(text, hyperlinks=False)  # a link shows where it leads


def split_blocks(text: str) -> tuple[str, str]:
    """`text` up to its last blank line outside a code fence, and the rest."""
    position = cut = 0
    fence = ""
    for line in text.splitlines(keepends=True):
        position += len(line)
        mark = line.lstrip()[:3]
        if mark in ("```", "~~~") and (not fence or fence == mark):
            fence = "" if fence else mark
        elif not fence and not line.strip() and line.endswith("\n"):
            cut = position
    return text[:cut], text[cut:]
