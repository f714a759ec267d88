"""The kernel's side of a lease: addresses that are set for a time and go away by themselves, over netlink.

Rules:
- An address is set with a lifetime that ends, the kernel's lateness included, before `until`: the moment from which
  another node may act. Nobody has to live for it to go.
- Renewing must not revive. Linux adds an address that is gone also on a "replace". So the clock is looked at right
  before the call and right after it; what should have lapsed meanwhile is deleted, and a lifetime of which the kernel
  began to count too late is shortened. A process that stops between look and call, outlasts the lease, and is killed
  before the look after it leaves an address for one more lifetime: the rest of the risk.
- Linux may be late in removing an address, on an idle machine by more than a second (lifetime.py). So as long as the
  process runs, the thread here deletes at `until` what was not prolonged, whatever the event loop does.
- A hold that waited until its time was over is not done. A removal that waited is: letting go never comes too late.
- One thread of its own speaks with netlink, one request after the other: pyroute2 opens asyncio endpoints, which
  uvloop refuses. The queue to it is bounded, and so is the time for which a caller waits.
- No request raises for what the kernel says: an `Outcome` has one clear line for each address.

Limits: the kernel's timers stand still while the machine is suspended, so a machine that wakes up may have its
addresses until the agent, whose clock goes on, has taken them away. And where an address of a service is the *first*
of its IPv4 subnet on the interface, Linux deletes the others of that subnet with it, unless the sysctl
promote_secondaries is 1 (systemd sets it): give such addresses a /32.
"""

import asyncio
import enum
import errno
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from locum import clock as boot
from locum.address import look
from locum.address.lifetime import LEFT_LEAST, LEFT_SECONDS, SLACK_SECONDS, kernel_seconds
from locum.address.netlink import AddressMessage, Interface, Link
from locum.address.watch import Change, Watch

log = logging.getLogger(__name__)

REQUEST_SECONDS = 1.0
"""For how long a caller waits for the kernel."""

MAX_WAITING = 256
"""Requests that may wait for the thread. Only a kernel that hangs lets them pile up."""

CALL_SECONDS = 0.02
"""Taken off the time left before the whole seconds are counted: a call that takes no longer need not be repeated."""

_MAX_TRIES = 3
_JOIN_SECONDS = 3.0
_LONGEST_PAUSE_SECONDS = 60.0
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200

T = TypeVar("T")


class KernelError(OSError):
    """The kernel could not be asked. One line that says what."""


class State(enum.Enum):
    """What has become of one address."""

    HELD = "held"
    """It is set, for `seconds` from now on."""
    GONE = "gone"
    """It is not there: removed, or, if it was only to be prolonged, found missing and left so."""
    LATE = "too late"
    """There is no time left for which it could be set. It was not; what should have lapsed was deleted."""
    ERROR = "error"
    """The kernel refused, or did not answer: `note`. What it has, it has for the lifetime last given."""


@dataclass(frozen=True, slots=True)
class AddressOutcome:
    """One address: its state, the lifetime given in seconds if it is held, and a line for people if there is one."""

    address: Interface
    state: State
    seconds: int = 0
    note: str = ""

    def __str__(self) -> str:
        return f"{self.address}: {self.state.value}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has become of the addresses of one request, in their order."""

    results: tuple[AddressOutcome, ...]

    @property
    def held(self) -> bool:
        """All of them are set for a time."""
        return all(result.state is State.HELD for result in self.results)

    @property
    def gone(self) -> bool:
        """None of them is there any more, as far as the kernel says."""
        return all(result.state is State.GONE for result in self.results)

    def which(self, state: State) -> tuple[Interface, ...]:
        """The addresses in that state."""
        return tuple(result.address for result in self.results if result.state is state)

    def __str__(self) -> str:
        return "; ".join(str(result) for result in self.results)


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way: `run` in the thread, `answer` in the caller's loop."""

    run: Callable[[], Any]
    answer: asyncio.Future[Any]
    waits_for: float
    """Boot seconds: not begun before then, it is not done. Infinite: it is done in any case."""
    left: bool = False
    """The caller has stopped waiting."""


class Kernel:
    """Sets, prolongs, removes and looks up addresses; tells of changes on the interfaces in `watch`.

    `async with Kernel(["eth0"], on_change) as kernel:` starts its two threads, in the network namespace of the
    calling thread. `on_change` is called in the loop. `clock` gives the seconds of which `until` is one.
    Entering raises OSError when netlink cannot be had.
    """

    def __init__(
        self,
        watch: Iterable[str] = (),
        on_change: Callable[[Change], None] | None = None,
        *,
        clock: Callable[[], float] = boot.now,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._watch = Watch(watch, on_change) if on_change is not None else None
        self._queue: queue.Queue[_Job | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="locum-kernel", daemon=True)
        self._loop: asyncio.AbstractEventLoop
        self._closed = False
        # The thread's own:
        self._ends: dict[tuple[str, Interface], float] = {}  # what is held, and until when
        self._sure: dict[tuple[str, Interface], float] = {}  # before which time it cannot have lapsed
        self._netlink: Any = None
        self._netlink_loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._watch is not None:
            try:
                self._watch.start()
            except BaseException:
                self._watch.stop()
                raise
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets what was asked for before finish (bounded), and ends the threads. Addresses stay as they are."""
        self._closed = True
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        await asyncio.to_thread(self._thread.join, _JOIN_SECONDS)
        if self._watch is not None:
            self._watch.stop()

    async def watch(self, interfaces: Iterable[str]) -> None:
        """Watches these interfaces from now on. What is there is not told: ask `link`. OSError: all is as before."""
        assert self._on_change is not None
        new = Watch(interfaces, self._on_change)
        try:
            new.start()
        except BaseException:
            new.stop()
            raise
        old, self._watch = self._watch, new
        if old is not None:
            await asyncio.to_thread(old.stop)

    async def hold(
        self, interface: str, addresses: Sequence[Interface], until: float, only_if_present: bool = False
    ) -> Outcome:
        """Sets the addresses, in order, so that the kernel has removed them at `until` (seconds of the clock).

        `only_if_present`: prolongs what is there, and adds nothing; every address is tried. Otherwise the first that
        fails ends it: the rest is an error "not tried", and undoing (`remove`) is the caller's. An address that has
        too little time to go is not prolonged (LATE), and keeps the lifetime that it has.

        After "the kernel did not answer" an address may still come: `remove` it, which is done after.
        """
        wanted = tuple(addresses)
        return await self._change(
            wanted, lambda: self._hold_all(interface, wanted, until, only_if_present), waits_for=until
        )

    async def remove(self, interface: str, addresses: Sequence[Interface]) -> Outcome:
        """Removes the addresses, in order; one that is not there (nor its interface) is GONE like the others.

        Also if the caller is cancelled, or the kernel takes its time: what was asked for will be done.
        """
        wanted = tuple(addresses)
        return await self._change(wanted, lambda: self._remove_all(interface, wanted), waits_for=float("inf"))

    async def present(self, interface: str, addresses: Sequence[Interface]) -> set[Interface]:
        """Those of the addresses that the interface has now. Raises KernelError."""
        wanted = set(addresses)
        return await self._look(lambda: wanted & _present(look.index_of(interface)))

    async def leftovers(self, interface: str, addresses: Sequence[Interface]) -> set[Interface]:
        """What the interface has of these addresses now, with whatever prefix length. Raises KernelError."""
        wanted = {address.ip for address in addresses}
        found = await self._look(lambda: _present(look.index_of(interface)))
        return {address for address in found if address.ip in wanted}

    async def left(self, interface: str, addresses: Sequence[Interface]) -> bool:
        """Whether the interface has all of these addresses, and with a lifetime that only `leave` gives."""
        there = await self._look(lambda: _lifetimes(look.index_of(interface)))
        return all(LEFT_LEAST < there.get(address, 0) <= LEFT_SECONDS for address in addresses)

    async def leave(self, interface: str, addresses: Sequence[Interface]) -> Outcome:
        """Gives the addresses to the kernel for LEFT_SECONDS: nobody is there to renew them."""
        return await self.hold(interface, addresses, self._clock() + LEFT_SECONDS + 0.5)

    async def link(self, interface: str) -> Link:
        """The interface as it is now. Raises KernelError."""
        return await self._look(lambda: look.link(interface))

    # In the caller's loop.

    async def _change(self, addresses: tuple[Interface, ...], run: Callable[[], Outcome], waits_for: float) -> Outcome:
        try:
            return await self._ask(run, waits_for)
        except KernelError as error:
            return Outcome(tuple(AddressOutcome(address, State.ERROR, note=str(error)) for address in addresses))

    async def _look(self, run: Callable[[], T]) -> T:
        try:
            return await self._ask(run, self._clock() + REQUEST_SECONDS)
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(f"the kernel cannot be asked: {error}") from error

    async def _ask(self, run: Callable[[], T], waits_for: float) -> T:
        if self._closed:
            raise KernelError("the agent has ended its work with the kernel")
        answer: asyncio.Future[T] = self._loop.create_future()
        job = _Job(run, answer, waits_for)
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            raise KernelError(f"the kernel hangs: {MAX_WAITING} requests wait for it") from None
        try:
            await asyncio.wait((answer,), timeout=REQUEST_SECONDS)
            if not answer.done():  # if it was this loop that stood still, the answer may be next in line
                await asyncio.sleep(0)
            if not answer.done():
                raise KernelError(f"the kernel did not answer within {REQUEST_SECONDS:g} s")
            return answer.result()
        finally:
            job.left = True
            answer.cancel()

    # In the thread.

    def _run(self) -> None:
        try:
            while True:
                try:
                    job = self._queue.get(timeout=self._pause())
                except queue.Empty:
                    self._end_what_is_over()
                    continue
                if job is None:
                    return
                self._do(job)
                self._end_what_is_over()
                if self._closed and self._queue.empty():
                    return
        finally:
            self._disconnect()

    def _pause(self) -> float | None:
        """Seconds for which the thread may sleep. A clock that jumps is looked at every minute."""
        if not self._ends:
            return None
        return min(max(0.0, min(self._ends.values()) - self._clock()), _LONGEST_PAUSE_SECONDS)

    def _end_what_is_over(self) -> None:
        if not self._ends:
            return
        now = self._clock()
        for interface, address in [key for key, end in self._ends.items() if end <= now]:
            del self._ends[interface, address]
            index = look.index_of(interface)
            error = self._delete(address, index) if index is not None else None
            if error is not None and error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                log.error("%s is over and cannot be deleted: %s", address, _line(interface, address, error))

    def _do(self, job: _Job) -> None:
        bounded = job.waits_for != float("inf")
        result: Any = None
        error: Exception | None = None
        if bounded and (job.left or self._clock() >= job.waits_for):
            error = KernelError("not done: its time was over before its turn came")
        else:
            try:
                result = job.run()
            except Exception as raised:  # the caller's to see; the thread goes on
                error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_finish, job.answer, result, error)

    def _hold_all(self, interface: str, addresses: tuple[Interface, ...], until: float, prolong: bool) -> Outcome:
        index = look.index_of(interface)
        there: list[AddressMessage] = []
        if index is not None and (prolong or any(address.version == 6 for address in addresses)):
            # One look for all of them. What lapses after it is told by `_sure`, for each address by itself.
            try:
                there = look.addresses(index)
            except OSError as error:
                note = f"{interface} cannot be looked at: {error.strerror or error}"
                return Outcome(tuple(AddressOutcome(address, State.ERROR, note=note) for address in addresses))
        present = {message.address for message in there}
        results: list[AddressOutcome] = []
        failed: Interface | None = None
        for address in addresses:
            if failed is not None:
                note = f"not tried, since {failed} was not set"
                results.append(AddressOutcome(address, State.ERROR, note=note))
                continue
            if index is None:
                state = State.GONE if prolong else State.ERROR
                results.append(AddressOutcome(address, state, note=f"interface {interface} does not exist"))
                failed = None if prolong else address
                continue
            if prolong and address not in present:
                note = f"it is not on {interface} any more; not added"
                results.append(AddressOutcome(address, State.GONE, note=note))
                continue
            try:
                result = self._hold(interface, index, address, until, prolong, _flags(address, there))
            except OSError as error:
                result = AddressOutcome(address, State.ERROR, note=_line(interface, address, error))
            results.append(result)
            if result.state is not State.HELD and not prolong:
                failed = address
        return Outcome(tuple(results))

    def _hold(
        self, interface: str, index: int, address: Interface, until: float, prolong: bool, flags: int
    ) -> AddressOutcome:
        tried = False
        for _ in range(_MAX_TRIES):
            before = self._clock()
            seconds = kernel_seconds(until, before + CALL_SECONDS)
            if seconds == 0:
                if before >= until or tried:
                    return self._late(interface, index, address)
                return AddressOutcome(address, State.LATE, note="too little time is left for a lifetime")
            tried = True
            try:
                self._set(address, index, seconds, flags)
            except OSError as error:
                if self._clock() >= until:  # and if the kernel has done it after all: not for long
                    return self._late(interface, index, address)
                return AddressOutcome(address, State.ERROR, note=_line(interface, address, error))
            after = self._clock()
            if after >= until:
                return self._late(interface, index, address)
            if prolong and after >= self._sure.get((interface, address), inf):
                # A pause after the look above: it may have lapsed meanwhile, and this call have added it anew.
                self._late(interface, index, address)
                return AddressOutcome(address, State.GONE, note="it may have lapsed while the process slept; deleted")
            if after + seconds + SLACK_SECONDS <= until:
                self._ends[interface, address] = until
                self._sure[interface, address] = before + seconds
                return AddressOutcome(address, State.HELD, seconds)
            # The call took so long that the kernel may count past the end: again, with less.
        return self._late(interface, index, address)

    def _late(self, interface: str, index: int, address: Interface) -> AddressOutcome:
        self._ends.pop((interface, address), None)
        self._sure.pop((interface, address), None)
        error = self._delete(address, index)
        if error is not None and error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return AddressOutcome(address, State.ERROR, note=_line(interface, address, error))
        return AddressOutcome(address, State.LATE, note="its time was over; deleted")

    def _remove_all(self, interface: str, addresses: tuple[Interface, ...]) -> Outcome:
        return Outcome(tuple(self._remove(interface, address) for address in addresses))

    def _remove(self, interface: str, address: Interface) -> AddressOutcome:
        self._ends.pop((interface, address), None)
        self._sure.pop((interface, address), None)
        index = look.index_of(interface)
        error = self._delete(address, index) if index is not None else None
        if index is None or (error is not None and error.errno == errno.ENODEV):
            return AddressOutcome(address, State.GONE, note=f"interface {interface} does not exist")
        if error is None:
            return AddressOutcome(address, State.GONE)
        if error.errno == errno.EADDRNOTAVAIL:
            return AddressOutcome(address, State.GONE, note="it was not there")
        return AddressOutcome(address, State.ERROR, note=_line(interface, address, error))

    def _set(self, address: Interface, index: int, seconds: int, flags: int) -> None:
        """Raises OSError."""
        # IPv6: preferred for no time at all ("deprecated", RFC 4862 5.5.4) from the start. It answers to whoever asks
        # for it, but the host does not choose it as the source of its own connections (RFC 6724, rule 3), which would
        # break when it moves: those to the broker, for one. IPv4 has no such rule: there a secondary address is not
        # chosen anyway, and the lifetime that is shown should be the true one.
        preferred = 0 if address.version == 6 else seconds
        self._call(
            "replace",
            index=index,
            address=str(address.ip),
            prefixlen=address.network.prefixlen,
            valid_lft=seconds,
            preferred_lft=preferred,
            **({"flags": flags} if flags else {}),
        )

    def _delete(self, address: Interface, index: int) -> OSError | None:
        try:
            self._call("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        except OSError as error:
            return error
        return None

    def _call(self, command: str, **attributes: Any) -> None:
        """Raises OSError, whatever goes wrong: the kernel's own errno, or EIO for a failing library."""
        try:
            if self._netlink is None:
                self._connect()
            self._netlink.addr(command, **attributes)
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from None
        except OSError:
            self._disconnect()
            raise
        except Exception as error:
            log.exception("pyroute2 failed; its socket is opened again")
            self._disconnect()
            raise OSError(errno.EIO, f"pyroute2 failed: {error!r}") from error

    def _connect(self) -> None:
        # pyroute2 asks asyncio for a loop, which is uvloop's where that is the policy, and fails with it: so it gets
        # one. Before 0.9 it had no loops, and no such argument.
        self._netlink_loop = asyncio.SelectorEventLoop()
        try:
            self._netlink = IPRoute(use_event_loop=self._netlink_loop)
        except TypeError:
            self._netlink = IPRoute()

    def _disconnect(self) -> None:
        if self._netlink is not None:
            with suppress(Exception):
                self._netlink.close()
            self._netlink = None
        if self._netlink_loop is not None:
            with suppress(Exception):
                self._netlink_loop.close()
            self._netlink_loop = None


def _lifetimes(index: int | None) -> dict[Interface, int]:
    return {} if index is None else {message.address: message.valid for message in look.addresses(index)}


def _present(index: int | None) -> set[Interface]:
    return set() if index is None else {message.address for message in look.addresses(index)}


def _flags(address: Interface, there: Iterable[AddressMessage]) -> int:
    """The flags with which an address is set, beside those that are there.

    IPv6: no duplicate address detection, which would make it useless for a second: the wire was asked before. And no
    route to its network when an address of the host's own has made that route: where that one has a lifetime too
    (SLAAC, DHCPv6), Linux gives the route *our* lifetime, and the host loses its network with our address (measured).
    Addresses that are preferred for no time at all are of our kind, and no reason to go without the route.
    """
    if address.version == 4:
        return 0
    for other in there:
        if other.address.ip != address.ip and other.address.network == address.network and not other.deprecated:
            return _IFA_F_NODAD | _IFA_F_NOPREFIXROUTE
    return _IFA_F_NODAD


def _finish(answer: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if answer.done():  # the caller has left
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)


def _line(interface: str, address: Interface, error: OSError) -> str:
    """What an error of the kernel means here, in one line."""
    if error.errno == errno.ENODEV:
        return f"interface {interface} does not exist"
    if error.errno == errno.EPERM:
        return f"the agent may not change addresses of {interface}: it needs CAP_NET_ADMIN"
    if error.errno == errno.EACCES and address.version == 6:
        return f"IPv6 is off on {interface}: see the sysctl disable_ipv6"
    if error.errno == errno.EEXIST:
        return f"{address.ip} is on {interface} already, with another prefix length than /{address.network.prefixlen}"
    return f"{interface} {address}: {error.strerror or error}"
