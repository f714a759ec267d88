"""A model of one host: its clock, its power, its interface, its kernel, and the agent that runs on it.

Its boot clock goes at a rate of its own, and goes on while the host is suspended; its kernel's lifetimes do not.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from locum.timing import EPOCHS_PER_SECOND
from tests.sim.agent import Agent
from tests.sim.kernel import Kernel
from tests.sim.shape import HOOK_TIMEOUT, node_name

if TYPE_CHECKING:
    from tests.sim.world import World

TWIN_SECONDS = 20.0
"""After which the second machine of one name is switched on."""
EPOCH_START = 1_700_000_000
"""The wall clock at the beginning of every world."""


class Host:
    """One machine."""

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.name = node_name(0 if index == 1 and not world.rules.own_names else index)
        self.rng = Random(f"{world.plan.seed}/host/{index}")
        self.coin_rng = Random(f"{world.plan.seed}/coin/{index}")
        self.rate = world.shape.rates[index % len(world.shape.rates)]
        self.base = self.rng.uniform(10, 1000)
        self.wall_offset = self.rng.uniform(-0.3, 0.3)
        self.kernel = Kernel(self)
        self.alive = True
        self.asleep = False
        self.asleep_since = 0.0
        self.exists = True
        """The interface is there."""
        self.carrier = True
        self.lives = 0
        self.agent: Agent | None = None
        self.start_at = 0.0 if world.rules.own_names or index != 1 else TWIN_SECONDS
        """When the agent is to be started; meanwhile nobody else starts it."""
        # What is wrong with it now, and until when.
        self.trap = ""
        """Where the agent is paused (or killed) when it next gets there: see faults.py."""
        self.trap_seconds = 0.0
        self.trap_count = 0
        self.netlink_slow_until = 0.0
        self.netlink_slow = 0.0
        self.netlink_fails_until = 0.0
        self.netlink_doubted_until = 0.0
        """Until then what it should have answered may be missing."""
        self.late_until = 0.0
        """Until then the kernel is late in removing what lapses."""
        self.hooks_until = 0.0
        self.hooks_mode = ""
        self.unfit_until: dict[str, float] = {}

    def now(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.base + self.rate * self.world.t

    def when(self, at: float) -> float:
        """The world's time of a moment of this host's clock."""
        return (at - self.base) / self.rate

    def floor(self) -> int:
        """What the wall clock says of epochs when the agent starts, as in `locum/agent.py`."""
        return int((EPOCH_START + self.world.t + self.wall_offset) * EPOCHS_PER_SECOND)

    def doubt_netlink(self, seconds: float) -> None:
        self.netlink_doubted_until = max(self.netlink_doubted_until, self.world.t + seconds)

    def coin(self) -> bool:
        return self.coin_rng.random() < 0.5

    def call_seconds(self) -> float:
        """How long one netlink call takes."""
        slow = self.netlink_slow if self.world.t < self.netlink_slow_until else 0.0
        return 0.0002 + slow * self.coin_rng.random()

    def hook(self, phase: str) -> tuple[float, bool]:
        """How long a phase's hooks take, and whether they succeed."""
        random = self.rng.random
        if self.world.t < self.hooks_until:
            match self.hooks_mode:
                case "fail":
                    return random() * self.world.shape.hooks, random() < 0.4
                case "decline":
                    return random() * self.world.shape.hooks, phase != "Test"
                case "slow":
                    return random() * HOOK_TIMEOUT, True
                case "hang":
                    return (HOOK_TIMEOUT, False) if random() < 0.5 else (random() * self.world.shape.hooks, True)
        return random() * self.world.shape.hooks, True

    # -- the agent's life ---------------------------------------------------------------------------------------------

    def start(self, *_: object) -> None:
        if self.agent is None and self.alive and not self.asleep and self.world.t >= self.start_at:
            self.lives += 1
            self.agent = Agent(self)
            self.agent.begin()

    def start_in(self, seconds: float) -> None:
        self.start_at = max(self.start_at, self.world.t + seconds)
        self.world.at(self.start_at, self.start)

    def kill(self) -> None:
        """SIGKILL: the kernel closes the agent's connections, and keeps its addresses until they lapse."""
        agent = self.agent
        if agent is None:
            return
        agent.die()
        for conn in agent.conns:
            if conn is not None:
                conn.send(conn.broker.fin, False)
        self.agent = None

    def power_off(self) -> None:
        """Nothing more leaves it, and nothing is left of it."""
        if not self.alive:
            return
        world = self.world
        self.alive = False
        self.asleep = False
        agent = self.agent
        if agent is not None:
            agent.die()
            for conn in agent.conns:
                if conn is not None:
                    conn.void_at = world.t + 0.002
                    conn.closed = True
                    world.at(world.t + world.shape.keepalive, conn.broker.expire, conn, world.t + 0.002)
        self.agent = None
        self.kernel.clear("power")

    def power_on(self, *_: object) -> None:
        if not self.alive and self.world.t >= self.start_at:
            self.alive = True
            self.base = self.rng.uniform(10, 20) - self.rate * self.world.t
            self.start()

    def suspend(self, seconds: float) -> None:
        world = self.world
        if not self.alive or self.asleep:
            return
        self.asleep = True
        self.asleep_since = world.t
        world.wire.broken_at = max(world.wire.broken_at, world.t)
        for link in world.links[self.index]:
            link.up_stall = max(link.up_stall, world.t + seconds)
            link.down_stall = max(link.down_stall, world.t + seconds)
        if self.agent is not None:
            self.agent.pause(seconds)
        world.at(world.t + seconds, self.wake, self.asleep_since)

    def wake(self, since: float, _: object = None) -> None:
        if self.alive and self.asleep and self.asleep_since == since:
            self.asleep = False
            self.world.wire.broken_at = max(self.world.wire.broken_at, self.world.t)
            self.kernel.wake(self.world.t - since)
            self.world.referee.woke(self)
            if self.agent is None:
                self.start()

    def check(self, service: str, unfit_until: float) -> None:
        """The service's checks fail on this host until then; 0: they pass."""
        self.unfit_until[service] = unfit_until
        if self.agent is not None:
            self.agent.checked(service, unfit_until <= self.world.t)

    def link(self, up: bool, gone: bool = False) -> None:
        """The carrier, or the whole interface, comes or goes."""
        if self.carrier == up:
            return
        world = self.world
        self.carrier = up
        world.wire.broken_at = max(world.wire.broken_at, world.t)
        if gone and not up:
            self.exists = False
            self.kernel.clear("interface")
        elif up:
            self.exists = True
        if self.agent is not None:
            world.at(world.t + 0.001, self.agent.link_changed, up)
