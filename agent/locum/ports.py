"""What goes into the coordinator, and what comes out of it. Pure.

The rim (bus, netlink, hooks, wire, echo) turns what happens into inputs and carries out outputs, in their order. It
decides nothing. All times are seconds of `locum.clock`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from locum.config import Config
from locum.messages import Beat, Command, Hand, NodeState, ServiceState

# -- inputs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """The time that the coordinator asked for has come (or any other)."""


@dataclass(frozen=True, slots=True)
class BrokerUp:
    """A broker confirmed our subscriptions: from now on we hear all of its order."""

    broker: int


@dataclass(frozen=True, slots=True)
class BrokerDown:
    broker: int


@dataclass(frozen=True, slots=True)
class BeatHeard:
    """A beat came from a broker, in that broker's order; our own come too."""

    broker: int
    beat: Beat


@dataclass(frozen=True, slots=True)
class ServiceHeard:
    """The retained record of a service came from a broker."""

    broker: int
    state: ServiceState


@dataclass(frozen=True, slots=True)
class NodeHeard:
    """The state of a node came from a broker: said now, or retained from before our subscription."""

    broker: int
    state: NodeState
    retained: bool = False


@dataclass(frozen=True, slots=True)
class CommandHeard:
    command: Command


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step that was asked for with Run has ended. `number` is the Run's; a stale one is ignored."""

    service: str
    number: int
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe of the wire has ended. `mac`: who answered; empty: silence. `error`: it could not be asked."""

    service: str
    asked_at: float
    mac: str = ""
    address: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Echoed:
    """An echo round has ended. `by`: who answered first; empty: nobody did."""

    asked_at: float
    by: str = ""


@dataclass(frozen=True, slots=True)
class LinkChanged:
    """Whether an interface exists, is up and has a carrier."""

    interface: str
    up: bool


@dataclass(frozen=True, slots=True)
class Fitness:
    """What the service's checks say of this node, when that has changed. `why`: of those that fail."""

    service: str
    fit: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A Hold has been carried out, or could not be. `until`: as it was in the Hold."""

    service: str
    until: float
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AddressGone:
    """The kernel no longer has one of the service's addresses, and we did not remove it."""

    service: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Appeared:
    """The kernel has one of the service's addresses, and it was not we who set it."""

    service: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Contested:
    """Another machine has told the neighbours that one of the addresses is its own."""

    service: str
    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class Found:
    """At the start: the host has the service's addresses, left there while the service was paused."""

    service: str


@dataclass(frozen=True, slots=True)
class Retire:
    """These services are to be released in order, and not claimed again before Adopt."""

    services: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Work by this configuration from now on. Every service whose addresses change, or that is gone, was retired."""

    config: Config


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent is to end: release everything in order. `now`: at once, without waiting for hooks."""

    at_once: bool = False


Input = (
    Tick
    | BrokerUp
    | BrokerDown
    | BeatHeard
    | ServiceHeard
    | NodeHeard
    | CommandHeard
    | StepDone
    | Probed
    | Echoed
    | LinkChanged
    | Fitness
    | Held
    | AddressGone
    | Appeared
    | Contested
    | Found
    | Retire
    | Adopt
    | Stop
)

# -- outputs ----------------------------------------------------------------------------------------------------------


class Step(StrEnum):
    """One step of a takeover or a release. The first five names are also the phases of hooks."""

    TEST = "Test"
    PRE_ACQ = "PreAcq"
    POST_ACQ = "PostAcq"
    PRE_REL = "PreRel"
    POST_REL = "PostRel"
    TAKE = "take"
    """The addresses are set, with the lease as their lifetime, and announced."""
    DROP = "drop"
    """The addresses are removed."""


@dataclass(frozen=True, slots=True)
class SendBeat:
    """To every broker, at once. A beat that cannot be sent at once is dropped."""

    beat: Beat


@dataclass(frozen=True, slots=True)
class PublishService:
    """The retained record of a service. `since`: clock seconds from which on it is so."""

    service: str
    holder: str | None
    epoch: int
    since: float
    hand: Hand | None = None


@dataclass(frozen=True, slots=True)
class PublishNode:
    """The retained state of a node: of this one, or of another that has fallen silent."""

    node: str
    online: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Emit:
    """An event. `subject` is a service or this node."""

    subject: str
    type: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """Do a step and answer with StepDone. Steps of one service are done one after the other."""

    service: str
    number: int
    step: Step
    epoch: int
    peer: str
    reason: str
    until: float = 0.0
    """For TAKE: the moment from which another node may act."""
    forced: bool = False
    """Nothing stops it: a hook that fails must not keep those after it from running."""


@dataclass(frozen=True, slots=True)
class Abort:
    """End the step that runs for the service, at once; its StepDone is not wanted any more."""

    service: str


@dataclass(frozen=True, slots=True)
class DropNow:
    """Remove the service's addresses before anything else: the lease is lost. A DROP step will confirm it."""

    service: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Renew the kernel's lifetime. `until`: the moment from which another node may act."""

    service: str
    until: float
    only_if_present: bool = False
    """The lease is not confirmed, only prolonged: what the kernel has lost must stay lost (answer: AddressGone)."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The agent ends, the service is paused: its addresses stay on the host, for LEFT_SECONDS at most."""

    service: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the neighbours once (again) where the service's addresses are."""

    service: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the wire for the service's addresses; answer with Probed."""

    service: str


@dataclass(frozen=True, slots=True)
class AskEcho:
    """Ask the other nodes and the gateway for an echo; answer with Echoed."""


@dataclass(frozen=True, slots=True)
class Obey:
    """An operator wants something of the agent itself: reload or restart."""

    command: Command


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything is released: the agent may end."""


Output = (
    SendBeat
    | PublishService
    | PublishNode
    | Emit
    | Run
    | Abort
    | DropNow
    | Hold
    | Leave
    | Announce
    | Probe
    | AskEcho
    | Obey
    | Stopped
)
