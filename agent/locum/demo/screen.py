"""What the demo prints: lines as things happen, and on a terminal one more below them that says how it stands now.

Written to a file or a pipe it is the same lines, without colours and without that last one. The cursor is never
hidden and no mode of the terminal is changed: whoever kills the demo keeps a terminal that works.
"""

import heapq
import itertools
import textwrap
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from locum.clock import now

HELD_BACK = 0.3
"""Seconds for which a line waits for earlier ones of other sources, so that they are printed in the order of time."""

_STYLES = {"bus": "cyan", "kernel": "magenta", "client": "green", "shell": "yellow", "lab": "blue"}
_CLEAR_LINE = "\r\x1b[2K"
_WIDTH_LEAST = 60


class Screen:
    """Prints; the clock starts when it is made."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, emoji=False)
        self._console.width = max(_WIDTH_LEAST, min(self._console.width, 100))
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._status = ""
        self._start = now()
        self._waiting: list[tuple[float, int, str, str, str]] = []
        self._number = itertools.count()

    # --- lines with a time

    def add(self, at: float, source: str, text: str, style: str = "") -> None:
        """A line about what happened at that time (seconds of locum.clock); it is printed by `show`, in its turn."""
        heapq.heappush(self._waiting, (at, next(self._number), source, text, style or _STYLES.get(source, "")))

    def show(self, everything: bool = False) -> None:
        """Print the lines whose turn has come."""
        until = now() - HELD_BACK
        due = []
        while self._waiting and (everything or self._waiting[0][0] <= until):
            due.append(heapq.heappop(self._waiting))
        if not due:
            return
        with self._above_status():
            for at, _, source, text, style in due:
                self._line(f"{at - self._start:8.3f}  ", f"{source:6}  ", text, style)

    def _line(self, time: str, source: str, text: str, style: str) -> None:
        indent = len(time) + len(source)
        first, *rest = textwrap.wrap(text, self._console.width - indent) or [""]
        self._console.print(Text.assemble((time, "dim"), source, (first, style)))
        for more in rest:
            self._console.print(Text(" " * indent + more, style))

    # --- what stands between them

    def heading(self, title: str, hosts: Iterable[Sequence[str]], note: str) -> None:
        """The beginning: what is built. A host is its name, its address and what it does."""
        self._console.print(Text(title, "bold"))
        self._console.print()
        for name, address, does in hosts:
            self._line(f"  {name:8}", f"{address:10}", does, "")
        self._console.print()
        self.say(note)

    def announce(self, text: str) -> None:
        """What is about to happen."""
        self.show(everything=True)
        with self._above_status():
            self._console.print()
            self._line("", "", text, "bold")

    def say(self, text: str = "", style: str = "") -> None:
        """Text without a time."""
        self.show(everything=True)
        with self._above_status():
            self._line("", "", text, style)

    def table(self, columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> None:
        """Columns are (heading, whether it holds figures)."""
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
        for heading, figures in columns:
            table.add_column(heading, justify="right" if figures else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        with self._console.capture() as printed:
            self._console.print(table)
        with self._above_status():
            # Cells are padded to their width: in a file that is trailing space.
            lines = printed.get().splitlines()
            self._console.file.write("\n".join(["", *(line.rstrip() for line in lines), "", ""]))
            self._console.file.flush()

    # --- how it stands

    def status(self, text: str) -> None:
        """Show this below everything else, on a terminal. No text: take it away."""
        if self._live and text != self._status:
            self._status = text
            self._console.file.write(_CLEAR_LINE + text[: self._console.width - 1])
            self._console.file.flush()

    def _above_status(self) -> "_Above":
        return _Above(self)


class _Above:
    """Takes the status line away, and puts it back below what was printed meanwhile."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._status = screen._status

    def __enter__(self) -> None:
        self._screen.status("")

    def __exit__(self, *_: object) -> None:
        self._screen.status(self._status)
