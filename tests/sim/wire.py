"""A model of the wire between the hosts: who hears whose frames now."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.world import World

GATEWAY = -1


class Wire:
    """One segment with every host, and perhaps a gateway."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = Random(f"{world.plan.seed}/wire")
        self.cuts: dict[tuple[int, int], float] = {}
        """From a host to another, one way: until when nothing passes."""
        self.broken_at = -1e9
        """When it was last not whole: something was cut, or a host had no carrier."""

    def cut(self, here: int, there: int, seconds: float) -> None:
        until = self.world.t + seconds
        self.cuts[here, there] = max(self.cuts.get((here, there), 0.0), until)
        self.broken_at = max(self.broken_at, until)

    def heal(self) -> None:
        if self.cuts:
            self.broken_at = min(self.broken_at, self.world.t)
            self.cuts.clear()

    def _open(self, here: int, there: int) -> bool:
        return self.cuts.get((here, there), 0.0) <= self.world.t if self.cuts else True

    def _passes(self, here: Host, there: Host) -> bool:
        loss = self.world.shape.loss
        if loss and self.rng.random() < loss:
            return False
        return self._open(here.index, there.index)

    def asks(self, asker: Host, there: Host) -> bool:
        """Whether a question of one host is answered by the other's kernel."""
        if not (there.alive and there.carrier and asker.carrier):
            return False
        return self._passes(asker, there) and self._passes(there, asker)

    def probe(self, asker: Host, service: str) -> Host | None:
        """Who answers for a service's address."""
        for host in self.world.holders[service]:
            if host is not asker and self.asks(asker, host):
                return host
        return None

    def echo(self, asker: Host) -> str:
        """Who answers an echo first; empty: nobody."""
        if not asker.carrier:
            return ""
        if self.world.shape.gateway and self._open(asker.index, GATEWAY) and self._open(GATEWAY, asker.index):
            return "gateway"
        for host in self.world.hosts:
            if host is not asker and self.asks(asker, host):
                return host.name
        return ""

    def whole_for(self, seconds: float) -> bool:
        """Whether everything has reached everybody for so long."""
        world = self.world
        return (
            world.shape.loss < 0.5
            and world.t - self.broken_at >= seconds
            and all(host.carrier or not host.alive for host in world.hosts)
        )
