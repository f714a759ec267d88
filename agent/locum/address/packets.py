"""The frames that ask who has an address and that say who has it now. Pure: values in, bytes out, and back.

Whole Ethernet frames, from the destination on; a MAC address is six bytes here. ARP: RFC 826, 5227 (probe,
announcement) and 5944 section 4.6 (the two forms of gratuitous ARP). Neighbour discovery: RFC 4861, and RFC 4862
section 5.4 for the solicitation that asks without having an address.

Rule: parsing returns None for whatever is not a good frame of its kind, and never raises.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136

BROADCAST = b"\xff" * 6
ALL_NODES = IPv6Address("ff02::1")

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_ICMPV6 = struct.Struct("!BBHI16s")  # type, code, checksum, flags, target
_NEXT_HEADER_ICMPV6 = 58
_HOP_LIMIT = 255  # what comes from another link has less, and does not count (RFC 4861, 7.1)
_FLAG_ROUTER, _FLAG_OVERRIDE = 0x80000000, 0x20000000
_OPTION_TARGET = 2
_MAX_OPTIONS = 16
_UNSPECIFIED_V4, _UNSPECIFIED_V6 = IPv4Address(0), IPv6Address(0)


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet: `op` is 1 (request) or 2 (reply)."""

    op: int
    sender_mac: bytes
    sender: IPv4Address
    target: IPv4Address


@dataclass(frozen=True, slots=True)
class Solicitation:
    """Somebody at `source` (the unspecified address, if it is not sure of its own yet) asks who has `target`."""

    source: IPv6Address
    target: IPv6Address
    mac: bytes


@dataclass(frozen=True, slots=True)
class Advertisement:
    """`target` is at `mac`."""

    target: IPv6Address
    mac: bytes


def mac_text(mac: bytes) -> str:
    """As people write it: "02:00:00:00:00:01"."""
    return mac.hex(":")


def multicast_mac(group: IPv6Address) -> bytes:
    """The MAC address of an IPv6 multicast group (RFC 2464, 7)."""
    return b"\x33\x33" + group.packed[12:]


def solicited_node(address: IPv6Address) -> IPv6Address:
    """The multicast group that everybody listens to who has an address with these last 24 bits (RFC 4291, 2.7.1)."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[13:])


def arp_probe(mac: bytes, target: IPv4Address) -> bytes:
    """Asks who has `target`, and leaves no trace in anybody's cache: its sender address is 0 (RFC 5227, 2.1.1)."""
    return _arp(mac, BROADCAST, ARP_REQUEST, _UNSPECIFIED_V4, bytes(6), target)


def arp_announcement(mac: bytes, address: IPv4Address, reply: bool = False) -> bytes:
    """Tells everybody that `address` is at `mac`, as a request (RFC 5227, 2.3) or a reply (RFC 5944, 4.6).

    Some systems believe only the one, some only the other.
    """
    op, target_mac = (ARP_REPLY, mac) if reply else (ARP_REQUEST, bytes(6))
    return _arp(mac, BROADCAST, op, address, target_mac, address)


def neighbour_probe(mac: bytes, target: IPv6Address) -> bytes:
    """Asks who has `target`, as a host does that has no address yet (RFC 4862, 5.4.2): from ::, without its MAC.

    Who has it answers to all nodes.
    """
    group = solicited_node(target)
    return _neighbour(mac, SOLICITATION, _UNSPECIFIED_V6, group, 0, target, b"")


def neighbour_announcement(mac: bytes, address: IPv6Address, router: bool = False) -> bytes:
    """Tells all nodes that `address` is at `mac` now, unasked, overriding what they know (RFC 4861, 7.2.6).

    `router` must be true for a host that forwards: hosts that read otherwise stop using it as a router (7.2.5).
    """
    flags = _FLAG_OVERRIDE | (_FLAG_ROUTER if router else 0)
    option = bytes((_OPTION_TARGET, 1)) + mac
    return _neighbour(mac, ADVERTISEMENT, address, ALL_NODES, flags, address, option)


def parse_arp(frame: bytes) -> Arp | None:
    """An ARP packet for IPv4 on Ethernet, or None."""
    if len(frame) < _ETHERNET.size + _ARP.size or _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_ARP:
        return None
    hardware, protocol, mac_size, address_size, op, mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if (hardware, protocol, mac_size, address_size) != (1, 0x0800, 6, 4) or op not in (ARP_REQUEST, ARP_REPLY):
        return None
    return Arp(op, mac, IPv4Address(sender), IPv4Address(target))


def parse_solicitation(frame: bytes) -> Solicitation | None:
    """A neighbour solicitation, or None. `mac` is the frame's source."""
    packet = _parse_neighbour(frame, SOLICITATION)
    return None if packet is None else Solicitation(packet.source, packet.target, packet.mac)


def parse_advertisement(frame: bytes) -> Advertisement | None:
    """A neighbour advertisement, or None. `mac` is what it says, or the frame's source if it does not say."""
    packet = _parse_neighbour(frame, ADVERTISEMENT)
    if packet is None:
        return None
    options = packet.options
    for _ in range(_MAX_OPTIONS):
        if not options:
            return Advertisement(packet.target, packet.mac)
        size = 8 * options[1] if len(options) > 1 else 0
        if size == 0 or size > len(options):
            return None
        if options[0] == _OPTION_TARGET and size == 8:
            return Advertisement(packet.target, options[2:8])
        options = options[size:]
    return None


@dataclass(frozen=True, slots=True)
class _Neighbour:
    source: IPv6Address
    target: IPv6Address
    mac: bytes
    options: bytes


def _arp(mac: bytes, to: bytes, op: int, sender: IPv4Address, target_mac: bytes, target: IPv4Address) -> bytes:
    packet = _ARP.pack(1, 0x0800, 6, 4, op, mac, sender.packed, target_mac, target.packed)
    return _ETHERNET.pack(to, mac, ETHERTYPE_ARP) + packet


def _neighbour(
    mac: bytes, kind: int, source: IPv6Address, group: IPv6Address, flags: int, target: IPv6Address, options: bytes
) -> bytes:
    body = _ICMPV6.pack(kind, 0, 0, flags, target.packed) + options
    checksum = _checksum(source.packed, group.packed, body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = _IPV6.pack(0x60000000, len(body), _NEXT_HEADER_ICMPV6, _HOP_LIMIT, source.packed, group.packed)
    return _ETHERNET.pack(multicast_mac(group), mac, ETHERTYPE_IPV6) + header + body


def _parse_neighbour(frame: bytes, kind: int) -> _Neighbour | None:
    start = _ETHERNET.size + _IPV6.size
    if len(frame) < start + _ICMPV6.size or _ETHERNET.unpack_from(frame)[2] != ETHERTYPE_IPV6:
        return None
    first, length, next_header, hops, source, destination = _IPV6.unpack_from(frame, _ETHERNET.size)
    body = frame[start : start + length]
    if first >> 28 != 6 or next_header != _NEXT_HEADER_ICMPV6 or hops != _HOP_LIMIT:
        return None
    if len(body) != length or length < _ICMPV6.size:
        return None
    found_kind, code, _, _, target = _ICMPV6.unpack_from(body)
    if found_kind != kind or code != 0 or _checksum(source, destination, body) != 0:
        return None
    return _Neighbour(IPv6Address(source), IPv6Address(target), frame[6:12], body[_ICMPV6.size :])


def _checksum(source: bytes, destination: bytes, body: bytes) -> int:
    """Over the pseudo-header and the body (RFC 4443, 2.3). Of a body that has its checksum in it: 0 if it is right."""
    data = source + destination + struct.pack("!II", len(body), _NEXT_HEADER_ICMPV6) + body
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
