"""Tells the service manager how the agent is: ready, stopping, alive. Nothing, where none asks (sd_notify(3)).

One datagram each, to the socket that systemd names in NOTIFY_SOCKET; no library of systemd's is needed for that.
"""

import os
import socket
import time
from contextlib import suppress
from math import inf

from locum import clock

WANTED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class Notifier:
    """The environment's NOTIFY_SOCKET and WATCHDOG_USEC, taken at the start."""

    def __init__(self) -> None:
        self.environment = {name: os.environ[name] for name in WANTED if name in os.environ}
        """As it was, for a program that takes this one's place."""
        address = os.environ.pop("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract name (unix(7)).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        for_us = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        period = os.environ.pop("WATCHDOG_USEC", "")
        self._period = int(period) / 1e6 if period.isdecimal() and for_us else 0.0
        self._told_at = 0.0

    @property
    def patience(self) -> float:
        """Seconds after which `alive` wants to be called again."""
        return self._period / 4 if self._period else inf

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """To be followed by `ready`."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """To be called whenever the agent has done its work; tells the watchdog often enough and not more."""
        now = clock.now()
        if self._period and now >= self._told_at + self._period / 4:
            self._told_at = now
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # Without waiting: a service manager that does not read must not cost a beat.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
            manager.sendto(text.encode(), self._address)
