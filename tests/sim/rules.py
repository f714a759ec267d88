"""The rules of the protocol, and nodes that do not keep one of them.

Each `Broken` takes out one rule, by a subclass of the real core or by a switch of the modelled rim, and names the kind
of world in which its absence shows soonest. A simulation that did not notice would prove nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from locum.coordinator import LETTING_GO, RELEASE, Coordinator, Duty, On
from locum.lease import Lease, View
from locum.messages import Beat, Role, Standing
from locum.ports import Input, Probed
from tests.sim.faults import HOLDER, Fault
from tests.sim.shape import Shape


@dataclass(frozen=True, slots=True)
class Rules:
    """What the nodes of a world keep to."""

    coordinator: type[Coordinator] = Coordinator
    lifetimes: bool = True
    """Addresses are set with a lifetime."""
    only_if_present: bool = True
    """Without a confirmed lease, an address that is gone is not added."""
    sure: bool = True
    """An address that may have lapsed between the look whether it is there and the call is deleted."""
    look_before: bool = True
    """The lifetime is counted from a look at the clock right before the call."""
    look_after: bool = True
    """The clock is looked at again straight after the call."""
    total_order: bool = True
    """A broker hands every subscriber the same messages in the same order."""
    only_addresses: bool = False
    """Of what the referee sees, only two hosts with an address end a world; the rest is counted."""
    own_names: bool = True
    """No two machines run as the same node; else the second has the first's name."""


STOCK = Rules()


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule taken out, and where to look for what comes of it."""

    name: str
    rules: Rules
    kinds: dict[str, float]
    shape: dict[str, Any] = field(default_factory=dict)
    schedule: tuple[Fault, ...] = ()
    """Where the kinds are left to chance too seldom: the faults themselves."""
    covered: str = ""
    """Where its absence cannot be seen: what else keeps to the promise."""


def leases(lease: type[Lease]) -> type[Coordinator]:
    """A coordinator with leases of another class."""

    class Other(Coordinator):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            for duty in self._duties:
                duty.lease = lease(self.boot, len(self.config.brokers), self.timing)

    return Other


# -- rule 1: register --------------------------------------------------------------------------------------------------


class LowerToo(Lease):
    """A message with a lower epoch takes the register too."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, *more: Any, **named: Any) -> None:
        if holding:
            self.views[broker].epoch = min(self.views[broker].epoch, epoch - 1)
        super().hear(broker, boot, epoch, holding, *more, **named)


class LastHasIt(Lease):
    """At the same epoch the last to come has the register."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, *more: Any, **named: Any) -> None:
        view = self.views[broker]
        if holding and epoch == view.epoch:
            view.holder = boot
        super().hear(broker, boot, epoch, holding, *more, **named)


# -- rule 2: quiet -----------------------------------------------------------------------------------------------------


class OldEars(Lease):
    """A subscription counts from its first moment."""

    def subscribed(self, broker: int, now: float) -> None:
        super().subscribed(broker, now)
        self.views[broker].since = -inf

    def doubt(self, now: float) -> None:
        pass


class ShortWindow(Lease):
    """What was heard counts for the lease, and not for a guard longer."""

    def _quiet_at(self, view: View, now: float) -> float:
        return super()._quiet_at(view, now) - 0.5


class ClaimsDoNotCount(Coordinator):
    """Another's claim does not keep a broker from being quiet."""

    def _hear(self, now: float, broker: int, beat: Beat) -> list[Duty]:
        views = {name: self.duties[name].lease.views[broker] for name in beat.services if name in self.duties}
        before = {name: (view.heard.get(beat.boot), view.granted) for name, view in views.items()}
        concerned = super()._hear(now, broker, beat)
        for name, view in views.items():
            if beat.boot != self.boot and beat.services[name].role is Role.CLAIMING and beat.boot in view.heard:
                heard, view.granted = before[name]
                if heard is None:
                    del view.heard[beat.boot]
                else:
                    view.heard[beat.boot] = heard
        return concerned


class HearsTheDead(Lease):
    """A broker counts as quiet also while our own beats do not come back from it."""

    def _quiet_at(self, view: View, now: float) -> float:
        echoed, view.echoed = view.echoed, inf
        quiet_at = super()._quiet_at(view, now)
        view.echoed = echoed
        return quiet_at


class ReleaseClearsAll(Lease):
    """A release makes everybody's claims and beats forgotten."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, *more: Any, **named: Any) -> None:
        super().hear(broker, boot, epoch, holding, *more, **named)
        if not holding and boot != self.me and epoch:
            self.views[broker].heard.clear()


# -- rule 3: claim -----------------------------------------------------------------------------------------------------


class ForgetsItsOwn(Lease):
    """A claim's epoch is above every one in the registers, though not above every one that it has used itself."""

    def learn(self, epoch: int, held: bool = False) -> None:
        if held:
            self.rival = max(self.rival, epoch)

    def claim(self, now: float) -> int:
        self.top = max(view.epoch for view in self.views)
        return super().claim(now)


class NoFloor(Coordinator):
    """Epochs do not grow with the clock."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._floor = 0
        self._born = inf

    def _claim(self, duty: Duty, now: float) -> None:
        self._born = now
        super()._claim(duty, now)


class AnyBroker(Lease):
    """One broker of several is enough to claim, to be granted and to renew."""

    @property
    def majority(self) -> int:
        return 1


class DeafToWire(Coordinator):
    """Nobody asks the wire before a claim, nor beside it: every probe is silent."""

    def step(self, now: float, event: Input) -> list[Any]:
        if event.__class__ is Probed:
            assert isinstance(event, Probed)
            event = Probed(event.service, event.asked_at)
        return super().step(now, event)


class DeafAtGrant(Coordinator):
    """The wire is asked before a claim, and not again at the grant."""

    def _press_claim(self, duty: Duty, now: float) -> float:
        duty.ears.mac = ""
        duty.ears.silent_to = inf
        return super()._press_claim(duty, now)


# -- rule 4: grant -----------------------------------------------------------------------------------------------------


class GrantsUnseen(Lease):
    """Quiet is judged before the claim only, and not again when it comes back."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, *more: Any, **named: Any) -> None:
        super().hear(broker, boot, epoch, holding, *more, **named)
        view = self.views[broker]
        if boot == self.me and holding and epoch == self.epoch and self.claimed_at is not None:
            view.granted = view.granted or (view.holder == boot and view.epoch == epoch)


class GrantsToAll(Lease):
    """A claim that comes back is granted, whoever has the register."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, *more: Any, **named: Any) -> None:
        super().hear(broker, boot, epoch, holding, *more, **named)
        view = self.views[broker]
        if boot == self.me and holding and epoch == self.epoch and self.claimed_at is not None:
            view.granted = True
            view.confirmed = max(view.confirmed, more[1] if len(more) > 1 else -inf)


class PatientClaim(Lease):
    """A claim has no end: it may be granted at any time."""

    def granted(self, now: float) -> bool:
        if self.claimed_at is None or self.superseded() or self.ends_at() <= now:
            return False
        return sum(view.granted for view in self.views) >= self.majority


class PatientCoordinator(leases(PatientClaim)):  # type: ignore[misc]
    """... and its claimant waits for a window."""

    def _press_claim(self, duty: Duty, now: float) -> float:
        claimed_at = duty.lease.claimed_at
        if claimed_at is not None and now < claimed_at + 2 * self.timing.window:
            duty.lease.claimed_at = max(claimed_at, now - self.timing.claim_timeout / 2)
        return float(super()._press_claim(duty, now))


# -- rule 5: renew -----------------------------------------------------------------------------------------------------


class ReturnTime(Lease):
    """The lease counts from when a beat came back, not from when it was sent."""

    def hear(self, broker: int, boot: str, epoch: int, holding: bool, now: float, sent_at: float = -inf,
             claim: bool = False, clean: bool = False) -> None:  # fmt: skip
        super().hear(broker, boot, epoch, holding, now, now if boot == self.me else sent_at, claim, clean)


# -- rule 6: lose ------------------------------------------------------------------------------------------------------


class Deaf(Lease):
    """A holder does not care for a higher epoch."""

    def superseded(self) -> bool:
        return False


class Clings(Coordinator):
    """A holder does not let go at its lease's end."""

    def _fire(self, duty: Duty, on: On, now: float, reason: str = "", why: str = "") -> bool:
        if on is On.LOST and reason == "lease":
            return False
        return super()._fire(duty, on, now, reason, why)

    def _keep(self, duty: Duty, now: float) -> float:
        return max(super()._keep(duty, now), now + 0.05)


class HooksFirst(Coordinator):
    """A lost lease: the address goes with its place in the hooks' order, after PreRel, and not at once."""

    def _let_go(self, duty: Duty, now: float) -> None:
        super()._let_go(duty, now)
        self._urgent = [output for output in self._urgent if type(output).__name__ != "DropNow"]
        if tuple(duty.plan) == LETTING_GO:
            duty.plan = deque(RELEASE)


class NeverDoubts(Coordinator):
    """What was stopped or starved trusts its ears."""

    def _doubt(self, now: float) -> None:
        pass


class ReleasesEarly(Coordinator):
    """A release is told while the address is still there."""

    def _standing(self, duty: Duty, now: float) -> Standing:
        standing = super()._standing(duty, now)
        if duty.role is Role.RELEASING:
            return standing.model_copy(update={"role": Role.STANDBY, "successor": duty.successor, "clean": True})
        return standing


class OldReleases(Lease):
    """Every release of the register's holder counts, also one that may be an old one."""

    def _knows(self, view: View, boot: str, epoch: int, now: float) -> bool:
        return True


class AlwaysClean(Coordinator):
    """Who lets go because the lease is over says that nobody else has it."""

    def _standing(self, duty: Duty, now: float) -> Standing:
        standing = super()._standing(duty, now)
        lost = duty.role is Role.STANDBY and duty.reason in ("lease", "superseded")
        return standing.model_copy(update={"clean": True}) if lost else standing


class StaysBehind(Coordinator):
    """A service stays where it is when the one goes with which it must be together."""

    def _rejoin(self, duty: Duty, leader: Duty, now: float) -> float:
        return inf


class SideBySide(Coordinator):
    """Services that must be apart are claimed beside each other."""

    def _misplaced(self, duty: Duty) -> str:
        why = super()._misplaced(duty)
        return why if why == "together" else ""


class TrustsOldOrder(Coordinator):
    """Doubles and late copies of messages count like new ones."""

    def _hear(self, now: float, broker: int, beat: Beat) -> list[Duty]:
        self._heard_seq[broker].clear()
        return super()._hear(now, broker, beat)


CRASHES = {"kill": 10.0, "pause": 6, "power": 3, "cut": 6, "stall": 8, "stop": 3}
RACES = {"kill": 6.0, "slow": 10, "stall": 10, "pause": 6, "stop": 3, "power": 3, "command": 4}
CROWDS = {"kill": 10.0, "slow": 30, "stop": 5}
BUS = {"stall": 10.0, "cut": 10, "restart": 5}
STRICT = {"holds": False, "split": True, "loss": 1.0}
"""Nothing but the lease: the wire carries no frame at all."""
THREE = {**STRICT, "nodes": 3}
MANY = {**STRICT, "brokers": 3}
HOLD = {"holds": True, "split": False, "gateway": False}
ALONE = {"holds": True, "split": True, "gateway": True}
REVIVAL = (
    Fault(20.0, "cut", HOLDER, seconds=40.0, how="both"),
    Fault(32.0, "trap", HOLDER, seconds=4.6, how="present"),
)
"""A holder without a bus stands still between two looks, for longer than its address lasts."""
REVIVED = {**HOLD, "nodes": 2, "brokers": 1, "beat": 2.0, "lease": 6.0, "chaos": 60.0}

RULES = (
    Broken("1 register: a lower epoch is stale", Rules(leases(LowerToo)), RACES, THREE,
           covered="Rule 2: who has heard another's claim or beat within the window is not granted."),
    Broken("1 register: the first at an epoch has it", Rules(leases(LastHasIt)), RACES, THREE,
           covered="Rule 2: of two claims with one epoch the second has heard the first."),
    Broken("2 quiet: our subscription is older than the window", Rules(leases(OldEars)), CRASHES, STRICT),
    Broken("2 quiet: the window is longer than the lease", Rules(leases(ShortWindow)), CRASHES, STRICT),
    Broken("2 quiet: claims count like beats", Rules(ClaimsDoNotCount), CROWDS, THREE),
    Broken("2 quiet: a release clears only its own entry", Rules(leases(ReleaseClearsAll)), RACES, THREE),
    Broken("2 quiet: our own beats come back", Rules(leases(HearsTheDead)), CRASHES, STRICT,
           covered="Rule 4: such a claim is granted only when it comes back, and with it all that was said before. The "
                   "rule spares a living holder a claim that would depose it."),
    Broken("3 claim: an epoch above every one seen or used", Rules(leases(ForgetsItsOwn)), RACES, STRICT),
    Broken("3 claim: epochs grow with the clock", Rules(NoFloor), {**CRASHES, "restart": 20.0}, STRICT),
    Broken("3 claim: a majority of brokers", Rules(leases(AnyBroker)), CRASHES, MANY),
    Broken("3 claim: the wire is silent", Rules(DeafToWire), BUS, HOLD),
    Broken("4 grant: quiet is judged again", Rules(leases(GrantsUnseen)), CROWDS, THREE),
    Broken("4 grant: the register is the claimant's", Rules(leases(GrantsToAll)), CROWDS, THREE),
    Broken("4 grant: within a bounded time", Rules(PatientCoordinator), RACES, MANY),
    Broken("4 grant: the wire is asked again", Rules(DeafAtGrant), BUS, HOLD,
           covered="The silence before the claim. Asking twice makes a frame that was lost by chance matter less."),
    Broken("5 renew: send time, not return time", Rules(leases(ReturnTime)), {"stall": 10.0, "slow": 10}, STRICT),
    Broken("6 lose: at the lease's end", Rules(Clings), {**CRASHES, "hooks": 20.0}, STRICT),
    Broken("6 lose: at the sight of a higher epoch", Rules(leases(Deaf)), {**CRASHES, "wire": 15.0}, ALONE),
    Broken("6 lose: the address at once, not after PreRel", Rules(HooksFirst), {**CRASHES, "hooks": 20.0}, STRICT),
    Broken("6 lose: a release is told when the address is gone", Rules(ReleasesEarly), {"command": 10.0}, STRICT),
    Broken("kernel: addresses have a lifetime", Rules(lifetimes=False), {"kill": 10.0, "pause": 5}, STRICT),
    Broken("kernel: a look at the deadline before the call", Rules(look_before=False), {"trap": 10.0, "netlink": 10},
           STRICT),
    Broken("kernel: a look again after the call", Rules(look_after=False), {"trap": 10.0, "netlink": 10}, STRICT),
    Broken("hold: only if the kernel still has it", Rules(only_if_present=False), {}, REVIVED, schedule=REVIVAL),
    Broken("hold: what may have lapsed since the look is deleted", Rules(sure=False),
           {}, REVIVED, schedule=REVIVAL),
    Broken("doubt: who was stopped does not trust its ears", Rules(NeverDoubts), {**RACES, "pause": 20.0}, STRICT,
           covered="Rule 4: what waited in the socket is heard before the claim comes back. Doubt spares a living "
                   "holder a claim that would make it let go."),
    Broken("wire: waived only after a release that is the last", Rules(leases(OldReleases)),
           {**CRASHES, "command": 10.0}, {**HOLD, "nodes": 3, "brokers": 1}),
    Broken("wire: waived only after a release of a good lease", Rules(AlwaysClean),
           {**CRASHES, "command": 10.0}, {**HOLD, "nodes": 3, "brokers": 1},
           covered="The rule above: between a lease's end and its late release lies another's claim, or a silence."),
    Broken("together: where the one goes, the other goes", Rules(StaysBehind), {"command": 10.0, "kill": 5},
           {"nodes": 2, "brokers": 1, "services": 2, "beside": "together"}),
    Broken("apart: not claimed where the other is", Rules(SideBySide), {"command": 10.0, "kill": 5},
           {"nodes": 2, "brokers": 1, "services": 2, "beside": "apart"}),
    Broken("doubles and late copies are ignored", Rules(TrustsOldOrder), {**RACES, "dup": 20.0}, STRICT),
)  # fmt: skip


def shape_of(broken: Broken, drawn: Shape) -> Shape:
    """The drawn shape, made what the rule needs."""
    rates = tuple(drawn.rates[i % len(drawn.rates)] for i in range(5))
    return replace(drawn, **{"services": 1, "beside": "", "rounds": 2, "rates": rates, **broken.shape})
