"""Deterministic simulation of whole clusters: the core that runs in production, in a world that is made to fail.

`lease.py` and `coordinator.py` are the real ones. Brokers, kernels, clocks, the wire and the rim of the agent are
models of what was measured of them. One seed replays one world: every random number comes from a generator that the
seed starts, and time is a number that only events move.

    python -m tests.sim.run --seed 17 --trace     one world, told
    python -m tests.sim.soak                      worlds until stopped
"""
