"""How long everything takes: two figures that the user sets, and what follows from them.

All values are seconds. A node's clock is never compared with another's: only durations matter, so only the clocks'
rates do. `margin` covers a difference of rates of 0.4 %; clocks that NTP disciplines differ by at most 0.1 %.
"""

from dataclasses import dataclass, field
from math import floor

LATENESS = 0.48
"""By how much the kernel, and what else is late at the holder's, may be late: part of the guard."""

RATES = 0.004
"""By how much the rates of two clocks may differ."""

WIRE_SILENCE = 0.25
"""For how long nobody may have answered on the wire before a claim. At 30 % loss either way an address that is there is
missed by this many probes (two frames each, 40 ms apart) once in some ten thousand times."""

WIRE_PACE = 0.05
"""Between two probes while somebody answers them (at once) and a claim waits for silence. A probe that nobody answers
takes 40 ms by itself."""

MISSED = 1.5
"""After this many intervals without a beat, one is missed."""

EPOCHS_PER_SECOND = 10
"""By how much the least epoch of a claim grows, so that it is above every one that was used before. Faster than claims
can be made one after the other, also those that come to nothing."""

EPOCHS_AHEAD = 2**40
"""An epoch further ahead of all that is known is a mistake or worse, and ignored: it would use up the range."""

FASTEST_BEAT = 0.1
"""A shorter interval than this the kernel's whole seconds cannot turn into a faster failover."""

SHORTEST_LEASE = 1.0
"""The kernel counts lifetimes in whole seconds: with a shorter lease there is none that it could enforce."""

FEWEST_BEATS = 3
"""Beats that must fit into a lease: one may be lost, and the next one late, without harm."""

WATCHDOG_LONGEST = 60
"""Seconds. Many a device can count no further."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The figures of one cluster; the same on every node, or the protocol's promise is void."""

    beat: float = 0.5
    lease: float = 2.0
    margin: float = field(init=False)
    """What is kept free between the end of the kernel's hold and the moment from which another node may act: a
    difference of clocks, and the way of a frame."""
    guard: float = field(init=False)
    """By how much a standby waits longer than the lease that it waits out. 0.5 s, and more with leases of minutes."""
    window: float = field(init=False)
    """W: a service that nobody has claimed or held for this long is free to be claimed."""
    missed: float = field(init=False)
    """Silence from which on the wire is asked, and a holder asks for a second opinion."""
    claim_timeout: float = field(init=False)
    """A claim that is not granted by then is withdrawn. Shorter than the guard: a holder that reconnects to one broker
    of several just after a claim passed there does not know of it; its lease from the others must be over before the
    claim can win."""
    step: float = field(init=False)
    """Each more preferred living node gets this long to claim first."""
    stall: float = field(init=False)
    """A coordinator that was not called for this long has itself been stopped or starved, and doubts its own ears."""
    wire_rest: float = field(init=False)
    """Between two probes of the wire while somebody answers them."""
    retry_first: float = 5.0
    """First pause after a takeover that a hook refused; doubled up to retry_most."""
    retry_most: float = 60.0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "margin", max(0.02, RATES * self.lease))
        put(self, "guard", LATENESS + self.margin)
        put(self, "window", self.lease + self.guard)
        put(self, "missed", self.beat * MISSED)
        put(self, "claim_timeout", 0.8 * LATENESS)
        put(self, "step", 0.05)
        put(self, "stall", self.beat * MISSED)
        put(self, "wire_rest", min(self.beat / 2, 0.25))

    @property
    def watchdog(self) -> int:
        """Whole seconds after which a watchdog that is not fed resets the machine: half of the time for which a service
        may be used without confirmation. It is fed only if the rest of that time is as long."""
        return min(WATCHDOG_LONGEST, max(1, floor((self.window - self.margin) / 2)))

    @property
    def watchdog_slack(self) -> float:
        """How old the latest confirmed beat may be for the watchdog to be fed."""
        return self.window - self.margin - self.watchdog
