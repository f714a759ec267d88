"""Who has which address, as the kernel tells it: the witness of every claim that no two hosts held one at once.

One netlink socket hears the address events of all hosts (NETLINK_LISTEN_ALL_NSID, netlink(7)), so they come in the
order in which the kernel sent them, whichever host they are from. With a socket per host, "alpha lost it, beta got it"
and the reverse could not be told apart when both are waiting to be read.

The times are those of reception: 0.05 ms late as a rule, more when this process has to wait for a processor. So the
length of an overlap is approximate; whether there was one is not, but for this: the kernel reports a new IPv6 address
from a work queue, a moment after the address works.
"""

import errno
import ipaddress
import select
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from locum.address.netlink import ADDRESS_GROUPS, AddressMessage, messages
from locum.clock import now
from locum.demo import wire
from locum.demo.lab import Host

# linux/netlink.h
_SOL_NETLINK = 270
_NETLINK_LISTEN_ALL_NSID = 8
_SO_RCVBUFFORCE = 33

_BUFFER = 4 * 1024 * 1024  # bytes; an event takes about 1 kB of it


@dataclass(frozen=True, slots=True)
class Change:
    """From at (seconds of locum.clock) on, the host had the address (present) or had it no more."""

    at: float
    host: str
    address: str
    present: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """Between start and end (seconds of locum.clock), these hosts had the address at once."""

    address: str
    start: float
    end: float
    hosts: tuple[str, ...]


class AddressWatch:
    """Watches these addresses (without prefix length) on these hosts of one lab, while its `with` lasts.

    The timeline begins with who has them at the start. A renewal of an address that is there is no change.
    """

    def __init__(self, hosts: Iterable[Host], addresses: Iterable[str]) -> None:
        self._hosts = list(hosts)
        self._addresses = {_plain(address) for address in addresses}
        self._timeline: list[Change] = []
        # Where a host has an address: (interface index, prefix length). It may be there twice.
        self._places: dict[tuple[str, str], set[tuple[int, int]]] = defaultdict(set)
        self._changed = threading.Condition(threading.RLock())
        self._failure: BaseException | None = None
        self.overruns = 0  # how often the kernel had to drop events. Then overlaps may have been missed

    def __enter__(self) -> Self:
        switch = self._hosts[0].lab.switch
        self._names = switch.inside(self._name_namespaces)
        self._socket = switch.inside(_open)
        self._stop, self._stopped = socket.socketpair()
        self._take_stock()
        self._thread = threading.Thread(target=self._run, name="address watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.close()
        self._thread.join()
        self._stopped.close()
        self._socket.close()

    @property
    def timeline(self) -> list[Change]:
        """Every change until now, in the kernel's order."""
        with self._changed:
            return list(self._timeline)

    def held_by(self, address: str) -> tuple[str, ...]:
        """The names of the hosts that have the address now, in alphabetical order."""
        address = _plain(address)
        with self._changed:
            return tuple(sorted(host.name for host in self._hosts if self._places[host.name, address]))

    def overlaps(self, allowance: float = 0.0) -> list[Overlap]:
        """Every time at which two or more hosts had an address at once; one that goes on ends now.

        With an allowance, in seconds, only those that lasted longer. At 0 the shortest counts.
        """
        found = [overlap for address in sorted(self._addresses) for overlap in self._overlaps(address)]
        return [overlap for overlap in found if allowance <= 0 or overlap.end - overlap.start > allowance]

    def wait(self, predicate: Callable[[], bool], timeout: float) -> None:
        """Wait until the predicate is true; it is asked at each change. Raises TimeoutError after that many seconds.

        watch.wait(lambda: watch.held_by("10.0.0.100") == ("beta",), timeout=5)
        """
        with self._changed:
            if self._changed.wait_for(lambda: predicate() or self._failure is not None, timeout) and not self._failure:
                return
            if self._failure:
                raise RuntimeError("the address watch has failed") from self._failure
            latest = "; ".join(f"{'+' if c.present else '-'}{c.host} {c.address}" for c in self._timeline[-6:])
            raise TimeoutError(f"not within {timeout:g} s. The latest changes: {latest or 'none'}")

    # --- the thread

    def _run(self) -> None:
        try:
            overrun = False
            while True:
                try:
                    data, ancillary, _, _ = self._socket.recvmsg(65536, 256)
                except BlockingIOError:
                    if overrun:
                        # All that came before is read, so what the kernel says now is newer.
                        overrun = False
                        self._take_stock()
                    ready, _, _ = select.select([self._socket, self._stopped], [], [])
                    if self._stopped in ready:
                        return
                    continue
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    overrun = True
                    self.overruns += 1
                    continue
                host = self._names.get(_namespace_id(ancillary))
                if host is not None:
                    at = now()
                    for event in _events(data):
                        self._apply(at, host, *event)
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _apply(self, at: float, host: str, address: str, place: tuple[int, int], present: bool) -> None:
        if address not in self._addresses:
            return
        with self._changed:
            places = self._places[host, address]
            before = bool(places)
            (places.add if present else places.discard)(place)
            if bool(places) != before:
                self._timeline.append(Change(at, host, address, present))
                self._changed.notify_all()

    def _take_stock(self) -> None:
        """Ask every host what it has: at the start, and when events were lost."""
        for host in self._hosts:
            there: dict[str, set[tuple[int, int]]] = defaultdict(set)
            for index, text in host.inside(wire.all_addresses):
                interface = ipaddress.ip_interface(text)
                there[str(interface.ip)].add((index, interface.network.prefixlen))
            for address in self._addresses:
                for place in there[address] - self._places[host.name, address]:
                    self._apply(now(), host.name, address, place, True)
                for place in self._places[host.name, address] - there[address]:
                    self._apply(now(), host.name, address, place, False)

    def _name_namespaces(self) -> dict[int | None, str]:
        """Give every host's namespace an id that events can carry, and say whose it is."""
        names: dict[int | None, str] = {}
        with IPRoute() as netlink:
            for host in self._hosts:
                descriptor = host.namespace.descriptor
                try:
                    netlink.set_netnsid(fd=descriptor)
                except NetlinkError as error:
                    if error.code != errno.EEXIST:
                        raise
                names[int(netlink.get_netnsid(fd=descriptor)["nsid"])] = host.name
        return names

    def _overlaps(self, address: str) -> Iterator[Overlap]:
        holders: set[str] = set()
        together: set[str] = set()
        start = 0.0
        for change in self.timeline:
            if change.address != address:
                continue
            before = len(holders)
            (holders.add if change.present else holders.discard)(change.host)
            if len(holders) > 1:
                start = start if before > 1 else change.at
                together |= holders
            elif before > 1:
                yield Overlap(address, start, change.at, tuple(sorted(together)))
                together = set()
        if len(holders) > 1:
            yield Overlap(address, start, now(), tuple(sorted(together)))


def _open() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    except PermissionError:  # in a user namespace: as much as the machine gives to anybody
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    netlink.setsockopt(_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID, 1)
    netlink.bind((0, ADDRESS_GROUPS))
    netlink.setblocking(False)
    return netlink


def _namespace_id(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_NETLINK, _NETLINK_LISTEN_ALL_NSID):
            return int(struct.unpack("=i", data[:4])[0])
    return None  # the switch's own


def _events(data: bytes) -> Iterator[tuple[str, tuple[int, int], bool]]:
    """(address, (interface index, prefix length), present) for each address message in a netlink datagram."""
    for message in messages(data):
        if isinstance(message, AddressMessage):
            place = message.index, message.address.network.prefixlen
            yield str(message.address.ip), place, message.present


def _plain(address: str) -> str:
    return str(ipaddress.ip_interface(address).ip)
