"""Changes of the kernel's addresses: many in one call, and what became of each. Blocking, so for a thread.

A hundred addresses that are set one by one, a call and an answer each, take some 20 ms; so many in which a service that
moves is away. The kernel carries out what a datagram asks for before the call returns, one request after the other, and
answers each. A fresh socket for every call: an answer that came too late for another cannot be taken for this one's.
"""

import errno
import os
import socket
from collections.abc import Sequence

from locum.address.look import ANSWER_SECONDS, DATAGRAM_BYTES
from locum.address.netlink import EndMessage, Interface, delete_request, messages, set_request

BATCH_MOST = 64
"""Requests in one datagram. Their answers fit into the buffer that a socket has by default (net.core.rmem_default)."""


def set_all(
    index: int, addresses: Sequence[tuple[Interface, int]], valid: int, preferred_v4: int, preferred_v6: int
) -> list[OSError | None]:
    """Sets each address, with its flags (IFA_F_*), for `valid` seconds. Not more than BATCH_MOST of them."""
    return _ask(
        [
            set_request(number, index, address, valid, preferred_v4 if address.version == 4 else preferred_v6, flags)
            for number, (address, flags) in enumerate(addresses)
        ]
    )


def delete_all(index: int, addresses: Sequence[Interface]) -> list[OSError | None]:
    """Removes each address. Not more than BATCH_MOST of them."""
    return _ask([delete_request(number, index, address) for number, address in enumerate(addresses)])


def _ask(requests: list[bytes]) -> list[OSError | None]:
    """For each request None where it was done, or the error: the kernel's own, or ETIMEDOUT where it did not answer."""
    answers: list[OSError | None] = [OSError(errno.ETIMEDOUT, "the kernel did not answer")] * len(requests)
    waiting = set(range(len(requests)))
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(ANSWER_SECONDS)
            kernel.sendto(b"".join(requests), (0, 0))
            while waiting:
                for message in messages(kernel.recv(DATAGRAM_BYTES)):
                    if isinstance(message, EndMessage) and message.sequence in waiting:
                        waiting.discard(message.sequence)
                        code = message.code
                        answers[message.sequence] = OSError(code, os.strerror(code)) if code else None
    except TimeoutError:
        pass
    except OSError as error:
        for number in waiting:
            answers[number] = error
    return answers
