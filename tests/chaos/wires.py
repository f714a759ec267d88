"""What happens to a cable, or to what two hosts say to each other."""

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from locum.demo.lab import Direction, Host
from tests.chaos.detour import detour
from tests.chaos.stage import Stage

DELAY_MOST = 0.2
"""Seconds, each way."""


@contextmanager
def cut(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """The cable is cut: both ends see it."""
    stage.host(host).cut()
    try:
        yield ""
    finally:
        stage.host(host).mend()


@contextmanager
def cut_silently(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """The switch no longer passes frames, and every carrier stays up."""
    stage.host(host).cut(silent=True)
    try:
        yield ""
    finally:
        stage.host(host).mend()


@contextmanager
def cut_one_way(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Nothing gets out, or nothing gets in."""
    with _blocked(stage, host, _others(stage, host), rng.choice(("in", "out"))) as told:
        yield told


@contextmanager
def from_brokers(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Nothing passes between it and the brokers, in both directions."""
    with _blocked(stage, host, [broker for broker, _ in stage.brokers.values()], "both") as told:
        yield told


@contextmanager
def from_brokers_one_way(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Nothing passes between it and the brokers, in one direction."""
    direction: Direction = rng.choice(("in", "out"))
    with _blocked(stage, host, [broker for broker, _ in stage.brokers.values()], direction) as told:
        yield told


@contextmanager
def nodes_apart(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Nothing passes between it and the other nodes; both sides reach everybody else."""
    others = [other for name, other in stage.nodes.items() if name != host]
    with _blocked(stage, host, others, rng.choice(("in", "out", "both"))) as told:
        yield told


@contextmanager
def loss_to_brokers(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """30 % of the IP packets between it and the brokers are lost, each way."""
    for broker, _ in stage.brokers.values():
        stage.host(host).lose(30, broker)
    try:
        yield ""
    finally:
        for broker, _ in stage.brokers.values():
            stage.host(host).lose(0, broker)


@contextmanager
def loss(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """30 % of its frames are lost, each way, ARP too."""
    stage.host(host).lose(30, arp=True)
    try:
        yield ""
    finally:
        stage.host(host).lose(0)


@contextmanager
def limited(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Its cable passes little. The client's requests alone are 230 kbit/s; what is too much is dropped.

    Under `hold` so much of a node's cable is left that a probe gets through as with 30 % loss: less would split the
    wire (design, section 4). A broker's cable, and a node's in strict mode, may be as narrow as 16 kbit/s.
    """
    least = 160_000 if stage.shape.mode == "hold" and host in stage.nodes else 16_000
    rate = round(least * (400_000 / least) ** rng.random())
    stage.host(host).limit(rate)
    try:
        yield f"{rate / 1000:.0f} kbit/s"
    finally:
        stage.host(host).limit(None)


@contextmanager
def delayed(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Every frame is late, in order."""
    most = rng.uniform(0.02, DELAY_MOST)
    least = most * rng.random()
    with detour(stage.host(host), delay=round(least, 4), jitter=round(most - least, 4), seed=rng.randrange(1000)):
        yield f"{least * 1000:.0f} to {most * 1000:.0f} ms each way"


@contextmanager
def duplicated(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Frames come twice."""
    chance = round(rng.uniform(0.1, 0.9), 2)
    with detour(stage.host(host), duplicate=chance, seed=rng.randrange(1000)):
        yield f"{chance:.0%} of the frames"


@contextmanager
def reordered(stage: Stage, host: str, rng: Random) -> Iterator[str]:
    """Frames overtake each other."""
    chance = round(rng.uniform(0.1, 0.5), 2)
    with detour(stage.host(host), reorder=chance, seed=rng.randrange(1000)):
        yield f"{chance:.0%} of the frames"


@contextmanager
def _blocked(stage: Stage, host: str, others: list[Host], direction: Direction) -> Iterator[str]:
    for other in others:
        stage.host(host).block(other, direction)
    try:
        yield direction
    finally:
        for other in others:
            stage.host(host).unblock(other)


def _others(stage: Stage, host: str) -> list[Host]:
    return [other for name, other in stage.lab.hosts.items() if name != host]
