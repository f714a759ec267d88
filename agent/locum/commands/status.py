"""`locum status`: who holds what, as heard on the bus now. Live beats only: a retained message is never believed."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

from locum.commands.listener import listening
from locum.config import Config
from locum.messages import HOLDING, Beat, NodeState, Role, Standing

BEATS_HEARD = 2.5
"""For how many intervals it listens, if a node is silent; it ends as soon as all nodes were heard."""


def status(config: Config, as_json: bool = False) -> int:
    """0 if every service has exactly one active holder, else 1."""
    beats, states, brokers = asyncio.run(_hear(config))
    for url, why in brokers.items():
        if why:
            print(f"broker {url}: {why}", file=sys.stderr)
    if all(brokers.values()):
        print("no broker can be reached: who holds what cannot be known", file=sys.stderr)
        return 1
    picture = describe(config, beats, states) | {"brokers": {url: why or "ok" for url, why in brokers.items()}}
    if sum(not why for why in brokers.values()) <= len(brokers) // 2:
        print("no majority of the brokers can be reached from here", file=sys.stderr)
    if as_json:
        print(json.dumps(picture, indent=2))
    else:
        _show(picture)
    return 0 if all(service["state"] == "active" for service in picture["services"].values()) else 1


NOT_READY = "standby (not ready)"


async def _hear(config: Config) -> tuple[dict[str, Beat], dict[str, NodeState], dict[str, str]]:
    """The newest beat and state of each node that is heard, and what is wrong with each broker (empty: nothing)."""
    beats: dict[str, Beat] = {}
    states: dict[str, NodeState] = {}
    prefix = f"locum/{config.cluster}"
    async with listening(config, [f"{prefix}/beat/+", f"{prefix}/node/+"]) as listener:
        if listener.reached:
            until = asyncio.get_running_loop().time() + BEATS_HEARD * config.timing.beat
            while len(beats) < len(config.nodes):
                heard = await listener.next(until)
                if heard is None:
                    break
                beat = heard[1]
                if isinstance(beat, NodeState):
                    states[beat.node] = beat
                if isinstance(beat, Beat) and beat.consistent and beat.node in config.nodes:
                    last = beats.get(beat.node)
                    if last is None or last.boot != beat.boot or last.seq < beat.seq:
                        beats[beat.node] = beat
        return beats, states, {url: listener.failed.get(url, "") for url in config.brokers}


def describe(config: Config, beats: dict[str, Beat], states: dict[str, NodeState]) -> dict[str, Any]:
    """The whole picture that these beats give, ready for JSON. States tell of hooks and checks, of nodes that beat."""
    services: dict[str, Any] = {}
    for name, service in config.services.items():
        standings = {node: beats[node].services[name] for node in service.nodes if name in _services(beats, node)}
        holding = sorted(
            (node for node, standing in standings.items() if standing.role in HOLDING - {Role.CLAIMING}),
            key=lambda node: standings[node].epoch,
            reverse=True,
        )
        holder = holding[0] if holding else None
        services[name] = {
            "state": _state(standings, holding),
            "holder": holder,
            "epoch": standings[holder].epoch if holder else None,
            "also": holding[1:],
            "addresses": [str(address) for address in service.addresses],
            **_hand(standings),
            "roles": {node: _role(standings.get(node)) for node in service.nodes},
        }
    _place(config, services)
    nodes = {
        node: {
            "heard": True,
            "same_configuration": beats[node].config == config.digest(),
            "hooks": [hook.model_dump() for hook in _said(beats[node], states.get(node)).hooks],
            "checks": [check.model_dump() for check in _said(beats[node], states.get(node)).checks],
            "drained": _said(beats[node], states.get(node)).drained,
        }
        if node in beats
        else {"heard": False}
        for node in config.nodes
    }
    return {"cluster": config.cluster, "services": services, "nodes": nodes}


def _place(config: Config, services: dict[str, Any]) -> None:
    """Says of who is not ready why that is as it should be, and of who has what it should not have."""
    for name, service in services.items():
        leader = config.services[name].together_with
        with_it = services[leader]["holder"] if leader is not None else None
        having = {services[other]["holder"]: other for other in config.strangers(name)}
        for node, role in service["roles"].items():
            if role == NOT_READY and leader is not None and node != with_it:
                service["roles"][node] = f"standby (goes with {leader})"
            elif role == NOT_READY and node in having:
                service["roles"][node] = f"standby (has {having[node]})"
        holder = service["holder"]
        service["misplaced"] = ""
        if None not in (holder, with_it) and holder != with_it:
            service["misplaced"] = f"must be together with {leader}, which {with_it} has"
        elif holder is not None and holder in having:
            service["misplaced"] = f"must be apart from {having[holder]}"


def _hand(standings: dict[str, Standing]) -> dict[str, Any]:
    """Whether an operator's hand is on it: the newest word that is heard."""
    hands = [standing.hand for standing in standings.values() if standing.hand is not None]
    newest = max(hands, key=lambda hand: hand.order, default=None)
    paused = newest is not None and newest.paused
    return {"paused": paused, "keeper": newest.keeper if newest is not None and paused else None}


def _said(beat: Beat, state: NodeState | None) -> NodeState:
    """What the node says of its hooks and checks, if it is the start of the agent that beats now which said it."""
    believed = state is not None and state.boot == beat.boot and state.state == "online"
    return state if state is not None and believed else NodeState.model_validate({"node": beat.node, "state": "online"})


def _state(standings: dict[str, Standing], holding: list[str]) -> str:
    """`active` only where one node alone says so."""
    if not holding:
        return "no holder heard"
    return standings[holding[0]].role.value if len(holding) == 1 else "held by several"


def _role(standing: Standing | None) -> str:
    if standing is None:
        return "not heard"
    return NOT_READY if standing.role is Role.STANDBY and not standing.ready else standing.role.value


def _services(beats: dict[str, Beat], node: str) -> Any:
    return beats[node].services if node in beats else {}


def _show(picture: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("service", "holder", "state", "epoch", "addresses", "nodes"):
        table.add_column(column, overflow="fold")
    for name, service in picture["services"].items():
        state = service["state"]
        style = "green" if state == "active" else "red" if service["holder"] is None else "yellow"
        others = ", ".join(f"{node} {role}" for node, role in service["roles"].items() if node != service["holder"])
        table.add_row(
            name,
            service["holder"] or "-",
            f"[{style}]{state}[/]",
            str(service["epoch"] or "-"),
            "\n".join(service["addresses"]),
            others,
        )
    console = Console(highlight=False, emoji=False)
    console.print(table)
    for text, style in notes(picture):
        console.print(escape(text), style=style)


def notes(picture: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is to be said beside the tables, a line each, with its colour."""
    for name, service in picture["services"].items():
        for other in service["also"]:
            yield f"{name}: {other} says that it holds it too, at an older epoch", "red"
        if service["misplaced"]:
            yield f"{name}: {service['misplaced']}", "yellow"
        if service["paused"]:
            how = (
                f"paused: only {service['keeper']} may hold it" if service["keeper"] else "released: nobody may hold it"
            )
            yield f"{name}: {how}, until `locum resume {name}`", "yellow"
    for node, facts in picture["nodes"].items():
        if not facts["heard"]:
            yield f"{node}: not heard", "red"
            continue
        if not facts["same_configuration"]:
            yield f"{node}: runs with another configuration than this file", "yellow"
        if facts["drained"]:
            yield f"{node}: drained: it takes nothing until `locum undrain {node}`", "yellow"
        for check in facts["checks"]:
            yield f"{node}: {check['check']} of {check['service']} fails: {check['why']}", "yellow"
        for hook in facts["hooks"]:
            yield (
                f"{node}: {hook['phase']} of {hook['service']} runs {hook['hook']} for {hook['seconds']:.0f} s",
                "default",
            )
