"""`locum pause`, `resume`, `release`, `drain`, `undrain`, `reload`, `restart`: says it, and waits for the outcome."""

import asyncio
import sys
from collections.abc import Callable

import aiomqtt

from locum.commands.listener import Listener, listening, unreachable
from locum.config import Config
from locum.messages import HOLDING, Beat, Command, Event, NodeState, Role, Standing

HEAR_BEATS = 2.5
"""For how many intervals the nodes are listened for before anything is said."""


def of_service(config: Config, verb: str, service: str, seconds: float) -> int:
    """Pause, resume or release. 0 when all nodes that are heard say so; 1 if it was refused, or took longer."""
    if service not in config.services:
        print(f"there is no service {service!r} (there are {', '.join(config.services)})", file=sys.stderr)
        return 2
    return _run(config, verb, service, seconds)


def of_node(config: Config, verb: str, node: str, seconds: float) -> int:
    """Drain, undrain, reload or restart. 0 when it has happened; 1 if it was refused, or took longer."""
    if node not in config.nodes:
        print(f"there is no node {node!r} (there are {', '.join(config.nodes)})", file=sys.stderr)
        return 2
    return _run(config, verb, node, seconds)


def _run(config: Config, verb: str, subject: str, seconds: float) -> int:
    try:
        why = asyncio.run(_operate(config, verb, subject, seconds))
    except aiomqtt.MqttError as error:
        why = f"the brokers are lost: {error}"
    if why:
        print(f"{subject}: no {verb}: {why}", file=sys.stderr)
    return 1 if why else 0


class _Scene:
    """What is heard of the cluster while one waits."""

    def __init__(self, config: Config, listener: Listener) -> None:
        self.config, self.listener = config, listener
        self.beats: dict[str, Beat] = {}
        self.states: dict[str, NodeState] = {}
        self.events: list[Event] = []
        """As they came, those of this one command's time."""
        self._told: set[str] = set()

    async def next(self, until: float) -> Event | Beat | NodeState | None:
        """The next thing that is new; None when it is time."""
        while (heard := await self.listener.next(until)) is not None:
            message = heard[1]
            if isinstance(message, Beat) and message.consistent and message.node in self.config.nodes:
                last = self.beats.get(message.node)
                if last is None or last.boot != message.boot or last.seq < message.seq:
                    self.beats[message.node] = message
                    return message
            elif isinstance(message, NodeState):
                self.states[message.node] = message
                return message
            elif isinstance(message, Event) and message.id not in self._told:
                self._told.add(message.id)
                self.events.append(message)
                return message
        return None

    def standings(self, service: str) -> dict[str, Standing]:
        nodes = self.config.services[service].nodes
        return {
            name: self.beats[name].services[service]
            for name in nodes
            if name in self.beats and service in self.beats[name].services
        }


async def _operate(config: Config, verb: str, subject: str, seconds: float) -> str:
    """Why it did not happen; empty if it did."""
    prefix = f"locum/{config.cluster}"
    async with listening(config, [f"{prefix}/beat/+", f"{prefix}/node/+", f"{prefix}/event/+/+"]) as listener:
        if not listener.reached:
            return "; ".join(unreachable(listener)) or "no broker can be reached"
        loop = asyncio.get_running_loop()
        scene = _Scene(config, listener)
        concerned = config.services[subject].nodes if subject in config.services and verb in _SERVICE else [subject]
        listened = loop.time() + HEAR_BEATS * config.timing.beat
        while not all(name in scene.beats for name in concerned) and await scene.next(listened):
            pass
        heard = [name for name in concerned if name in scene.beats]
        if not heard:
            return f"{' and '.join(concerned)}: not heard"
        for name in concerned:
            if name not in heard:
                print(f"{name} is not heard: it will learn of it when it is back", file=sys.stderr)
        if verb in _SERVICE:
            return await _lay_hand(scene, verb, subject, heard, loop.time() + seconds)
        if verb in ("drain", "undrain"):
            return await _empty(scene, verb, subject, loop.time() + seconds)
        return await _change(scene, verb, subject, loop.time() + seconds)


_SERVICE = ("pause", "resume", "release")


async def _say(scene: _Scene, verb: str, subject: str) -> Command:
    which = {"service": subject} if verb in _SERVICE else {"node": subject}
    command = scene.listener.command(command=verb, **which)
    await scene.listener.send(command)
    return command


async def _lay_hand(scene: _Scene, verb: str, service: str, heard: list[str], until: float) -> str:
    paused = verb != "resume"

    def done() -> bool:
        standings = scene.standings(service)
        hands = [standings[name].hand for name in heard]
        agreed = all((hand is not None and hand.paused) is paused for hand in hands)
        if verb == "release":
            nobody = all(hand is not None and hand.keeper is None for hand in hands)
            return agreed and nobody and not any(standing.role in HOLDING for standing in standings.values())
        return agreed and len({hand.order for hand in hands if hand is not None}) <= 1

    if not done():
        command = await _say(scene, verb, service)
        why = await _until(scene, done, command, service, until)
        if why:
            return why
    standings = scene.standings(service)
    holder = next((name for name, standing in standings.items() if standing.role is Role.ACTIVE), "")
    where = f"on {holder}" if holder else "nowhere"
    print(f"{service} is {where}, and {'stays so until it is resumed' if paused else 'may move again'}")
    return ""


async def _empty(scene: _Scene, verb: str, node: str, until: float) -> str:
    held = [name for name, standing in scene.beats[node].services.items() if standing.role in HOLDING]

    def done() -> bool:
        state = scene.states.get(node)
        if state is None or state.drained is not (verb == "drain"):
            return False
        if verb == "undrain":
            return True
        empty = not any(standing.role in HOLDING for standing in scene.beats[node].services.values())
        return empty and all(
            any(standing.role is Role.ACTIVE for standing in scene.standings(name).values()) for name in held
        )

    command = await _say(scene, verb, node)
    why = await _until(scene, done, command, node, until)
    if why:
        return why
    for name in held if verb == "drain" else []:
        holder = next(one for one, standing in scene.standings(name).items() if standing.role is Role.ACTIVE)
        print(f"{name} is on {holder}")
    print(
        f"{node} {'holds nothing, and takes nothing until it is undrained' if verb == 'drain' else 'takes part again'}"
    )
    return ""


async def _change(scene: _Scene, verb: str, node: str, until: float) -> str:
    kind = {"reload": "reloaded", "restart": "restarted"}[verb]

    def done() -> bool:
        return any(event.subject == node and event.type == f"locum.node.{kind}" for event in scene.events)

    scene.events.clear()
    return await _until(scene, done, await _say(scene, verb, node), node, until)


async def _until(scene: _Scene, done: Callable[[], bool], command: Command, subject: str, until: float) -> str:
    """Tells of every step on the way, and why it ended otherwise."""
    while not done():
        message = await scene.next(until)
        if message is None:
            if not scene.listener.reached:
                return f"the brokers are lost: {'; '.join(unreachable(scene.listener))}"
            return "no outcome in time; `locum status` tells how it stands"
        if not isinstance(message, Event):
            continue
        of_it = message.data.get("command") == command.id
        if not of_it and message.subject != subject:
            continue
        kind, node = message.type.rpartition(".")[2], message.source.rpartition("/")[2]
        why = message.data.get("why") or message.data.get("detail") or ""
        print(f"{node}: {message.subject} {kind}{': ' + str(why) if why else ''}")
        if kind == "refused" and of_it:
            return str(why) or "refused"
    return ""
