"""The log: lines on standard error, written by a thread of its own, so that a full pipe never delays a beat."""

import atexit
import contextlib
import logging
import logging.handlers
import os
import queue
import sys

LINES_MOST = 10_000
"""Lines that wait to be written. More are dropped: a log that nobody reads must not grow in memory."""


class _Dropping(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """A line that cannot be logged is no reason for noise in the log."""


def _stop(listener: logging.handlers.QueueListener) -> None:
    """Writes what waits, for a second at most: a pipe that nobody reads must not keep the agent from ending."""
    with contextlib.suppress(queue.Full):
        listener.enqueue_sentinel()
    thread = listener._thread
    if thread is not None:
        thread.join(1.0)


def start(verbose: bool = False) -> None:
    """Sends the logs of this process to standard error. Under systemd the journal adds the time itself."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(LINES_MOST)
    written = logging.StreamHandler(sys.stderr)
    when = "" if os.environ.get("JOURNAL_STREAM") else "%(asctime)s.%(msecs)03d "
    written.setFormatter(logging.Formatter(f"{when}%(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    listener = logging.handlers.QueueListener(waiting, written)
    listener.start()
    atexit.register(_stop, listener)
    root = logging.getLogger()
    root.handlers[:] = [_Dropping(waiting)]
    root.setLevel(logging.WARNING)
    logging.getLogger("locum").setLevel(logging.DEBUG if verbose else logging.INFO)
