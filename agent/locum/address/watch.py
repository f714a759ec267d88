"""Sees within milliseconds what happens to the watched interfaces and their addresses, whoever does it.

A thread reads the kernel's events (rtnetlink(7) multicast groups), keeps what it knows, and hands every *difference*
to a callback in the agent's event loop. So the renewal of an address is no event, and neither is one told twice.

Rules: when events were lost (ENOBUFS, netlink(7)), everything is read again and the differences are told; when the
loop does not keep up, reading pauses and the same happens later, so nothing here grows without a bound. An interface
is known by its name: one that is removed and made again goes on being watched.

Limit: Linux tells of a *lost* carrier up to a second late (its link watch runs once a second); addresses are told of
at once.
"""

import asyncio
import errno
import logging
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from locum.address import look
from locum.address.netlink import (
    GROUPS,
    AddressMessage,
    Interface,
    Link,
    LinkMessage,
    Message,
    messages,
)

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 20
"""Room for events in the kernel: some thousands of them."""

MAX_PENDING = 1024
"""Events that wait for the loop. With more, reading pauses."""

_PAUSE_MS = 10
_RETRY_MS = 1000
_JOIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class AddressChanged:
    """An address has appeared on the interface (`present`) or is gone from it."""

    interface: str
    address: Interface
    present: bool


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """The interface was made or removed (`exists`), or its carrier came or went (always False when it is not up)."""

    interface: str
    exists: bool
    carrier: bool


Change = AddressChanged | LinkChanged


class Watch:
    """Watches interfaces from `start()` to `stop()`; `on_change` is called in the loop, in the kernel's order.

    What is there at the start is not told. `start()` raises OSError when the kernel cannot be read.
    """

    def __init__(self, interfaces: Iterable[str], on_change: Callable[[Change], None]) -> None:
        self._on_change = on_change
        self._links: dict[str, Link] = {name: Link(exists=False) for name in interfaces}
        self._addresses: dict[str, set[Interface]] = {name: set() for name in self._links}
        self._names: dict[int, str] = {}  # by interface index, those that exist
        self._pending: deque[Change] = deque()
        self._lock = threading.Lock()
        self._telling = False  # guarded by the lock: a call in the loop is on its way
        self._stopped = threading.Event()
        self._events: socket.socket | None = None
        self._wake_read, self._wake_write = -1, -1
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="locum-watch", daemon=True)

    def start(self) -> None:
        """Takes the first look, then watches. Call it in the loop that shall be told."""
        self._loop = asyncio.get_running_loop()
        self._open()
        self._pending.clear()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread (some milliseconds) and closes everything. Nothing is told after it."""
        self._stopped.set()
        if self._thread.ident is not None:
            os.write(self._wake_write, b"x")
            self._thread.join(_JOIN_SECONDS)
        if self._events is not None:
            self._events.close()
        for end in (self._wake_read, self._wake_write):
            with suppress(OSError):
                os.close(end)

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._events is None:
                self._retry()
            elif len(self._pending) >= MAX_PENDING:
                self._wait(None, _PAUSE_MS)
            elif self._wait(self._events, None):
                self._read(self._events)
            if self._pending:
                self._tell()

    def _wait(self, events: socket.socket | None, timeout_ms: int | None) -> bool:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if events is not None:
            poll.register(events, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_ms)}
        return events is not None and events.fileno() in ready

    def _read(self, events: socket.socket) -> None:
        try:
            data, sender = events.recvfrom(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                log.warning("reading the kernel's events failed (%s): reading everything again", error)
            self._retry()
            return
        if sender[0] == 0:  # from the kernel, not from some process
            for message in messages(data):
                self._take(message)

    def _retry(self) -> None:
        try:
            self._open()
        except OSError as error:
            log.warning("the kernel's addresses cannot be read (%s): again in a second", error)
            self._close_events()
            self._wait(None, _RETRY_MS)

    def _close_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open(self) -> None:
        """A new socket, then a full look: what happens between the two is in the socket and is read after it.

        The old socket is not read any further: what it still holds is older than the look, and what would have
        put it right is what was lost.
        """
        self._close_events()
        kinds = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        events = socket.socket(socket.AF_NETLINK, kinds, socket.NETLINK_ROUTE)
        self._events = events
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        events.bind((0, GROUPS))
        existing = {message.name: message for message in look.links()}
        for name in self._links:
            if name not in existing:
                self._gone(name)
                continue
            self._take(existing[name])
            found = {message.address for message in look.addresses(existing[name].link.index)}
            for address in self._addresses[name] - found:
                self._address(name, address, present=False)
            for address in found:
                self._address(name, address, present=True)

    def _take(self, message: Message) -> None:
        if isinstance(message, AddressMessage):
            name = self._names.get(message.index)
            if name is not None:
                self._address(name, message.address, message.present)
        elif isinstance(message, LinkMessage):
            self._link(message)

    def _address(self, name: str, address: Interface, present: bool) -> None:
        known = self._addresses[name]
        if present is (address in known):
            return
        if present:
            known.add(address)
        else:
            known.discard(address)
        self._pending.append(AddressChanged(name, address, present))

    def _link(self, message: LinkMessage) -> None:
        link = message.link
        name = self._names.get(link.index)
        if name is not None and (not link.exists or message.name != name):  # removed, moved away or renamed
            self._gone(name)
        if not link.exists or message.name not in self._links:
            return
        old = self._links[message.name]
        if old.exists and old.index != link.index:  # made again, and its end was not seen
            self._gone(message.name)
            old = self._links[message.name]
        self._links[message.name] = link
        self._names[link.index] = message.name
        if (old.exists, old.carrier) != (link.exists, link.carrier):
            self._pending.append(LinkChanged(message.name, link.exists, link.carrier))

    def _gone(self, name: str) -> None:
        old = self._links[name]
        if not old.exists:
            return
        for address in tuple(self._addresses[name]):
            self._address(name, address, present=False)
        self._names.pop(old.index, None)
        self._links[name] = Link(exists=False)
        self._pending.append(LinkChanged(name, exists=False, carrier=False))

    def _tell(self) -> None:
        with self._lock:
            if self._telling:
                return
            self._telling = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            self._stopped.set()

    def _deliver(self) -> None:
        with self._lock:
            self._telling = False
        for _ in range(len(self._pending)):
            if self._stopped.is_set():
                return
            self._on_change(self._pending.popleft())
