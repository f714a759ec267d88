"""Work that may wait for a disk or a name server, done in a thread: neither must stop the beats.

A thread cannot be cancelled, so it is a daemon (the agent can exit while it hangs) and there are never more than
THREADS_MAX of them.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

THREADS_MAX = 8

_free = threading.BoundedSemaphore(THREADS_MAX)


class Desk:
    """For who comes again and again, as a check does: one thread, so that what hangs for him hangs once, and the others
    have theirs."""

    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(1)


async def aside(work: Callable[[], T], *, timeout: float, desk: Desk | None = None) -> T:
    """What `work()` returns or raises. TimeoutError if it takes longer than `timeout` seconds or no thread is free."""
    free = desk.free if desk is not None else _free
    if not free.acquire(blocking=False):
        many = "its last question waits" if desk is not None else f"{THREADS_MAX} threads wait"
        raise TimeoutError(f"{many} for a disk or a name server already")
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.done():  # timed out or cancelled: nobody listens
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        finally:
            free.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(tell, result, error)

    try:
        threading.Thread(target=run, name="locum-aside", daemon=True).start()
    except RuntimeError as error:
        free.release()
        raise TimeoutError(f"no thread can be started: {error}") from error
    try:
        async with asyncio.timeout(timeout):
            return await done
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout:g} s") from error
