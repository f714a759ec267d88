"""The demo's story: what is done to the hosts, what must come of it, and what the client noticed of each step.

Nothing here is staged: each step waits for what the kernel and the bus say, for a bounded time, and a step that does
not end as it should ends the demo with a failure.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from locum.clock import now
from locum.demo import sentences
from locum.demo.echoes import Echoes
from locum.demo.screen import Screen
from locum.demo.stage import ADDRESS, NODES, SERVICE, Stage

LOOK_EVERY = 0.02  # seconds
SETTLE = 1.2  # seconds after a step in which what belongs to it may still come in
BEAT_GOOD_FOR = 1.2  # seconds: two beats and a bit
UNDISTURBED = 3.0  # seconds for which nothing must move: longer than the window after which a standby might claim


class StepFailed(Exception):
    """Something did not happen in time, or should not have happened. One line."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to read in: before a step, and after it."""

    before: float
    after: float


NORMAL = Pace(before=1.5, after=1.8)
FAST = Pace(before=0.0, after=0.0)


@dataclass(slots=True)
class Step:
    """One row of the table at the end: its window in seconds of locum.clock, and who had the address at its end."""

    title: str
    start: float
    end: float = 0.0
    holder: str = ""


class Play:
    """The story on one stage. `run` tells it to its end, or raises StepFailed."""

    def __init__(self, stage: Stage, screen: Screen, pace: Pace) -> None:
        self.stage = stage
        self.screen = screen
        self.pace = pace
        self.steps: list[Step] = []
        self._beats: dict[str, tuple[float, str]] = {}
        """Each node's latest beat: when it came, and the role that it told."""
        self._on_bus = False
        self._seen: set[str] = set()
        self._changes = 0
        self._states: dict[str, str] = {}
        self._clocks_apart = now() - time.time()
        self._told_at: dict[str, float] = {}
        self._echoes = Echoes(stage.hosts["client"])
        # Printing must not keep the address watch, a thread, from noting the time: by default it may wait 5 ms.
        sys.setswitchinterval(0.0005)

    def run(self) -> None:
        self._until("the broker takes connections", lambda: self._on_bus, 20)
        self._start()
        self._lose_the_holder()
        self._bring_it_back()
        self._switch_over()
        self._restart_the_broker()
        self._kill_the_agent()
        self._stop_in_order()
        self.screen.show(everything=True)
        self.screen.status("")

    # --- the steps

    def _start(self) -> None:
        with self._step("start of both agents", "Both agents are started. The first in order is to take the address."):
            self.stage.start_agent("alpha")
            self._until_standby("alpha")  # or beta may be the first to have listened for long enough
            self.stage.start_agent("beta")
            self._until_held("alpha", 15)
            self._until_standby("beta")

    def _lose_the_holder(self) -> None:
        with self._step("alpha loses its power", "Now alpha is lost: its plug is pulled."):
            self.screen.add(now(), "lab", "alpha has no power")
            self.stage.power_off("alpha")
            self._until_held("beta", 10)

    def _bring_it_back(self) -> None:
        with self._step("alpha comes back", "Alpha comes back. Failback is manual, so nothing is to move."):
            self.stage.hosts["alpha"].power_on()
            self.screen.add(now(), "lab", "alpha has power again")
            self.stage.start_agent("alpha")
            self._until_standby("alpha")
            self._stays("beta")

    def _switch_over(self) -> None:
        with self._step("switchover to alpha", "An operator moves the service back to alpha, on purpose."):
            self.screen.add(now(), "shell", f"$ locum switchover {SERVICE} --to alpha")
            command, output = self.stage.operator("switchover", SERVICE, "--to", "alpha")

            def ended() -> bool:
                status = command.poll()  # before its output is read, so that this is all of it
                for line in output.read():
                    self.screen.add(now(), "shell", line)
                return status is not None

            self._until("`locum switchover` ends", ended, 20)
            if command.returncode != 0:
                raise StepFailed(f"`locum switchover` ended with status {command.returncode}")
            self._until_held("alpha", 5)
            self._until_standby("beta")

    def _restart_the_broker(self) -> None:
        with self._step("the broker restarts", "The broker is killed and started again. Nothing is to move."):
            self.stage.kill_broker()
            self.screen.add(now(), "lab", "the broker is killed")
            self._until("the listener loses the bus", lambda: not self._on_bus, 5)
            self._stays("alpha")
            self.stage.start_broker()
            self.screen.add(now(), "lab", "the broker is started again")
            # By their beats: what is no beat may have come and gone before the listener was there again.
            self._until("alpha's beats are back", lambda: self._role("alpha") == "active", 20)
            self._until_standby("beta")
            self._stays("alpha")

    def _kill_the_agent(self) -> None:
        told = "Now only alpha's agent dies (SIGKILL). The kernel's lease takes the address off alpha."
        with self._step("alpha's agent is killed", told):
            self.stage.kill_agent("alpha")
            self.screen.add(now(), "lab", "the agent of alpha is killed")
            self._until_held("beta", 10)

    def _stop_in_order(self) -> None:
        told = "Alpha's agent is started again. Nothing is to move."
        with self._step("alpha's agent starts again", told):
            self.stage.start_agent("alpha")
            self._until_standby("alpha")
            self._stays("beta")
        told = "Beta is to be shut down for maintenance: its agent stops in order (SIGTERM)."
        with self._step("beta's agent stops in order", told):
            stopping = self.stage.stop_agent("beta")
            self.screen.add(now(), "lab", "the agent of beta gets SIGTERM")
            self._until_held("alpha", 10)
            self._until("the agent of beta ends", lambda: stopping.poll() is not None, 10)
            if stopping.returncode != 0:
                raise StepFailed(f"the agent of beta ended with status {stopping.returncode}, not 0")

    @contextlib.contextmanager
    def _step(self, title: str, told: str) -> Iterator[None]:
        """Announces it, lets it happen, waits until the client is served and what belongs to it has been told."""
        self.screen.announce(told)
        self._pause(self.pace.before)
        step = Step(title, now())
        yield
        self._until(f"the client is answered ({title})", lambda: self._echoes.coming, 5)
        self._pause(SETTLE)
        self._until("the holder is one", lambda: len(self.stage.watch.held_by(ADDRESS)) == 1, 1)
        step.end = now()
        step.holder = self.stage.watch.held_by(ADDRESS)[0]
        self.steps.append(step)
        self._pause(self.pace.after)

    # --- waiting

    def _until_held(self, node: str, seconds: float) -> None:
        """Until this node has the address by the kernel, and says on the bus that it is active."""
        what = f"{node} holds {ADDRESS}"
        self._until(what, lambda: self._held_by(node) and self._role(node) == "active", seconds)

    def _until_standby(self, node: str) -> None:
        self._until(f"{node} stands by", lambda: self._role(node) == "standby", 15)

    def _stays(self, node: str) -> None:
        """Nothing moves for a while: the kernel reports no address event, and the node has it."""
        before = len(self.stage.watch.timeline)
        self._pause(UNDISTURBED)
        if len(self.stage.watch.timeline) != before or not self._held_by(node):
            raise StepFailed(f"the address moved, and nothing was to move: it is on {self._holders()}")

    def _held_by(self, node: str) -> bool:
        return self.stage.watch.held_by(ADDRESS) == (node,)

    def _holders(self) -> str:
        return " and ".join(self.stage.watch.held_by(ADDRESS)) or "nobody"

    def _pause(self, seconds: float) -> None:
        until = now() + seconds
        while now() < until:
            self._look()

    def _until(self, what: str, happened: Callable[[], bool], seconds: float) -> None:
        until = now() + seconds
        while not happened():
            if now() > until:
                raise StepFailed(f"not within {seconds:g} s: {what}")
            self._look()

    # --- looking

    def _look(self) -> None:
        """Takes in what all sources have said, and prints it; waits a moment for more."""
        self._hear_bus()
        for change in self.stage.watch.timeline[self._changes :]:
            self._changes += 1
            said = "has" if change.present else "no longer has"
            self.screen.add(change.at, "kernel", f"{change.host} {said} {change.address}")
        for silence in self._echoes.look():
            if silence.end is None:
                self.screen.add(silence.start, "client", "no answer any more", "red")
            else:
                gap = f"{(silence.end - silence.start) * 1000:,.0f} ms"
                self.screen.add(silence.end, "client", f"is answered again, after {gap} without", "green")
        if gone := self.stage.ended():
            raise StepFailed(gone)
        self.screen.show()
        roles = ", ".join(f"{node} {self._role(node)}" for node in NODES)
        answers = f"{self._echoes.per_second} answers/s" if self._echoes.coming else "NO ANSWER"
        self.screen.status(f"     now  {answers}, address on {self._holders()}; {roles}")
        time.sleep(LOOK_EVERY)

    def _hear_bus(self) -> None:
        for line in self.stage.listener.read():
            heard = json.loads(line)
            at, message = heard["at"], heard["message"]
            match heard["kind"]:
                case "bus":
                    self._on_bus = message["connected"]
                    self.screen.add(at, "bus", "the broker is there" if self._on_bus else "the broker is gone")
                case "beat":
                    self._beats[message["node"]] = at, message["services"][SERVICE]["role"]
                case "node" if self._states.get(message["node"]) != (state := sentences.of_node(message)):
                    self._states[message["node"]] = state  # peers and last wills may say the same again
                    self.screen.add(at, "bus", state)
                case "event" if message["id"] not in self._seen:
                    self._seen.add(message["id"])
                    self._tell_event(message, at)

    def _tell_event(self, message: dict[str, Any], heard_at: float) -> None:
        """Sorted in by when it happened, which it tells: or a hook would seem to run after what it precedes."""
        node = message["source"].rpartition("/")[2]
        at = datetime.fromisoformat(message["time"]).timestamp() + self._clocks_apart
        age = heard_at - at
        if not 0 <= age < sentences.LATE:  # kept for a broker that was away, or the wall clock was set
            at = heard_at
        elif message["type"].endswith((".taken", ".dropped")):
            # Its time is cut to milliseconds, and it follows what the kernel says.
            changes = [change.at for change in self.stage.watch.timeline if change.host == node]
            at = max([at, *changes[-1:]]) + 0.000_001
        at = max(at, self._told_at.get(node, 0.0))  # a node's events come in their order
        self._told_at[node] = at
        self.screen.add(at, "bus", sentences.of_event(message, age))

    def _role(self, node: str) -> str:
        at, role = self._beats.get(node, (0.0, ""))
        return role if now() - at < BEAT_GOOD_FOR else "silent"
