"""Worlds until stopped: `python -m tests.sim.soak [--hours N] [--from SEED]`.

Says every now and then how far it has come; at a failure it tells the seed, what of its schedule it takes, and the
trace, and ends with status 1. Interrupted, or after so many hours of cluster time, it says what it did and ends with 0.
"""

import argparse
import itertools
import os
import sys
import time

from tests.sim.run import Tally, failure_of, play_many

TOLD_SECONDS = 60.0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=float("inf"), help="of cluster time; default: no end")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="SEED")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    tally, began = Tally(), time.monotonic()
    told_at = began
    try:
        for seed, outcome in play_many(itertools.count(given.first), given.processes):
            tally.add(seed, outcome)
            now = time.monotonic()
            if outcome.failure:
                print(tally)
                print(failure_of(seed))
                return 1
            if now - told_at >= TOLD_SECONDS:
                told_at = now
                print(f"{now - began:6.0f} s: seed {seed}: {tally}", flush=True)
            if tally.hours >= given.hours:
                break
    except KeyboardInterrupt:
        print("stopped")
    print(f"{time.monotonic() - began:6.0f} s: {tally}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
