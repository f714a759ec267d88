"""What a client saw: its log of echo requests, and how long it went without an answer.

The log is a text file. Its first line says who asked whom, then there is one line for each request, in the order of
sending: when it was sent and when it was answered, in nanoseconds of CLOCK_BOOTTIME, or "-" for no answer. A last
line, there when the client ended as it should, says how late its sends were at worst.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

FIRST = "# locum echo log 1: address {address}, a request every {interval} ns, times in ns of CLOCK_BOOTTIME"
LAST = "# the end: no request was sent more than {late} ns late, {skipped} were not sent in time and left out"

ANSWER_WITHIN = 1.0  # seconds. What comes later counts as lost


@dataclass(frozen=True)
class Answers:
    """The rows of a log: (sent_at, answered_at or None), seconds of locum.clock, in the order of sending."""

    rows: list[tuple[float, float | None]]
    lateness: float = 0.0  # seconds: how late the client itself sent a request, at worst
    skipped: int = 0  # requests that a client which was itself stopped for over a second left out

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a log, also one that is still being written. Raises OSError, and ValueError for another file."""
        first, *lines = path.read_text().splitlines(keepends=True) or [""]
        if not first.startswith(FIRST[:18]):
            raise ValueError(f"{path}: not an echo log")
        rows: list[tuple[float, float | None]] = []
        lateness, skipped = 0.0, 0
        for line in lines:
            if line.startswith("#"):
                numbers = [int(word) for word in line.split() if word.isdigit()]
                lateness, skipped = numbers[0] / 1e9, numbers[1]
            elif line.endswith("\n"):  # else its writer is not done with it
                sent, answered = line.split()
                rows.append((int(sent) / 1e9, None if answered == "-" else int(answered) / 1e9))
        return cls(rows, lateness, skipped)

    def lost(self, since: float | None = None, until: float | None = None) -> int:
        """How many requests sent in this time had no answer within a second."""
        return sum(1 for sent, answered in self._sent(since, until) if answered is None)

    def sent(self, since: float | None = None, until: float | None = None) -> int:
        """How many requests were sent in this time, or were to be sent and the kernel knew no way."""
        return sum(1 for _ in self._sent(since, until))

    def longest_gap(self, since: float | None = None, until: float | None = None) -> float:
        """The longest time without any answer coming in, in seconds.

        Measured from answer to answer by when they came, not by when they were asked for: a request that waits for
        ARP and is answered late helps nobody meanwhile. The ends of the window count as answers, so a window that
        ends in silence has a gap up to its end. since defaults to the first send, until to the last. An undisturbed
        client has a longest gap of about its interval.
        """
        return max((end - start for start, end in self.gaps(0.0, since, until)), default=0.0)

    def gaps(
        self, longer_than: float, since: float | None = None, until: float | None = None
    ) -> list[tuple[float, float]]:
        """Every (start, end) without an answer, longer than that many seconds; see longest_gap."""
        if not self.rows:
            return []
        first = self.rows[0][0] if since is None else since
        last = self.rows[-1][0] if until is None else until
        arrivals = sorted(answered for _, answered in self.rows if answered is not None and first < answered < last)
        return [(start, end) for start, end in pairwise([first, *arrivals, last]) if end - start > longer_than]

    def _sent(self, since: float | None, until: float | None) -> Iterator[tuple[float, float | None]]:
        for sent, answered in self.rows:
            if (since is None or sent >= since) and (until is None or sent <= until):
                yield sent, answered
