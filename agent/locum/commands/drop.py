"""`locum drop`: takes this node's service addresses off this host, after an agent that was killed.

The kernel would do so by itself at the end of the lease; with this in ExecStopPost= nobody has to wait for that.
"""

import asyncio
import sys

from locum.address import Kernel, KernelError
from locum.commands.run import running
from locum.config import Config, ConfigError


def drop(config: Config, node: str) -> int:
    """0 when none is left; 1 if the agent runs, whose addresses they are, or one could not be removed."""
    try:
        config.require_node(node)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with running(config, node):
            return asyncio.run(_drop(config, node))
    except BlockingIOError:
        print(
            f"{node} of cluster {config.cluster} runs on this host: stop it, and it releases in order", file=sys.stderr
        )
        return 1


async def _drop(config: Config, node: str) -> int:
    left = 0
    async with Kernel() as kernel:
        for name, service in config.services_of(node).items():
            try:
                found = await kernel.leftovers(service.interface, service.addresses)
            except KernelError as error:
                print(f"{name}: {error}", file=sys.stderr)
                left += 1
                continue
            if found and await kernel.left(service.interface, service.addresses):
                print(f"{name}: paused, and left on {service.interface}")
                continue
            for address in sorted(found, key=str):
                outcome = await kernel.remove(service.interface, [address])
                print(f"{name}: {service.interface} {outcome}")
                left += not outcome.gone
    return 1 if left else 0
