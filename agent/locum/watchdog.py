"""The machine's watchdog: a device that resets the machine when it is not fed in time (watchdog-api of Linux).

For services whose release must be certain also if the agent, a hook or the kernel hangs. While one of them is used here
the device is fed, and only as long as the lease lasts for longer than the device waits: so the machine is gone before
another node may act. What is fed by whom is decided elsewhere; here is only the device.
"""

import fcntl
import os
import struct
from pathlib import Path

_WDIOC_GETSUPPORT, _WDIOC_SETTIMEOUT = 0x80285700, 0xC0045706  # linux/watchdog.h
_WDIOF_MAGICCLOSE = 0x0100
SYSTEM = Path("/sys")
_MISC_MAJOR, _WATCHDOG_MINOR = 10, 130  # /dev/watchdog is the first one under its old number


def problem(path: Path) -> str:
    """Why the device cannot be used, as far as can be told without arming it; empty if nothing is known."""
    try:
        number = path.stat().st_rdev
    except OSError as error:
        return f"watchdog {path}: {error.strerror or error}"
    if not os.access(path, os.W_OK):
        return f"watchdog {path}: may not be written"
    major, minor = os.major(number), os.minor(number)
    old = (major, minor) == (_MISC_MAJOR, _WATCHDOG_MINOR)
    known = SYSTEM / ("class/watchdog/watchdog0" if old else f"dev/char/{major}:{minor}")
    try:
        nowayout = (known / "nowayout").read_text(encoding="ascii").strip()
    except OSError:
        return ""  # a driver that does not say
    if nowayout == "1":
        return (
            f"watchdog {path}: once armed it cannot be disarmed, and each release would reset the machine: "
            "load its driver with nowayout=0"
        )
    return ""


class Watchdog:
    """One device. Disarmed at first, and whenever `disarm` was the last that was said."""

    def __init__(self, path: Path, seconds: int) -> None:
        """`seconds`: how long the device waits."""
        self.path = path
        self.seconds = seconds
        self._device: int | None = None

    @property
    def armed(self) -> bool:
        return self._device is not None

    def arm(self) -> None:
        """From now on the machine is reset when it is not fed for `seconds`. Raises OSError, with one clear line."""
        if self._device is not None:
            return
        why = problem(self.path)
        if why:
            raise OSError(why)
        try:
            device = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise OSError(f"watchdog {self.path}: {error.strerror or error}") from None
        self._device = device
        try:
            info = fcntl.ioctl(device, _WDIOC_GETSUPPORT, bytes(40))
            if not struct.unpack_from("=I", info)[0] & _WDIOF_MAGICCLOSE:
                raise OSError(
                    f"watchdog {self.path}: its driver cannot disarm it: each release would reset the machine"
                )
            told = fcntl.ioctl(device, _WDIOC_SETTIMEOUT, struct.pack("=i", self.seconds))
            if struct.unpack("=i", told)[0] > self.seconds:
                raise OSError(
                    f"watchdog {self.path}: it cannot wait for as little as {self.seconds} s: use a longer lease"
                )
        except OSError as error:
            self.disarm()
            if error.errno is not None:
                raise OSError(f"watchdog {self.path}: is no watchdog: {error.strerror}") from None
            raise

    def feed(self) -> None:
        """The time begins anew. Raises OSError."""
        if self._device is not None:
            os.write(self._device, b"\0")

    def disarm(self) -> None:
        """Nothing is used here any more, so nothing need be certain."""
        if self._device is not None:
            try:
                os.write(self._device, b"V")
            finally:
                os.close(self._device)
                self._device = None
