"""Makes sure that a node which may still write does not: no confirmed fencing, no takeover.

    "05_fence" = { use = "fence", agent = "fence_ipmilan", lanplus = 1, nodes = {
        alpha = { ip = "10.0.1.1", username = "locum", password_file = "/etc/locum/ipmi" },
        beta  = { ip = "10.0.1.2", username = "locum", password_file = "/etc/locum/ipmi" } } }

(In TOML 1.0 an inline table is one line; write it as a section of its own: [services.web.hooks.05_fence.nodes.alpha].)

Any agent of the package fence-agents. Number it before the hooks that mount something. Whom it fences:

- the last holder, unless it let go in good order and all of its hooks succeeded (the reasons of CLEAN);
- at the reason `start`, when nobody was heard to hold the service: nobody. But a node that is not heard, and did not
  stop in good order, may hold it all the same, or may just be booting: the takeover waits until it is heard, or off.
  With unheard = "fence" it is fenced, with "ignore" it is not looked at.

The agent's own options are keys: here for all nodes, below `nodes` for one. They go to its standard input, so that no
password shows in a list of processes; a password_file must not be readable for others.

Source: the fence agents' API (ClusterLabs): options on stdin as name=value; `off` and `reboot` answer 0 when it is
done, `status` answers 0 for on and 2 for off.
"""

import asyncio
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

OTHERS = "options"
CLEAN = frozenset({"switchover", "failback", "stop", "link", "check"})
"""Reasons of a takeover whose last holder had let go under a good lease, and none of whose hooks had failed."""
OFF, ON = 2, 0
"""What `status` answers."""
META_SECONDS = 10.0
OTHERS_MAY = 0o077
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """All other keys are the agent's own options, as its man page has them."""

    agent: str
    """Such as "fence_ipmilan"."""
    nodes: dict[str, dict[str, str | int | bool]]
    """For each node what reaches its switch."""
    action: Literal["off", "reboot"] = "off"
    """A node that is off stays off until somebody has looked; one that was rebooted comes back by itself."""
    unheard: Literal["wait", "fence", "ignore"] = "wait"
    options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"fence_[a-z0-9_]+", self.agent):
            raise ValueError(f'agent: {self.agent!r} is no fence agent such as "fence_ipmilan"')
        for node, own in self.nodes.items():
            for name, value in (self.options | own).items():
                if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or "\n" in str(value):
                    raise ValueError(f"nodes.{node}: {name!r} is no option that an agent could be told")


def phases(parameters: Parameters) -> set[str]:
    return {"PreAcq"}


def options(parameters: Parameters, node: str, action: str) -> dict[str, str]:
    """What the agent is told about the node, without passwords that lie in a file."""
    given = parameters.options | {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in parameters.nodes[node].items()
    }
    return given | {"action": action}


def with_password(given: dict[str, str]) -> dict[str, str]:
    """The same with the password out of its file. Raises ValueError with why it cannot be used."""
    path = given.get("password_file")
    if path is None:
        return given
    try:
        if Path(path).stat().st_mode & OTHERS_MAY:
            raise ValueError(f"{path} can be read by others: chmod 600 it")
        password = Path(path).read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return {name: value for name, value in given.items() if name != "password_file"} | {"password": password}


def targets(context: Any) -> list[str]:
    """Which nodes must be off before this one may go on."""
    if context.reason in CLEAN:
        return []
    if context.reason == "start":
        return [] if context.parameters.unheard == "ignore" else list(context.unheard)
    return [context.peer] if context.peer and context.peer != context.node else []


def problems(parameters: Parameters) -> list[str]:
    path = shutil.which(parameters.agent, path=PATH)
    if path is None:
        return [f"{parameters.agent} is not there: install the package fence-agents"]
    found = []
    try:
        described = subprocess.run(
            [path, "-o", "metadata"], capture_output=True, timeout=META_SECONDS, check=True
        ).stdout
        known = {str(one.get("name")) for one in xml.etree.ElementTree.fromstring(described).iter("parameter")}
    except (OSError, subprocess.SubprocessError, xml.etree.ElementTree.ParseError) as error:
        return [f"{path} does not describe itself: {error}"]
    for node in parameters.nodes:
        given = options(parameters, node, parameters.action)
        unknown = sorted(set(given) - known - {"password_file"})
        found += [f"{parameters.agent} has no option {name!r} (of {node})" for name in unknown]
        try:
            with_password(given)
        except ValueError as error:
            found.append(str(error))
    return found


def commands(parameters: Parameters, phase: str) -> list[list[str]]:
    return [[parameters.agent, f"(on stdin: action={parameters.action}, and the options of the node)"]]


async def ask(context: Any, node: str, action: str) -> tuple[int, str]:
    """Has the agent do it: its exit status, and its last line."""
    told = with_password(options(context.parameters, node, action))
    path = shutil.which(context.parameters.agent, path=PATH)
    if path is None:
        raise ValueError(f"{context.parameters.agent} is not there: install the package fence-agents")
    agent = await asyncio.create_subprocess_exec(
        path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said, _ = await agent.communicate("".join(f"{name}={value}\n" for name, value in told.items()).encode())
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    secret = told.get("password")
    last = lines[-1].strip() if lines else ""
    return agent.returncode or 0, last.replace(secret, "***") if secret else last


async def fence(context: Any, node: str) -> bool:
    parameters: Parameters = context.parameters
    if node not in parameters.nodes:
        print(f"{node} cannot be fenced: the configuration does not say how (nodes.{node})")
        return False
    try:
        status, said = await ask(context, node, parameters.action)
        if status != 0:
            print(f"{node} is not fenced: {parameters.agent} {parameters.action} failed with {status}: {said}")
            return False
        if parameters.action == "off":
            status, said = await ask(context, node, "status")
            if status != OFF:
                print(f"{node} is not fenced: {parameters.agent} says after off that it is not off ({status}): {said}")
                return False
    except ValueError as error:
        print(f"{node} is not fenced: {error}")
        return False
    print(f"{node} is fenced ({parameters.action})", flush=True)
    return True


async def is_off(context: Any, node: str) -> bool:
    """Whether a node that is not heard is off; nothing is done to it."""
    if node not in context.parameters.nodes:
        print(f"{node} is not heard, and the configuration does not say how to ask whether it is off (nodes.{node})")
        return False
    try:
        status, said = await ask(context, node, "status")
    except ValueError as error:
        print(f"{node} is not heard, and cannot be asked for: {error}")
        return False
    if status != OFF:
        what = "is on" if status == ON else f"may be on ({context.parameters.agent} status: {status}: {said})"
        print(f"{node} {what} and is not heard: nothing is taken until it is heard, or off")
    return status == OFF


async def hook(context: Any) -> bool:
    nodes = targets(context)
    if nodes and context.reason == "start" and context.parameters.unheard == "wait":
        return all([await is_off(context, node) for node in nodes])
    if not nodes:
        print(f"nobody is to be fenced ({context.reason})", flush=True)
        return True
    results = await asyncio.gather(*(fence(context, node) for node in nodes))
    return all(results)
