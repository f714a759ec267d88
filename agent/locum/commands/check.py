"""`locum check`: every problem of the configuration, the hooks, the interfaces and the brokers, at once."""

import asyncio
import sys

from locum import access, watchdog
from locum.address import look
from locum.agent import missing_rights
from locum.commands import order
from locum.commands.listener import listening, unreachable
from locum.config import Config, ConfigError
from locum.hooks import problems as hook_problems
from locum.hooks import ready


def check(config: Config, node: str) -> int:
    """0 if nothing is wrong, 1 if something is, 2 if this node is not in the configuration. Changes nothing."""
    found = []
    unknown = False
    try:
        config.require_node(node)
    except ConfigError as error:
        unknown = True
        found += error.problems
    for name, service in config.services_of(node).items():
        found += [f"{name}: {text}" for text in _interface(service.interface)]
        found += [
            f"{name}: {text}"
            for text in hook_problems(service.hooks_dir, name, [str(address) for address in service.addresses])
        ]
        found += [f"{name}: {text}" for text in ready.problems(service)]
        if service.watchdog is not None:
            found += [f"{name}: {text}" for text in [watchdog.problem(service.watchdog)] if text]
    try:
        access.require(config)
    except ConfigError as error:
        found += error.problems
    else:
        found += asyncio.run(_brokers(config))
    missing = missing_rights()
    if missing:
        print(f"note: locum run {missing}")
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 2 if unknown else 1
    services = ", ".join(config.services_of(node)) or "no service"
    print(f"{node}: no problem found ({services}; {len(config.brokers)} broker(s) answered)")
    return 0


def bus(config: Config) -> int:
    """Measures the brokers, one after the other. 0 if the lease protocol is safe on each, else 1."""
    safe = True
    for url in config.brokers:
        measured = asyncio.run(order.measure(config, url))
        print("\n".join(measured.lines()), file=sys.stdout if measured.safe else sys.stderr)
        safe = safe and measured.safe
    return 0 if safe else 1


def _interface(name: str) -> list[str]:
    try:
        link = look.link(name)
    except OSError as error:
        return [f"interface {name}: cannot be looked at: {error}"]
    if not link.exists:
        return [f"interface {name} does not exist on this host"]
    if not link.up:
        return [f"interface {name} is down: nothing is claimed on it"]
    return [] if link.carrier else [f"interface {name} has no carrier: nothing is claimed on it"]


async def _brokers(config: Config) -> list[str]:
    """Connects to every broker and subscribes."""
    async with listening(config, [f"locum/{config.cluster}/beat/+"], operator=False) as listener:
        return unreachable(listener)
