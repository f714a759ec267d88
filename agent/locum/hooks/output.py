"""A hook's output, cut into lines, within bounds.

At most LINE_MAX_BYTES of a line and LINES_MAX lines of a hook are handed on; all the rest is counted and forgotten, so
100 MB of output cost no more memory than a few lines. The last line is remembered: it is a failed hook's last words.
"""

from collections.abc import Iterator

from locum.hooks.text import one_line

LINE_MAX_BYTES = 4_096
LINES_MAX = 1_000
CUT_MARK = " [cut]"


class Lines:
    """Bytes in, lines out. Feed it chunks in order, then `finish` it."""

    def __init__(self) -> None:
        self.given = 0
        """Lines handed on."""
        self.dropped = 0
        """Lines read and counted only."""
        self.last = ""
        """The last line that is not blank, handed on or not."""
        self._part = bytearray()  # the line being read, never above LINE_MAX_BYTES
        self._cut = False

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines that this chunk completes. Lazy: a caller may let others run between two of them."""
        start = 0
        while start < len(chunk):
            if self.given >= LINES_MAX:
                self._count(chunk[start:])
                return
            end = chunk.find(b"\n", start)
            self._append(chunk[start : end if end >= 0 else len(chunk)])
            if end < 0:
                return
            yield self._take()
            self.given += 1
            start = end + 1

    def finish(self) -> Iterator[str]:
        """The last line, if it had no newline."""
        if not self._part:
            return
        text = self._take()
        if self.given >= LINES_MAX:
            self.dropped += 1
        else:
            yield text
            self.given += 1

    def _append(self, piece: bytes) -> None:
        room = LINE_MAX_BYTES - len(self._part)
        self._part += piece[:room]
        self._cut = self._cut or len(piece) > room

    def _take(self) -> str:
        text = one_line(self._part.decode("utf-8", "replace").rstrip("\r"), most=4 * LINE_MAX_BYTES)
        if self._cut:
            text += CUT_MARK
        if text.strip():
            self.last = text
        self._part.clear()
        self._cut = False
        return text

    def _count(self, chunk: bytes) -> None:
        """Past the bound: count the lines in one sweep, and look only at the last of them."""
        end = chunk.rfind(b"\n")
        if end >= 0:
            self.dropped += chunk.count(b"\n", 0, end + 1)
            before = chunk.rfind(b"\n", 0, end)
            if before >= 0:
                self._part.clear()
                self._cut = False
            self._append(chunk[before + 1 : end])
            self._take()
        self._append(chunk[end + 1 :])
