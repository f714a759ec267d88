"""`locum run`: the agent in the foreground."""

import sys

import uvloop

from locum import log
from locum.agent import Agent, missing_rights
from locum.config import Config, ConfigError


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
    log.start(verbose)
    uvloop.run(Agent(config, node).run())
    return 0
