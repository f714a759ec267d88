"""The part of rtnetlink that is read here: links and addresses, in dumps and in events. Pure: bytes in, records out.

pyroute2 sets and deletes addresses (kernel.py). Reading is done here, because the same few fields are wanted in three
places (looks, dumps and events), some of them between two glances at the clock: the addresses of one interface take
0.06 ms here and 0.49 ms with pyroute2 (measured).
Formats: rtnetlink(7), netlink(7), linux/if_addr.h, linux/if_link.h. All numbers are in the host's byte order.

Rules: bytes that make no sense end the reading, and never raise; messages of other kinds are skipped.
"""

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

Interface = IPv4Interface | IPv6Interface

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100

_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_DEPRECATED = 0x20
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000

_HEADER = struct.Struct("=LHHLL")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
_LINK = struct.Struct("=BBHiII")  # ifinfomsg: family, pad, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ERROR = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is now. `mac` is "02:00:00:00:00:01", empty where there is none; `mtu` is in bytes."""

    exists: bool
    up: bool = False
    carrier: bool = False
    mac: str = ""
    mtu: int = 0
    index: int = 0


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """An interface is there (or has changed), or is gone: `link.exists`."""

    name: str
    link: Link


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """An address is on the interface of that index, or is gone from it."""

    index: int
    address: Interface
    present: bool
    deprecated: bool


@dataclass(frozen=True, slots=True)
class EndMessage:
    """The end of a dump or the refusal of a request: an errno, 0 for a good end."""

    code: int


@dataclass(frozen=True, slots=True)
class InterruptedMessage:
    """What is dumped was changed meanwhile: the dump may have holes (NLM_F_DUMP_INTR)."""


Message = LinkMessage | AddressMessage | EndMessage | InterruptedMessage


def links_request(index: int) -> bytes:
    """Asks for one link by its index, or for all with 0."""
    flags = NLM_F_REQUEST | (0 if index else NLM_F_DUMP)
    body = _LINK.pack(0, 0, 0, index, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), RTM_GETLINK, flags, 1, 0) + body


def addresses_request(index: int) -> bytes:
    """Asks for the addresses of one interface. A kernel without strict checking sends those of all: filter."""
    body = _ADDRESS.pack(0, 0, 0, 0, index)
    return _HEADER.pack(_HEADER.size + len(body), RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """Every message of one datagram that is of a kind known here."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        body = data[at + _HEADER.size : at + length]
        if flags & NLM_F_DUMP_INTR:
            yield InterruptedMessage()
        message = _message(kind, body)
        if message is not None:
            yield message
        at += (length + 3) & ~3


def _message(kind: int, body: bytes) -> Message | None:
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return _address(kind == RTM_NEWADDR, body)
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return _link(kind == RTM_NEWLINK, body)
    if kind in (NLMSG_ERROR, NLMSG_DONE):
        code = _ERROR.unpack_from(body)[0] if len(body) >= _ERROR.size else 0
        return EndMessage(code=abs(code))
    return None


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _number(data: bytes | None, otherwise: int) -> int:
    return int(struct.unpack("=I", data)[0]) if data is not None and len(data) == 4 else otherwise


def _address(present: bool, body: bytes) -> AddressMessage | None:
    if len(body) < _ADDRESS.size:
        return None
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    attributes = _attributes(body[_ADDRESS.size :])
    # IFA_LOCAL is the address itself; IFA_ADDRESS is the other end's on a point-to-point link. IPv6 has often only one.
    raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS, b""))
    address: Interface
    if family == socket.AF_INET and len(raw) == 4 and prefix <= 32:
        address = IPv4Interface((IPv4Address(raw), prefix))
    elif family == socket.AF_INET6 and len(raw) == 16 and prefix <= 128:
        address = IPv6Interface((IPv6Address(raw), prefix))
    else:
        return None
    flags = _number(attributes.get(_IFA_FLAGS), flags)
    return AddressMessage(index, address, present, deprecated=bool(flags & _IFA_F_DEPRECATED))


def _link(exists: bool, body: bytes) -> LinkMessage | None:
    if len(body) < _LINK.size:
        return None
    family, _, _, index, flags, _ = _LINK.unpack_from(body)
    # Other families say something else with the same message: a port that leaves a bridge is an AF_BRIDGE "delete".
    if family != socket.AF_UNSPEC:
        return None
    attributes = _attributes(body[_LINK.size :])
    name = attributes.get(_IFLA_IFNAME, b"").split(b"\0")[0].decode("utf-8", "replace")
    if not exists:
        return LinkMessage(name, Link(exists=False, index=index))
    link = Link(
        exists=True,
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_UP) and bool(flags & _IFF_LOWER_UP),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(attributes.get(_IFLA_MTU), 0),
        index=index,
    )
    return LinkMessage(name, link)
