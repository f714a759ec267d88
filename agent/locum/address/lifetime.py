"""How long the kernel may keep an address, so that it is gone before anybody else may take it. Pure.

The kernel takes a lifetime in whole seconds, counts it from the moment of the call, and is late in removing what has
lapsed. Rule: the call's moment, plus the lifetime, plus the ordinary lateness, never passes `until`.
"""

import math

SLACK_SECONDS = 0.35
"""How late Linux removes a lapsed address, IPv4 or IPv6, while it is awake: 0.00 to 0.27 s measured, some to spare.

Where it comes from (`check_lifetime` in net/ipv4/devinet.c, `addrconf_verify_rtnl` in net/ipv6/addrconf.c): the kernel
rounds its timer up to a full second of its own where that costs less than 0.25 s, and then to the timer wheel's step.
Three things make it later than that, and no number given to the kernel can prevent them:

- Another address added in the same network namespace makes the kernel look at once, and after a look it rests for a
  second: what lapses within that second is up to 1.0 s late (0.95 s measured).
- The timer is deferrable (IPv6 from Linux 5.18, IPv4 from 6.13): it does not wake a CPU that sleeps. On an idle machine
  the removal waits for something else to wake that CPU (1.2 and 1.5 s late measured, and nothing bounds it). As long
  as its process runs, kernel.py deletes what is over.
- The removal waits for the kernel's lock of all network configuration (rtnl), as when containers come and go.
"""

LEFT_SECONDS = 7200
"""For so long the kernel keeps the addresses of a paused service when the agent has ended."""

LEFT_LEAST = 1000
"""No lease is that long: an address with a longer lifetime, but not an endless one, was left on purpose."""

FOUND_WINDOWS = 4
"""For so many windows an address that was left is kept when the agent is back: it takes one to listen, and a claim."""


def kernel_seconds(until: float, now: float) -> int:
    """The largest whole number of seconds L with `now + L + SLACK_SECONDS <= until`, and never below 0.

    `until` and `now` are seconds of the same clock. 0 means that no lifetime is short enough: do not set the address
    (the kernel refuses a lifetime of 0 as well). Raises ValueError for what is no finite time.
    """
    if not (math.isfinite(until) and math.isfinite(now)):
        raise ValueError(f"a lifetime needs finite times, not until={until} and now={now}")
    seconds = max(0, math.floor(until - now - SLACK_SECONDS))
    # Floats round: the promise is the sum, so that is what is looked at. One step suffices at any time a clock shows.
    while seconds > 0 and now + seconds + SLACK_SECONDS > until:
        seconds -= 1
    if now + (seconds + 1) + SLACK_SECONDS <= until:
        seconds += 1
    return seconds
