"""The one clock of the agent.

Seconds since boot, counting also the time for which the machine was suspended (CLOCK_BOOTTIME, clock_gettime(2)):
a machine that wakes up must see that its leases are over. It never steps with the wall clock.
"""

import time


def now() -> float:
    """Monotonic seconds, suspend included. Only differences of it mean anything, and only on one machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
