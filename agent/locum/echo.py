"""The second opinion when the brokers are away: does another node, or the gateway, answer an ICMP echo?"""

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Sequence
from typing import Any


def _load() -> Any:
    """aioping, also where /etc/protocols is missing (Debian's package netbase): it looks up two numbers there."""
    try:
        return importlib.import_module("aioping")
    except OSError:
        numbers = {"icmp": socket.IPPROTO_ICMP, "ipv6-icmp": socket.IPPROTO_ICMPV6}
        look_up, socket.getprotobyname = socket.getprotobyname, numbers.__getitem__
        try:
            return importlib.import_module("aioping")
        finally:
            socket.getprotobyname = look_up


aioping = _load()


async def first_answer(hosts: Sequence[str], seconds: float) -> str:
    """Asks all hosts at once; returns the first that answers within `seconds`, or "" if none does.

    aioping is bounded by its own timeout and never cancelled: it would leak its socket.
    """
    if not hosts:
        return ""
    answered: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask(host: str) -> None:
        # Any failure is a missing answer: no route, no permission, a packet that aioping cannot read.
        with contextlib.suppress(Exception):
            await aioping.ping(host, timeout=seconds)
            if not answered.done():
                answered.set_result(host)

    asking = [asyncio.ensure_future(ask(host)) for host in hosts]
    everybody = asyncio.gather(*asking)
    everybody.add_done_callback(lambda _: None if answered.done() else answered.set_result(""))
    return await asyncio.shield(answered)
