"""`locum run`: the agent in the foreground."""

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvloop

from locum import access, log
from locum.agent import Agent, missing_rights
from locum.config import Config, ConfigError
from locum.notify import Notifier

MEMORY = "LOCUM_MEMORY"
"""The environment's name for the file in which a program left what the one in its place must know."""


def run(config: Config, node: str, verbose: bool = False) -> int:
    """Returns when a signal has stopped the agent and everything is released."""
    try:
        config.require_node(node)
        access.require(config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    missing = missing_rights()
    if missing:
        print(f"locum run {missing}", file=sys.stderr)
        return 1
    try:
        with running(config, node):
            log.start(verbose)
            notifier = Notifier()
            agent = Agent(config, node, notifier, _memory())
            try:
                uvloop.run(agent.run())
            except Exception:
                logging.getLogger("locum").critical("the agent ends, by a fault of its own", exc_info=True)
                return 1
            if agent.memory is not None:
                _start_anew(agent.memory, notifier.environment)
    except BlockingIOError:
        print(f"{node} of cluster {config.cluster} runs on this host already", file=sys.stderr)
        return 1
    return 0


def _start_anew(memory: dict[str, Any], environment: dict[str, str]) -> None:
    """Puts the program, as it now is on the disk, in the place of this one: the same process, the same arguments."""
    handed = os.memfd_create("locum-memory", 0)  # inherited
    os.write(handed, json.dumps(memory).encode())
    environment = {**os.environ, **environment, MEMORY: str(handed)}
    if environment.get("WATCHDOG_PID"):
        environment["WATCHDOG_PID"] = str(os.getpid())
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _memory() -> dict[str, Any] | None:
    """What the program left in whose place this one was started; None if it was not."""
    handed = os.environ.pop(MEMORY, "")
    if not handed.isdecimal():
        return None
    with os.fdopen(int(handed), "rb") as file:
        file.seek(0)
        memory = json.loads(file.read())
    return memory if isinstance(memory, dict) else None


@contextlib.contextmanager
def running(config: Config, node: str) -> Iterator[None]:
    """While it lasts nobody else runs as that node on this host. Raises BlockingIOError if somebody does."""
    with socket.socket(socket.AF_UNIX) as only_one:
        try:
            # An abstract name (unix(7)): gone with the process, and one for each network namespace.
            only_one.bind(f"\0locum/{config.cluster}/{node}")
        except OSError as error:
            raise BlockingIOError(f"{node} runs already") from error
        yield
