"""Every payload and every topic of the bus. Pure.

All payloads are JSON, all are sent at QoS 1. What comes in is validated against these models and nothing else; a
message that does not fit changes nothing. Unknown fields are ignored, so that nodes of two versions can talk to each
other.
"""

import json
import re
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"
"""Cluster, node and service names: one MQTT topic level, one folder name, and nothing that either would interpret."""

EPOCH_MOST = 2**53
"""Beyond it JSON readers lose digits (RFC 8259, section 6)."""

SERVICES_MOST = 256
"""Services of a cluster: the longest beat about so many is still shorter than PAYLOAD_MOST."""

NODES_MOST = 256
"""Nodes of a cluster."""

PAYLOAD_MOST = 65_536
"""Bytes. A longer message is not even parsed."""

Name = Annotated[str, Field(pattern=NAME)]
Epoch = Annotated[int, Field(ge=0, le=EPOCH_MOST)]
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""One line, whatever it says: it may end up in a log."""

Text = Annotated[str, Field(max_length=1_000, pattern=PRINTABLE)]
Boot = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,63}/[0-9a-f]{1,32}$")]


class Role(StrEnum):
    """What a node is in a service."""

    STANDBY = "standby"
    CLAIMING = "claiming"
    ACQUIRING = "acquiring"
    ACTIVE = "active"
    RELEASING = "releasing"
    FAULT = "fault"
    PAUSED = "paused"


HOLDING = frozenset({Role.CLAIMING, Role.ACQUIRING, Role.ACTIVE, Role.RELEASING})
"""The roles whose beats keep others from claiming."""


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Hand(Message):
    """An operator's hand on a service: nobody takes it but the keeper, until a newer one says otherwise."""

    number: Annotated[Epoch, Field(description="The highest counts; each order is one above all that were heard.")] = 0
    paused: bool = False
    keeper: Annotated[Name | None, Field(description="Who may hold it while it is paused; null: nobody.")] = None

    @property
    def order(self) -> tuple[int, bool, str]:
        """Of two with one number the same wins everywhere."""
        return self.number, self.paused, self.keeper or ""


class Standing(Message):
    """A node's part in one service, as its beat tells it."""

    role: Role
    epoch: Epoch = Field(0, description="In a holding role its present claim; otherwise the one that it last gave up.")
    successor: Name | None = Field(None, description="Who is to take what was just released; others give way.")
    ready: bool = Field(False, description="It could claim at once, if the holder let go.")
    reason: Annotated[str, Field(max_length=32, pattern=PRINTABLE)] = Field("", description="Why it let go.")
    clean: bool = Field(
        False, description="It removed the addresses under a good lease: no need to ask the wire first."
    )
    hand: Annotated[Hand | None, Field(description="The newest that the node knows of; null: never was one.")] = None


class Beat(Message):
    """One heartbeat of a node, with its role in every service."""

    node: Name
    boot: Boot = Field(description="The node's name, a slash, and a random part that each start of the agent chooses.")
    seq: Annotated[int, Field(ge=0, le=EPOCH_MOST)] = Field(description="Counts the beats of one boot.")
    every: Annotated[float, Field(gt=0, le=3600)] = Field(description="Seconds between this node's beats.")
    config: Annotated[str, Field(max_length=64, pattern=PRINTABLE)] = Field(
        "", description="Digest of the node's configuration."
    )
    services: Annotated[dict[Name, Standing], Field(max_length=SERVICES_MOST)] = {}
    heard: Annotated[dict[Name, Annotated[str, Field(pattern=r"^[0-9a-f]{1,32}$")]], Field(max_length=NODES_MOST)] = (
        Field({}, description="Where messages are signed: the start of each other node's agent that is heard.")
    )

    @cached_property
    def consistent(self) -> bool:
        """Whether the boot is one of the node that the beat names."""
        return self.boot.rpartition("/")[0] == self.node


class Seen(Message):
    """A beat that was heard."""

    boot: Boot
    seq: Annotated[int, Field(ge=0, le=EPOCH_MOST)]


class HookRunning(Message):
    """A hook that has been running for a while."""

    service: Name
    phase: str = Field(max_length=16, pattern=PRINTABLE)
    hook: Text = Field(description="Its file's name, or its name in the configuration.")
    seconds: Annotated[float, Field(ge=0)] = Field(description="For how long, when this was said.")


class CheckFailing(Message):
    """A check that fails."""

    service: Name
    check: Name
    why: Text = ""


class NodeState(Message):
    """Retained: whether a node's agent is connected. The last will sets it to offline, or a peer that misses its beats:
    a broker may take twice the window to notice (Mosquitto 2.0: 2.6 to 4 s after a client stopped, measured)."""

    node: Name
    state: Literal["online", "offline"]
    reason: Text = Field(
        "", description="For offline: 'stopped' in good order, 'lost' by its will, 'silent' by a peer."
    )
    boot: str = Field("", max_length=128, pattern=PRINTABLE)
    version: str = Field("", max_length=32, pattern=PRINTABLE)
    since: str = Field("", max_length=40, pattern=PRINTABLE, description="RFC 3339, by that node's wall clock.")
    hooks: Annotated[list[HookRunning], Field(max_length=SERVICES_MOST)] = Field(
        [], description="Hooks that have been running for a second or more; said again every two seconds."
    )
    checks: Annotated[list[CheckFailing], Field(max_length=SERVICES_MOST)] = Field([], description="Checks that fail.")
    drained: Annotated[bool, Field(description="An operator has emptied it: it takes nothing until undrained.")] = False


class ServiceState(Message):
    """Retained: who holds a service. Published by the holder; cleared by it, or by a standby that finds it gone."""

    service: Name
    holder: Name | None
    epoch: Epoch
    since: str = Field("", max_length=40, pattern=PRINTABLE, description="RFC 3339, by the publisher's wall clock.")
    by: str = Field("", max_length=63, pattern=PRINTABLE, description="The node that says so.")
    hand: Annotated[Hand | None, Field(description="An operator's hand on it, if there ever was one.")] = None


OF_NODES = frozenset({"drain", "undrain", "reload", "restart"})
"""Commands that are for a node; the others are for a service."""


class Command(Message):
    """What an operator wants, of a service or of a node."""

    id: Annotated[str, Field(min_length=1, max_length=64, pattern=PRINTABLE)]
    command: Literal["switchover", "pause", "resume", "release", "drain", "undrain", "reload", "restart"]
    service: Annotated[Name | None, Field(description="Of switchover, pause, resume and release.")] = None
    node: Annotated[Name | None, Field(description="Of drain, undrain, reload and restart.")] = None
    to: Name | None = Field(None, description="The node that is to take over; null: the next fit one in order.")
    by: str = Field("", max_length=128, pattern=PRINTABLE, description="Who asked.")
    seen: Annotated[dict[Name, Seen], Field(max_length=NODES_MOST)] = Field(
        {}, description="Where messages are signed: the latest beat of each node when it was given."
    )

    @property
    def subject(self) -> str:
        """The service or the node that is meant."""
        return self.service or self.node or ""

    @model_validator(mode="after")
    def _of_one(self) -> Self:
        wanted, other = ("node", "service") if self.command in OF_NODES else ("service", "node")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"{self.command} is for a {wanted}")
        return self


class Event(Message):
    """What happened, as a CloudEvents 1.0 message in JSON (structured mode)."""

    specversion: Literal["1.0"] = "1.0"
    id: Annotated[str, Field(min_length=1, max_length=128, pattern=PRINTABLE)] = Field(
        description="Unique; met twice, it is a double."
    )
    source: str = Field(max_length=256, pattern=PRINTABLE, description="locum/<cluster>/<node>")
    type: str = Field(max_length=128, pattern=PRINTABLE, description="locum.service.<type> or locum.node.<type>")
    subject: Name = Field(description="The service, or the node.")
    time: str = Field(max_length=40, pattern=PRINTABLE, description="RFC 3339, by the source's wall clock.")
    datacontenttype: Literal["application/json"] = "application/json"
    data: dict[str, Any] = {}

    @field_validator("data")
    @classmethod
    def _is_json(cls, data: dict[str, Any]) -> dict[str, Any]:
        json.dumps(data, allow_nan=False)  # NaN and Infinity are no JSON (RFC 8259, section 6)
        return data


EVENTS: dict[str, str] = {
    "standby": "A role changed to standby. All events of this form carry from, to, epoch, reason.",
    "claiming": "A node claims the service.",
    "acquiring": "A majority of brokers granted the claim: hooks and addresses follow.",
    "active": "A node holds the service.",
    "releasing": "A node gives the service up.",
    "fault": "A node may not claim: its interface is down or away, or its checks fail: why.",
    "unfit": "A holder's checks fail, and no other node could take the service: it is kept. why.",
    "taken": "The addresses are on the node, and announced.",
    "restored": "An address was removed by somebody else, and is set again: why.",
    "dropped": "The addresses are off the node.",
    "paused": "A node does not claim: an operator's hand is on the service, or on the node.",
    "left": "The agent stops; the service is paused, so its addresses stay on the host for now.",
    "stray": "Somebody set addresses of the service on a node that does not hold it; they are removed: why.",
    "conflict": "Another machine says that the holder's address is its own: announced again. mac, address.",
    "reloaded": "The node works by the changed configuration: changed, config.",
    "restarted": "The node's agent was started anew in place, and goes on with what it held: version.",
    "found": "The agent starts; addresses of a paused service were left on the host, and stay for now.",
    "check": "A check has begun to fail, or passes again: check, ok, why.",
    "hook": "A hook has run: name, path, phase, address, ok, status, signal, seconds, detail.",
    "failed": "A step failed: step, why.",
    "refused": "Test or another hook said no, or a command could not be followed: way, why, command.",
    "wire": "Another machine answers for the address: mac, address. It is not taken.",
    "silent": "Of a service: its holder missed a beat. Of a node: not heard for a lease.",
    "back": "A node that was silent is heard again.",
    "vacant": "The holder's lease is over and nobody answers for the address.",
    "holding": "The brokers do not confirm the lease; another host answers, so the holder goes on.",
    "confirmed": "The brokers confirm the lease again.",
    "command": "A command is being followed: command, what, to, by.",
    "events-lost": "A broker was away for too long: so many of the node's events it will never get: count.",
    "config-differs": "A node runs with another configuration: theirs, ours.",
    "stranger": "Beats of a node that is not in the configuration are ignored.",
    "twin": "Another machine runs under this node's name.",
}
"""What happens, and what each event's data says about it."""


class Topics:
    """The topics of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.prefix = f"locum/{cluster}/"

    def beat(self, node: str) -> str:
        return f"{self.prefix}beat/{node}"

    def node(self, node: str) -> str:
        return f"{self.prefix}node/{node}"

    def service(self, service: str) -> str:
        return f"{self.prefix}service/{service}"

    def event(self, subject: str, type_: str) -> str:
        return f"{self.prefix}event/{subject}/{type_}"

    def command(self, subject: str) -> str:
        """For a service or a node."""
        return f"{self.prefix}command/{subject}"

    def parse(self, topic: str) -> tuple[str, str] | None:
        """The kind of a topic and the name behind it, or None for a topic that is not one of these."""
        if not topic.startswith(self.prefix):
            return None
        kind, _, name = topic[len(self.prefix) :].partition("/")
        name, below, _ = name.partition("/")
        if kind not in MODELS or not re.fullmatch(NAME, name) or bool(below) != (kind == "event"):
            return None
        return kind, name


MODELS: dict[str, type[Message]] = {
    "beat": Beat,
    "node": NodeState,
    "service": ServiceState,
    "event": Event,
    "command": Command,
}
"""The model of each kind of topic."""
