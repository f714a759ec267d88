"""The client's answers as they come in, for the screen: a second pair of eyes beside the client itself.

A raw socket in the client's host gets a copy of every echo reply that the kernel receives there, whoever asked. The
client's own log stays the measure: it knows what was asked and not answered, but only a second later.
"""

import contextlib
from collections import deque
from dataclasses import dataclass

from locum.clock import now
from locum.demo.client import open_echo, received_at
from locum.demo.lab import Host

WORTH_TELLING = 0.05  # seconds without an answer. Two busy processors make pauses of up to 0.02 s of their own
FELT_AFTER = 0.25  # seconds without an answer after which its beginning is told, before its end is known


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer came between start and end (seconds of locum.clock); end is None while it lasts."""

    start: float
    end: float | None


class Echoes:
    """Counts a host's echo replies. Call `look` often: what the socket cannot keep is lost, and looks like silence."""

    def __init__(self, host: Host) -> None:
        self._socket = host.inside(lambda: open_echo(4))
        self._recent: deque[float] = deque()
        self.latest_at: float | None = None
        """When the latest answer came."""
        self._told = False

    def look(self) -> list[Silence]:
        """Take what has come in; give the silences that began or ended, in their order."""
        found: list[Silence] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                _, ancillary, _, _ = self._socket.recvmsg(256, 128)
                at = received_at(ancillary) / 1e9
                if self.latest_at is not None and at - self.latest_at > WORTH_TELLING:
                    found.append(Silence(self.latest_at, at))
                    self._told = False
                self.latest_at = at
                self._recent.append(at)
        at = now()
        while self._recent and self._recent[0] < at - 1.0:
            self._recent.popleft()
        if self.latest_at is not None and at - self.latest_at > FELT_AFTER and not self._told:
            self._told = True
            found.append(Silence(self.latest_at, None))
        return found

    @property
    def per_second(self) -> int:
        """How many answers came in the last second, as of the last look."""
        return len(self._recent)

    @property
    def coming(self) -> bool:
        """Whether answers come, as of the last look."""
        return self.latest_at is not None and now() - self.latest_at < WORTH_TELLING

    def close(self) -> None:
        self._socket.close()
