"""What a hook is told: its phase, its address, and the epoch that is its fencing token.

Pure: importing this touches no file, no socket and no clock. Two rules:

- A hook gets a clean environment, never the agent's. The agent's may hold a broker's password, and systemd's
  NOTIFY_SOCKET, with which a hook could tell the watchdog that the agent is well.
- Every value is one line of bounded length: a reason may quote what came from the bus.
"""

from dataclasses import dataclass
from enum import StrEnum

VALUE_MAX_CHARACTERS = 1_000
"""Longer values of the environment are cut here; LOCUM_ADDRESSES, whose parts are all ours, is not."""

BASE_ENVIRONMENT = {
    # With sbin: hooks mount, route and firewall, and a service manager's own PATH may lack it.
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # UTF-8, and messages and sort orders that are the same on every node. LANG and not LC_ALL, so that a hook may
    # set one category of its own.
    "LANG": "C.UTF-8",
}


class Phase(StrEnum):
    """When a hook runs. Its value is how the hook's file name begins; none is a prefix of another."""

    Test = "Test"
    PreAcq = "PreAcq"
    PostAcq = "PostAcq"
    PreRel = "PreRel"
    PostRel = "PostRel"
    Check = "Check"
    """For ready-made hooks and commands of checks: is it well?"""
    Standby = "Standby"
    """For ready-made hooks only: from time to time, while another node holds the service."""

    @property
    def is_on_the_way_down(self) -> bool:
        """Whether the service is being given up; then addresses come in reverse order."""
        return self in (Phase.PreRel, Phase.PostRel)


ON_THE_WAY = (Phase.Test, Phase.PreAcq, Phase.PostAcq, Phase.PreRel, Phase.PostRel)
"""The phases of a takeover and of a release, for which a folder may hold hooks."""


@dataclass(frozen=True, slots=True)
class HookContext:
    """What one run of one hook is told. Addresses carry their prefix length: "10.0.0.100/24"."""

    phase: Phase
    service: str
    address: str
    addresses: tuple[str, ...]
    interface: str
    node: str
    peer: str
    """The node that had the service before, or that is to have it; "" when nobody is known."""
    epoch: int
    reason: str
    unheard: tuple[str, ...] = ()
    """The service's other nodes of which no beat is heard now, and which did not stop in good order."""
    hosts: tuple[str, ...] = ()
    """The service's nodes with the addresses of their hosts, as "alpha=10.0.0.1"."""

    def environment(self) -> dict[str, str]:
        """The environment of a hook's process: the LOCUM_ variables on a clean base. The runner adds HOME."""
        return {
            **BASE_ENVIRONMENT,
            "LOCUM_PHASE": self.phase.value,
            "LOCUM_SERVICE": _value(self.service),
            "LOCUM_ADDRESS": _value(self.address),
            "LOCUM_ADDRESSES": " ".join(_value(address) for address in self.addresses),
            "LOCUM_INTERFACE": _value(self.interface),
            "LOCUM_NODE": _value(self.node),
            "LOCUM_PEER": _value(self.peer),
            "LOCUM_EPOCH": str(self.epoch),
            "LOCUM_REASON": _value(self.reason),
            "LOCUM_UNHEARD": " ".join(_value(node) for node in self.unheard),
            "LOCUM_HOSTS": " ".join(_value(host) for host in self.hosts),
        }


def _value(text: str) -> str:
    """The text as one line; a NUL would be refused by execve(2), a newline would fool a hook that reads lines."""
    # Cut first: what is thrown away need not be looked at.
    return "".join(c if c.isprintable() else " " for c in text[:VALUE_MAX_CHARACTERS])
