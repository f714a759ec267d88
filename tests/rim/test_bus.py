"""The bus against a real Mosquitto on loopback: nothing lost, nothing twice, and back within a beat."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from locum import bus, clock
from locum.bus import Bus
from locum.config import parse
from locum.messages import Beat, Event, Message, NodeState

pytestmark = pytest.mark.skipif(
    shutil.which("mosquitto") is None and os.environ.get("CI") != "true", reason="mosquitto is not installed"
)

CONFIG = """
cluster = "shop"
brokers = ["mqtt://127.0.0.1:{port}"]
[nodes.alpha]
address = "10.0.0.1"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha"]
"""


class Mosquitto:
    """A broker on a port of its own, which can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(["mosquitto", "-c", str(self.config)], stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.stop()


class Node:
    """A Bus whose messages and connections are noted down."""

    def __init__(self, port: int) -> None:
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.heard: list[Message] = []
        self.new = asyncio.Event()
        self.numbers = 0
        will = NodeState(node="alpha", state="offline", reason="lost").model_dump_json().encode()
        self.bus = Bus(
            parse(CONFIG.format(port=port)),
            "alpha",
            "alpha/0",
            will,
            keys=None,
            on_up=lambda _: self._switch(True),
            on_down=lambda _: self._switch(False),
            on_message=self._note,
            tell_loss=lambda count: self.event("events-lost", count=count),
        )

    def _switch(self, up: bool) -> None:
        (self.up if up else self.down).set()
        (self.down if up else self.up).clear()

    def _note(self, broker: int, message: Message, retained: bool) -> bool:
        self.heard.append(message)
        self.new.set()
        return isinstance(message, Beat)

    def event(self, kind: str, **data: Any) -> Event:
        self.numbers += 1
        return Event(
            id=str(self.numbers),
            source="locum/shop/alpha",
            type=f"locum.node.{kind}",
            subject="alpha",
            time="",
            data=data,
        )

    def beat(self) -> None:
        self.numbers += 1
        beat = Beat(node="alpha", boot="alpha/0", seq=self.numbers, every=0.5)
        self.bus.beat(beat.model_dump_json().encode())


@contextlib.asynccontextmanager
async def running(port: int) -> AsyncIterator[Node]:
    node = Node(port)
    async with node.bus.open():
        async with asyncio.timeout(5):
            await node.up.wait()
        yield node


@contextlib.asynccontextmanager
async def subscriber(port: int, topic: str) -> AsyncIterator[aiomqtt.Client]:
    for _ in range(100):
        try:
            async with aiomqtt.Client("127.0.0.1", port) as client:
                await client.subscribe(topic, qos=1)
                yield client
                return
        except aiomqtt.MqttError as error:
            if "refused" not in str(error):
                raise
            await asyncio.sleep(0.02)


async def events(client: aiomqtt.Client, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            found.append(Event.model_validate_json(message.payload))
            if len(found) == count:
                break
    return found


class Gate:
    """A way to the broker that can be shut, for the agent alone: a subscriber beside it misses nothing."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            onward, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, back}
            await asyncio.gather(self._copy(reader, back), self._copy(onward, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


@contextlib.asynccontextmanager
async def gated(broker: Mosquitto) -> AsyncIterator[tuple[Gate, Node, aiomqtt.Client]]:
    """A gate, a node behind it, and a subscriber that hears every event."""
    gate = Gate(broker.port)
    await gate.open()
    async with subscriber(broker.port, "locum/shop/event/#") as client, running(gate.port) as node:
        try:
            yield gate, node, client
        finally:
            await gate.shut()


async def test_events_of_a_broker_that_was_away_arrive_in_order_each_once(broker: Mosquitto) -> None:
    async with gated(broker) as (gate, node, client):
        for number in range(10):
            node.bus.event(node.event("thing", number=number))
        await gate.shut()
        await node.down.wait()
        for number in range(10, 300):
            node.bus.event(node.event("thing", number=number))
        await gate.open()
        await node.up.wait()
        for number in range(300, 310):
            node.bus.event(node.event("thing", number=number))
        found: dict[str, int] = {}
        async with asyncio.timeout(10):
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                event = Event.model_validate_json(message.payload)
                found.setdefault(event.id, event.data["number"])
                if event.data["number"] == 309:
                    break
        assert list(found.values()) == list(range(310))
        await node.bus.flush(5)
        assert not node.bus.connections[0]._events, "what is confirmed is not kept"


async def test_a_queue_that_must_drop_says_so(
    broker: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus, "EVENTS_MOST", 20)
    async with gated(broker) as (gate, node, client):
        await gate.shut()
        await node.down.wait()
        for number in range(50):
            node.bus.event(node.event("thing", number=number))
        assert [record for record in caplog.records if "events lost so far" in record.message]
        await gate.open()
        found = await events(client, 21)
        assert found[0].type == "locum.node.events-lost" and found[0].data == {"count": 30}
        assert [event.data["number"] for event in found[1:]] == list(range(30, 50)), "the newest are kept"


async def test_back_within_a_beat(broker: Mosquitto) -> None:
    async with running(broker.port) as node:
        waits = []
        for _ in range(5):
            broker.stop()
            await node.down.wait()
            await asyncio.sleep(0.3)
            broker.start()
            started = clock.now()
            async with asyncio.timeout(5):
                await node.up.wait()
            waits.append(clock.now() - started)
        print(f"figure: connected after a restart of the broker: {[round(wait * 1000) for wait in waits]} ms")
        assert min(waits) < node.bus.timing.beat


async def test_a_connection_that_is_dead_is_noticed_by_the_beats_that_do_not_return(broker: Mosquitto) -> None:
    async with running(broker.port) as node:
        os.kill(broker.process.pid, signal.SIGSTOP)  # type: ignore[union-attr]
        try:
            async with asyncio.timeout(10):
                while not node.down.is_set():
                    node.beat()
                    await asyncio.sleep(0.1)
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)  # type: ignore[union-attr]
        async with asyncio.timeout(10):
            await node.up.wait()
        node.heard.clear()
        node.new.clear()
        node.beat()
        async with asyncio.timeout(5):
            while not any(isinstance(message, Beat) for message in node.heard):
                node.new.clear()
                await node.new.wait()


async def test_what_one_node_says_comes_in_the_order_in_which_it_was_said(broker: Mosquitto) -> None:
    """The record of a service, then the released beat: nobody may claim before the record is out."""
    async with running(broker.port) as node, subscriber(broker.port, "locum/shop/#") as client:
        for number in range(100):
            node.bus.publish("locum/shop/service/web", f"{number}".encode(), retain=True)
            node.beat()
        topics: list[str] = []
        async with asyncio.timeout(10):
            async for message in client.messages:
                topics.append(str(message.topic))
                if len(topics) == 200:
                    break
        assert topics == ["locum/shop/service/web", "locum/shop/beat/alpha"] * 100
