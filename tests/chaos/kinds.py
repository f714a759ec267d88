"""Every kind of fault, in one table: whom it hits, for how long, and whether a healthy holder must stay where it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from random import Random

from tests.chaos import brokers, hosts, processes, wires
from tests.chaos.stage import Shape, Stage

Act = Callable[[Stage, str, Random], AbstractContextManager[str]]

ALWAYS = frozenset({"hold", "release", "one of three"})
"""The holder is healthy: the address stays, in both modes."""
HOLD = frozenset({"hold"})
"""The holder's lease is not confirmed meanwhile: it stays under `hold`, and may move in strict mode."""
ONE = frozenset({"hold", "one of three"})
"""As HOLD, but a majority goes on confirming where there are three brokers and this is one of them."""
NEVER = frozenset[str]()
"""It hits the holder itself: the address may move, or must."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault."""

    name: str
    whom: str
    """holder, standby or broker: whoever that is at the moment of the fault."""
    act: Act
    takes: frozenset[str]
    """What of its target it uses up: another fault at the same time may not touch the same."""
    stays: frozenset[str]
    seconds: tuple[float, float] = (1.0, 7.0)
    alone: frozenset[str] = NEVER
    """Modes in which nothing else happens at the same time."""
    weight: int = 1
    """How often it is in the pack."""

    def must_stay(self, shape: Shape) -> bool:
        """Whether the address must stay where it is under this fault alone."""
        return shape.mode in self.stays or (shape.brokers == 3 and "one of three" in self.stays)


def _takes(*what: str) -> frozenset[str]:
    return frozenset(what)


_AGENT, _WIRE, _HOST = _takes("agent"), _takes("wire"), _takes("agent", "wire", "disk", "clock", "address")
_PATH = _takes("wire", "brokers' wires")
_HAND = _takes("agent", "wire", "address")
_BOTH = frozenset({"hold", "release"})


def _on_holder_and_standby(name: str, act: Act, takes: frozenset[str], stays: frozenset[str] = NEVER) -> list[Kind]:
    """The same fault for either; that a standby has it moves nothing."""
    return [Kind(name, "holder", act, takes, stays), Kind(name, "standby", act, takes, ALWAYS)]


KINDS: tuple[Kind, ...] = (
    # processes
    *_on_holder_and_standby("agent killed (SIGKILL)", processes.killed, _AGENT),
    *_on_holder_and_standby("agent stopped (SIGSTOP)", processes.stopped, _AGENT),
    *_on_holder_and_standby("agent gets slices of time", processes.rationed, _AGENT),
    *_on_holder_and_standby("agent's processor is taken", processes.crowded_out, _AGENT),
    Kind("agent ended (SIGTERM)", "holder", processes.ended, _AGENT, NEVER),
    # hosts
    *_on_holder_and_standby("power off", hosts.powered_off, _HOST),
    *_on_holder_and_standby("interface taken down", hosts.interface_down, _HAND),
    *_on_holder_and_standby("disk full", hosts.disk_full, _takes("disk"), ALWAYS),
    *_on_holder_and_standby("wall clock steps an hour", hosts.clock_stepped, _takes("clock"), ALWAYS),
    Kind("address deleted by hand", "holder", hosts.address_deleted, _takes("address"), NEVER, (1.0, 3.0)),
    Kind("address added by hand", "standby", hosts.address_added, _HAND, ALWAYS, (0.3, 1.5), alone=_BOTH),
    Kind("switchover asked for", "holder", hosts.switchover, _takes("command"), NEVER, (0.5, 2.0)),
    # cables
    *_on_holder_and_standby("cable cut", wires.cut, _WIRE),
    *_on_holder_and_standby("cut off, carrier up", wires.cut_silently, _WIRE),
    *_on_holder_and_standby("cut off one way", wires.cut_one_way, _WIRE),
    *_on_holder_and_standby("cut off from the brokers", wires.from_brokers, _PATH, HOLD),
    *_on_holder_and_standby("cut off from the brokers one way", wires.from_brokers_one_way, _PATH, HOLD),
    # What is promised of it is promised in so many words: more of it, and for longer.
    Kind("30 % loss to the brokers", "holder", wires.loss_to_brokers, _PATH, HOLD, (5.0, 20.0), weight=4),
    Kind("30 % loss to the brokers", "standby", wires.loss_to_brokers, _PATH, ALWAYS),
    *_on_holder_and_standby("30 % loss to everybody, ARP too", wires.loss, _PATH),
    *_on_holder_and_standby("bandwidth limited", wires.limited, _WIRE),
    *_on_holder_and_standby("frames delayed", wires.delayed, _WIRE, ALWAYS),
    *_on_holder_and_standby("frames duplicated", wires.duplicated, _WIRE, ALWAYS),
    *_on_holder_and_standby("frames reordered", wires.reordered, _WIRE, ALWAYS),
    # Under `hold` two holders are possible when this wire is silent and the bus fails as well (design, section 4).
    Kind("nodes cut off from each other", "holder", wires.nodes_apart, _WIRE, ALWAYS, alone=HOLD),
    # brokers
    Kind("killed and back later", "broker", brokers.killed, _AGENT, ONE),
    Kind("all killed and back later", "broker", brokers.all_killed, _takes("agent", "brokers"), HOLD),
    Kind("killed and back at once", "broker", brokers.restarted, _AGENT, ALWAYS, (1.0, 3.0)),
    Kind("stopped (SIGSTOP)", "broker", brokers.stopped, _AGENT, ONE),
    Kind("cable cut", "broker", wires.cut, _WIRE, ONE),
    Kind("cut off, carrier up", "broker", wires.cut_silently, _WIRE, ONE),
    Kind("30 % loss to everybody, ARP too", "broker", wires.loss, _WIRE, ONE),
    Kind("bandwidth limited", "broker", wires.limited, _WIRE, ONE),
    Kind("frames delayed", "broker", wires.delayed, _WIRE, ALWAYS),
    Kind("frames duplicated", "broker", wires.duplicated, _WIRE, ALWAYS),
    Kind("frames reordered", "broker", wires.reordered, _WIRE, ALWAYS),
)
