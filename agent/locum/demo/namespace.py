"""One network namespace that has no name: nothing under /run/netns, nothing to clean up.

The kernel keeps it as long as this process holds its descriptor or another process lives in it. So it goes with this
process, however that ends. In the namespace means: in a thread of its own that has entered it; what that thread makes,
a socket or a process, stays in the namespace and works from any thread.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from locum.demo import kernel

T = TypeVar("T")


class Namespace:
    """A new network namespace, with nothing in it but a loopback interface that is down."""

    def __init__(self) -> None:
        """Raises OSError (EPERM) without the right to make one: root, or root of a user namespace."""
        self.descriptor = _in_a_thread(_make)
        self.inode = os.fstat(self.descriptor).st_ino

    @property
    def path(self) -> str:
        """For other programs, while this process lives: `nsenter --net=<path>`."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def inside(self, work: Callable[[], T]) -> T:
        """Run work in a thread inside the namespace, wait for it, and give its result or raise what it raised."""

        def entered() -> T:
            kernel.setns(self.descriptor, kernel.CLONE_NEWNET)
            return work()

        return _in_a_thread(entered)

    def close(self) -> None:
        """Let go of it. Processes in it are not ended by this: see end_residents."""
        os.close(self.descriptor)


def residents(inodes: Collection[int]) -> list[int]:
    """The processes that live in any of these namespaces, given by inode; never this process itself."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            inode = (entry / "ns/net").stat().st_ino
        except OSError:  # it has ended, or it is none of ours
            continue
        if inode in inodes:
            found.append(int(entry.name))
    return found


def end_residents(inodes: Collection[int], *, within: float = 5.0) -> None:
    """SIGKILL whatever lives in these namespaces, until nothing does; also what started meanwhile.

    Raises TimeoutError if after that many seconds there is still something.
    """
    deadline = time.monotonic() + within
    while found := residents(inodes):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes that SIGKILL does not end: {found}")
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.002)


def _make() -> int:
    kernel.unshare(kernel.CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_a_thread(work: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    # A daemon: if Ctrl-C ends the wait for work that never ends, the interpreter must not wait for it again.
    thread = threading.Thread(target=body, name="namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
