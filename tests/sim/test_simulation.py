"""Many worlds, and none in which an invariant fails; and that a world can be replayed and its failure made small."""

import itertools
import os

import pytest

from tests.sim.rules import RULES
from tests.sim.run import Tally, failure_of, play, play_many
from tests.sim.shrink import shrink
from tests.sim.table import plan_of
from tests.sim.world import World, draw_plan

HOURS_QUICK = 20.0
HOURS_CI = 500.0
SEED = int(os.environ.get("LOCUM_SIM_SEED", "0"))
"""Where the seeds begin. They are the same every time, so that a failure is the change's and not the day's."""


def simulate(hours: float, first: int) -> Tally:
    """Worlds until so many hours of cluster time have passed. The first failure ends it, told in full."""
    tally = Tally()
    for seed, outcome in play_many(itertools.count(first), os.cpu_count() or 1):
        tally.add(seed, outcome)
        if outcome.failure:
            pytest.fail(failure_of(seed), pytrace=False)
        if tally.hours >= hours:
            break
    print(f"\n{tally}")
    return tally


def test_twenty_hours() -> None:
    tally = simulate(HOURS_QUICK, SEED)
    assert tally.takeovers > 50 * HOURS_QUICK, "dense with faults means that services move all the time"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_hours() -> None:
    tally = simulate(HOURS_CI, SEED + 1_000)
    assert tally.takeovers > 50 * HOURS_CI


def test_one_seed_replays_one_world() -> None:
    plan = draw_plan(SEED + 7)
    assert draw_plan(SEED + 7) == plan
    first, told = play(plan, tracing=True)
    again, told_again = play(plan, tracing=True)
    assert told, "there is something to compare"
    assert told == told_again
    assert first == again == World(plan).run(), "telling a world does not change it"


def test_a_failure_is_made_small() -> None:
    """Without lifetimes an agent that dies leaves its address behind: it takes one or two faults to see that."""
    broken = next(rule for rule in RULES if not rule.rules.lifetimes)
    plans = (plan_of(broken, number) for number in range(50))
    plan = next(plan for plan in plans if World(plan, broken.rules).run().failure)
    smaller, outcome = shrink(plan, broken.rules, seconds=20.0)
    assert "two hosts have the address" in outcome.failure
    assert sum(map(len, smaller.rounds)) <= 4
    assert World(smaller, broken.rules).run() == outcome, "what is left fails in the same way every time"
