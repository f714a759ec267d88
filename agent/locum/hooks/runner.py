"""Runs hooks, one after the other, each in a process group of its own. The rules it keeps:

- A hook never delays a beat. Nothing here waits but on the event loop; output is read in bounded chunks with a turn
  for everybody else between two of them; what may wait for a disk is done aside; hook coroutines are processes too.
- A hook ends. At its timeout its whole group gets SIGTERM, after GRACE_SECONDS SIGKILL, and if even that does not end
  it (it waits in the kernel for a disk), it is given up KILL_SECONDS later.
- A hook that failed leaves nothing behind: what is left of its group is killed, since what it began is being undone.
  After a success what is left lives on: "the server &" of a PostAcq is what was asked for.
- A group is signalled only while its leader is not reaped: until then its number cannot be another's.
- Cancelled (the lease is lost): the group is killed at once, reaped, and CancelledError goes on. And if the agent
  itself is killed, the guard does it.
- Whatever goes wrong with a hook is a result with one clear line, never an exception.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from locum.aside import Desk, aside
from locum.clock import now
from locum.hooks.context import HookContext, Phase
from locum.hooks.folder import Hook, Kind
from locum.hooks.guard import Guard, ready
from locum.hooks.output import Lines
from locum.hooks.startable import STATUS_LOST, start_error, trouble
from locum.hooks.text import one_line

TIMEOUT_SECONDS = 30.0
GRACE_SECONDS = 2.0
KILL_SECONDS = 2.0
DRAIN_SECONDS = 0.2
CHUNK_BYTES = 64 * 1_024
LINES_A_TURN = 20
"""After this many lines handed on, everybody else on the event loop has a turn."""
LAST_WORDS_CHARACTERS = 300

_CHILD = str(Path(__file__).with_name("child.py"))


@dataclass(frozen=True, slots=True)
class HookResult:
    """How one run went."""

    name: str
    """Its file's name, or its name in the configuration."""
    title: str
    """Its path, or its name in the configuration and what it uses."""
    path: Path
    phase: Phase
    address: str
    ok: bool
    status: int | None
    """The exit status; None if it was ended by a signal or never ran."""
    signal: int | None
    """The signal that ended it, if one did."""
    timed_out: bool
    seconds: float
    lines: int
    """Lines of output handed to `on_line`."""
    dropped_lines: int
    """Lines beyond the bound: read and counted only."""
    detail: str
    """One line, to be read after the title."""

    @property
    def line(self) -> str:
        """The result as one line for a log or an event."""
        return f"{self.title} for {self.address}: {self.detail}"


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """How a phase went: what ran, in order, and what was not run because something before it failed."""

    results: tuple[HookResult, ...] = ()
    skipped: tuple[Hook, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every hook ran and succeeded; true if there was none."""
        return not self.skipped and all(result.ok for result in self.results)

    @property
    def failed(self) -> tuple[HookResult, ...]:
        return tuple(result for result in self.results if not result.ok)


def command_of(hook: Hook) -> list[str]:
    """The command line of a hook's process."""
    if hook.kind is Kind.executable and hook.declared is None:
        return [str(hook.path)]
    # -I: neither this folder nor PYTHON variables decide what is imported; -u: lines come as they are printed.
    return [sys.executable, "-I", "-u", _CHILD, str(hook.path)]


def environment_of(hook: Hook, context: HookContext) -> dict[str, str]:
    """All of a hook's environment."""
    told = context.environment()
    if hook.declared is not None:
        told |= {
            "LOCUM_HOOK": hook.declared.name,
            "LOCUM_PARAMETERS": hook.declared.parameters,
            "LOCUM_TIMEOUT": f"{hook.declared.timeout:g}",
        }
    return {**told, "HOME": os.environ.get("HOME") or ("/root" if os.geteuid() == 0 else "/")}


async def run_phase(
    hooks: Sequence[Hook],
    context_for: Callable[[Hook], HookContext],
    *,
    timeout: float = TIMEOUT_SECONDS,
    on_line: Callable[[Hook, str], None],
    on_result: Callable[[HookResult], None],
    stop_at_first_failure: bool,
    on_start: Callable[[Hook], None] = lambda hook: None,
    beside: Callable[[Hook], None] | None = None,
    desk: Desk | None = None,
) -> PhaseResult:
    """Run the hooks in order, each for at most `timeout` seconds, or the time that its declaration gives it.

    `on_start` gets every hook when its turn comes, `on_line` every line of output as it comes, `on_result` every
    result, all in the event loop: they must not block. A hook for which nobody is to wait is handed to `beside`, and
    has no result here. `desk`: what reads files for it, if not everybody's.

    Cancel it, and the running hook is killed with its whole group before CancelledError goes on.
    """
    results: list[HookResult] = []
    guard = Guard()
    try:
        for position, hook in enumerate(hooks):
            if beside is not None and hook.declared is not None and hook.declared.beside:
                beside(hook)
                continue
            on_start(hook)
            limit = hook.declared.timeout if hook.declared is not None else timeout
            result = await _run(hook, context_for(hook), limit, guard, on_line, desk)
            results.append(result)
            on_result(result)
            if stop_at_first_failure and not result.ok:
                return PhaseResult(tuple(results), tuple(hooks[position + 1 :]))
        return PhaseResult(tuple(results))
    finally:
        await guard.close()


async def _run(
    hook: Hook,
    context: HookContext,
    timeout: float,
    guard: Guard,
    on_line: Callable[[Hook, str], None],
    desk: Desk | None,
) -> HookResult:
    """One hook, from start to result."""
    started_at = now()
    lines = Lines()

    def result(detail: str, *, ok: bool = False, end: "_End | None" = None, timed_out: bool = False) -> HookResult:
        if lines.dropped:
            detail += f"; {lines.dropped} lines of its output are not in the log"
        return HookResult(
            name=one_line(hook.name),
            title=hook.title,
            path=hook.path,
            phase=hook.phase,
            address=hook.address,
            ok=ok,
            status=end.status if end else None,
            signal=end.signal if end else None,
            timed_out=timed_out,
            seconds=now() - started_at,
            lines=lines.given,
            dropped_lines=lines.dropped,
            detail=detail,
        )

    if hook.refused:
        return result(hook.refused)
    try:
        known = ""
        if hook.kind is Kind.executable:
            known = await aside(lambda: trouble(hook.path), timeout=timeout, desk=desk)
    except TimeoutError as error:
        return result(f"was not started: it could not be read: {error}", timed_out=now() >= started_at + timeout)
    try:
        guard.start()
        running = _Running(hook, context, guard)
    except OSError as error:
        return result(start_error(error, known))

    def hand_on(text: str) -> None:
        on_line(hook, text)

    try:
        timed_out, killed = await running.until_over(started_at + timeout, lines, hand_on)
        end = running.end()
        ok = not timed_out and end is not None and end.status == 0
        if not ok:
            running.kill()
        held = await running.drain(lines, hand_on)
    except BaseException:
        # Cancelled, or `on_line` raised: either way nobody waits for this hook any more.
        running.kill()
        await running.wait(KILL_SECONDS)
        raise
    finally:
        running.close()

    if end is None:
        over = "does not die of SIGKILL: it waits in the kernel, for a disk or a file server, and is given up"
        return result(over, timed_out=True)
    last_words = f": {one_line(lines.last, most=LAST_WORDS_CHARACTERS)}" if lines.last else ""
    if timed_out:
        how = "ignored SIGTERM and was killed" if killed else "was ended"
        return result(f"ran longer than {timeout:g} s and {how}{last_words}", end=end, timed_out=True)
    if not ok:
        return result(f"{end.words}{last_words}", end=end)
    if held:
        note = "succeeded, but a process that it left holds its output, which is closed now: redirect that one's"
        return result(note, ok=True, end=end)
    return result("succeeded", ok=True, end=end)


@dataclass(frozen=True, slots=True)
class _End:
    """How a process ended: by exit, by signal, or unknown to us."""

    status: int | None
    signal: int | None

    @property
    def words(self) -> str:
        if self.signal is not None:
            return f"was ended by signal {self.signal} ({signal.strsignal(self.signal) or 'unknown'})"
        if self.status is not None:
            return f"failed with exit status {self.status}"
        return STATUS_LOST


class _Running:
    """A hook's process, its group and its output. Whoever makes it must close it."""

    def __init__(self, hook: Hook, context: HookContext, guard: Guard) -> None:
        """Starts it; OSError if that fails."""
        self._process = subprocess.Popen(
            command_of(hook),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            env=environment_of(hook, context),
            umask=0o022,
            start_new_session=True,
            restore_signals=True,
        )
        # Nothing is awaited from here to the end: a hook that runs is a hook that will be ended.
        guard.hold(self._process.pid)
        self._guard = guard
        assert self._process.stdout is not None
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._output_is_open = True
        try:
            self._ended = os.pidfd_open(self._process.pid)
        except OSError:
            self._ended = -1
            self.kill()
            self.close()
            raise

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the group. The leader is not reaped yet, so the group is ours."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def until_over(self, ends_at: float, lines: Lines, on_line: Callable[[str], None]) -> tuple[bool, bool]:
        """Hand on the output until the process is over or given up: (it timed out, it had to be killed)."""
        steps = iter(((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, KILL_SECONDS)))
        sent: signal.Signals | None = None
        while True:
            waits_for = [self._ended, self._output] if self._output_is_open else [self._ended]
            found = await ready(waits_for, ends_at - now())
            if self._ended in found:
                return sent is not None, sent is signal.SIGKILL
            if self._output in found:
                await self._read(lines, on_line)
            if now() >= ends_at:  # also while it floods us with output
                step = next(steps, None)
                if step is None:
                    return True, True
                sent, patience = step
                self.kill(sent)
                ends_at = now() + patience

    async def drain(self, lines: Lines, on_line: Callable[[str], None]) -> bool:
        """Hand on what is left in the pipe, for DRAIN_SECONDS at most; True if somebody still holds it."""
        ends_at = now() + DRAIN_SECONDS
        while self._output_is_open and now() < ends_at:
            if await ready([self._output], ends_at - now()):
                await self._read(lines, on_line)
        for text in lines.finish():
            on_line(text)
        return self._output_is_open

    async def wait(self, seconds: float) -> None:
        """Until the process is over, bounded."""
        await ready([self._ended], seconds)

    def end(self) -> _End | None:
        """How it ended, None if it did not. It is not reaped by this: its group's number stays ours."""
        try:
            info = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return _End(None, None)
        if info is None:
            return None
        if info.si_code == os.CLD_EXITED:
            return _End(info.si_status, None)
        return _End(None, info.si_status)

    def close(self) -> None:
        """Let go of the group, reap the process if it is over, close the pipe."""
        self._guard.release()
        # A process that SIGKILL did not end is reaped by the subprocess module when it starts a later one.
        self._process.poll()
        if self._ended >= 0:
            os.close(self._ended)
        assert self._process.stdout is not None
        self._process.stdout.close()

    async def _read(self, lines: Lines, on_line: Callable[[str], None]) -> None:
        """Hand on one chunk. Between two chunks `ready` gives everybody else a turn, within one this does."""
        try:
            chunk = os.read(self._output, CHUNK_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self._output_is_open = False
            return
        for number, text in enumerate(lines.feed(chunk), start=1):
            on_line(text)
            if number % LINES_A_TURN == 0:
                await asyncio.sleep(0)
