"""One look at the kernel's links and addresses, as they are now. Blocking, so for a thread; well under a millisecond.

A fresh socket for every look: an answer that came too late for an earlier one cannot be taken for this one's.
Every look raises OSError when the kernel refuses it or does not answer within `ANSWER_SECONDS`.
"""

import errno
import os
import socket
from contextlib import suppress

from locum.address.netlink import (
    AddressMessage,
    EndMessage,
    InterruptedMessage,
    Link,
    LinkMessage,
    Message,
    addresses_request,
    links_request,
    messages,
)

ANSWER_SECONDS = 1.0
"""How long to wait for each datagram of an answer. The kernel answers within the call; this is for the day it won't."""

DATAGRAM_BYTES = 65536
_MAX_DATAGRAMS = 4096
_MAX_TRIES = 5
_SOL_NETLINK, _NETLINK_GET_STRICT_CHK = 270, 12


def index_of(interface: str) -> int | None:
    """The index of the interface in this thread's network namespace, None when there is no such interface."""
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return None


def link(interface: str) -> Link:
    """The interface as it is; `exists` is False when there is none of that name."""
    index = index_of(interface)
    if index is None:
        return Link(exists=False)
    try:
        found = _ask(links_request(index), single=True)
    except OSError as error:
        if error.errno == errno.ENODEV:
            return Link(exists=False)
        raise
    for message in found:
        if isinstance(message, LinkMessage) and message.link.index == index:
            return message.link
    return Link(exists=False)


def links() -> list[LinkMessage]:
    """All links of this network namespace."""
    return [message for message in _ask(links_request(0)) if isinstance(message, LinkMessage)]


def addresses(index: int) -> list[AddressMessage]:
    """The addresses of the interface of that index, none when it does not exist."""
    try:
        found = _ask(addresses_request(index))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return []
        raise
    return [message for message in found if isinstance(message, AddressMessage) and message.index == index]


def _ask(request: bytes, single: bool = False) -> list[Message]:
    for _ in range(_MAX_TRIES):
        found = _ask_once(request, single)
        if not any(isinstance(message, InterruptedMessage) for message in found):
            return found
    raise OSError(errno.EAGAIN, "the kernel's tables change too fast to be read")


def _ask_once(request: bytes, single: bool) -> list[Message]:
    found: list[Message] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(ANSWER_SECONDS)
        # With it the kernel looks only at the interface that is asked for, however many others there are (Linux 4.20).
        with suppress(OSError):
            kernel.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        kernel.sendto(request, (0, 0))
        for _ in range(_MAX_DATAGRAMS):
            for message in messages(kernel.recv(DATAGRAM_BYTES)):
                if isinstance(message, EndMessage):
                    if message.code:
                        raise OSError(message.code, os.strerror(message.code))
                    return found
                found.append(message)
            if single and found:
                return found
    raise OSError(errno.EMSGSIZE, "the kernel's answer has no end")
