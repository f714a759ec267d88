"""A model of one host's kernel, as far as addresses go.

An address lapses by itself when its lifetime, counted from the call by the host's own clock, is over, and between 0.01
and 0.35 s later. A suspended host counts nothing. Addresses do not outlive the host's power.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.host import Host

SLACK = (0.01, 0.35)
LATE = 1.5
"""What an idle machine may add to that."""


class Address:
    """A service's addresses on a host; they are set and go together."""

    __slots__ = ("excused", "expires_at", "late_at")

    def __init__(self, expires_at: float) -> None:
        self.expires_at = expires_at
        self.late_at = expires_at
        """Later than this Linux ordinarily is not."""
        self.excused = ""
        """Why it may be there too long, as the page of guarantees says: a suspended host, or a call that a pause came
        before."""


class Kernel:
    """The addresses of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.random = Random(f"{host.world.plan.seed}/kernel/{host.index}").random
        self.has: dict[str, Address] = {}
        self._pending: dict[str, float] = {}
        """When a lapse is looked at next."""

    def set(self, service: str, seconds: int, excused: str = "") -> None:
        """`ip address replace ... valid_lft seconds`: adds it if it is gone."""
        world = self.world
        low, high = SLACK
        slack = low + (high - low) * self.random()
        if world.t < self.host.late_until:
            slack += LATE * self.random()
        lasts = inf if seconds < 0 else seconds + slack
        expires_at = world.t + lasts / self.host.rate
        address = self.has.get(service)
        if address is None:
            address = self.has[service] = Address(expires_at)
            address.excused = excused
            world.referee.appeared(service, self.host)
        else:
            address.expires_at = expires_at
            address.excused = excused
        address.late_at = inf if seconds < 0 else world.t + (seconds + high) / self.host.rate
        pending = self._pending.get(service)
        if (pending is None or pending > expires_at) and seconds >= 0:
            self._pending[service] = expires_at
            world.at(expires_at, self._lapse, service, expires_at)

    def remove(self, service: str, why: str) -> None:
        if self.has.pop(service, None) is not None:
            self.world.referee.vanished(service, self.host, why)
            if self.host.agent is not None:
                self.host.agent.address_gone(service, why)

    def _lapse(self, service: str, looked_for: float) -> None:
        if self._pending.get(service) != looked_for:
            return
        del self._pending[service]
        address = self.has.get(service)
        if address is None or self.host.asleep or not self.host.alive:
            return
        if address.expires_at <= self.world.t:
            self.remove(service, "lapsed")
        else:
            self._pending[service] = address.expires_at
            self.world.at(address.expires_at, self._lapse, service, address.expires_at)

    def wake(self, slept: float) -> None:
        """After a suspension: lifetimes go on where they stood."""
        for service, address in self.has.items():
            address.expires_at += slept
            address.late_at += slept
            address.excused = address.excused or "suspended"
            self._pending[service] = address.expires_at
            self.world.at(address.expires_at, self._lapse, service, address.expires_at)

    def clear(self, why: str) -> None:
        for service in list(self.has):
            self.remove(service, why)
