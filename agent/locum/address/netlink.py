"""The part of rtnetlink that is used here: links and addresses, asked for, changed, told of in events. Pure: no I/O.

pyroute2 knows the formats (rtnetlink(7), netlink(7)): its classes write the requests and read the answers, and here
they become the few fields that are wanted (in looks, changes and events). What carries the bytes is a plain socket
(look.py, change.py, watch.py), because pyroute2's own asks without an end, does not look at what ends a dump (an errno,
or that it was interrupted), does not tell which of several requests was refused, and keeps events in a queue without a
bound, which is of no use once the kernel had to drop one.

Rules: bytes that make no sense end the reading, and never raise; messages of other kinds are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from socket import AF_INET, AF_INET6, AF_UNSPEC
from typing import Any

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.marshal import Marshal
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DEPRECATED, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOWER_UP, IFF_UP, ifinfmsg

Interface = IPv4Interface | IPv6Interface

GROUPS = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
"""The events of links and addresses."""
ADDRESS_GROUPS = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR


FOREVER = 2**32 - 1
"""A lifetime without an end, in the kernel's words (rtnetlink(7))."""


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
    valid: int = FOREVER
    """Seconds that its lifetime still has."""


@dataclass(frozen=True, slots=True)
class EndMessage:
    """The end of a dump, or the answer to a change: an errno, 0 for a good end."""

    code: int
    sequence: int = 0
    """The number of the request."""


@dataclass(frozen=True, slots=True)
class InterruptedMessage:
    """What is dumped was changed meanwhile: the dump may have holes (NLM_F_DUMP_INTR)."""


Message = LinkMessage | AddressMessage | EndMessage | InterruptedMessage


class _Done(nlmsg):  # type: ignore[misc]
    """The end of a dump, which has an errno where pyroute2 reads nothing (netlink_dump in net/netlink/af_netlink.c)."""

    fields = (("error", "i"),)


class _Marshal(Marshal):  # type: ignore[misc]
    """pyroute2's reader, for what is wanted here only: all else it skips at the price of a header."""

    msg_map = {  # noqa: RUF012
        RTM_NEWLINK: ifinfmsg,
        RTM_DELLINK: ifinfmsg,
        RTM_NEWADDR: ifaddrmsg,
        RTM_DELADDR: ifaddrmsg,
        NLMSG_DONE: _Done,
    }


def links_request(index: int) -> bytes:
    """Asks for one link by its index, or for all with 0."""
    return _request(ifinfmsg(), RTM_GETLINK, index, dump=not index)


def addresses_request(index: int) -> bytes:
    """Asks for the addresses of one interface. A kernel without strict checking sends those of all: filter."""
    return _request(ifaddrmsg(), RTM_GETADDR, index, dump=True)


def set_request(sequence: int, index: int, address: Interface, valid: int, preferred: int, flags: int = 0) -> bytes:
    """Sets the address for so many seconds, or gives it this lifetime if it is there. Answered by an EndMessage."""
    message = _about(index, address)
    message["attrs"].append(("IFA_CACHEINFO", {"ifa_preferred": preferred, "ifa_valid": valid}))
    if flags:
        message["attrs"].append(("IFA_FLAGS", flags))
    return _encoded(message, RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, sequence)


def delete_request(sequence: int, index: int, address: Interface) -> bytes:
    """Removes the address. Answered by an EndMessage."""
    return _encoded(_about(index, address), RTM_DELADDR, NLM_F_ACK, sequence)


def _about(index: int, address: Interface) -> Any:
    message = ifaddrmsg()
    message["family"] = AF_INET if address.version == 4 else AF_INET6
    message["prefixlen"] = address.network.prefixlen
    message["index"] = index
    ip = str(address.ip)
    message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    return message


def _request(message: Any, kind: int, index: int, dump: bool) -> bytes:
    message["family"] = AF_UNSPEC
    message["index"] = index
    return _encoded(message, kind, NLM_F_DUMP if dump else 0, 1)


def _encoded(message: Any, kind: int, flags: int, sequence: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = NLM_F_REQUEST | flags
    message["header"]["sequence_number"] = sequence
    message.encode()
    return bytes(message.data)


def messages(data: bytes) -> Iterator[Message]:
    """Every message of one datagram that is of a kind known here."""
    try:
        # A reader for each datagram: it has state, and two threads come here.
        for message in _Marshal().parse(data):
            header = message["header"]
            if header["flags"] & NLM_F_DUMP_INTR:
                yield InterruptedMessage()
            record = _record(header["type"], message)
            if record is not None:
                yield record
    except Exception:
        # pyroute2 raises whatever comes up; the kernel sends nothing of that kind.
        return


def _record(kind: int, message: Any) -> Message | None:
    if kind in (NLMSG_ERROR, NLMSG_DONE):
        return EndMessage(abs(message["error"]), message["header"]["sequence_number"])
    if message["header"]["error"] is not None:  # what could not be read
        return None
    if kind in (RTM_NEWADDR, RTM_DELADDR):
        return _address(kind == RTM_NEWADDR, message)
    if kind in (RTM_NEWLINK, RTM_DELLINK):
        return _link(kind == RTM_NEWLINK, message)
    return None


def _address(present: bool, message: Any) -> AddressMessage | None:
    # IFA_LOCAL is the address itself; IFA_ADDRESS is the other end's on a point-to-point link. IPv6 has often only one.
    text = message.get("local") or message.get("address")
    if not isinstance(text, str):
        return None
    address = ip_interface(f"{text}/{message['prefixlen']}")
    lifetimes = message.get("cacheinfo") or {}
    return AddressMessage(
        message["index"],
        address,
        present,
        deprecated=bool(message["flags"] & IFA_F_DEPRECATED),
        valid=int(lifetimes.get("ifa_valid", FOREVER)),
    )


def _link(exists: bool, message: Any) -> LinkMessage | None:
    # Other families say something else with the same message: a port that leaves a bridge is an AF_BRIDGE "delete".
    if message["family"] != AF_UNSPEC:
        return None
    name, index = str(message.get("ifname") or ""), int(message["index"])
    if not exists:
        return LinkMessage(name, Link(exists=False, index=index))
    flags = int(message["flags"])
    link = Link(
        exists=True,
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_UP) and bool(flags & IFF_LOWER_UP),
        mac=str(message.get("address") or ""),
        mtu=int(message.get("mtu") or 0),
        index=index,
    )
    return LinkMessage(name, link)
