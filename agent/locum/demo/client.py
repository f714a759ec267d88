"""A client that notices: it asks an address for an ICMP echo every 2 ms and writes down when each answer came.

    python -m locum.demo.client 10.0.0.100 --interval 2ms --log answers.log

The kernel of whoever holds the address answers, so no server has to run there. What the log holds, and how gaps are
measured from it, is in locum.demo.answers.

Requests go by a schedule that does not drift: one that was late does not delay the next. The time of an answer is when
the kernel received it, not when this process came to read it. A request that the kernel refuses to send (no route, no
neighbour, no buffer) counts as sent and not answered: to a client it is all the same.
"""

import argparse
import contextlib
import ipaddress
import os
import re
import secrets
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TextIO

from locum.demo.answers import ANSWER_WITHIN, FIRST, LAST, Answers

if TYPE_CHECKING:
    from locum.demo.lab import Host

_ECHO = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number (RFC 792, RFC 4443)
_PAYLOAD = struct.Struct("!QQ")  # whose request it is, and its number
_TIMESPEC = struct.Struct("@ll")
_SO_TIMESTAMPNS = 35
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER = 255, 1, 1

_SECOND = 1_000_000_000
_FLUSH_EVERY = _SECOND // 10


class Client:
    """Sends and receives in the calling thread, which must be in the client's network namespace when it is made."""

    def __init__(self, address: str, interval: float, log: TextIO) -> None:
        """One request every interval seconds. Raises ValueError for no address, PermissionError without CAP_NET_RAW."""
        self._version = ipaddress.ip_address(address).version
        self._address = str(ipaddress.ip_address(address))
        self._interval = round(interval * _SECOND)
        self._log = log
        self._socket = open_echo(self._version)
        self._token = secrets.randbits(64)
        self._identifier = secrets.randbits(16)
        self._number = 0  # of the next request
        self._pending: deque[list[int]] = deque()  # [sent_at, answered_at or 0], the oldest first
        self._stopping = False
        self._late = 0
        self._skipped = 0
        log.write(FIRST.format(address=self._address, interval=self._interval) + "\n")
        log.flush()

    def stop(self) -> None:
        """Send no more, and have run return when all is answered, or in a second. For a signal handler or a thread."""
        self._stopping = True

    def run(self, duration: float | None = None) -> None:
        """Ask until stopped, or for that many seconds; then wait for the answers under way, at most a second."""
        due = start = _now()
        end = start + round(duration * _SECOND) if duration is not None else None
        flush_at = start
        while not self._stopping and (end is None or due < end):
            at = _now()
            if at >= due:
                if at - due > _SECOND:  # we were stopped ourselves: a flood now would tell nothing
                    self._skipped += (at - due) // self._interval
                    due += (at - due) // self._interval * self._interval
                self._late = max(self._late, at - due)
                self._send()
                due += self._interval
            if at >= flush_at:
                self._write_down(at)
                self._log.flush()
                flush_at = at + _FLUSH_EVERY
            self._receive(until=due)
        while unanswered := [sent for sent, answered in self._pending if not answered]:
            at, deadline = _now(), unanswered[-1] + round(ANSWER_WITHIN * _SECOND)
            if at >= deadline:
                break
            self._receive(until=min(deadline, at + _FLUSH_EVERY))
        self._write_down(_now() + 2 * _SECOND)
        self._log.write(LAST.format(late=self._late, skipped=self._skipped) + "\n")
        self._log.flush()
        self._socket.close()

    def _send(self) -> None:
        payload = _PAYLOAD.pack(self._token, self._number)
        kind = 8 if self._version == 4 else 128
        header = _ECHO.pack(kind, 0, 0, self._identifier, self._number & 0xFFFF)
        if self._version == 4:  # for IPv6 the kernel does it: the checksum covers the addresses
            header = _ECHO.pack(kind, 0, _checksum(header + payload), self._identifier, self._number & 0xFFFF)
        self._number += 1
        self._pending.append([_now(), 0])
        with contextlib.suppress(OSError):
            self._socket.sendto(header + payload, (self._address, 0))

    def _receive(self, until: int) -> None:
        """Take what has come; wait for the first of it until that time, in ns."""
        timeout = max(0, until - _now()) / _SECOND
        if not select.select([self._socket], [], [], timeout)[0]:
            return
        for _ in range(64):  # bounded: the next request must not wait for a flood to end
            try:
                data, ancillary, _, _ = self._socket.recvmsg(256, 128)
            except OSError:
                return
            if self._version == 4:
                data = data[(data[0] & 0x0F) * 4 :]
            if len(data) < _ECHO.size + _PAYLOAD.size:
                continue
            token, number = _PAYLOAD.unpack_from(data, _ECHO.size)
            index = number - (self._number - len(self._pending))
            if token != self._token or not 0 <= index < len(self._pending):
                continue
            row = self._pending[index]
            row[1] = row[1] or received_at(ancillary)

    def _write_down(self, at: int) -> None:
        """Write the rows that will not change any more; the others wait, so that rows stay in order."""
        overdue = at - round(ANSWER_WITHIN * _SECOND)
        while self._pending and (self._pending[0][1] or self._pending[0][0] < overdue):
            sent, answered = self._pending.popleft()
            in_time = answered and answered - sent <= ANSWER_WITHIN * _SECOND
            self._log.write(f"{sent} {answered if in_time else '-'}\n")


class Asking:
    """A client that runs as a process of its own in a host of a lab, while its `with` lasts.

        with Asking(gamma, "10.0.0.100") as client:
            ...
        print(client.answers.longest_gap())

    Another process, so that nothing that this one does delays the client.
    """

    def __init__(self, host: "Host", address: str, interval: float = 0.002, log: Path | None = None) -> None:
        """One request every interval seconds, written to that file (or to one that is removed again)."""
        self._host = host
        self._address = address
        self._interval = interval
        self._kept = log is not None
        self._path = log
        self._answers: Answers | None = None

    def __enter__(self) -> Self:
        if self._path is None:
            descriptor, name = tempfile.mkstemp(prefix="locum-answers-", suffix=".log")
            os.close(descriptor)
            self._path = Path(name)
        command = [sys.executable, "-m", "locum.demo.client", self._address]
        command += ["--interval", f"{self._interval * 1000:g}ms", "--log", str(self._path), "--say-when"]
        self._process: subprocess.Popen[Any] = self._host.popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._process.wait()
            self._remove()
            raise RuntimeError(f"the client in {self._host.name} ended at once; see its message above")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> Answers:
        """End the client (at most a second, for the answers under way) and give what it saw."""
        if self._answers is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=ANSWER_WITHIN + 5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._answers = self._read()
            self._remove()
        return self._answers

    @property
    def answers(self) -> Answers:
        """What the client saw; while it runs, without the requests that may yet be answered."""
        return self._answers if self._answers is not None else self._read()

    def _read(self) -> Answers:
        assert self._path is not None
        return Answers.read(self._path)

    def _remove(self) -> None:
        if not self._kept and self._path is not None:
            self._path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 when it did what it was told, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        prog="locum.demo.client", description="Ask an address for echoes, again and again."
    )
    parser.add_argument("address", help="IPv4 or IPv6")
    parser.add_argument("--interval", type=_seconds, default=0.002, help="between requests: 2ms, 0.5s")
    parser.add_argument("--log", type=Path, required=True, help="the file to write")
    parser.add_argument("--duration", type=_seconds, help="end by itself after that long")
    parser.add_argument("--say-when", action="store_true", help="print a line when the first request is about to go")
    options = parser.parse_args(arguments)
    # Being late ourselves would look like the holder's fault. Where it is not allowed, the log says how late we were.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    with options.log.open("w") as log:
        try:
            client = Client(options.address, options.interval, log)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda _number, _frame: client.stop())
        if options.say_when:
            print("asking", flush=True)
        client.run(options.duration)
    return 0


def open_echo(version: int) -> socket.socket:
    """A raw socket that gets echo replies only, each with the time at which the kernel received it.

    It is not connected: an ICMP error would make the next send fail in place of the one that it is about.
    """
    if version == 4:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        raw.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFF_FFFF & ~(1 << 0)))
    else:
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        blocked = [0xFFFF_FFFF] * 8
        blocked[129 // 32] &= ~(1 << 129 % 32)
        raw.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
    raw.setblocking(False)
    return raw


def received_at(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's time of reception, which it gives by the wall clock, by our clock."""
    ago = 0
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            ago = int(time.time_ns() - (seconds * _SECOND + nanoseconds))
    return _now() - (ago if 0 <= ago < _SECOND else 0)  # any other: the wall clock has just been set


def _checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write it as 2ms or 0.5s")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]]


def _now() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sys.exit(main())
