"""What kills a running hook when the agent dies without a word (SIGKILL, out of memory).

A hook must not go on acting for a lease that is lost. PR_SET_PDEATHSIG would reach the hook's first process only, not
the `mount` that its shell waits for, and it hangs on the thread that forked. So a small shell of its own session reads
a pipe from the agent: each line is the process group to guard, 0 for none. The pipe ends when the agent ends, however
it ends, and then the shell kills the group.

What a hook started with setsid has left its group and is left alone: that is how a server is made to live on.
"""

import asyncio
import contextlib
import os
import subprocess

CLOSE_SECONDS = 1.0

_SCRIPT = """
trap '' HUP INT TERM
group=0
while read -r line; do group=$line; done
[ "$group" -le 1 ] || kill -s KILL -- "-$group"
"""


class Guard:
    """Guards one process group at a time. Start it, then `hold` and `release`; close it when no hook runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._ended = -1  # its pidfd

    def start(self) -> None:
        """Idempotent. OSError, with the file name /bin/sh, if no process or descriptor can be had."""
        if self._process is not None:
            return
        reading, writing = os.pipe()  # neither is inherited by a hook
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "locum-hook-guard"],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
            self._ended = os.pidfd_open(process.pid)
        except OSError as error:
            os.close(writing)  # which also ends the shell, if it was started
            error.filename = "/bin/sh"
            raise
        finally:
            os.close(reading)
        os.set_blocking(writing, False)
        self._pipe, self._process = writing, process

    def hold(self, group: int) -> None:
        """From now on the group dies with the agent."""
        # Somebody may have killed the shell: then the hook runs unguarded, which is better than not at all.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(self._pipe, b"%d\n" % group)

    def release(self) -> None:
        """The group may outlive the agent. Call it before its leader is reaped: till then the number is ours."""
        self.hold(0)

    async def close(self) -> None:
        """End the shell, within CLOSE_SECONDS."""
        process, self._process = self._process, None
        if process is None:
            return
        os.close(self._pipe)
        try:
            if not await ready([self._ended], CLOSE_SECONDS):
                process.kill()
        finally:
            os.close(self._ended)
            process.poll()  # if it is not over even now, subprocess reaps it at its next start


async def ready(descriptors: list[int], seconds: float) -> set[int]:
    """The descriptors that can be read without waiting, at least one, or none after `seconds`.

    A pidfd (pidfd_open(2)) can be "read" when its process is over: so one wait serves for output and end alike, with
    asyncio's loop as with uvloop, and without SIGCHLD.
    """
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    found: set[int] = set()

    def wake(descriptor: int | None) -> None:
        if descriptor is not None:
            found.add(descriptor)
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_later(max(0.0, seconds), wake, None)
    try:
        for descriptor in descriptors:
            loop.add_reader(descriptor, wake, descriptor)
        await woken
    finally:
        timer.cancel()
        for descriptor in descriptors:
            loop.remove_reader(descriptor)
    return found
