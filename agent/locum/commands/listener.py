"""A guest on the bus: what the commands use to hear the cluster, and to say one thing to it."""

import asyncio
import contextlib
import getpass
import os
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiomqtt

from locum import replay
from locum.access import access, signing_keys
from locum.aside import aside
from locum.bus import CLUSTER_PATIENCE, LIVE_ONLY, address_of, client, decode
from locum.config import Config, broker_ways
from locum.messages import Beat, Command, Message, Topics
from locum.signing import Keys, Unsigned

CONNECT_SECONDS = 2.0
WAITING_MOST = 10_000


class Listener:
    """The brokers that could be reached, and what comes from them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.topics = Topics(config.cluster)
        self.failed: dict[str, str] = {}
        """Brokers that could not be reached, and why."""
        self._clients: dict[str, aiomqtt.Client] = {}
        self._keys: Keys | None = None
        self._beats: dict[str, Beat] = {}
        self._heard: asyncio.Queue[tuple[str, Message]] = asyncio.Queue(WAITING_MOST)

    @property
    def reached(self) -> list[str]:
        return list(self._clients)

    async def next(self, until: float) -> tuple[str, Message] | None:
        """The next message with its kind of topic; None when the loop's time is `until`, or no broker is left."""
        loop = asyncio.get_running_loop()
        while (left := until - loop.time()) > 0 and (self._clients or not self._heard.empty()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, 0.25)):
                    return await self._heard.get()
        return None

    async def publish(self, topic: str, payload: bytes) -> None:
        """To every broker that was reached. Raises MqttError if none of them takes it."""
        payload = payload if self._keys is None else self._keys.sign(topic, payload)
        results = await asyncio.gather(
            *(broker.publish(topic, payload, qos=1) for broker in self._clients.values()), return_exceptions=True
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if len(errors) == len(results):
            raise errors[0] if errors else aiomqtt.MqttError("no broker is there")

    def command(self, **of: Any) -> Command:
        """A command, as of the beats that were heard so far."""
        seen = replay.seen(self._beats) if self._keys is not None else {}
        return Command(id=unique(), by=who(), seen=seen, **of)

    async def send(self, command: Command) -> None:
        await self.publish(
            self.topics.command(command.subject), command.model_dump_json(exclude_defaults=True).encode()
        )

    def _opened(self, topic: str, payload: object) -> object:
        """ValueError unless it is signed, where messages are."""
        if self._keys is None or not isinstance(payload, bytes | bytearray) or not payload:
            return payload
        try:
            return self._keys.open(topic, bytes(payload))
        except Unsigned:
            if self.config.security is not None and self.config.security.unsigned == "accept":
                return payload
            raise

    async def _listen(self, url: str, broker: aiomqtt.Client) -> None:
        try:
            async for message in broker.messages:
                parsed = self.topics.parse(str(message.topic))
                if parsed is None or (message.retain and parsed[0] in LIVE_ONLY):
                    continue
                with contextlib.suppress(ValueError, asyncio.QueueFull):
                    model = decode(*parsed, self._opened(str(message.topic), message.payload))
                    if isinstance(model, Beat) and model.node in self.config.nodes:
                        self._beats[model.node] = model
                    if model is not None:
                        self._heard.put_nowait((parsed[0], model))
        except aiomqtt.MqttError as error:
            self._clients.pop(url, None)
            self.failed[url] = str(error)


@contextlib.asynccontextmanager
async def listening(config: Config, topics: Sequence[str], operator: bool = True) -> AsyncIterator[Listener]:
    """Connects to all brokers at once and subscribes; those that do not answer in time are in `failed`.

    As an operator, or as the agent does it.
    """
    listener = Listener(config)
    async with contextlib.AsyncExitStack() as stack:

        async def connect(url: str) -> None:
            for way in broker_ways(url):
                try:
                    place = await address_of(way, CONNECT_SECONDS)
                    proof = await aside(lambda way=way: access(config, way, operator), timeout=CONNECT_SECONDS)  # type: ignore[misc]
                    listener._keys = await aside(lambda: signing_keys(config), timeout=CONNECT_SECONDS)
                    answers = CLUSTER_PATIENCE if way != url else 0.0
                    broker = client(place, None, patience=CONNECT_SECONDS, answers=answers, proof=proof)
                    await stack.enter_async_context(broker)
                    await broker.subscribe([(topic, 1) for topic in topics])
                except (aiomqtt.MqttError, OSError, ValueError) as error:
                    listener.failed[url] = str(error) or type(error).__name__
                else:
                    listener.failed.pop(url, None)
                    listener._clients[url] = broker
                    return

        await asyncio.gather(*(connect(url) for url in config.brokers))
        reading = [asyncio.create_task(listener._listen(url, broker)) for url, broker in listener._clients.items()]
        try:
            yield listener
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)


def unreachable(listener: Listener) -> list[str]:
    """One line for each broker that could not be reached."""
    return [f"broker {url}: {why}" for url, why in listener.failed.items()]


def unique() -> str:
    """A number for a command that no other has."""
    return f"{time.time_ns():x}"


def who() -> str:
    """Who asks, as commands tell it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:128]
