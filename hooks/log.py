"""Writes a line to the system's log (syslog, or systemd's journal, which reads the same socket) when a service moves.

    "80_log" = { use = "log" }

Nobody waits for it.
"""

import logging
import logging.handlers
import socket
from dataclasses import dataclass
from typing import Any, Literal

BESIDE = True

Phase = Literal["PreAcq", "PostAcq", "PreRel", "PostRel"]
Priority = Literal["debug", "info", "notice", "warning", "err", "crit", "alert", "emerg"]
VERBS = {
    "PreAcq": "is taking",
    "PostAcq": "has taken",
    "PreRel": "is giving up",
    "PostRel": "has given up",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    phases: list[Phase] | None = None
    """Default: PostAcq and PostRel."""
    facility: str = "daemon"
    priority: Priority = "notice"
    tag: str = "locum"
    socket: str = "/dev/log"

    def __post_init__(self) -> None:
        known = logging.handlers.SysLogHandler.facility_names
        if self.facility not in known:
            raise ValueError(f"facility: {self.facility!r} is none of {', '.join(sorted(known))}")
        if not self.tag.isprintable() or not 0 < len(self.tag) <= 32 or " " in self.tag:
            raise ValueError("tag: must be a word of at most 32 characters")


def phases(parameters: Parameters) -> list[str]:
    return list(parameters.phases or ("PostAcq", "PostRel"))


def line(context: Any) -> str:
    """What is written, such as: alpha has taken web (10.0.0.100/24), from beta: failover (epoch 27)."""
    way = "from" if context.phase.endswith("Acq") else "for"
    peer = f", {way} {context.peer}" if context.peer else ""
    addresses = ", ".join(context.addresses)
    verb = VERBS[context.phase]
    return f"{context.node} {verb} {context.service} ({addresses}){peer}: {context.reason} (epoch {context.epoch})"


async def hook(context: Any) -> bool:
    parameters: Parameters = context.parameters
    handler = logging.handlers.SysLogHandler
    number = handler.facility_names[parameters.facility] << 3 | handler.priority_names[PRIORITIES[parameters.priority]]
    message = f"<{number}>{parameters.tag}: {line(context)}".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.settimeout(5.0)
        try:
            log.sendto(message, parameters.socket)
        except OSError as error:
            print(f"{parameters.socket}: {error.strerror or error}: is a system log running here?")
            return False
    return True


PRIORITIES = {"err": "error", "crit": "critical", "emerg": "emerg"} | {
    name: name for name in ("debug", "info", "notice", "warning", "alert")
}
"""What Python calls them."""
