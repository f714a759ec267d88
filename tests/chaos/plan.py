"""What will happen: rounds, each a cluster of its own, and in each a row of faults. All of it drawn from the seed.

Who the holder is when a fault begins is the cluster's doing, so "the holder" is as far as a plan can say it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.chaos.kinds import KINDS, Kind
from tests.chaos.stage import Shape

PAIRS = 0.25
"""How often a second fault begins while the first one lasts."""

SHAPES = (
    Shape("hold"),
    Shape("release"),
    Shape("hold", both_families=True),
    Shape("hold", nodes=3),
    Shape("hold", brokers=3),
    Shape("release", brokers=3),
    Shape("hold", gateway=True),
    Shape("hold", both_families=True, gateway=True),
    Shape("release", nodes=3),
    Shape("hold", nodes=3, brokers=3),
)
"""One after the other, again and again."""


@dataclass(frozen=True)
class Injection:
    """One fault, or one and a second one that begins while it lasts."""

    first: Kind
    seconds: float
    seed: int
    second: Kind | None = None
    second_after: float = 0.0
    second_seconds: float = 0.0


class Plan:
    """Draws from a pack of all kinds for each mode, so that each has come once before one comes again."""

    def __init__(self, seed: int, kinds: Sequence[Kind] = KINDS) -> None:
        self._random = Random(seed)
        self._kinds = kinds
        self._packs: dict[str, list[Kind]] = {}

    def rounds(self, injections: int) -> Iterator[tuple[Shape, list[Injection]]]:
        """Without end; so many injections in each."""
        number = 0
        while True:
            shape = SHAPES[number % len(SHAPES)]
            number += 1
            yield shape, [self._injection(shape) for _ in range(injections)]

    def _injection(self, shape: Shape) -> Injection:
        draw = self._random
        first = self._next(shape.mode)
        seconds = draw.uniform(*first.seconds)
        seed = draw.randrange(2**32)
        if draw.random() >= PAIRS or shape.mode in first.alone:
            return Injection(first, seconds, seed)
        others = [kind for kind in self._kinds if shape.mode not in kind.alone and not _collide(first, kind)]
        if not others:
            return Injection(first, seconds, seed)
        second = draw.choice(others)
        return Injection(first, seconds, seed, second, draw.uniform(0, seconds), draw.uniform(*second.seconds))

    def _next(self, mode: str) -> Kind:
        pack = self._packs.setdefault(mode, [])
        if not pack:
            pack.extend(kind for kind in self._kinds for _ in range(kind.weight))
            self._random.shuffle(pack)
        return pack.pop()


def _collide(one: Kind, other: Kind) -> bool:
    """Whether both would use the same of the same target. A holder may have become a standby: these count as one."""
    brokers_wires = {"brokers' wires"} & (one.takes | other.takes)
    if brokers_wires and any(kind.whom == "broker" and "wire" in kind.takes for kind in (one, other)):
        return True
    if (one.whom == "broker") != (other.whom == "broker"):
        return False
    return bool(one.takes & other.takes)
