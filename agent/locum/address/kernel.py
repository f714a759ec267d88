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
- One thread of its own speaks with netlink, one request after the other. The queue to it is bounded, and so is the time
  for which a caller waits. The same request made again while the first still waits joins it.
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
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Any, Self, TypeVar

from locum import clock as boot
from locum.address import change, look
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

    def of(self, addresses: Sequence[Interface]) -> "Outcome | None":
        """The part of it that is about these addresses; None if it is not about all of them."""
        known = {result.address: result for result in self.results}
        if any(address not in known for address in addresses):
            return None
        return Outcome(tuple(known[address] for address in addresses))

    def __str__(self) -> str:
        return "; ".join(str(result) for result in self.results)


_Change = tuple[str, str, tuple[Interface, ...], bool]
"""A request that changes something: what, the interface, the addresses, and whether they must be there."""


@dataclass(slots=True, eq=False)
class _Job:
    """A request on its way: `run` (with `until`) in the thread, `answers` in the callers' loop."""

    run: Callable[[float], Any]
    answers: list[asyncio.Future[Any]]
    until: float
    """Boot seconds: not begun before then, it is not done. Infinite: it is done in any case."""
    begun: bool = False

    @property
    def left(self) -> bool:
        """All who asked have stopped waiting."""
        return all(answer.done() for answer in self.answers)


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
        self._latest: dict[tuple[str, Interface], tuple[_Change, _Job]] = {}  # what was last asked for each address
        self._lock = threading.Lock()  # of what a job says of itself
        # The thread's own:
        self._ends: dict[tuple[str, Interface], float] = {}  # what is held, and until when
        self._sure: dict[tuple[str, Interface], float] = {}  # before which time it cannot have lapsed

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

        `only_if_present`: prolongs what is there, and adds nothing. Every address is tried, also after one that fails;
        undoing (`remove`) is the caller's. An address that has too little time to go is not prolonged (LATE), and keeps
        the lifetime that it has.

        After "the kernel did not answer" an address may still come: `remove` it, which is done after.
        """
        wanted = tuple(addresses)
        what = ("hold", interface, wanted, only_if_present)
        return await self._change(what, lambda until: self._hold_all(interface, wanted, until, only_if_present), until)

    async def remove(self, interface: str, addresses: Sequence[Interface]) -> Outcome:
        """Removes the addresses, the last first; one that is not there (nor its interface) is GONE like the others.

        Also if the caller is cancelled, or the kernel takes its time: what was asked for will be done.
        """
        wanted = tuple(addresses)
        return await self._change(
            ("remove", interface, wanted, False), lambda until: self._remove_all(interface, wanted), inf
        )

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

    async def _change(self, what: _Change, run: Callable[[float], Outcome], until: float) -> Outcome:
        try:
            return await self._ask(run, until, what)
        except KernelError as error:
            return Outcome(tuple(AddressOutcome(address, State.ERROR, note=str(error)) for address in what[2]))

    async def _look(self, run: Callable[[], T]) -> T:
        try:
            return await self._ask(lambda until: run(), self._clock() + REQUEST_SECONDS)
        except KernelError:
            raise
        except OSError as error:
            raise KernelError(f"the kernel cannot be asked: {error}") from error

    async def _ask(self, run: Callable[[float], T], until: float, what: _Change | None = None) -> T:
        if self._closed:
            raise KernelError("the agent has ended its work with the kernel")
        answer: asyncio.Future[T] = self._loop.create_future()
        if not (what is not None and self._joined(what, until, answer)):
            job = _Job(run, [answer], until)
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                raise KernelError(f"the kernel hangs: {MAX_WAITING} requests wait for it") from None
            if what is not None:
                self._latest |= {(what[1], address): (what, job) for address in what[2]}
        try:
            await asyncio.wait((answer,), timeout=REQUEST_SECONDS)
            if not answer.done():  # if it was this loop that stood still, the answer may be next in line
                await asyncio.sleep(0)
            if not answer.done():
                raise KernelError(f"the kernel did not answer within {REQUEST_SECONDS:g} s")
            return answer.result()
        finally:
            answer.cancel()

    def _joined(self, what: _Change, until: float, answer: asyncio.Future[Any]) -> bool:
        """Whether the latest request for these addresses is the same, and still waits: one for both is enough.

        So what waits for a slow kernel is bounded by the number of services, not by how often they ask.
        """
        latest = {self._latest.get((what[1], address)) for address in what[2]}
        same, job = latest.pop() or (None, None) if len(latest) == 1 else (None, None)
        if same != what or job is None:
            return False
        with self._lock:
            if job.begun:
                return False
            job.until = max(job.until, until)
            job.answers.append(answer)
            return True

    # In the thread.

    def _run(self) -> None:
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
            (error,) = change.delete_all(index, [address]) if index is not None else [None]
            if error is not None and error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                log.error("%s is over and cannot be deleted: %s", address, _line(interface, address, error))

    def _do(self, job: _Job) -> None:
        with self._lock:
            job.begun = True
        result: Any = None
        error: Exception | None = None
        if job.until != inf and (job.left or self._clock() >= job.until):
            error = KernelError("not done: its time was over before its turn came")
        else:
            try:
                result = job.run(job.until)
            except Exception as raised:  # the caller's to see; the thread goes on
                error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_finish, job.answers, result, error)

    def _hold_all(self, interface: str, addresses: tuple[Interface, ...], until: float, prolong: bool) -> Outcome:
        index = look.index_of(interface)
        if index is None:
            state, note = State.GONE if prolong else State.ERROR, f"interface {interface} does not exist"
            return Outcome(tuple(AddressOutcome(address, state, note=note) for address in addresses))
        there: list[AddressMessage] = []
        if prolong or any(address.version == 6 for address in addresses):
            # One look for all of them. What lapses after it is told by `_sure`, for each address by itself.
            try:
                there = look.addresses(index)
            except OSError as error:
                note = f"{interface} cannot be looked at: {error.strerror or error}"
                return Outcome(tuple(AddressOutcome(address, State.ERROR, note=note) for address in addresses))
        present = {message.address for message in there}
        missing = {address for address in addresses if prolong and address not in present}
        results = {
            address: AddressOutcome(address, State.GONE, note=f"it is not on {interface} any more; not added")
            for address in missing
        }
        wanted = [(address, _flags(address, there)) for address in addresses if address not in missing]
        for first in range(0, len(wanted), change.BATCH_MOST):
            batch = wanted[first : first + change.BATCH_MOST]
            results |= self._hold(interface, index, batch, until, prolong)
        return Outcome(tuple(results[address] for address in addresses))

    def _hold(
        self, interface: str, index: int, wanted: list[tuple[Interface, int]], until: float, prolong: bool
    ) -> dict[Interface, AddressOutcome]:
        results: dict[Interface, AddressOutcome] = {}
        for tried in range(_MAX_TRIES):
            before = self._clock()
            seconds = kernel_seconds(until, before + CALL_SECONDS)
            if seconds == 0:
                if before >= until or tried:
                    break
                note = "too little time is left for a lifetime"
                return results | {address: AddressOutcome(address, State.LATE, note=note) for address, _ in wanted}
            # IPv6: preferred for no time at all ("deprecated", RFC 4862 5.5.4) from the start. It answers to whoever
            # asks for it, but the host does not choose it as the source of its own connections (RFC 6724, rule 3),
            # which would break when it moves: those to the broker, for one. IPv4 has no such rule: there a secondary
            # address is not chosen anyway, and the lifetime that is shown should be the true one.
            errors = change.set_all(index, wanted, seconds, preferred_v4=seconds, preferred_v6=0)
            after = self._clock()
            if after >= until:  # and if the kernel has refused one, or not answered: it may have done it after all
                break
            again = []
            for (address, flags), error in zip(wanted, errors, strict=True):
                if error is not None:
                    results[address] = AddressOutcome(address, State.ERROR, note=_line(interface, address, error))
                elif prolong and after >= self._sure.get((interface, address), inf):
                    # A pause after the look above: it may have lapsed meanwhile, and this call have added it anew.
                    self._late(interface, index, address)
                    note = "it may have lapsed while the process slept; deleted"
                    results[address] = AddressOutcome(address, State.GONE, note=note)
                elif after + seconds + SLACK_SECONDS <= until:
                    self._ends[interface, address] = until
                    self._sure[interface, address] = before + seconds
                    results[address] = AddressOutcome(address, State.HELD, seconds)
                else:
                    # The call took so long that the kernel may count past the end: again, with less.
                    again.append((address, flags))
            wanted = again
            if not wanted:
                break
        return results | {address: self._late(interface, index, address) for address, _ in wanted}

    def _late(self, interface: str, index: int, address: Interface) -> AddressOutcome:
        self._ends.pop((interface, address), None)
        self._sure.pop((interface, address), None)
        (error,) = change.delete_all(index, [address])
        if error is not None and error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            return AddressOutcome(address, State.ERROR, note=_line(interface, address, error))
        return AddressOutcome(address, State.LATE, note="its time was over; deleted")

    def _remove_all(self, interface: str, addresses: tuple[Interface, ...]) -> Outcome:
        results: dict[Interface, AddressOutcome] = {}
        index = look.index_of(interface)
        # The last first: where the first of a subnet goes before the others, the kernel has to promote one of them.
        wanted = addresses[::-1]
        for first in range(0, len(wanted), change.BATCH_MOST):
            batch = wanted[first : first + change.BATCH_MOST]
            for address in batch:
                self._ends.pop((interface, address), None)
                self._sure.pop((interface, address), None)
            errors = change.delete_all(index, batch) if index is not None else [None] * len(batch)
            for address, error in zip(batch, errors, strict=True):
                results[address] = _removed(interface, index, address, error)
        return Outcome(tuple(results[address] for address in addresses))


def _removed(interface: str, index: int | None, address: Interface, error: OSError | None) -> AddressOutcome:
    if index is None or (error is not None and error.errno == errno.ENODEV):
        return AddressOutcome(address, State.GONE, note=f"interface {interface} does not exist")
    if error is None:
        return AddressOutcome(address, State.GONE)
    if error.errno == errno.EADDRNOTAVAIL:
        return AddressOutcome(address, State.GONE, note="it was not there")
    return AddressOutcome(address, State.ERROR, note=_line(interface, address, error))


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


def _finish(answers: Iterable[asyncio.Future[Any]], result: Any, error: Exception | None) -> None:
    for answer in answers:
        if answer.done():  # the caller has left
            continue
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
