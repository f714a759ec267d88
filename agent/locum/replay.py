"""Old messages that somebody sends again: signed as they are, they must not count twice. Pure.

No clock is compared with another's. Every start of an agent has a number that grows (`new_boot`), every beat of a
start has one too, and each beat names the starts of the others that its sender has heard. So a beat that names *our*
start was made after it: it is *shown to be fresh*.

- Of one start, beats count upwards, at each broker.
- Another start of a node that beats is believed when it is shown to be fresh, and was not replaced before.
- One that is not shown to be fresh is believed if it is not older, and the one before has been silent for a window: a
  node that cannot hear us may still be there, and dropping what it says would be worse than believing it. But whoever
  has a lease hears its broker, and so us; after UNSHOWN_WINDOWS of nothing but such beats they do not count.
- A command names the beats of the nodes that it is for, as they were heard when it was given, and is good for
  COMMAND_SECONDS. That none is followed twice is the coordinator's affair.
"""

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field
from math import inf

from locum.messages import Beat, Command, NodeState, Seen

UNSHOWN_WINDOWS = 10
GONE_MOST = 64
"""Starts of a node that are remembered after they were replaced."""
COMMAND_SECONDS = 60.0


def new_boot(node: str, wall_seconds: float) -> str:
    """The name of a start of the agent: it grows with the wall clock, and no two are the same."""
    return f"{node}/{max(0, int(wall_seconds * 1000)) & (1 << 48) - 1:012x}{secrets.token_hex(2)}"


@dataclass
class _Known:
    """What is known of a node."""

    boot: str
    heard_at: float
    seqs: dict[int, int] = field(default_factory=dict)
    """By broker: the latest beat of this start."""
    gone: OrderedDict[str, None] = field(default_factory=OrderedDict)
    unshown_since: float = inf


class Replays:
    """Told of every signed message; says which are old."""

    def __init__(self, node: str, boot: str, window: float) -> None:
        """`window`: W, in seconds."""
        self.node, self.boot, self.window = node, boot, window
        self._known: dict[str, _Known] = {}

    def heard(self) -> dict[str, str]:
        """For our own beats: the start of each other node that was heard."""
        return {node: known.boot.rpartition("/")[2] for node, known in self._known.items() if node != self.node}

    def listening_anew(self) -> None:
        """A connection was made: what was not shown while there was none says nothing."""
        for known in self._known.values():
            known.unshown_since = inf

    def beat(self, broker: int, beat: Beat, now: float) -> None:
        """ValueError, in one line, if it is old, or may be and must not count."""
        mine = beat.node == self.node
        shown = beat.boot == self.boot if mine else beat.heard.get(self.node) == self.boot.rpartition("/")[2]
        known = self._known.get(beat.node)
        if known is None:
            known = self._known[beat.node] = _Known(self.boot if mine else beat.boot, now)
        if beat.boot != known.boot:
            if beat.boot in known.gone:
                raise ValueError("it is a replay: of a start of the agent that was replaced by another one")
            if not shown and _number(beat.boot) < _number(known.boot):
                raise ValueError("it is a replay: of an earlier start of the agent")
            if not shown and now - known.heard_at <= self.window:
                raise ValueError("a new start of the agent that does not show yet that it hears this node")
            if mine:
                return  # a second machine of this name, as it seems: who hears it decides
            if shown:
                known.gone[known.boot] = None
                if len(known.gone) > GONE_MOST:
                    known.gone.popitem(last=False)
            known.boot, known.seqs = beat.boot, {}
        last = known.seqs.get(broker, -1)
        if beat.seq <= last:
            raise ValueError(f"it is a replay, or a double: beat {beat.seq} after {last}")
        if shown:
            known.unshown_since = inf
        else:
            known.unshown_since = min(known.unshown_since, now)
            if now - known.unshown_since > UNSHOWN_WINDOWS * self.window:
                raise ValueError("it is a replay, as it seems: its sender has not heard this node for long")
        known.seqs[broker] = beat.seq
        known.heard_at = now

    def believed(self, state: NodeState) -> bool:
        """Whether a node's state is about the start of it that was heard last."""
        known = self._known.get(state.node)
        return known is not None and known.boot == state.boot

    def command(self, command: Command, every: float) -> None:
        """ValueError, in one line, if it is old, or not for this node. `every`: seconds between our beats."""
        seen = command.seen.get(self.node)
        known = self._known.get(self.node)
        if seen is None or known is None:
            raise ValueError("a command that was given without hearing this node")
        latest = max(known.seqs.values(), default=0)
        if seen.boot != self.boot or (latest - seen.seq) * every > COMMAND_SECONDS:
            raise ValueError("it is a replay: a command of another time")


def seen(beats: dict[str, Beat]) -> dict[str, Seen]:
    """For a command: the latest beats of the nodes that it may be for."""
    return {node: Seen(boot=beat.boot, seq=beat.seq) for node, beat in beats.items()}


def _number(boot: str) -> int:
    return int(boot.rpartition("/")[2], 16)
