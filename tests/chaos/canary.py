"""Whether this machine itself stood still: a process that only wants to run every 20 ms, and says when it could not.

    python -m tests.chaos.canary

A healthy holder on a machine that has no processor to spare for a second is not healthy. So a fault during which the
canary could not run is not judged by what the holder did; two holders at once are judged always. It also times a call
that needs the kernel's one lock for all network settings, which other programs on the machine may hold for long.
"""

import ctypes
import fcntl
import socket
import struct
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Self

from locum import clock

EVERY = 0.02
LATE = 0.3
"""Seconds from which on a delay is told: from two of them in a row on, a beat is missed."""
_SIOCETHTOOL, _ETHTOOL_GLINK = 0x8946, 0x0A


class Canary:
    """The process, and what it has told, while the `with` lasts."""

    def __enter__(self) -> Self:
        self._told: list[tuple[float, float, str]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.canary"], stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def since(self, start: float) -> list[str]:
        """What it could not do in time since then."""
        return [f"{seconds:.2f} s {what} at {at - start:.2f} s" for at, seconds, what in list(self._told) if at > start]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at, seconds, what = line.split()
            self._told.append((float(at), float(seconds), what))
            del self._told[:-1000]
        self._process.stdout.close()


def _take_the_lock(asked: socket.socket) -> None:
    value = ctypes.create_string_buffer(struct.pack("@II", _ETHTOOL_GLINK, 0), 8)
    try:
        fcntl.ioctl(asked, _SIOCETHTOOL, struct.pack("@16sP16x", b"lo", ctypes.addressof(value)))
    except OSError:
        return


def main() -> None:
    asked = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    turn = 0
    while True:
        began = clock.now()
        time.sleep(EVERY)
        woke = clock.now()
        if woke - began - EVERY > LATE:
            print(f"{woke} {woke - began - EVERY} stalled", flush=True)
        turn += 1
        if turn % 10 == 0:
            _take_the_lock(asked)
            done = clock.now()
            if done - woke > LATE:
                print(f"{done} {done - woke} lock", flush=True)


if __name__ == "__main__":
    main()
