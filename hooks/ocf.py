"""Starts and stops what an OCF resource agent knows: a volume, a server, a route, and a hundred things more.

    "10_volume" = { use = "ocf", agent = "heartbeat:Filesystem", device = "LABEL=web",
                    directory = "/srv/web", fstype = "ext4" }

`start` on the way up, before the address is taken (or after it: phase = "PostAcq"), `stop` on the way down. The agents
are those of the package resource-agents, and any other in /usr/lib/ocf/resource.d. They run without Pacemaker; the few
that ask it for something (crm_attribute, crm_node) fail, and say so.

Source: the Open Cluster Framework's resource agent API, 1.1, and Pacemaker's use of it.
"""

import asyncio
import os
import re
import subprocess
import xml.etree.ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

OTHERS = "parameters"
ROOT = Path("/usr/lib/ocf")
STATE = Path("/run/resource-agents")
CODES = {
    1: "generic error",
    2: "wrong arguments",
    3: "the agent cannot do that",
    4: "not enough rights",
    5: "a program that it needs is not installed",
    6: "wrong configuration",
    7: "not running",
    8: "running as the promoted one",
    9: "failed as the promoted one",
}
"""What its exit status means."""
META_SECONDS = 10.0
ACTIONS = {"PreRel": "stop", "Check": "monitor"}
"""What is done in a phase; in all others it is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """All other keys are the agent's own parameters, as `man ocf_heartbeat_Filesystem` has them."""

    agent: str
    """provider:type, such as "heartbeat:Filesystem"."""
    phase: Literal["PreAcq", "PostAcq"] = "PreAcq"
    """When it is started."""
    parameters: dict[str, str] = field(default_factory=dict)
    """The agent's parameters; written here if one has the name of a key above."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+:[A-Za-z0-9_.-]+", self.agent):
            raise ValueError(f'agent: {self.agent!r} is not provider:type, such as "heartbeat:Filesystem"')
        for name in self.parameters:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"{name}: is no name of an agent's parameter")


def phases(parameters: Parameters) -> set[str]:
    return {parameters.phase, "PreRel"}


def path_of(agent: str) -> Path:
    provider, _, kind = agent.partition(":")
    return ROOT / "resource.d" / provider / kind


def environment(parameters: Parameters, instance: str, seconds: float) -> dict[str, str]:
    """What the agent is told: its parameters as OCF_RESKEY_*, and what Pacemaker would say beside them."""
    provider, _, kind = parameters.agent.partition(":")
    return {
        **{f"OCF_RESKEY_{name}": value for name, value in parameters.parameters.items()},
        "OCF_ROOT": str(ROOT),
        "OCF_RA_VERSION_MAJOR": "1",
        "OCF_RA_VERSION_MINOR": "1",
        "OCF_RESOURCE_INSTANCE": instance,
        "OCF_RESOURCE_TYPE": kind,
        "OCF_RESOURCE_PROVIDER": provider,
        "OCF_RESKEY_CRM_meta_timeout": str(int(seconds * 1000)),
        "OCF_RESKEY_CRM_meta_interval": "0",
        "HA_RSCTMP": str(STATE),
    }


def problems(parameters: Parameters) -> list[str]:
    """What is missing here, and what the agent's own description says of the parameters."""
    path = path_of(parameters.agent)
    if not os.access(path, os.X_OK):
        return [f"{path} is not there: install the package that has it (resource-agents has the heartbeat ones)"]
    try:
        described = subprocess.run(
            [path, "meta-data"],
            env={**os.environ, **environment(parameters, "check", META_SECONDS)},
            capture_output=True,
            timeout=META_SECONDS,
            check=True,
        ).stdout
        known = {
            str(found.get("name")): found.get("required") in ("1", "true")
            for found in xml.etree.ElementTree.fromstring(described).iter("parameter")
        }
    except (OSError, subprocess.SubprocessError, xml.etree.ElementTree.ParseError) as error:
        return [f"{path} does not describe itself: {error}"]
    wrong = [
        f"{parameters.agent} has no parameter {name!r} (it has {', '.join(sorted(known))})"
        for name in parameters.parameters
        if name not in known
    ]
    missing = [name for name, required in known.items() if required and name not in parameters.parameters]
    return wrong + [f"{parameters.agent} needs the parameter {name!r}" for name in missing]


def commands(parameters: Parameters, phase: str) -> list[list[str]]:
    """What is run in the phase, for people."""
    return [[str(path_of(parameters.agent)), ACTIONS.get(phase, "start")]]


def make_state() -> None:
    """The folder in which agents keep what they must remember until the next boot."""
    STATE.mkdir(mode=0o1755, parents=True, exist_ok=True)


async def hook(context: Any) -> bool:
    parameters: Parameters = context.parameters
    action = ACTIONS.get(context.phase, "start")
    path = path_of(parameters.agent)
    if not path.exists():
        print(f"{path} is not there: install the package that has it (resource-agents has the heartbeat ones)")
        return False
    make_state()  # where systemd-tmpfiles has not run
    told = environment(parameters, f"{context.service}_{context.hook}", float(os.environ["LOCUM_TIMEOUT"]))
    # In our own process group: at the timeout it ends with us.
    agent = await asyncio.create_subprocess_exec(str(path), action, env={**os.environ, **told})
    status = await agent.wait()
    if status:
        print(f"{parameters.agent} {action} failed: {CODES.get(status, f'exit status {status}')}", flush=True)
    return status == 0
