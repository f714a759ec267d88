"""`locum watch`: services, nodes and what happens, live, until Ctrl-C. Like `status` it believes live beats only."""

import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter, deque
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from locum.commands.listener import Listener, listening, unreachable
from locum.commands.status import describe, notes
from locum.config import Config
from locum.messages import Beat, Event, Message, NodeState

EVENTS_MOST = 200
SEEN_MOST = 2_000
"""Events whose number is remembered, so that one heard from several brokers is shown once."""
EVENTS_LEAST = 3
SAID_MOST = 6
"""Lines for what is out of the ordinary."""
NAMED_MOST = 6
"""With more services than that, a node's roles are counted and not named."""
FRAMES_A_SECOND = 4
RECONNECT_SECONDS = 1.0
COLOURS = {
    "active": "green",
    "acquiring": "yellow",
    "claiming": "yellow",
    "releasing": "yellow",
    "fault": "red",
    "paused": "yellow",
    "standby": "default",
}


class Picture:
    """What has been heard. Times are those of time.monotonic."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.beats: dict[str, Beat] = {}
        self.heard_at: dict[str, float] = {}
        self.states: dict[str, NodeState] = {}
        self.events: deque[Event] = deque(maxlen=EVENTS_MOST)
        self.trouble: list[str] = []
        self._seen: dict[str, None] = {}

    def hear(self, message: Message, now: float) -> None:
        match message:
            case Beat():
                if message.consistent and message.node in self.config.nodes:
                    last = self.beats.get(message.node)
                    if last is None or last.boot != message.boot or last.seq < message.seq:
                        self.beats[message.node] = message
                        self.heard_at[message.node] = now
            case NodeState():
                self.states[message.node] = message
            case Event():
                if message.id not in self._seen:
                    self._seen[message.id] = None
                    while len(self._seen) > SEEN_MOST:
                        del self._seen[next(iter(self._seen))]
                    self.events.append(message)

    def live(self, now: float) -> dict[str, Beat]:
        """The beats that are not older than the window."""
        window = self.config.durations().window
        return {node: beat for node, beat in self.beats.items() if now - self.heard_at[node] <= window}

    def show(self, now: float, lines: int) -> RenderableType:
        """All of it, in at most so many lines."""
        picture = describe(self.config, self.live(now), self.states)
        room = max(3, lines - len(self.trouble) - len(picture["nodes"]) - EVENTS_LEAST - SAID_MOST - 9)
        shown = min(len(picture["services"]), room)
        above: list[RenderableType] = [
            Text.assemble((f"{self.config.cluster}", "bold"), f"   {time.strftime('%H:%M:%S')}   Ctrl-C ends"),
            *(Text(line, style="red") for line in self.trouble),
            Text(""),
            self._services(picture, shown),
            Text(""),
            self._nodes(picture, now),
        ]
        said = [_line(text, style) for text, style in notes(picture)]
        if len(said) > SAID_MOST:
            said = [*said[: SAID_MOST - 1], _line(f"and {len(said) - SAID_MOST + 1} more: see locum status", "yellow")]
        used = 6 + len(self.trouble) + shown + (shown < len(picture["services"])) + len(picture["nodes"]) + len(said)
        events = list(self.events)[-max(EVENTS_LEAST, lines - used - 2) :]
        return Group(*above, *said, Text(""), *(self._event(event) for event in events))

    def _services(self, picture: dict[str, Any], most: int) -> Table:
        """All of them; where there are more than fit, first those that are not well."""
        table = _table("service", "holder", "state", "epoch", "addresses")
        services = sorted(picture["services"].items(), key=lambda item: item[1]["state"] == "active")
        shown = dict(services[:most]) if len(services) > most else picture["services"]
        for name, service in shown.items():
            state = service["state"]
            colour = COLOURS.get(state, "red")
            more = len(service["addresses"]) - 1
            addresses = service["addresses"][0] + (f" +{more}" if more else "")
            table.add_row(
                name, service["holder"] or "-", f"[{colour}]{state}[/]", str(service["epoch"] or "-"), addresses
            )
        hidden = services[most:]
        if hidden:
            states = Counter(service["state"] for _, service in hidden)
            table.add_row(f"+{len(hidden)}", "", ", ".join(f"{number} {state}" for state, number in states.items()))
        return table

    def _nodes(self, picture: dict[str, Any], now: float) -> Table:
        table = _table("node", "beat", "roles")
        for node in picture["nodes"]:
            held = {name: service["roles"].get(node, "not heard") for name, service in picture["services"].items()}
            if len(held) > NAMED_MOST:
                counted = Counter(role for role in held.values() if role != "not heard")
                roles = "  ".join(f"{number} {_coloured(role)}" for role, number in counted.most_common())
            else:
                named = ((name, role) for name, role in held.items() if role != "not heard")
                roles = "  ".join(f"{escape(name)} {_coloured(role)}" for name, role in named)
            if node in self.heard_at:
                ago = now - self.heard_at[node]
                late = ago > 1.5 * self.config.timing.beat + 1 / FRAMES_A_SECOND
                beat = f"[{'red' if late else 'green'}]{'○' if late else '●'}[/] {ago:.1f} s"
            else:
                beat = "[red]○[/] never"
            table.add_row(node, beat, roles)
        return table

    def _event(self, event: Event) -> Text:
        kind = event.type.rpartition(".")[2]
        node = event.source.rpartition("/")[2]
        who = f"{event.subject} " if event.subject != node else ""
        facts = event.data.get("why") or event.data.get("reason") or event.data.get("name") or ""
        told = f"{event.time[11:19]} {who}{node} {kind}" + (f": {facts}" if facts else "")
        return _line(told, COLOURS.get(kind, "default"))


def _coloured(role: str) -> str:
    return f"[{COLOURS.get(role.split()[0], 'default')}]{role}[/]"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column in columns:
        table.add_column(
            column, no_wrap=True, overflow="ellipsis", ratio=2 if column in ("addresses", "roles") else None
        )
    return table


def _line(text: str, style: str = "") -> Text:
    """One line, cut at the edge of the terminal."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def watch(config: Config) -> int:
    """0 when it was ended by Ctrl-C; 1 if this is no terminal."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        print("locum watch needs a terminal; `locum status` tells once, --json for programs", file=sys.stderr)
        return 1
    asyncio.run(_watch(config, console))
    return 0


async def _watch(config: Config, console: Console) -> None:
    picture = Picture(config)
    prefix = f"locum/{config.cluster}"
    topics = [f"{prefix}/{kind}" for kind in ("beat/+", "node/+", "event/+/+")]
    # Not by a cancellation, which a library that waits may swallow (wait_for of Python 3.11, fixed in 3.12).
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            live.update(picture.show(time.monotonic(), console.height), refresh=True)

        while not ended.is_set():
            async with listening(config, topics) as listener:
                picture.trouble = unreachable(listener)
                await _follow(listener, picture, draw, ended)
            picture.trouble = picture.trouble or ["the brokers are lost"]
            draw()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), RECONNECT_SECONDS)


async def _follow(listener: Listener, picture: Picture, draw: Any, ended: asyncio.Event) -> None:
    """Hears and draws until it is to end, or no broker is left."""
    loop = asyncio.get_running_loop()
    while listener.reached and not ended.is_set():
        draw()
        until = loop.time() + 1 / FRAMES_A_SECOND
        while (heard := await listener.next(until)) is not None:
            picture.hear(heard[1], time.monotonic())
        picture.trouble = unreachable(listener)
