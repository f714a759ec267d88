"""Whether the kernel will start a file, and if not, why, in words that help.

It reads what execve(2) would read: the head of the file and of its interpreter. Done beforehand, in a thread, it also
brings both into the page cache, so that starting the hook does not make the agent wait for the disk.
"""

import errno
import os
from pathlib import Path

from locum.hooks.text import one_line

STATUS_LOST = "ended, but its exit status is lost: the agent was started with SIGCHLD ignored"

_HEAD_BYTES = 256  # what the kernel reads of a #! line (BINPRM_BUF_SIZE)


def trouble(path: Path) -> str:
    """ "" if nothing speaks against starting it, else what does, to be read after the path. Raises nothing."""
    try:
        head = _head(path)
    except FileNotFoundError:
        return "does not exist any more"
    except OSError as error:
        # A program may be executable and not readable.
        return "" if error.errno == errno.EACCES and os.access(path, os.X_OK) else f"cannot be read: {error.strerror}"
    if head.startswith(b"\x7fELF"):
        return ""
    if not head.startswith(b"#!"):
        return "has no #! line: put one first, such as #!/bin/sh"
    words = head[2:].split(b"\n", 1)[0].strip(b" \t").split(maxsplit=1) or [b""]
    line_has_cr = head.split(b"\n", 1)[0].endswith(b"\r")
    interpreter = Path(os.fsdecode(words[0]))
    if not words[0]:
        return "names no interpreter in its #! line: write #!/bin/sh, for example"
    if line_has_cr:
        return "has a #! line that ends in a carriage return: save it with Unix line ends"
    try:
        _head(interpreter)
    except FileNotFoundError:
        return f"needs the interpreter {one_line(interpreter)}, which does not exist: install it, or mend the #! line"
    except OSError as error:
        if error.errno != errno.EACCES:
            return f"needs the interpreter {one_line(interpreter)}, which cannot be read: {error.strerror}"
    if not os.access(interpreter, os.X_OK):
        return f"needs the interpreter {one_line(interpreter)}, which is not executable"
    return ""


def start_error(error: OSError, known: str) -> str:
    """Why starting failed, to be read after the path; `known` is what `trouble` said before."""
    if error.filename == "/bin/sh":
        return f"was not started: its guard, a /bin/sh, cannot be had: {error.strerror}"
    if known and error.errno != errno.ESRCH:
        return f"was not started: it {known}"
    match error.errno:
        case errno.ESRCH:  # it was over, and gone, before it could be looked at
            return STATUS_LOST
        case errno.ENOEXEC:
            return "was not started: it is a program for another kind of machine, or damaged"
        case errno.ENOENT:
            return "was not started: it, its interpreter or its dynamic loader does not exist"
        case errno.EACCES:
            return "was not started: permission denied (no x bit for this user, or a filesystem mounted noexec)"
        case errno.ETXTBSY:
            return "was not started: somebody still has it open for writing"
        case _:
            return f"was not started: {error.strerror or error}"


def _head(path: Path) -> bytes:
    # O_NONBLOCK: opening a FIFO must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, _HEAD_BYTES)
    finally:
        os.close(descriptor)
