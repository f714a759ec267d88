"""The bus: one connection to each broker, kept up. Carries messages both ways and decides nothing about them.

- A connection is a clean session with a last will, under a name that the node always uses: a broker that still has our
  old connection ends it, and sends its will, before it serves the new one.
- Beats are sent at once or not at all. Retained states are sent at once to the brokers that are there.
- Events are kept, in order, until each broker has confirmed them; the oldest are dropped, and counted, when there are
  more than EVENTS_MOST.
- Retained states and beats of one node go out in the order in which they were handed over.
- A connection on which our own beats do not come back is a dead one, whatever TCP says: it is made anew.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import ip_address
from math import ceil

import aiomqtt
from pydantic import ValidationError

from locum import clock
from locum.access import Access, access
from locum.aside import aside
from locum.config import Config, broker_address, broker_ways
from locum.messages import MODELS, PAYLOAD_MOST, Beat, Command, Event, Message, Topics
from locum.replay import Replays
from locum.signing import Keys, Unsigned

log = logging.getLogger(__name__)

LIVE_ONLY = frozenset({"beat", "command", "event"})
"""Kinds of topics that are never retained by us: what is retained there is old, and a lie."""
EVENTS_MOST = 1_000
"""Events that wait for a broker that is away, for each broker."""
INCOMING_MOST = 4_096
"""Messages that wait to be read. More, and we have lost count of that broker's order: the connection is made anew."""
OUTGOING_MOST = 256
CLUSTER_PATIENCE = 5.0
"""Seconds for an answer of a broker that is several servers: after the loss of one they agree on a new leader first
(NATS, three servers: 2 to 6 s, measured). Asked again sooner, they have more to do and take longer."""
ENDING_MOST = 100
"""Attempts to end the connections, 50 ms apart."""
COMPLAIN_EVERY = 60.0
"""Seconds between two log lines about the same trouble."""
COMPLAINTS_MOST = 256

_QUIET = logging.getLogger("locum.mqtt")
_QUIET.setLevel(logging.CRITICAL)


class _Incoming(asyncio.Queue[aiomqtt.Message]):
    """A queue that remembers that it had to drop something."""

    overflowed = False

    def put_nowait(self, item: aiomqtt.Message) -> None:
        if self.full():
            self.overflowed = True
        super().put_nowait(item)


class Complaints:
    """Lets a complaint through once a minute, for each of a bounded number of things to complain of."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def may(self, what: str) -> bool:
        now = clock.now()
        last = self._last.get(what)
        if last is not None and now - last < COMPLAIN_EVERY:
            return False
        if last is None and len(self._last) >= COMPLAINTS_MOST:
            self._last = {key: at for key, at in self._last.items() if now - at < COMPLAIN_EVERY}
            if len(self._last) >= COMPLAINTS_MOST:
                return False
        self._last[what] = now
        return True


def client(
    place: tuple[str, int],
    identifier: str | None,
    *,
    patience: float,
    answers: float = 0.0,
    proof: Access = Access(),  # noqa: B008 (it is frozen)
    keepalive: int = 60,
    will: aiomqtt.Will | None = None,
    incoming: type[asyncio.Queue[aiomqtt.Message]] | None = None,
) -> aiomqtt.Client:
    """A client for the broker at this address and port.

    `patience`: seconds for connecting, and for each answer; unless `answers`, which is for those, is more.
    """
    made = aiomqtt.Client(
        *place,
        username=proof.user,
        password=proof.password,
        tls_context=proof.tls,
        identifier=identifier,
        will=will,
        clean_session=True,
        keepalive=keepalive,
        timeout=max(patience, answers),
        logger=_QUIET,
        queue_type=incoming,
        max_queued_incoming_messages=INCOMING_MOST,
        max_queued_outgoing_messages=OUTGOING_MOST,
        max_inflight_messages=OUTGOING_MOST,
        # Without it a publish takes 34 ms instead of 0.6 ms (measured): Nagle waits for the broker's delayed ACK.
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    made.pending_calls_threshold = OUTGOING_MOST
    # aiomqtt has no parameter for it, and paho's default is 5 s: a SYN that was lost would be waited for that long.
    made._client.connect_timeout = patience
    return made


async def address_of(url: str, patience: float) -> tuple[str, int]:
    """Address and port of one way to a broker. A name is looked up in a thread, for at most `patience` seconds.

    Raises OSError.
    """
    host, port = broker_address(url)
    try:
        return str(ip_address(host)), port
    except ValueError:
        found = await aside(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), timeout=patience)
        return str(found[0][4][0]), port


class Connection:
    """One broker, for the life of the agent."""

    def __init__(self, bus: "Bus", number: int, url: str) -> None:
        self.number = number
        self.url = url
        self._bus = bus
        self._client: aiomqtt.Client | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._events: deque[tuple[str, bytes]] = deque()
        self._dropped = 0
        self._event_waiting = asyncio.Event()
        self.echoed_at = 0.0
        self._ways = broker_ways(url)
        """The one that is tried, or was the last to work, is the first."""

    async def run(self) -> None:
        """Connects, and connects again, until cancelled."""
        bus = self._bus
        pause = min(bus.timing.beat / 2, 0.25)
        while True:
            try:
                await self._serve()
            except* (aiomqtt.MqttError, OSError, ValueError) as errors:
                why = str(errors.exceptions[0]) or type(errors.exceptions[0]).__name__
                if bus.complaints.may(f"broker {self._ways[0]}: {why}"):
                    log.warning("broker %s: %s; trying again", self._ways[0], why)
                self._ways.append(self._ways.pop(0))
            await asyncio.sleep(pause)

    async def _serve(self) -> None:
        """One connection, from beginning to end."""
        bus = self._bus
        patience = max(bus.timing.beat, 0.5)
        topic = bus.topics.node(bus.node)
        will = aiomqtt.Will(topic, bus.signed(topic, bus.will), qos=1, retain=True)
        keepalive = max(2, ceil(bus.timing.lease))
        identifier = f"locum-{bus.config.cluster}-{bus.node}"
        way = self._ways[0]
        place = await address_of(way, patience)
        proof = await aside(lambda: access(bus.config, way), timeout=patience)
        mqtt = client(
            place,
            identifier,
            patience=patience,
            answers=CLUSTER_PATIENCE if len(self._ways) > 1 else 0.0,
            proof=proof,
            keepalive=keepalive,
            will=will,
            incoming=_Incoming,
        )
        async with mqtt:
            await mqtt.subscribe([(topic, 1) for topic in bus.subscriptions])
            log.info("broker %s: connected", way)
            self._client = mqtt
            self.echoed_at = clock.now()
            bus.replays.listening_anew()
            try:
                bus.on_up(self.number)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(mqtt))
                    tasks.create_task(self._send_events(mqtt))
                    tasks.create_task(self._watch_echo())
            finally:
                self._client = None
                bus.on_down(self.number)
                if mqtt._disconnected.done() and not mqtt._disconnected.cancelled():
                    mqtt._disconnected.exception()  # else asyncio logs that nobody asked why

    async def _read(self, mqtt: aiomqtt.Client) -> None:
        queue = mqtt._queue
        async for message in mqtt.messages:
            if isinstance(queue, _Incoming) and queue.overflowed:
                raise aiomqtt.MqttError("more messages than can be read; the order is lost")
            self._bus.take_in(self, message)

    async def _watch_echo(self) -> None:
        timing = self._bus.timing
        while True:
            await asyncio.sleep(timing.beat)
            silent = clock.now() - self.echoed_at
            if silent > timing.lease + timing.beat:
                raise aiomqtt.MqttError(f"our own beats have not come back for {silent:.1f} s")

    # -- out ----------------------------------------------------------------------------------------------------------

    def publish(self, topic: str, payload: bytes, retain: bool) -> None:
        """At once or not at all."""
        mqtt = self._client
        if mqtt is None or len(self._publishing) >= OUTGOING_MOST:
            return
        task = asyncio.get_running_loop().create_task(self._publish(mqtt, topic, payload, retain))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, mqtt: aiomqtt.Client, topic: str, payload: bytes, retain: bool) -> None:
        # A failure shows in the connection's own tasks; what it loses, the next beat says again.
        with contextlib.suppress(aiomqtt.MqttError, OSError, ValueError):
            await mqtt.publish(topic, payload, qos=1, retain=retain, timeout=self._bus.timing.lease)

    def keep_event(self, topic: str, payload: bytes) -> None:
        if len(self._events) >= EVENTS_MOST:
            self._events.popleft()
            self._dropped += 1
            if self._bus.complaints.may(f"events for {self.url}"):
                log.warning("broker %s: away for too long: %d events lost so far", self.url, self._dropped)
        self._events.append((topic, payload))
        self._event_waiting.set()

    async def _send_events(self, mqtt: aiomqtt.Client) -> None:
        task = asyncio.current_task()
        assert task is not None
        # Not `while True`: the wait_for of Python 3.11, inside publish, swallows a cancellation that comes in the same
        # turn of the loop as its result (fixed in 3.12).
        while not task.cancelling():
            await self._event_waiting.wait()
            if self._dropped:
                # Before the rest, since what is missing is what came before it.
                dropped = self._dropped
                await mqtt.publish(*self._bus.addressed(self._bus.tell_loss(dropped)), qos=1)
                self._dropped -= dropped
            while self._events and not task.cancelling():
                first = self._events[0]
                await mqtt.publish(*first, qos=1, timeout=self._bus.timing.lease)
                if self._events and self._events[0] is first:
                    self._events.popleft()
            if not self._events:
                self._event_waiting.clear()

    def inherit(self, events: Sequence[Sequence[str]]) -> None:
        """Events that an earlier process of this boot could not deliver: topic and payload of each."""
        for topic, payload in events:
            self.keep_event(topic, payload.encode())

    def undelivered(self) -> list[tuple[str, str]]:
        return [(topic, payload.decode()) for topic, payload in self._events]

    @property
    def waiting(self) -> int:
        """Messages that the broker has not confirmed yet."""
        return len(self._publishing) + (len(self._events) if self._client is not None else 0)


class Bus:
    """All brokers of the cluster."""

    def __init__(
        self,
        config: Config,
        node: str,
        boot: str,
        will: bytes,
        *,
        keys: Keys | None,
        on_up: Callable[[int], None],
        on_down: Callable[[int], None],
        on_message: Callable[[int, Message, bool], bool],
        tell_loss: Callable[[int], Event],
    ) -> None:
        """`on_message` gets the broker's number, the message, and whether it was retained; true: it is our own beat.
        `tell_loss` makes the event that says how many events a broker will never get. With `keys` every message is
        signed, and those that come are believed only if they are, and not old.
        """
        self.keys = keys
        self.config = config
        self.node = node
        self.will = will
        self.timing = config.durations()
        self.topics = Topics(config.cluster)
        self.replays = Replays(node, boot, self.timing.window)
        self.complaints = Complaints()
        self.on_up = on_up
        self.on_down = on_down
        self.on_message = on_message
        self.tell_loss = tell_loss
        prefix = self.topics.prefix
        self.subscriptions = [f"{prefix}{kind}/+" for kind in ("beat", "node", "service", "command")]
        self.connections = [Connection(self, number, url) for number, url in enumerate(config.brokers)]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keeps the connections up as long as the context lasts."""
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(connection.run()) for connection in self.connections]
            try:
                yield
            finally:
                await _end(running)

    def beat(self, payload: bytes) -> None:
        self.publish(self.topics.beat(self.node), payload)

    def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        payload = self.signed(topic, payload)
        for connection in self.connections:
            connection.publish(topic, payload, retain)

    def signed(self, topic: str, payload: bytes) -> bytes:
        return payload if self.keys is None else self.keys.sign(topic, payload)

    def event(self, event: Event) -> None:
        topic, payload = self.addressed(event)
        for connection in self.connections:
            connection.keep_event(topic, payload)

    def addressed(self, event: Event) -> tuple[str, bytes]:
        """An event's topic and payload."""
        topic = self.topics.event(event.subject, event.type.rpartition(".")[2])
        return topic, self.signed(topic, event.model_dump_json().encode())

    async def flush(self, seconds: float) -> None:
        """Waits until the brokers that are there have confirmed everything, for at most so long."""
        until = clock.now() + seconds
        # Only at the end of a life: not worth an event that every publish would have to keep up to date.
        while any(connection.waiting for connection in self.connections) and clock.now() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    def take_in(self, connection: Connection, message: aiomqtt.Message) -> None:
        """Parses one message and hands it on; what does not parse is one line in the log and nothing else."""
        topic = str(message.topic)
        parsed = self.topics.parse(topic)
        if parsed is None:
            return
        kind, name = parsed
        payload = message.payload
        if message.retain and kind in LIVE_ONLY:
            return
        try:
            model = self._opened(connection.number, topic, kind, name, payload)
        except ValueError as error:
            if self.complaints.may(f"{topic}: {error}"):
                log.warning("%s: ignored: %s", topic, error)
            return
        if model is not None and self.on_message(connection.number, model, message.retain):
            connection.echoed_at = clock.now()

    def _opened(self, broker: int, topic: str, kind: str, name: str, payload: object) -> Message | None:
        """ValueError, in one line, if it must not be believed."""
        if self.keys is None or not payload:
            return decode(kind, name, payload)
        assert self.config.security is not None
        try:
            model = decode(kind, name, _plain(self.keys, topic, payload))
        except Unsigned:
            if self.config.security.unsigned == "refuse":
                raise
            return decode(kind, name, payload)
        match model:
            case Beat():
                self.replays.beat(broker, model, clock.now())
            case Command():
                self.replays.command(model, self.timing.beat)
        return model


def _plain(keys: Keys, topic: str, payload: object) -> object:
    """Without its signature, which must be good; ValueError."""
    return keys.open(topic, bytes(payload)) if isinstance(payload, bytes | bytearray) else payload


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels until all have ended: connecting, too, may swallow a cancellation (see `_send_events`)."""
    for _ in range(ENDING_MOST):
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=0.05)
        if not pending:
            return


def decode(kind: str, name: str, payload: object) -> Message | None:
    """The message on a topic of `kind` for `name`; None for an emptied topic. ValueError, in one line, if it is bad."""
    if not isinstance(payload, bytes | bytearray):
        raise ValueError("its payload is not bytes")
    if not payload:
        return None
    if len(payload) > PAYLOAD_MOST:
        raise ValueError(f"{len(payload)} bytes are more than the {PAYLOAD_MOST} that any message needs")
    try:
        model = MODELS[kind].model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        # Keys are the sender's: shown as a literal where they are not plain, and never at length.
        where = ".".join(part if isinstance(part, str) and part.isalnum() else repr(part) for part in first["loc"])
        raise ValueError(f"{where[:100] + ': ' if where else ''}{first['msg'][:200]}") from None
    said = getattr(model, {"event": "subject", "command": "subject", "service": "service"}.get(kind, "node"))
    if said != name:
        raise ValueError(f"it speaks of {said!r}, but its topic is {name!r}'s")
    return model
