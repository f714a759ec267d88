"""Runs the agent with a wall clock that can be stepped, while it runs and for it alone.

    python -m tests.chaos.shifted CLOCK run --config FILE --node NAME

CLOCK is a file of eight bytes: a double, the seconds to add. What Python code reads as wall clock is moved (time.time,
time.time_ns, and time.clock_gettime of CLOCK_REALTIME); CLOCK_MONOTONIC and CLOCK_BOOTTIME are not, as with a real
step. The machine's clock stays as it is: time namespaces do not cover it, and setting it would hit everybody else.

Why not libfaketime: with its pthread wrappers the threads of a Python process wait for each other for up to a second
(0.9.10, Python 3.11), which is a fault of its own.
"""

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = struct.calcsize("=d")


def set_clock(path: Path, seconds: float) -> None:
    """Steps the clock of whoever runs with that file. The first call makes the file."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(struct.pack("=d", seconds))


def _shift(path: Path) -> None:
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ)

    def moved(read: Callable[..., Any], scale: int) -> Callable[..., Any]:
        return lambda *arguments: read(*arguments) + type(scale)(struct.unpack("=d", shared[:SIZE])[0] * scale)

    time.time, time.time_ns = moved(time.time, 1), moved(time.time_ns, 1_000_000_000)
    real = time.clock_gettime
    shifted = moved(real, 1)
    time.clock_gettime = lambda which: shifted(which) if which == time.CLOCK_REALTIME else real(which)


def main() -> None:
    _shift(Path(sys.argv[1]))
    from locum.cli import main as locum

    sys.argv = ["locum", *sys.argv[2:]]
    locum()


if __name__ == "__main__":
    main()
