"""`locum check --bus`: whether the lease protocol is safe on a broker, measured.

It needs one thing of it: every subscriber is handed the same messages in the same order. So several clients, each at
another server where a broker is several, publish at once and listen to all of it; and the order that each of them heard
is compared. Beside it: how long an echo takes.
"""

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiomqtt

from locum.access import access
from locum.aside import aside
from locum.bus import CLUSTER_PATIENCE, address_of, client
from locum.commands.listener import CONNECT_SECONDS
from locum.config import Config, broker_ways

CLIENTS = 3
MESSAGES = 500
"""Of each client."""
ECHOES = 40
HEAR_SECONDS = 20.0
AT_ONCE = 20
"""Messages of a client that are under way."""


@dataclass
class Measured:
    """Of one broker."""

    url: str
    problem: str = ""
    """Why it could not be measured."""
    messages: int = 0
    differing: int = 0
    """Positions at which not all heard the same."""
    missing: int = 0
    doubled: int = 0
    echoes: list[float] = field(default_factory=list)
    """Seconds."""

    @property
    def safe(self) -> bool:
        return not self.problem and self.differing == 0 and self.missing == 0

    def lines(self) -> list[str]:
        """What it comes to, for people."""
        if self.problem:
            return [f"broker {self.url}: {self.problem}"]
        found = [f"broker {self.url}: {self.messages} messages of {CLIENTS} clients at once"]
        if self.differing:
            found.append(f"  NOT SAFE: subscribers heard another order at {self.differing} of them")
        if self.missing:
            found.append(f"  NOT SAFE: {self.missing} were confirmed, and not heard by all")
        if self.safe:
            found.append("  safe for the lease protocol: every subscriber heard the same, in the same order")
        if self.doubled:
            found.append(f"  {self.doubled} came twice, which does no harm")
        if self.echoes:
            median, worst = statistics.median(self.echoes) * 1000, max(self.echoes) * 1000
            found.append(f"  echo: median {median:.1f} ms, longest {worst:.1f} ms")
        return found


async def measure(config: Config, url: str, qos: int = 1) -> Measured:
    """Does it to one broker. `qos`: the agent's is 1."""
    result = Measured(url)
    topic = f"locum/{config.cluster}/probe/{secrets.token_hex(6)}"
    ways = broker_ways(url)
    try:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for number in range(CLIENTS):
                way = ways[number % len(ways)]
                proof = await aside(lambda way=way: access(config, way, operator=True), timeout=CONNECT_SECONDS)  # type: ignore[misc]
                place = await address_of(way, CONNECT_SECONDS)
                one = client(place, None, patience=CONNECT_SECONDS, answers=CLUSTER_PATIENCE, proof=proof)
                await stack.enter_async_context(one)
                await one.subscribe(topic, qos=qos)
                clients.append(one)
            await _order(result, clients, topic, qos)
            await _echo(result, clients[0], topic, qos)
    except* (aiomqtt.MqttError, OSError, ValueError) as errors:
        result.problem = str(errors.exceptions[0]) or type(errors.exceptions[0]).__name__
    return result


async def _order(result: Measured, clients: Sequence[aiomqtt.Client], topic: str, qos: int) -> None:
    result.messages = MESSAGES * len(clients)
    heard: list[list[bytes]] = [[] for _ in clients]

    async def listen(one: aiomqtt.Client, into: list[bytes]) -> None:
        seen: set[bytes] = set()
        async for message in one.messages:
            payload = bytes(message.payload) if isinstance(message.payload, bytes | bytearray) else b""
            if payload in seen:
                result.doubled += 1
                continue
            seen.add(payload)
            into.append(payload)
            if len(into) == result.messages:
                return

    async def publish(number: int, one: aiomqtt.Client) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def send(count: int) -> None:
            async with room:
                await one.publish(topic, f"{number}-{count}".encode(), qos=qos)

        async with asyncio.TaskGroup() as sending:
            for count in range(MESSAGES):
                sending.create_task(send(count))

    listening = [asyncio.create_task(listen(one, into)) for one, into in zip(clients, heard, strict=True)]
    try:
        async with asyncio.TaskGroup() as publishing:
            for number, one in enumerate(clients):
                publishing.create_task(publish(number, one))
        await asyncio.wait(listening, timeout=HEAR_SECONDS)
    finally:
        for task in listening:
            task.cancel()
        for ended in await asyncio.gather(*listening, return_exceptions=True):
            if isinstance(ended, aiomqtt.MqttError):
                raise ended
    result.missing = result.messages - min(len(into) for into in heard)
    result.differing = sum(len(set(there)) > 1 for there in zip(*heard, strict=False))


async def _echo(result: Measured, one: aiomqtt.Client, topic: str, qos: int) -> None:
    messages = aiter(one.messages)
    for count in range(ECHOES):
        payload = f"echo-{count}".encode()
        sent = time.perf_counter()
        async with asyncio.timeout(HEAR_SECONDS):
            await one.publish(topic, payload, qos=qos)
            while (await anext(messages)).payload != payload:
                pass
        result.echoes.append(time.perf_counter() - sent)
        await asyncio.sleep(0.01)
