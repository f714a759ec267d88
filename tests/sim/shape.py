"""What a world is made of: how many nodes, brokers and services, how they are timed, and how its clocks go.

A shape is drawn from a seed and never changes while its world lives.
"""

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from locum.config import Config
from locum.timing import Timing

HOOK_TIMEOUT = 5.0
"""Seconds after which a hook that hangs is ended."""
DRIFT = 0.001
"""How far a host's clock may run ahead or behind, as a rate."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One cluster."""

    nodes: int = 2
    brokers: int = 1
    services: int = 1
    beat: float = 0.5
    lease: float = 2.0
    holds: bool = False
    """`on_bus_loss = "hold"`."""
    split: bool = False
    """The wire between the hosts may be cut. Under `hold` two holders are then possible, and only counted."""
    gateway: bool = False
    bus_on_wire: bool = True
    """The brokers are reached over the interface that has the addresses."""
    failback: float = 0.0
    """Seconds until an automatic failback; 0: by hand."""
    beside: str = ""
    """How the second service stands to the first: "together", "apart", or in no way."""
    rates: tuple[float, ...] = (1.0, 1.0)
    latency: float = 0.0005
    """One way between a node and a broker, in seconds."""
    loss: float = 0.0
    """Share of the frames between hosts that are lost. 1: the wire says nothing, and only the lease keeps order."""
    retry_first: float = 1.0
    retry_most: float = 8.0
    hooks: float = 0.03
    """Seconds that a hook takes at most while nothing is wrong with hooks; 0: there are none."""
    rounds: int = 4
    chaos: float = 60.0
    """Seconds of trouble in each round; calm follows until every service is held."""

    @property
    def timing(self) -> Timing:
        return Timing(self.beat, self.lease, retry_first=self.retry_first, retry_most=self.retry_most)

    @property
    def patience(self) -> float:
        """For how long the bus waits for a connection, and for an answer on it."""
        return max(self.beat, 0.5)

    @property
    def keepalive(self) -> float:
        """After this silence a broker gives a connection up: MQTT's keepalive, and a half."""
        return 1.5 * max(2.0, float(-(-self.lease // 1)))

    def bound(self) -> float:
        """Seconds from the end of all trouble until every service must be held, as the sum of what may come first.

        1. A hook that hangs is ended at its timeout, the rest of its release runs, and an agent that was stopping ends.
        2. A dead connection is noticed (own beats missing for a lease and a beat, looked at once a beat), rested from,
           and made anew, where the first attempt may have begun in the trouble and has to time out.
        3. What a node waits of its own accord: to give way to a successor (two windows), or after a takeover that a
           hook refused (retry_most). Then quiet: a window. Addresses of dead agents lapse within it.
        4. Claims that get into each other's way, each with its time, its turn, and the probes before it.
        5. The hooks of the takeover, and the call that sets the address.

        A second service that must be together with the first, or apart from it, waits for that one and then as long.
        """
        timing = self.timing
        ends = HOOK_TIMEOUT + 6 * self.hooks + 1.0
        bus = timing.lease + 3 * timing.beat + 0.25 + 2 * self.patience
        waits = max(2 * timing.window, timing.retry_most) + timing.window
        claims = CLAIM_ROUNDS * (timing.claim_timeout + (self.nodes + 3) * timing.step + 0.4)
        takeover = 3 * self.hooks + 0.1
        once = waits + claims + takeover
        return ends + bus + once + (ends + once if self.beside else 0.0)


CLAIM_ROUNDS = 6
"""Claims that may get into each other's way before one is granted."""


@lru_cache(maxsize=512)
def config_of(nodes: int, brokers: int, services: int, shape: Shape) -> Config:
    """The configuration file of a shape."""
    names = [node_name(index) for index in range(nodes)]
    failback = {"failback": "auto", "failback_delay": f"{shape.failback:g}s"} if shape.failback else {}
    beside = {"together": {"together_with": service_name(0)}, "apart": {"apart_from": [service_name(0)]}}
    return Config.model_validate(
        {
            "cluster": "sim",
            "brokers": [f"mqtt://10.0.9.{index + 1}:1883" for index in range(brokers)],
            "on_bus_loss": "hold" if shape.holds else "release",
            **({"gateway": "10.0.0.254"} if shape.gateway else {}),
            "timing": {"beat": f"{shape.beat:g}s", "lease": f"{shape.lease:g}s"},
            "nodes": {name: {"address": f"10.0.0.{index + 1}"} for index, name in enumerate(names)},
            "services": {
                service_name(index): {
                    "addresses": [f"10.0.1.{index + 1}/32"],
                    "interface": "eth0",
                    "nodes": names[index % nodes :] + names[: index % nodes],
                    **(failback if shape.beside != "together" or not index else {}),
                    **(beside.get(shape.beside, {}) if index == 1 else {}),
                    **({} if index % 2 else {"checks": {"page": {"file": "/page", "interval": f"{shape.beat:g}s"}}}),
                }
                for index in range(services)
            },
        }
    )


def node_name(index: int) -> str:
    return f"n{index}"


def service_name(index: int) -> str:
    return f"s{index}"


TIMINGS = (
    (0.5, 2.0),
    (0.5, 1.9),
    (0.25, 1.0),
    (1.0, 3.0),
    (1.0, 4.0),
    (2.0, 6.0),
    (2.0, 8.0),
    (3.0, 10.0),
    (20.0, 59.9),
)
TIMING_WEIGHTS = (14, 4, 2, 26, 12, 24, 10, 7, 2)
SIZES = ((1, 1, 1), (2, 1, 1), (2, 1, 2), (3, 1, 1), (3, 1, 2), (2, 3, 1), (3, 3, 1), (3, 3, 2), (4, 3, 1), (5, 3, 2),
         (3, 5, 1), (5, 5, 1))  # fmt: skip
SIZE_WEIGHTS = (1, 33, 9, 20, 6, 12, 8, 2, 2, 1, 1, 1)
"""Nodes, brokers, services, and how often. Small clusters are cheap and fail in most of the ways; large ones cost ten
times as much a second."""


def draw_shape(rng: Random) -> Shape:
    nodes, brokers, services = rng.choices(SIZES, SIZE_WEIGHTS)[0]
    beat, lease = rng.choices(TIMINGS, TIMING_WEIGHTS)[0]
    holds = rng.random() < 0.5
    chaos = rng.choice((15, 25, 40)) * (lease + 0.5)
    return Shape(
        nodes=nodes,
        brokers=brokers,
        services=services,
        beat=beat,
        lease=lease,
        holds=holds,
        split=rng.random() < (0.15 if holds else 0.7),
        gateway=rng.random() < 0.3,
        bus_on_wire=rng.random() < 0.6,
        failback=rng.choice((0.0, 0.0, 3.0)),
        beside=rng.choice(("", "together", "apart")) if services > 1 else "",
        rates=tuple(rng.choice((1.0 - DRIFT, 1.0, 1.0 + DRIFT)) for _ in range(nodes)),
        latency=rng.choice((0.0001, 0.0005, 0.002, 0.01)),
        loss=rng.choice((0.0, 0.0, 0.05) if holds else (0.0, 0.0, 0.05, 1.0)),
        hooks=rng.choice((0.0, 0.001, 0.03)),
        rounds=1 if lease > 20 else 2 if nodes > 3 or brokers > 3 else 6,
        chaos=chaos,
    )
