"""Runs the command again where it can leave nothing behind: in namespaces of its own.

Four processes, each with one reason to be:

    caller    the process that the user started, and whose status the user sees. It passes signals on.
    init      process 1 of the new process namespace: when it ends, the kernel kills all that is left in there.
              It dies with the caller, also when the caller is killed with SIGKILL.
    command   the command again, marked by an environment variable. It is no process 1, so signals mean to it what
              they always mean, and orphans are not its duty.
    the rest  whatever the command starts.

Network and mount namespaces are new as well. Without root a user namespace gives the rights for that, where the
machine lets users make one.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from locum.demo import kernel

MARK = "LOCUM_ISOLATED"

_PASSED_ON: set[int] = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
_WAITED_FOR = _PASSED_ON | {signal.SIGCHLD}
_READY = "ready"
UNWIND_SECONDS = 8.0
"""How long an interrupted command may take to end by itself."""
_SI_KERNEL = 0x80  # siginfo: the terminal sent it, and so to the whole foreground group


class CannotIsolate(Exception):
    """This machine does not let us make namespaces. One line, which says what to do instead."""


def ensure_isolated(argv: Sequence[str]) -> None:
    """Return if this process is isolated already; otherwise run argv isolated, and exit with its status.

    argv is the whole command, such as [sys.executable, "-m", "locum.cli", "demo"]. Call it before any thread is
    started: the kernel makes no user namespace for a process with threads. In the isolated process SIGTERM and SIGHUP
    raise SystemExit from here on, so that both unwind the stack as Ctrl-C does; UNWIND_SECONDS later
    it ends in any case.

    Raises CannotIsolate; nothing has been started then. Raises SystemExit with the status of the command, 128 + n if
    signal n ended it.
    """
    if os.environ.get(MARK):
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, _unwind)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(_isolated(argv))


def _unwind(signum: int, _frame: FrameType | None) -> NoReturn:
    # An exception out of a signal handler can be lost: Python throws away what is raised in a destructor or a callback
    # of the collector. So the end comes in any case; nothing is left by it, since process 1 ends next.
    end = threading.Timer(UNWIND_SECONDS, os._exit, (128 + signum,))
    end.daemon = True
    end.start()
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + signum)


def _isolated(argv: Sequence[str]) -> int:
    _new_namespaces()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    answers, answer = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(answers)
        _never_return(lambda: _init(argv, answer, mask))
    os.close(answer)
    with os.fdopen(answers) as pipe:
        said = pipe.read()
    status = _see_through(init)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if said != _READY:
        raise CannotIsolate(_advice(said or f"process 1 ended with status {status}"))
    return status


def _new_namespaces() -> None:
    wanted = kernel.CLONE_NEWNET | kernel.CLONE_NEWNS | kernel.CLONE_NEWPID
    user, group = os.geteuid(), os.getegid()
    try:
        if user == 0:
            kernel.unshare(wanted)
            return
        kernel.unshare(wanted | kernel.CLONE_NEWUSER)
        # A user may map only himself, and only after giving up setgroups(2): user_namespaces(7).
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise CannotIsolate(_advice(error.strerror or str(error))) from error


def _advice(problem: str) -> str:
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return f"this container may not make namespaces ({problem}): start it with --privileged"
    if os.geteuid() == 0:
        return f"even root may not make namespaces here ({problem}): try it on a machine or in a VM of your own"
    return f"only root may make namespaces on this machine ({problem}): run it with sudo"


def _init(argv: Sequence[str], answer: int, mask: Iterable[int]) -> int:
    """Process 1: start the command, reap every orphan, end when the command ends."""
    kernel.die_with_parent(signal.SIGKILL)
    try:
        # Mounts made here must not show up outside; and /proc must speak of the new process namespace.
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except OSError as error:
        os.write(answer, f"/proc: {error.strerror}".encode())
        return 1
    # A caller that ended before the call above reads no more: EPIPE, and this process ends here.
    os.write(answer, _READY.encode())
    os.close(answer)
    command = os.fork()
    if command == 0:
        _never_return(lambda: _execute(argv, mask))
    return _see_through(command)


def _execute(argv: Sequence[str], mask: Iterable[int]) -> int:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        os.execvpe(argv[0], list(argv), {**os.environ, MARK: "1"})
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr, flush=True)
    return 127


def _see_through(child: int) -> int:
    """Pass signals on to the child until it ends; give its exit status. The signals are blocked, so none is lost."""
    while True:
        info = signal.sigwaitinfo(_WAITED_FOR)
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _SI_KERNEL:  # else the child has it from the terminal already
                os.kill(child, info.si_signo)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def _never_return(body: Callable[[], int]) -> NoReturn:
    """Run a forked child's body: whatever happens, the caller's stack is not unwound a second time."""
    status = 1
    try:
        status = body()
    finally:
        os._exit(status)
