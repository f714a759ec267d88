"""A model of a broker, and of the connections to it.

- A broker hands every subscriber the same messages in the same order: the one in which it took them in.
- A connection is first in, first out, each way; what a cut swallows is lost for good, since sessions are clean.
- A new connection of a node ends the old one. What the old one had on its way is served before that, or never.
- A restart forgets everything, retained messages too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from locum.messages import NodeState, ServiceState
from locum.ports import BeatHeard, CommandHeard, Input, NodeHeard, ServiceHeard

if TYPE_CHECKING:
    from tests.sim.agent import Agent
    from tests.sim.world import World

TINY = 1e-7
"""What keeps two messages of one connection apart."""


class Link:
    """The way between a node and a broker, and what is wrong with it now. Times are the world's."""

    __slots__ = ("base", "blocked", "down_stall", "dup", "lose", "random", "slow", "slow_until", "spread", "up_stall")

    def __init__(self, latency: float, rng: Random) -> None:
        self.base = latency / 2
        self.spread = latency
        self.random = rng.random
        self.up_stall = 0.0
        """Until then nothing that the node sends arrives."""
        self.down_stall = 0.0
        self.slow_until = 0.0
        self.slow = 0.0
        self.blocked = 0.0
        """Until then no connection can be made."""
        self.lose = 0
        """So many of the next publishes are lost before they are sent."""
        self.dup = 0
        """So many of the next publishes come twice."""

    def delay(self, now: float) -> float:
        lat = self.base + self.spread * self.random()
        if now < self.slow_until:
            lat += self.slow * self.random()
        return lat

    def heal(self) -> None:
        self.up_stall = self.down_stall = self.slow_until = self.blocked = 0.0
        self.lose = self.dup = 0


class Conn:
    """One connection, from its first packet to its end on either side."""

    __slots__ = (
        "agent", "began_at", "broker", "closed", "down_last", "echoed_at", "ended", "link", "seen_at", "subscribed",
        "up", "up_last", "void_at", "world",
    )  # fmt: skip

    def __init__(self, agent: Agent, broker: Broker, link: Link) -> None:
        self.world = agent.world
        self.agent = agent
        self.broker = broker
        self.link = link
        self.began_at = self.world.t
        self.closed = False
        """The node has done with it."""
        self.ended = False
        """The broker has."""
        self.up = False
        """The node has its SUBACK."""
        self.subscribed = False
        self.up_last = self.down_last = 0.0
        self.void_at = inf
        """The node's host lost its power then: what had not left is gone."""
        self.seen_at = self.world.t
        self.echoed_at = 0.0

    def send(self, act: Callable[[Conn, Any], None], what: Any) -> None:
        """Towards the broker: `act` of the broker, when it arrives."""
        link, world = self.link, self.world
        now = world.t
        at = now + link.base + link.spread * link.random()
        if now < link.slow_until:
            at += link.slow * link.random()
        if link.up_stall > now:
            at += link.up_stall - now
        if at <= self.up_last:
            at = self.up_last + TINY
        self.up_last = at
        world.at(at, act, self, what)

    def answer(self, act: Callable[[Conn, Any], None], what: Any) -> None:
        """Towards the node."""
        link, world = self.link, self.world
        now = world.t
        at = now + link.base + link.spread * link.random()
        if now < link.slow_until:
            at += link.slow * link.random()
        if link.down_stall > now:
            at += link.down_stall - now
        if at <= self.down_last:
            at = self.down_last + TINY
        self.down_last = at
        world.at(at, act, self, what)


class Broker:
    """One broker."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.rng = Random(f"{world.plan.seed}/broker/{index}")
        self.down = False
        self.frozen = 0.0
        """Until then it does nothing; what comes waits."""
        self.waiting: dict[Conn, deque[tuple[Callable[[Conn, Any], None], Any]]] = {}
        self.sessions: dict[str, Conn] = {}
        self.subscribers: list[Conn] = []
        self.retained: dict[str, Input] = {}

    # -- what comes from nodes -------------------------------------------------------------------------------------

    def _absent(self, conn: Conn, act: Callable[[Conn, Any], None], what: Any) -> bool:
        """Whether there is nobody to serve it now. What only waits is put aside."""
        now = self.world.t
        if conn.ended or self.down or now >= conn.void_at:
            return True
        conn.seen_at = now
        if now < self.frozen:
            self.waiting.setdefault(conn, deque()).append((act, what))
            return True
        return False

    def connect(self, conn: Conn, _: object) -> None:
        if self._absent(conn, self.connect, _):
            return
        old = self.sessions.get(conn.agent.name)
        if old is not None:
            self._end(old, will=True)
        self.sessions[conn.agent.name] = conn
        conn.answer(conn.agent.connected, None)

    def subscribe(self, conn: Conn, _: object) -> None:
        if self._absent(conn, self.subscribe, _):
            return
        conn.subscribed = True
        self.subscribers.append(conn)
        agent = conn.agent
        conn.answer(agent.subscribed, None)
        for event in self.retained.values():
            if isinstance(event, NodeHeard):
                conn.answer(agent.arrived, NodeHeard(self.index, event.state, retained=True))
            else:
                conn.answer(agent.arrived, event)

    def publish(self, conn: Conn, message: Any) -> None:
        if conn.ended or self.down or self.world.t < self.frozen or self.world.t >= conn.void_at:
            self._absent(conn, self.publish, message)
            return
        conn.seen_at = self.world.t
        self.order(message)

    def fin(self, conn: Conn, clean: bool) -> None:
        """The node's side was closed."""
        if not self._absent(conn, self.fin, clean):
            self._end(conn, will=not clean)

    def expire(self, conn: Conn, silent_since: float) -> None:
        """The keepalive's end, if nothing has come."""
        if not conn.ended and not self.down and conn.seen_at <= silent_since:
            self._end(conn, will=True)
            conn.answer(conn.agent.refused, None)

    def _end(self, conn: Conn, will: bool) -> None:
        if conn.ended:
            return
        conn.ended = True
        self.waiting.pop(conn, None)
        if conn.subscribed:
            self.subscribers.remove(conn)
        if self.sessions.get(conn.agent.name) is conn:
            del self.sessions[conn.agent.name]
        if will:
            state = NodeState.model_construct(
                node=conn.agent.name, state="offline", reason="lost", boot=conn.agent.boot
            )
            self.order(state)

    # -- the order --------------------------------------------------------------------------------------------------

    def order(self, message: Any) -> None:
        """The moment at which a message gets its place in the order."""
        event: Input
        if isinstance(message, ServiceState):
            event = ServiceHeard(self.index, message)
            self.retained[f"service/{message.service}"] = event
        elif isinstance(message, NodeState):
            event = NodeHeard(self.index, message)
            self.retained[f"node/{message.node}"] = event
        elif message.__class__.__name__ == "Command":
            event = CommandHeard(message)
        else:
            event = BeatHeard(self.index, message)
        if not self.world.rules.total_order:
            self._disorder(event)
            return
        for conn in self.subscribers:
            conn.answer(conn.agent.arrived, event)

    def _disorder(self, event: Input) -> None:
        """Each subscriber gets some messages after what came later."""
        for conn in self.subscribers:
            if self.rng.random() < 0.7:
                conn.answer(conn.agent.arrived, event)
            else:
                self.world.at(self.world.t + self.rng.random() * 0.2, conn.agent.arrived, conn, event)

    # -- what befalls it ----------------------------------------------------------------------------------------------

    def freeze(self, seconds: float) -> None:
        self.frozen = max(self.frozen, self.world.t + seconds)
        self.world.at(self.frozen, self.thaw)

    def thaw(self, *_: object) -> None:
        """Serves what has waited: each connection's in its order, the connections in any."""
        if self.world.t < self.frozen:
            return
        while self.waiting:
            conn = self.rng.choice(list(self.waiting))
            act, what = self.waiting[conn].popleft()
            if not self.waiting[conn]:
                del self.waiting[conn]
            act(conn, what)

    def crash(self) -> None:
        """Everything is forgotten, and every connection is reset."""
        self.down = True
        self.frozen = 0.0
        self.waiting.clear()
        self.retained.clear()
        for conn in list(self.sessions.values()):
            conn.ended = True
            conn.answer(conn.agent.refused, None)
        self.sessions.clear()
        self.subscribers.clear()

    def cut(self, conn: Conn, both: bool) -> None:
        """A reset of one connection: what is on its way is lost. The broker's side may notice later."""
        if conn.ended or conn.closed:
            return
        if both:
            self._end(conn, will=True)
        conn.void_at = min(conn.void_at, self.world.t)
        conn.answer(conn.agent.refused, None)
