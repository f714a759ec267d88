"""What goes wrong, and when: schedules of faults, and how each is done to a world.

A fault is a plain record, so that a schedule can be printed, cut down and replayed. It names its node by number, or by
what it is at that moment: the HOLDER of a service, one that is NOT the holder. With `after` it waits for the first
node to get into that role, and befalls that node: so that trouble meets the protocol where it is busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from locum.messages import Command
from tests.sim.shape import Shape, service_name
from tests.sim.wire import GATEWAY

if TYPE_CHECKING:
    from tests.sim.agent import Agent
    from tests.sim.host import Host
    from tests.sim.world import World

HOLDER, OTHER = -1, -2
ALL = -1
"""All brokers."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, `at` seconds into its round."""

    at: float
    kind: str
    node: int = 0
    broker: int = ALL
    seconds: float = 0.0
    how: str = ""
    after: str = ""

    def __str__(self) -> str:
        return repr(self)


KINDS: dict[str, float] = {
    "pause": 12, "trap": 10, "kill": 8, "power": 4, "suspend": 3, "stop": 5, "stall": 14, "slow": 6, "cut": 10,
    "freeze": 5, "restart": 7, "lose": 5, "dup": 4, "hooks": 5, "command": 10, "link": 5, "wire": 6, "alone": 4,
    "wipe": 2, "netlink": 4, "late": 4, "unfit": 6, "hand": 5, "drain": 3,
}  # fmt: skip
"""What can go wrong, and how often."""

CALM = -1.0


def draw_kinds(rng: Random) -> dict[str, float]:
    """What goes wrong in one world: mostly a few of the kinds, so that some worlds see much of what others see little
    of (swarm testing: Groce and others, 2012)."""
    share = rng.choice((0.15, 0.3, 0.5, 1.0))
    kinds = {kind: weight for kind, weight in KINDS.items() if rng.random() < share}
    return kinds if len(kinds) > 1 else dict(KINDS)


def draw_round(rng: Random, shape: Shape, kinds: dict[str, float]) -> list[Fault]:
    """The faults of one round, in their order. A kind may name how it is done, as in "trap:present"."""
    window = shape.timing.window
    names, weights = list(kinds), list(kinds.values())
    gap = window * rng.choice((0.4, 0.8, 1.6, 3.0))
    faults: list[Fault] = []
    at = rng.random() * gap
    while at < shape.chaos and len(faults) < 400:
        together = rng.choice((1, 1, 1, 2, 3))
        faults += [_draw(rng, shape, at, rng.choices(names, weights)[0]) for _ in range(together)]
        at += rng.expovariate(1 / gap)
    return faults


def _draw(rng: Random, shape: Shape, at: float, kind: str) -> Fault:
    timing = shape.timing
    node = rng.choice((HOLDER, HOLDER, OTHER, rng.randrange(shape.nodes)))
    broker = ALL if rng.random() < (0.3 if shape.brokers > 1 else 1.0) else rng.randrange(shape.brokers)
    seconds = draw_seconds(rng, shape)
    kind, _, wanted = kind.partition(":")
    after = rng.choice(("", "", "claiming", "acquiring", "active", "releasing", "standby"))
    how = ""
    match kind:
        case "trap":
            how = rng.choice(("step", "output", "present", "look", "called"))
            if rng.random() < 0.25:
                seconds = -seconds
        case "kill" | "power" | "stop":
            seconds = rng.choice((0.05, timing.beat, timing.lease, timing.window, 3 * timing.window)) * rng.random()
            how = rng.choice(("", "", "twice")) if kind == "stop" else ""
        case "stall":
            how = rng.choice(("up", "down", "both"))
        case "slow":
            how = rng.choice(("a", "b", "c"))
        case "cut":
            how = rng.choice(("both", "node"))
        case "restart" | "freeze":
            after = ""
        case "lose" | "dup":
            seconds = float(rng.randint(1, 8))
        case "hooks":
            how = rng.choice(("fail", "decline", "slow", "hang"))
            seconds *= 2
        case "command":
            how = str(rng.randrange(shape.services))
            node = rng.randrange(shape.nodes)
        case "link":
            how = rng.choice(("", "gone"))
        case "wire":
            how = rng.choice(("to", "from", "both", "gateway"))
        case "hand":
            how = f"{rng.choice(('pause', 'resume', 'release'))} {rng.randrange(shape.services)}"
        case "drain":
            how = rng.choice(("drain", "undrain"))
        case "wipe" | "unfit":
            how = str(rng.randrange(shape.services))
        case "netlink":
            how = rng.choice(("slow", "fails"))
    return Fault(round(at, 4), kind, node, broker, round(seconds, 4), wanted or how, after)


def draw_seconds(rng: Random, shape: Shape) -> float:
    """Lengths around the times that matter."""
    timing = shape.timing
    about = rng.choice((0.02, timing.claim_timeout, timing.beat, timing.stall, timing.lease, timing.window,
                        timing.lease + 2 * timing.beat, 2 * timing.window, 3 * timing.window))  # fmt: skip
    return about * rng.choice((1.0 + 0.1 * rng.uniform(-1, 1), 2 * rng.random()))


class Trouble:
    """Does faults to a world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.commands = 0
        self.done = 0

    def meet(self, fault: Fault, _: object = None) -> None:
        """A fault's time has come: it happens, or waits for its moment."""
        if fault.after:
            self.world.armed.append(fault)
        else:
            self._do(fault, self._host(fault))

    def anchor(self, role: str, agent: Agent) -> None:
        world = self.world
        for fault in [fault for fault in world.armed if fault.after == role]:
            world.armed.remove(fault)
            host = agent.host if fault.node != OTHER else world.hosts[(agent.host.index + 1) % len(world.hosts)]
            world.at(world.t, self._meet_late, fault, host)

    def _meet_late(self, fault: Fault, host: Host) -> None:
        self._do(fault, host)

    def _host(self, fault: Fault) -> Host:
        hosts = self.world.hosts
        holders = self.world.holders[service_name(0)]
        index = holders[0].index if holders else 0
        if fault.node == HOLDER:
            return hosts[index]
        if fault.node == OTHER:
            return hosts[(index + 1) % len(hosts)]
        return hosts[fault.node % len(hosts)]

    def _do(self, fault: Fault, host: Host) -> None:
        world = self.world
        if world.calm_since is not None:
            return
        self.done += 1
        if world.tracing:
            world.tell(f"FAULT {fault} on {host.name}")
        brokers = world.brokers if fault.broker == ALL else [world.brokers[fault.broker % len(world.brokers)]]
        links = [world.links[host.index][broker.index] for broker in brokers]
        seconds, t = fault.seconds, world.t
        match fault.kind:
            case "pause":
                if host.agent is not None:
                    host.agent.pause(seconds)
            case "trap":
                host.trap, host.trap_seconds, host.trap_count = fault.how, seconds, 1 + int(abs(seconds) * 1000) % 4
            case "kill":
                host.kill()
                host.start_in(seconds)
            case "power":
                host.power_off()
                host.start_at = max(host.start_at, t + seconds)
                world.at(t + seconds, host.power_on)
            case "suspend":
                host.suspend(seconds)
            case "stop":
                agent = host.agent
                if agent is not None:
                    if fault.how == "twice":
                        world.at(t + seconds / 2, self._stop_again, agent)
                    agent.stop(False)
                    host.start_at = max(host.start_at, t + seconds)
            case "stall":
                for link in links:
                    if fault.how != "down":
                        link.up_stall = max(link.up_stall, t + seconds)
                    if fault.how != "up":
                        link.down_stall = max(link.down_stall, t + seconds)
            case "slow":
                for link in links:
                    link.slow_until = t + 4 * seconds
                    link.slow = {"a": 0.05, "b": world.shape.beat, "c": world.shape.lease}[fault.how]
            case "cut":
                for broker, link in zip(brokers, links, strict=True):
                    link.blocked = max(link.blocked, t + seconds)
                    conn = host.agent.conns[broker.index] if host.agent is not None else None
                    if conn is not None:
                        broker.cut(conn, fault.how == "both")
            case "freeze":
                for broker in brokers:
                    if not broker.down:
                        broker.freeze(seconds)
            case "restart":
                for broker in brokers:
                    if not broker.down:
                        broker.crash()
                        world.at(t + seconds, world.broker_back, broker)
            case "lose":
                for link in links:
                    link.lose = int(seconds)
            case "dup":
                for link in links:
                    link.dup = int(seconds)
            case "hooks":
                host.hooks_mode, host.hooks_until = fault.how, t + seconds
            case "command":
                self._command(service_name(int(fault.how)), fault.node)
            case "link":
                host.link(False, fault.how == "gone")
                if world.shape.bus_on_wire:
                    for link in world.links[host.index]:
                        link.up_stall = max(link.up_stall, t + seconds)
                        link.down_stall = max(link.down_stall, t + seconds)
                world.at(t + seconds, self._link_up, host)
            case "wire":
                self._cut_wire(host, fault.how, seconds)
            case "alone":
                for link in links:
                    link.up_stall = max(link.up_stall, t + seconds)
                    link.down_stall = max(link.down_stall, t + seconds)
                self._cut_wire(host, "both", seconds)
            case "wipe":
                if host.alive:
                    host.doubt_netlink(3 * world.shape.timing.window)
                    host.kernel.remove(service_name(int(fault.how)), "by hand")
            case "unfit":
                host.check(service_name(int(fault.how)), t + seconds)
                world.at(t + seconds, self._fit_again, host, service_name(int(fault.how)))
            case "hand":
                verb, _, number = fault.how.partition(" ")
                self._order(verb, service=service_name(int(number)))
            case "drain":
                self._order(fault.how, node=host.name)
            case "late":
                host.late_until = t + 4 * seconds
            case "netlink":
                host.doubt_netlink(4 * seconds + 3 * world.shape.timing.window)
                if fault.how == "slow":
                    host.netlink_slow, host.netlink_slow_until = min(seconds, 3.0), t + 4 * seconds
                else:
                    host.netlink_fails_until = t + seconds
            case _:
                raise AssertionError(fault.kind)

    def _cut_wire(self, host: Host, how: str, seconds: float) -> None:
        world = self.world
        if not world.shape.split:
            return
        for other in [*(each.index for each in world.hosts if each is not host), GATEWAY]:
            if (other == GATEWAY) != (how == "gateway") and how != "both":
                continue
            if how != "from":
                world.wire.cut(host.index, other, seconds)
            if how != "to":
                world.wire.cut(other, host.index, seconds)

    def _stop_again(self, agent: Agent, _: object) -> None:
        if not agent.dead and not agent.stopped:
            agent.stop(True)

    def _fit_again(self, host: Host, service: str) -> None:
        if self.world.t >= host.unfit_until.get(service, 0.0):
            host.check(service, 0.0)

    def _link_up(self, host: Host, _: object) -> None:
        host.link(True)

    def _command(self, service: str, node: int) -> None:
        to = self.world.hosts[node].name if self.commands % 2 == 0 else None
        self._order("switchover", service=service, to=to)

    def _order(self, verb: str, **of: str | None) -> None:
        """Says what an operator wants, on every broker that is there."""
        self.commands += 1
        command = Command.model_validate({"id": str(self.commands), "command": verb, **of})
        for broker in self.world.brokers:
            if not broker.down:
                broker.order(command)

    def let_go(self) -> None:
        """The operator takes his hand off, and says so again until it is heard."""
        agents = [host.agent for host in self.world.hosts if host.agent is not None]
        for service in self.world.holders:
            if any(agent.core.duties[service].hand.paused for agent in agents):
                self._order("resume", service=service)
        for agent in agents:
            if agent.core.drained:
                self._order("undrain", node=agent.name)
