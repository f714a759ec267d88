"""Keeps a copy of a folder on the nodes that stand by, with rsync from the node that holds the service.

    "15_content" = { use = "sync", path = "/srv/www/", every = "15m" }

- While this node stands by it pulls from the holder's host, at the interval; never from anybody else, and if the holder
  is not heard to hold it any more, the run ends.
- Before a planned takeover (the last holder handed over, and is still heard) it pulls once more, after that one has
  stopped its service and before this one's starts. If that fails the takeover is undone, and the other may take it
  back; but not for the reasons `stop` and `check`, where the other host may be going down, or be ill.
- After a failure nothing is copied: what there is may be half a copy of something old.

The way is ssh, or with `module` an rsync daemon on the holder's host.
"""

import asyncio
import shlex
from dataclasses import dataclass, field
from typing import Any

PLANNED = frozenset({"switchover", "failback"})
BEST_EFFORT = frozenset({"stop", "check"})
STILL_SECONDS = 30
"""rsync gives up when nothing has moved for so long."""
EXITS = {
    5: "it was refused by the other side",
    10: "the other side's rsync daemon cannot be reached",
    12: "the connection was lost",
    23: "some files could not be copied",
    24: "some files vanished meanwhile",
    30: "nothing moved for too long",
    35: "the other side's rsync daemon does not answer",
    255: "ssh failed",
}
"""rsync(1), EXIT VALUES."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    path: str
    """The folder, here and (without `source`) there. With a slash at its end, as rsync(1) has it, its content."""
    source: str = ""
    """Where it is on the holder's host, if not at `path`; with `module`, a path within it."""
    every: float = field(default=900.0, metadata={"duration": True})
    module: str = ""
    """Of an rsync daemon, instead of ssh."""
    port: int = 873
    """Of the rsync daemon."""
    user: str = "root"
    """For ssh."""
    identity: str = ""
    """For ssh: a file with a private key."""
    delete: bool = True
    """What the holder does not have is deleted here."""
    exclude: list[str] = field(default_factory=list)
    limit: int = 0
    """KiB a second, 0 for no limit."""

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or not self.path.isprintable():
            raise ValueError("path: is no absolute path")
        if self.path.rstrip("/") == "":
            raise ValueError("path: the whole file system cannot be kept in step")
        if self.every < 1:
            raise ValueError("every: must be a second or more")


def phases(parameters: Parameters) -> set[str]:
    return {"Standby", "PreAcq"}


def command(parameters: Parameters, host: str) -> list[str]:
    """rsync's command line; `host` is an address."""
    host = f"[{host}]" if ":" in host else host
    # Files show under their names, and what is gone goes, only when everything has come.
    line = ["rsync", "--archive", "--hard-links", "--delay-updates", f"--timeout={STILL_SECONDS}"]
    line += ["--delete-delay"] if parameters.delete else []
    line += [f"--exclude={pattern}" for pattern in parameters.exclude]
    line += [f"--bwlimit={parameters.limit}"] if parameters.limit else []
    if parameters.module:
        within = parameters.source.strip("/")
        line += [f"--port={parameters.port}", f"rsync://{host}/{parameters.module}/{within}"]
        line[-1] += "/" if within and parameters.path.endswith("/") else ""
    else:
        ssh = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=10"]
        ssh += [f"-i{parameters.identity}"] if parameters.identity else []
        line += ["-e", shlex.join(ssh), f"{parameters.user}@{host}:{parameters.source or parameters.path}"]
    return [*line, parameters.path]


def commands(parameters: Parameters, phase: str) -> list[list[str]]:
    return [command(parameters, "HOLDER")]


async def pull(context: Any) -> bool:
    parameters: Parameters = context.parameters
    line = command(parameters, context.hosts[context.peer])
    try:
        rsync = await asyncio.create_subprocess_exec(*line)
    except FileNotFoundError:
        print("rsync is not installed")
        return False
    status = await rsync.wait()
    if status:
        why = EXITS.get(status, "see rsync(1)")
        print(f"nothing sure is here: rsync from {context.peer} failed with {status}: {why}", flush=True)
    return status == 0


async def hook(context: Any) -> bool:
    if context.phase == "Standby":
        return await pull(context)
    if context.reason not in PLANNED | BEST_EFFORT or not context.peer:
        print(f"not copied ({context.reason}): what is here is as old as the last run", flush=True)
        return True
    if context.peer in context.unheard:
        print(f"not copied: {context.peer} is not heard any more", flush=True)
        return True
    done = await pull(context)
    if not done and context.reason in BEST_EFFORT:
        print(f"going on without ({context.reason}): what is here is as old as the last run", flush=True)
        return True
    return done
