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


async def aside(work: Callable[[], T], *, timeout: float) -> T:
    """What `work()` returns or raises. TimeoutError if it takes longer than `timeout` seconds or no thread is free."""
    if not _free.acquire(blocking=False):
        raise TimeoutError(f"{THREADS_MAX} threads wait for a disk or a name server already")
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
            _free.release()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            loop.call_soon_threadsafe(tell, result, error)

    try:
        threading.Thread(target=run, name="locum-aside", daemon=True).start()
    except RuntimeError as error:
        _free.release()
        raise TimeoutError(f"no thread can be started: {error}") from error
    try:
        async with asyncio.timeout(timeout):
            return await done
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout:g} s") from error
