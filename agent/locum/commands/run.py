"""`locum run`: the agent in the foreground."""

import contextlib
import logging
import socket
import sys
from collections.abc import Iterator

import uvloop

from locum import log
from locum.agent import Agent, missing_rights
from locum.config import Config, ConfigError
from locum.notify import Notifier


def run(config: Config, node: str, verbose: bool = False) -> int:
    """Returns when a signal has stopped the agent and everything is released."""
    try:
        config.require_node(node)
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
            try:
                uvloop.run(Agent(config, node, Notifier()).run())
            except Exception:
                logging.getLogger("locum").critical("the agent ends, by a fault of its own", exc_info=True)
                return 1
    except BlockingIOError:
        print(f"{node} of cluster {config.cluster} runs on this host already", file=sys.stderr)
        return 1
    return 0


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
