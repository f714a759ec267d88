"""Makes a schedule that fails smaller: takes faults out as long as it still fails.

First the rounds before the last are dropped, then ever smaller runs of faults (delta debugging, Zeller 2002). A world
is a function of its plan, so what is left is a plan that fails, and says what it takes.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from time import monotonic

from tests.sim.faults import Fault
from tests.sim.rules import STOCK, Rules
from tests.sim.world import Outcome, Plan, World

SECONDS_MOST = 30.0
WORLDS_MOST = 2_000


def shrink(plan: Plan, rules: Rules = STOCK, seconds: float = SECONDS_MOST) -> tuple[Plan, Outcome]:
    """The smallest failing plan that was found in time, and how it fails. The given plan must fail."""
    until = monotonic() + seconds
    left = WORLDS_MOST
    best, outcome = plan, World(plan, rules).run()
    assert outcome.failure, "only what fails can be shrunk"

    def fails(tried: Plan) -> bool:
        nonlocal best, outcome, left
        left -= 1
        if left < 0 or monotonic() > until:
            return False
        found = World(tried, rules).run()
        if found.failure:
            best, outcome = tried, found
        return bool(found.failure)

    for first in range(len(plan.rounds) - 1, 0, -1):
        if fails(replace(plan, rounds=plan.rounds[first:])):
            break
    rounds = [list(faults) for faults in best.rounds]
    for number in range(len(rounds)):

        def fails_with(faults: list[Fault], number: int = number) -> bool:
            return fails(_with(best, number, faults))

        rounds[number] = _fewer(rounds[number], fails_with)
    return best, outcome


def _with(plan: Plan, number: int, faults: list[Fault]) -> Plan:
    rounds = list(plan.rounds)
    rounds[number] = tuple(faults)
    return replace(plan, rounds=tuple(rounds))


def _fewer(faults: list[Fault], fails: Callable[[list[Fault]], bool]) -> list[Fault]:
    """Takes out runs of faults, halving their length when none can go."""
    length = len(faults)
    while length >= 1:
        start = 0
        while start < len(faults):
            tried = [*islice(faults, start), *islice(faults, start + length, None)]
            if fails(tried):
                faults = tried
            else:
                start += length
        length //= 2
    return faults


def told(plan: Plan, outcome: Outcome, lines: int = 80, rules: Rules = STOCK) -> str:
    """A failing plan as a person wants to read it: what it takes, and the end of its trace."""
    world = World(plan, rules, tracing=True)
    world.run()
    faults = [f"  round {number}: {fault}" for number, faults in enumerate(plan.rounds) for fault in faults]
    return "\n".join(
        (
            f"seed {plan.seed}, at {outcome.seconds:.3f} s: {outcome.failure}",
            str(plan.shape),
            f"{len(faults)} faults are enough:",
            *faults,
            "trace:",
            *world.trace[-lines:],
        )
    )
