"""The few Linux calls that Python 3.11 has no name for: unshare(2), setns(2), mount(2) and prctl(2)."""

import ctypes
import os

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000
CLONE_NEWNET = 0x4000_0000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_REC, MS_PRIVATE = 0x4000, 0x4_0000

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move the calling thread (its children, for CLONE_NEWPID) to new namespaces. Raises OSError."""
    _checked(_libc.unshare(ctypes.c_int(flags)))


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace behind a descriptor; kind is its CLONE_ flag. Raises OSError."""
    _checked(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)))


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """Mount, or change a mount's propagation (kind None). Raises OSError."""
    filesystem = kind.encode() if kind else None
    _checked(_libc.mount(source.encode(), target.encode(), filesystem, ctypes.c_ulong(flags), None))


def die_with_parent(signum: int) -> None:
    """Have the kernel send us a signal when the thread that forked us ends (prctl(2), PR_SET_PDEATHSIG)."""
    _checked(_libc.prctl(ctypes.c_int(_PR_SET_PDEATHSIG), ctypes.c_ulong(signum), 0, 0, 0))


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
