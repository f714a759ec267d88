"""One world: a heap of events, and everything that they happen to.

Time is a float that only the heap moves. Each round is some time of trouble and then calm, until every service is held
in good order; then the next round begins.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from typing import TYPE_CHECKING, Any

from locum.ports import Input, Output
from tests.sim.broker import Broker, Link
from tests.sim.faults import Fault, Trouble, draw_kinds, draw_round
from tests.sim.host import Host
from tests.sim.invariants import Referee, Violation
from tests.sim.rules import STOCK, Rules
from tests.sim.shape import Shape, draw_shape, service_name
from tests.sim.wire import Wire

if TYPE_CHECKING:
    from tests.sim.agent import Agent

LOOK_SECONDS = 0.25
"""Between two looks at whether a calm world is settled."""
TRACE_MOST = 200_000


@dataclass(frozen=True, slots=True)
class Plan:
    """All that makes a world: the same plan, the same world."""

    seed: int
    shape: Shape
    rounds: tuple[tuple[Fault, ...], ...]


def draw_plan(seed: int, kinds: dict[str, float] | None = None, shape: Shape | None = None) -> Plan:
    rng = Random(f"plan/{seed}")
    drawn = draw_shape(rng)
    shape = drawn if shape is None else shape
    kinds = kinds or draw_kinds(rng)
    rounds = tuple(tuple(draw_round(rng, shape, kinds)) for _ in range(shape.rounds))
    return Plan(seed, shape, rounds)


@dataclass(slots=True)
class Outcome:
    """How a world went."""

    seconds: float
    failure: str
    excused: dict[str, int]
    takeovers: int
    taken_by: list[int]
    """How many takeovers each host began."""
    faults: int
    settled_most: float
    """The longest time from the end of trouble until all was held."""
    bound_share: float
    """The same, as a share of what it may take."""


class World:
    """The plan, come to life."""

    def __init__(self, plan: Plan, rules: Rules = STOCK, tracing: bool = False) -> None:
        self.plan = plan
        self.shape = shape = plan.shape
        self.rules = rules
        self.tracing = tracing
        self.trace: list[str] = []
        self.t = 0.0
        self._heap: list[tuple[float, int, Callable[[Any, Any], None], Any, Any]] = []
        self._count = 0
        self.holders: dict[str, list[Host]] = {service_name(index): [] for index in range(shape.services)}
        self.armed: list[Fault] = []
        self.referee = Referee(self)
        self.trouble = Trouble(self)
        self.wire = Wire(self)
        self.brokers = [Broker(self, index) for index in range(shape.brokers)]
        self.links = [
            [Link(shape.latency, Random(f"{plan.seed}/link/{node}/{broker}")) for broker in range(shape.brokers)]
            for node in range(shape.nodes)
        ]
        self.hosts = [Host(self, index) for index in range(shape.nodes)]
        self.calm_since: float | None = None
        self.settled_most = 0.0
        self.over = False
        self._round = -1
        self._round_at = 0.0

    def at(self, t: float, act: Callable[[Any, Any], None], a: Any = None, b: Any = None) -> None:
        """`act(a, b)` at a moment of the world's time; at the same moment, in the order of asking."""
        self._count += 1
        heappush(self._heap, (t, self._count, act, a, b))

    def run(self) -> Outcome:
        failure = ""
        try:
            for host in self.hosts:
                self.at(max(host.start_at, host.rng.random() * self.shape.beat), host.start)
            self._next_round()
            heap, pop = self._heap, heappop
            while not self.over:
                self.t, _, act, a, b = pop(heap)
                act(a, b)
        except Violation as violation:
            failure = str(violation)
        except Exception as error:  # a fault of the core, or of the model: a failure like any other
            failure = f"{type(error).__name__}: {error}"
            self.trace.append(traceback.format_exc())
        if failure:
            self.tell(f"FAILED: {failure}")
        share = self.settled_most / self.shape.bound()
        referee = self.referee
        return Outcome(
            self.t,
            failure,
            referee.excused,
            referee.takeovers,
            referee.taken_by,
            self.trouble.done,
            self.settled_most,
            share,
        )

    # -- rounds --------------------------------------------------------------------------------------------------------

    def _next_round(self) -> None:
        self._round += 1
        if self._round >= len(self.plan.rounds):
            self.over = True
            return
        self.calm_since = None
        self._round_at = self.t
        self._next_fault(0)
        self.at(self.t + self.shape.chaos, self._calm)

    def _next_fault(self, index: int, _: object = None) -> None:
        faults = self.plan.rounds[self._round]
        if index < len(faults):
            self.at(max(self.t, self._round_at + faults[index].at), self._fault, index, self._round)

    def _fault(self, index: int, number: int) -> None:
        if number != self._round or self.calm_since is not None:
            return
        fault = self.plan.rounds[number][index]
        self._next_fault(index + 1)
        self.trouble.meet(fault)

    def broker_back(self, broker: Broker, _: object = None) -> None:
        broker.down = False

    def _calm(self, *_: object) -> None:
        """Everything that was wrong ends."""
        if self.tracing:
            self.tell("CALM: all trouble ends")
        self.calm_since = self.t
        self.armed.clear()
        self.wire.heal()
        for broker in self.brokers:
            self.broker_back(broker)
            if broker.frozen > self.t:
                broker.frozen = self.t
                broker.thaw()
        for host in self.hosts:
            host.trap = ""
            host.netlink_slow_until = host.netlink_fails_until = host.hooks_until = host.late_until = 0.0
            for link in self.links[host.index]:
                link.heal()
            host.start_at = self.t
            host.power_on()
            if host.asleep:
                host.wake(host.asleep_since)
            host.link(True)
            for service in host.unfit_until:
                host.check(service, 0.0)
            if host.agent is not None and not host.agent.runs:
                host.agent.paused_until = self.t
                host.agent.resume()
            self._mend(host)
            host.start()
        self.at(self.t + LOOK_SECONDS, self._look, self.calm_since)

    def _mend(self, host: Host) -> None:
        """What a stall still has on its way would come long after it: its connection is cut instead."""
        if host.agent is None:
            return
        for conn in host.agent.conns:
            if conn is not None and max(conn.up_last, conn.down_last) > self.t + 0.5:
                conn.up_last = conn.down_last = self.t
                conn.broker.cut(conn, both=True)

    def _look(self, since: float, _: object) -> None:
        for host in self.hosts:
            host.start()
        self.trouble.let_go()
        missing = self.referee.unsettled()
        if missing:
            if self.t - since > self.shape.bound():
                self.referee.fail(f"{self.shape.bound():.1f} s after all trouble ended: {missing}")
            self.at(self.t + LOOK_SECONDS, self._look, since)
            return
        self.settled_most = max(self.settled_most, self.t - since)
        self._next_round()

    # -- what is told --------------------------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        if len(self.trace) < TRACE_MOST:
            self.trace.append(f"{self.t:10.4f}  {text}")

    def tell_step(self, agent: Agent, event: Input, outputs: list[Output]) -> None:
        shown = [repr(output) for output in outputs if type(output).__name__ != "Emit"]
        if shown:
            self.tell(f"{agent.name} @{agent.host.now():.4f} {_short(event)} -> {'; '.join(map(_brief, shown))}")


def _short(event: Input) -> str:
    return _brief(repr(event))


def _brief(text: str) -> str:
    return text.replace("services=", "").replace("Standing", "")[:260]
