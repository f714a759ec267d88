"""`locum switchover`: asks the holder to hand a service over, and waits until it has happened or cannot."""

import asyncio
import sys

import aiomqtt

from locum.commands.listener import Listener, listening, unreachable
from locum.config import Config
from locum.messages import HOLDING, Beat, Command, Event, Role, Standing

HEAR_BEATS = 2.5
"""For how many intervals the present holder is listened for."""


def switchover(config: Config, service: str, to: str | None, seconds: float) -> int:
    """0 when another node (`to`, if named) is active; 1 if it was refused, failed, or took longer than `seconds`."""
    if service not in config.services:
        print(f"there is no service {service!r} (there are {', '.join(config.services)})", file=sys.stderr)
        return 2
    nodes = config.services[service].nodes
    if to is not None and to not in nodes:
        print(f"{to!r} is not one of the nodes of {service} ({', '.join(nodes)})", file=sys.stderr)
        return 2
    try:
        why = asyncio.run(_switch(config, service, to, seconds))
    except aiomqtt.MqttError as error:
        why = f"the brokers are lost: {error}"
    if why:
        print(f"{service}: not switched over: {why}", file=sys.stderr)
        return 1
    return 0


async def _switch(config: Config, service: str, to: str | None, seconds: float) -> str:
    """Why it did not happen; empty if it did."""
    prefix = f"locum/{config.cluster}"
    async with listening(config, [f"{prefix}/beat/+", f"{prefix}/event/{service}/+"]) as listener:
        if not listener.reached:
            return "; ".join(unreachable(listener)) or "no broker can be reached"
        loop = asyncio.get_running_loop()
        holder, standing = await _find_holder(listener, service, loop.time() + HEAR_BEATS * config.timing.beat)
        if not holder or standing is None:
            return "no node is heard that holds it"
        if holder == to:
            return f"{holder} holds it already"
        command = listener.command(command="switchover", service=service, to=to)
        await listener.send(command)
        return await _outcome(listener, command, holder, standing.epoch, loop.time() + seconds)


async def _find_holder(listener: Listener, service: str, until: float) -> tuple[str, Standing | None]:
    found: tuple[str, Standing | None] = "", None
    while (heard := await listener.next(until)) is not None:
        beat = heard[1]
        if isinstance(beat, Beat) and beat.consistent and service in beat.services:
            standing = beat.services[service]
            if standing.role in HOLDING and (found[1] is None or standing.epoch > found[1].epoch):
                found = beat.node, standing
                if standing.role is Role.ACTIVE:
                    break
    return found


async def _outcome(listener: Listener, command: Command, holder: str, epoch: int, until: float) -> str:
    """Waits for the end of it, and tells of every step on the way, each once."""
    told: set[str] = set()
    while (heard := await listener.next(until)) is not None:
        message = heard[1]
        if isinstance(message, Event) and message.id not in told:
            told.add(message.id)
            kind = message.type.rpartition(".")[2]
            node = message.source.rpartition("/")[2]
            why = message.data.get("why") or message.data.get("detail") or ""
            print(f"{node} {kind}{': ' + str(why) if why else ''}")
            if kind == "refused" and message.data.get("command") == command.id:
                return str(why) or "refused"
        elif isinstance(message, Beat) and message.consistent:
            standing = message.services.get(command.subject)
            if standing is None or standing.role is not Role.ACTIVE or standing.epoch <= epoch:
                continue
            if message.node == (command.to or message.node) and message.node != holder:
                print(f"{command.subject} is on {message.node}")
                return ""
            return f"{message.node} has taken it"
    if not listener.reached:
        return f"the brokers are lost: {'; '.join(unreachable(listener))}"
    return f"no outcome in time; `locum status` tells where {command.subject} is"
