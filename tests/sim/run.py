"""Runs worlds: one, told in full; or many, on several processes."""

import argparse
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.sim.rules import STOCK, Rules
from tests.sim.shrink import shrink, told
from tests.sim.world import Outcome, Plan, World, draw_plan

FAILURES_TOLD = 12


@dataclass(slots=True)
class Tally:
    """What many worlds came to."""

    worlds: int = 0
    seconds: float = 0.0
    faults: int = 0
    takeovers: int = 0
    settled_most: float = 0.0
    bound_share: float = 0.0
    excused: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, seed: int, outcome: Outcome) -> None:
        self.worlds += 1
        self.seconds += outcome.seconds
        self.faults += outcome.faults
        self.takeovers += outcome.takeovers
        self.settled_most = max(self.settled_most, outcome.settled_most)
        self.bound_share = max(self.bound_share, outcome.bound_share)
        self.excused.update(outcome.excused)
        if outcome.failure:
            self.failed[seed] = outcome.failure

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def __str__(self) -> str:
        excused = ", ".join(f"{count} {what}" for what, count in sorted(self.excused.items()))
        return (
            f"{self.worlds} worlds, {self.hours:.1f} hours of cluster time, {self.faults} faults, {self.takeovers} "
            f"takeovers; slowest recovery {self.settled_most:.1f} s, {self.bound_share:.0%} of its bound; "
            f"excused: {excused or 'nothing'}; failed: {len(self.failed)}"
        )


def play(plan: Plan, rules: Rules = STOCK, tracing: bool = False) -> tuple[Outcome, list[str]]:
    world = World(plan, rules, tracing)
    return world.run(), world.trace


def play_seed(seed: int) -> tuple[int, Outcome]:
    return seed, play(draw_plan(seed))[0]


def play_many(seeds: Iterable[int], processes: int) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of the seeds' worlds, in their order. The seeds may have no end."""
    if processes <= 1:
        yield from map(play_seed, seeds)
        return
    waiting = iter(seeds)
    with ProcessPoolExecutor(processes) as pool:
        running: deque[Future[tuple[int, Outcome]]] = deque()
        while True:
            while len(running) < 8 * processes and (seed := next(waiting, None)) is not None:
                running.append(pool.submit(play_seed, seed))
            if not running:
                return
            yield running.popleft().result()


def failure_of(seed: int) -> str:
    """All about a seed that fails: its shrunk schedule and its trace."""
    plan, outcome = shrink(draw_plan(seed))
    return told(plan, outcome)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worlds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", type=int, default=0, metavar="LINES", help="tell the last so many lines")
    parser.add_argument("--shrink", action="store_true", help="find what of the schedule it takes to fail")
    given = parser.parse_args(arguments)
    if given.shrink:
        print(failure_of(given.seed))
        return 1
    if given.worlds == 1:
        plan = draw_plan(given.seed)
        outcome, trace = play(plan, tracing=given.trace > 0)
        print("\n".join(trace[-given.trace :] if given.trace else []))
        print(plan.shape)
        print(outcome)
        return 1 if outcome.failure else 0
    tally, began = Tally(), time.monotonic()
    for seed, outcome in play_many(range(given.seed, given.seed + given.worlds), given.processes):
        tally.add(seed, outcome)
        if outcome.failure and len(tally.failed) <= FAILURES_TOLD:
            print(f"seed {seed}: at {outcome.seconds:.3f} s: {outcome.failure}", flush=True)
    took = time.monotonic() - began
    print(f"{tally}; {tally.seconds / took:.0f} simulated seconds a second")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
