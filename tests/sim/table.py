"""The table of rules: each taken out, and how many worlds it took until the simulation noticed.

python -m tests.sim.table
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from random import Random
from time import process_time

from tests.sim.rules import RULES, Broken, shape_of
from tests.sim.shape import draw_shape
from tests.sim.world import Plan, World, draw_plan

SEED = 1_000_000
WORLDS_MOST = 1_500
WORLDS_COVERED = 60
"""For a rule that others cover."""
SECONDS_MOST = 40.0
"""CPU seconds for one rule."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one rule's absence."""

    name: str
    worlds: int
    seconds: float
    caught: str
    covered: str

    def __str__(self) -> str:
        found = f"{self.worlds} worlds" if self.caught else f"not in {self.worlds}"
        what = self.caught or self.covered or "MISSED"
        return f"{self.name:54} {found:>12} {self.seconds / 60:7.1f} min  {what[:110]}"


def try_rule(number: int) -> Row:
    broken = RULES[number]
    began, simulated, worlds = process_time(), 0.0, 0
    most = WORLDS_COVERED if broken.covered else WORLDS_MOST
    failure = ""
    while not failure and worlds < most and process_time() - began < SECONDS_MOST:
        outcome = World(plan_of(broken, worlds), broken.rules).run()
        worlds += 1
        simulated += outcome.seconds
        failure = outcome.failure
    return Row(broken.name, worlds, simulated, failure, broken.covered)


def plan_of(broken: Broken, number: int) -> Plan:
    """The world of that number for a rule."""
    seed = SEED + number
    shape = shape_of(broken, draw_shape(Random(f"plan/{seed}")))
    if broken.schedule:
        return Plan(seed, shape, (broken.schedule,))
    return draw_plan(seed, broken.kinds, shape)


def rows(processes: int) -> Iterator[Row]:
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(try_rule, range(len(RULES)))


if __name__ == "__main__":
    for row in rows(os.cpu_count() or 1):
        print(row, flush=True)
