"""One interface's wire: asks whether somebody uses an address, and tells the neighbours where it is now.

Rules:
- Silence counts only when the question went out and the answer could have come in: an interface that is gone, down,
  without carrier or not Ethernet is an error, never silence.
- Whoever *uses* an address has it: an ARP packet from it, a neighbour advertisement of it, a solicitation from it. Who
  only asks for it has it not: the probes of other standbys (RFC 5227; RFC 4862) do not count. Nor does our own MAC.
- A busy interface does not wake the agent. The kernel filters (socket(7), SO_ATTACH_FILTER): only ARP and neighbour
  discovery pass while a probe runs, and nothing otherwise.
- While an address is held, only frames in which somebody says that it is his get through (RFC 5227, section 2.4).
- Nothing here waits but a probe, and that no longer than `LISTEN_SECONDS`.

Limits: by default (arp_ignore=0) Linux answers ARP for its addresses on whatever interface it is asked. So a host with
two interfaces in one network answers itself, with the other one's MAC, for an address that it has on the other one; and
a host with the address on its loopback (direct-routing load balancers) answers too. Both use it, and are told of.
A switch that drops solicited-node multicasts (MLD snooping without a querier) hides IPv6 users.
"""

import asyncio
import ctypes
import errno
import fcntl
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from locum.address import look, packets
from locum.address.netlink import Interface

log = logging.getLogger(__name__)

SECOND_ASK_SECONDS = 0.020
"""After the first question comes a second one: either may be lost."""

LISTEN_SECONDS = 0.040
"""A probe ends so long after its first question. A host on a local network answers within a millisecond."""

MAX_FRAMES = 16
"""Frames of one probe: so 8 addresses, each asked for twice. Following probes go on with the others, in turn."""

_MAX_READS = 64  # frames taken at once, before the loop has its turn
_MAX_STALE = 4096  # frames thrown away when a probe begins
_MAX_TURNS = 64  # lists of addresses whose turns are remembered
_FRAME_BYTES = 2048

_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST, _PACKET_IGNORE_OUTGOING = 263, 1, 0, 23
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCETHTOOL, _ETHTOOL_GLINK = 0x8913, 0x8927, 0x8946, 0x0A
_IFF_UP, _ARPHRD_ETHER = 0x1, 1

_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x28, 0x30, 0x15, 0x06

NOTHING = ((_RETURN, 0, 0, 0),)
"""The filter of a socket while nobody listens."""

NEIGHBOURS = (  # (code, jump if true, jump if false, value): linux/filter.h; jumps count from the next line
    (_LOAD_HALF, 0, 0, 12),  # EtherType
    (_JUMP_IF_EQUAL, 6, 0, packets.ETHERTYPE_ARP),  # to "accept"
    (_JUMP_IF_EQUAL, 0, 6, packets.ETHERTYPE_IPV6),  # else to "drop"
    (_LOAD_BYTE, 0, 0, 14 + 6),  # the next header of IPv6
    (_JUMP_IF_EQUAL, 0, 4, 58),  # ICMPv6
    (_LOAD_BYTE, 0, 0, 14 + 40),  # its type
    (_JUMP_IF_EQUAL, 1, 0, packets.SOLICITATION),
    (_JUMP_IF_EQUAL, 0, 1, packets.ADVERTISEMENT),
    (_RETURN, 0, 0, 0xFFFF),  # accept
    (_RETURN, 0, 0, 0),  # drop
)
"""The filter of a socket while a probe listens: ARP, neighbour solicitations and advertisements."""


_SENDER_OF_ARP, _NEXT_HEADER, _ICMP_TYPE, _TARGETS_END = 28, 20, 54, 74
"""Where in a frame they begin; of an advertisement's target only the last four bytes are looked at by the kernel."""


def _guards(
    addresses: Iterable[IPv4Address | IPv6Address],
) -> Iterator[tuple[int, tuple[tuple[int, int, int, int], ...]]]:
    """For each EtherType, the filter that lets through what says whose these addresses are."""
    wanted: dict[int, list[int]] = {4: [], 6: []}
    for address in addresses:
        wanted[address.version].append(int(address) & 0xFFFFFFFF)
    for version, values in wanted.items():
        one_of: list[tuple[int, int, int, int]] = []
        for value in values:
            one_of += [(_JUMP_IF_EQUAL, 0, 1, value), (_RETURN, 0, 0, 0xFFFF)]
        ethertype = packets.ETHERTYPE_ARP if version == 4 else packets.ETHERTYPE_IPV6
        if not values:
            yield ethertype, NOTHING
        elif version == 4:
            yield ethertype, ((_LOAD_WORD, 0, 0, _SENDER_OF_ARP), *one_of, *NOTHING)
        else:
            head = (
                (_LOAD_BYTE, 0, 0, _NEXT_HEADER),
                (_JUMP_IF_EQUAL, 1, 0, 58),
                *NOTHING,
                (_LOAD_BYTE, 0, 0, _ICMP_TYPE),
                (_JUMP_IF_EQUAL, 1, 0, packets.ADVERTISEMENT),
                *NOTHING,
                (_LOAD_WORD, 0, 0, _TARGETS_END),
            )
            yield ethertype, (*head, *one_of, *NOTHING)


class WireError(OSError):
    """The wire cannot be asked now. One line that says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Somebody uses the address: whose MAC it is, as "02:00:00:00:00:01"."""

    address: Interface
    mac: str


@dataclass(slots=True, eq=False)
class _Listener:
    """A probe that runs: what it asks for, and where its answer goes."""

    wanted: dict[IPv4Address | IPv6Address, Interface]
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Wire:
    """The wire of one interface, which need not exist yet. Belongs to one event loop. `close()` it at the end."""

    def __init__(self, interface: str) -> None:
        self.interface = interface
        self._index = 0
        self._mac = b""
        self._sockets: dict[int, socket.socket] = {}  # by EtherType
        self._reading: dict[socket.socket, asyncio.AbstractEventLoop] = {}
        self._listeners: list[_Listener] = []
        self._turns: dict[tuple[Interface, ...], int] = {}
        self._guarded: dict[IPv4Address | IPv6Address, Interface] = {}
        self._guards: dict[int, socket.socket] = {}  # by EtherType
        self._guards_index = 0
        self._guards_loop: asyncio.AbstractEventLoop | None = None
        self._on_use: Callable[[Answer], None] = lambda answer: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def probe(self, addresses: Sequence[Interface]) -> Answer | None:
        """Who of the others uses one of these addresses? The first that answers, or None for silence.

        Takes `LISTEN_SECONDS`, or as long as the first answer takes. With more addresses than fit into `MAX_FRAMES`,
        every call asks for the next few. Raises WireError if the wire cannot be asked, or not heard.
        """
        chosen = self._turn(tuple(addresses))
        if not chosen:
            return None
        families = {_ethertype(address) for address in chosen}
        listener = _Listener({address.ip: address for address in chosen})
        try:
            self._ready(families)
            self._listen(listener, families)
            self._ask(chosen)
            await asyncio.wait((listener.answer,), timeout=SECOND_ASK_SECONDS)
            if not listener.answer.done():
                self._ask(chosen)
                await asyncio.wait((listener.answer,), timeout=LISTEN_SECONDS - SECOND_ASK_SECONDS)
            # A loop that was late may have got to the timer first: what has come meanwhile counts.
            for ethertype in families:
                if ethertype in self._sockets:
                    self._read(self._sockets[ethertype])
            if listener.answer.done():
                return listener.answer.result()
            index = self._index
            self._ready(families)
            if index != self._index:
                raise WireError(f"{self.interface} was made anew while it was asked")
            return None
        except WireError:
            raise
        except OSError as error:
            self.close_sockets()
            raise WireError(f"{self.interface}: {error.strerror or error}") from error
        finally:
            self._unlisten(listener)

    def announce(self, addresses: Sequence[Interface], router: bool = False) -> None:
        """Tells the neighbours, at once, that the addresses are here: gratuitous ARP in both forms, unsolicited NA.

        `router`: this host forwards IPv6. What fails is logged, and never raised.
        """
        for ethertype in (packets.ETHERTYPE_ARP, packets.ETHERTYPE_IPV6):
            of_family = [address for address in addresses if _ethertype(address) == ethertype]
            try:
                if of_family:
                    self._ready({ethertype})
            except OSError as error:
                log.warning("not announced on %s: %s: %s", self.interface, ", ".join(map(str, of_family)), error)
                continue
            for address in of_family:
                try:
                    for frame in _announcements(self._mac, address, router):
                        self._send(ethertype, frame)
                except OSError as error:
                    log.warning("%s was not announced on %s: %s", address, self.interface, error)

    def guard(self, addresses: Iterable[Interface], on_use: Callable[[Answer], None]) -> None:
        """From now on `on_use` is called in the loop when another machine says that it has one of these addresses.

        What is guarded before is not any more; with no addresses nothing is. Raises OSError; nothing is guarded then.
        """
        self._guarded = {address.ip: address for address in addresses}
        self._on_use = on_use
        index = look.index_of(self.interface) or 0
        if index != self._guards_index:
            self._stop_guarding()  # the old ones hear an interface that is gone
            self._guards_index = index
        try:
            for ethertype, program in _guards(self._guarded):
                if ethertype in self._guards:
                    # Another filter only: closing such a socket takes the kernel milliseconds (packet_release).
                    attach_filter(self._guards[ethertype], program)
                elif program != NOTHING:
                    self._open_guard(ethertype, index, program)
        except OSError:
            self._stop_guarding()
            raise

    def _open_guard(self, ethertype: int, index: int, program: Sequence[tuple[int, int, int, int]]) -> None:
        opened = _open(self.interface, index, ethertype)
        self._guards[ethertype] = opened
        with suppress(OSError):  # Linux 4.20; before, our own frames come too, and are known by their MAC
            opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        attach_filter(opened, program)
        self._guards_loop = asyncio.get_running_loop()
        self._guards_loop.add_reader(opened, self._overhear, opened)

    def _overhear(self, opened: socket.socket) -> None:
        for _ in range(_MAX_READS):
            try:
                frame, sender = opened.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:  # the interface is down, or gone: told once, and the agent hears of it by other ways
                return
            used = _used(frame) if sender[0] == self.interface else None
            if used is None or used[0] not in self._guarded or used[1] == self._own_mac():
                continue
            self._on_use(Answer(self._guarded[used[0]], packets.mac_text(used[1])))

    def _own_mac(self) -> bytes:
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                return _mac(asked, self.interface)
        except OSError:
            return self._mac

    def _stop_guarding(self) -> None:
        for opened in self._guards.values():
            if self._guards_loop is not None and not self._guards_loop.is_closed():
                self._guards_loop.remove_reader(opened)
            opened.close()
        self._guards.clear()

    def close(self) -> None:
        """Closes everything. A probe that runs raises WireError; a later call opens what it needs again."""
        self.close_sockets()
        self._guarded = {}
        self._stop_guarding()
        for listener in self._listeners:
            if not listener.answer.done():
                listener.answer.set_exception(WireError(f"{self.interface}: closed while it was asked"))

    def close_sockets(self) -> None:
        """Closes the sockets; the next call opens them again."""
        for ethertype in tuple(self._sockets):
            opened = self._sockets.pop(ethertype)
            self._stop_reading(opened)
            opened.close()

    def _turn(self, addresses: tuple[Interface, ...]) -> tuple[Interface, ...]:
        size = MAX_FRAMES // 2
        if len(addresses) <= size:
            return addresses
        if len(self._turns) >= _MAX_TURNS:
            self._turns.clear()
        start = self._turns.get(addresses, 0)
        self._turns[addresses] = (start + size) % len(addresses)
        return (addresses + addresses)[start : start + size]

    def _ready(self, families: Iterable[int]) -> None:
        """Looks at the interface, and opens what is missing. Raises WireError if it cannot be used now."""
        index = look.index_of(self.interface)
        if index is None:
            self.close_sockets()
            raise WireError(f"interface {self.interface} does not exist")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                self._mac = _mac(asked, self.interface)
                problem = _problem(asked, self.interface)
        except OSError as error:
            self.close_sockets()
            if error.errno in (errno.ENODEV, errno.ENXIO):
                raise WireError(f"interface {self.interface} does not exist") from None
            raise
        if problem:
            raise WireError(problem)
        if index != self._index:
            self.close_sockets()
            self._index = index
        for ethertype in families:
            if ethertype in self._sockets and not self._listeners:
                # That the interface was down some time ago would be told with the next frame.
                self._sockets[ethertype].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            elif ethertype not in self._sockets:
                self._sockets[ethertype] = _open(self.interface, index, ethertype)

    def _listen(self, listener: _Listener, families: Iterable[int]) -> None:
        self._listeners.append(listener)
        loop = asyncio.get_running_loop()
        for ethertype in families:
            opened = self._sockets[ethertype]
            if opened in self._reading:
                continue
            _drain(opened)
            attach_filter(opened, NEIGHBOURS)
            loop.add_reader(opened, self._readable, opened)
            self._reading[opened] = loop

    def _unlisten(self, listener: _Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)
        if listener.answer.done() and not listener.answer.cancelled():
            listener.answer.exception()  # seen: nobody is to be warned of it
        if not self._listeners:
            for opened in tuple(self._reading):
                self._stop_reading(opened)
                with suppress(OSError):
                    attach_filter(opened, NOTHING)

    def _stop_reading(self, opened: socket.socket) -> None:
        loop = self._reading.pop(opened, None)
        if loop is not None and not loop.is_closed():
            loop.remove_reader(opened)

    def _ask(self, addresses: Iterable[Interface]) -> None:
        for address in addresses:
            ip = address.ip
            if isinstance(ip, IPv4Address):
                frame = packets.arp_probe(self._mac, ip)
            else:
                frame = packets.neighbour_probe(self._mac, ip)
            self._send(_ethertype(address), frame)

    def _send(self, ethertype: int, frame: bytes) -> None:
        """Raises OSError."""
        opened = self._sockets.get(ethertype)
        if opened is None:
            raise WireError(f"{self.interface}: closed while it was asked")
        opened.send(frame)

    def _readable(self, opened: socket.socket) -> None:
        try:
            self._read(opened)
        except OSError as error:
            # The interface is down or gone: the kernel has unbound the socket.
            problem = WireError(f"{self.interface}: {error.strerror or error}")
            self.close_sockets()
            for listener in self._listeners:
                if not listener.answer.done():
                    listener.answer.set_exception(problem)

    def _read(self, opened: socket.socket) -> None:
        """Raises OSError."""
        for _ in range(_MAX_READS):
            try:
                frame, sender = opened.recvfrom(_FRAME_BYTES)
            except BlockingIOError:
                return
            # A frame of a VLAN on top of the interface shows here too, but with that interface's name.
            if sender[0] == self.interface and frame[6:12] != self._mac:
                self._heard(frame)

    def _heard(self, frame: bytes) -> None:
        used = _used(frame)
        if used is None or used[1] == self._mac:
            return
        for listener in self._listeners:
            address = listener.wanted.get(used[0])
            if address is not None and not listener.answer.done():
                listener.answer.set_result(Answer(address, packets.mac_text(used[1])))


def attach_filter(opened: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Gives a socket a classic BPF program (socket(7)), in place of the one that it has. Raises OSError."""
    code = b"".join(struct.pack("=HBBI", *line) for line in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer)))


def _used(frame: bytes) -> tuple[IPv4Address | IPv6Address, bytes] | None:
    """The address whose use the frame shows, and the MAC of who uses it."""
    arp = packets.parse_arp(frame)
    if arp is not None:
        return arp.sender, arp.sender_mac
    advertisement = packets.parse_advertisement(frame)
    if advertisement is not None:
        return advertisement.target, advertisement.mac
    solicitation = packets.parse_solicitation(frame)
    if solicitation is not None:
        return solicitation.source, solicitation.mac
    return None


def _announcements(mac: bytes, address: Interface, router: bool) -> tuple[bytes, ...]:
    ip = address.ip
    if isinstance(ip, IPv4Address):
        return packets.arp_announcement(mac, ip), packets.arp_announcement(mac, ip, reply=True)
    return (packets.neighbour_announcement(mac, ip, router),)


def _ethertype(address: Interface) -> int:
    return packets.ETHERTYPE_ARP if address.version == 4 else packets.ETHERTYPE_IPV6


def _open(interface: str, index: int, ethertype: int) -> socket.socket:
    """A packet socket (packet(7)) that lets nothing in until it is given another filter. Raises OSError."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        attach_filter(opened, NOTHING)
        opened.bind((interface, ethertype))
        if ethertype == packets.ETHERTYPE_IPV6:
            # Answers go to all nodes. An interface without IPv6 of its own would not take them in.
            group = packets.multicast_mac(packets.ALL_NODES)
            membership = struct.pack("@iHH8s", index, _PACKET_MR_MULTICAST, len(group), group)
            opened.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    except BaseException:
        opened.close()
        raise
    return opened


def _drain(opened: socket.socket) -> None:
    """Throws away what a former probe left, and what the kernel had to say about the interface's past."""
    for _ in range(_MAX_STALE):
        try:
            opened.recv(1)
        except BlockingIOError:
            return
        except OSError:
            continue  # told once: the interface was down meanwhile


def _mac(asked: socket.socket, interface: str) -> bytes:
    request = struct.pack("@16sH22x", interface.encode(), 0)
    answer = fcntl.ioctl(asked, _SIOCGIFHWADDR, request)
    kind, mac = struct.unpack("@16xH6s16x", answer)
    if kind != _ARPHRD_ETHER:
        raise WireError(f"{interface} is no Ethernet interface: no neighbour can be asked there")
    return bytes(mac)


def _problem(asked: socket.socket, interface: str) -> str:
    """Why the interface cannot carry a frame now, empty if it can."""
    answer = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("@16sH22x", interface.encode(), 0))
    flags = struct.unpack("@16xH22x", answer)[0]
    if not flags & _IFF_UP:
        return f"interface {interface} is down"
    # IFF_RUNNING may be a second behind a lost carrier; the driver knows it now. ethtool_value: command, data.
    value = ctypes.create_string_buffer(struct.pack("@II", _ETHTOOL_GLINK, 0), 8)
    try:
        fcntl.ioctl(asked, _SIOCETHTOOL, struct.pack("@16sP16x", interface.encode(), ctypes.addressof(value)))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a driver that does not say is taken to have one
            return ""
        raise
    return "" if struct.unpack("@II", value.raw)[1] else f"interface {interface} has no carrier"
