"""The loop: a cluster, a fault, what came of it, the next fault, until the time is up."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random

from locum import clock
from locum.demo.client import Asking
from tests.chaos.canary import Canary
from tests.chaos.kinds import KINDS, Kind
from tests.chaos.outcome import Outcome
from tests.chaos.plan import Injection, Plan
from tests.chaos.stage import Shape, Stage

START = 25.0
"""Seconds until a new cluster must be at rest."""
SERVING = 15.0
"""Seconds after the end of a fault within which exactly one host must have the address."""
REST = 30.0
"""Seconds after the end of a fault within which every other node must be ready to take it, too."""
INJECTIONS = 14
"""Of one cluster, before a new one is started."""
SETTLE = 0.4

Tell = Callable[[str], None]


class Run:
    """One run of chaos. `outcomes` and `violations` grow while it lasts."""

    def __init__(self, seed: int, folder: Path, tell: Tell, keep: Path | None = None, only: str = "") -> None:
        """`folder`: for the clusters' files. `keep`: where logs go, of every cluster and of every violation.

        `only`: kinds of faults whose name has this in it (with whom it hits, as in "holder: cable cut").
        """
        self.seed = seed
        self.outcomes: list[Outcome] = []
        self.violations: list[str] = []
        self.oddities: list[str] = []
        self.rounds = 0
        self.seconds = 0.0
        self._folder = folder
        self._tell = tell
        self._keep = keep
        self._kinds = [kind for kind in KINDS if only in f"{kind.whom}: {kind.name}"]

    def run(self, minutes: float, after_round: Callable[[], None] = lambda: None, injections: int = INJECTIONS) -> None:
        """Until the time is up; ends with the injection that is under way then."""
        began = time.monotonic()
        until = began + minutes * 60
        with Canary() as self._canary:
            self._rounds(began, until, after_round, injections)

    def _rounds(self, began: float, until: float, after_round: Callable[[], None], injections: int) -> None:
        for shape, planned in Plan(self.seed, self._kinds).rounds(injections):
            if time.monotonic() >= until:
                return
            self.rounds += 1
            self._tell(f"-- round {self.rounds}: {shape}")
            self._round(shape, planned, until)
            self.seconds = time.monotonic() - began
            after_round()

    def _round(self, shape: Shape, planned: list[Injection], until: float) -> None:
        folder = self._folder / f"round-{self.rounds}"
        folder.mkdir()
        with Stage(folder, shape) as stage:
            began = clock.now()
            stage.start()
            if _within(START, stage.at_rest) is None:
                stalls = self._canary.since(began)
                problem = f"a new cluster was not at rest within {START:.0f} s"
                if stalls:
                    self._tell(f"not judged, since the machine was busy ({', '.join(stalls)}): {problem}")
                else:
                    self._violation(stage, None, problem)
                return
            for injection in planned:
                if time.monotonic() >= until:
                    break
                outcome = self._inject(stage, injection)
                self.outcomes.append(outcome)
                self._tell(_line(outcome))
                for problem in outcome.violations:
                    self._violation(stage, outcome, problem)
                for oddity in outcome.oddities:
                    self._oddity(stage, outcome, oddity)
                if outcome.rested_after is None:
                    break  # a new cluster, so that what comes next is not blamed for it
            self._save(stage, f"round-{self.rounds}", str(shape))
        shutil.rmtree(folder, ignore_errors=True)

    def _inject(self, stage: Stage, injection: Injection) -> Outcome:
        rng = Random(injection.seed)
        with Asking(stage.client, stage.addresses[0]) as client:
            time.sleep(SETTLE + rng.random() * 0.5)  # not in step with the beats
            first = injection.first
            outcome = Outcome(
                what=first.name,
                whom=first.whom,
                mode=stage.shape.mode,
                shape=str(stage.shape),
                told=[],
                must_stay=first.must_stay(stage.shape) and injection.second is None,
                pair=injection.second is not None,
                start=clock.now(),
            )
            self._act(stage, injection, rng, outcome)
            over = clock.now()
            outcome.back_after = _within(SERVING, stage.serving)
            if outcome.back_after is not None:
                left = REST - (clock.now() - over)
                outcome.rested_after = _within(left, lambda: stage.at_rest(over))
                if outcome.rested_after is not None:
                    outcome.rested_after = clock.now() - over
            outcome.end = clock.now()
            time.sleep(SETTLE)
            answers = client.stop()
        outcome.look(stage, answers)
        outcome.stalls = self._canary.since(outcome.start - 1)
        _judge(stage, outcome)
        return outcome

    def _act(self, stage: Stage, injection: Injection, rng: Random, outcome: Outcome) -> None:
        """Does what is planned, and undoes it."""
        begun = clock.now()
        ends: list[tuple[float, ExitStack]] = []
        try:
            ends.append((begun + injection.seconds, self._begin(stage, injection.first, rng, outcome)))
            if injection.second is not None:
                _sleep_until(begun + injection.second_after)
                until = clock.now() + injection.second_seconds
                ends.append((until, self._begin(stage, injection.second, rng, outcome)))
            for at, stack in sorted(ends, key=lambda end: end[0]):
                _sleep_until(at)
                stack.close()
        finally:
            for _, stack in ends:
                stack.close()

    def _begin(self, stage: Stage, kind: Kind, rng: Random, outcome: Outcome) -> ExitStack:
        target = _target(stage, kind.whom, rng)
        stack = ExitStack()
        told = stack.enter_context(kind.act(stage, target, rng))
        at = clock.now() - outcome.start
        outcome.told.append(f"{kind.whom} ({target}): {kind.name}{f', {told}' * bool(told)} at {at:.2f} s")
        return stack

    def _violation(self, stage: Stage, outcome: Outcome | None, problem: str) -> None:
        where = f"round {self.rounds} ({stage.shape})"
        if outcome is not None:
            where += f", fault {len(self.outcomes)} ({'; '.join(outcome.told)})"
        self.violations.append(f"{where}: {problem}")
        self._tell(f"VIOLATION {self.violations[-1]}")
        self._save(stage, f"violation-{len(self.violations)}", f"{self.violations[-1]}\n{outcome}")

    def _oddity(self, stage: Stage, outcome: Outcome, oddity: str) -> None:
        self.oddities.append(f"fault {len(self.outcomes)} ({'; '.join(outcome.told)}): {oddity}")
        self._tell(f"ODD {self.oddities[-1]}")
        self._save(stage, f"oddity-{len(self.oddities)}", self.oddities[-1])

    def _save(self, stage: Stage, name: str, what: str) -> None:
        if self._keep is None:
            return
        folder = self._keep / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "what").write_text(f"seed {self.seed}: {what}\nnow: {clock.now()}\n")
        (folder / "addresses").write_text("\n".join(str(change) for change in stage.watch.timeline) + "\n")
        for node in stage.names:
            (folder / f"{node}.log").write_text(stage.log(node))


def _target(stage: Stage, whom: str, rng: Random) -> str:
    """Who that is now. Without a holder, which happens while another fault lasts, any node is as good."""
    if whom == "broker":
        return rng.choice(sorted(stage.brokers))
    holders = stage.holders()
    if whom == "holder":
        return holders[0] if holders else rng.choice(stage.names)
    return rng.choice([name for name in stage.names if name not in holders] or stage.names)


def _judge(stage: Stage, outcome: Outcome) -> None:
    """What must never be; and what must not be on a machine that could run everybody."""
    problems = outcome.violations
    healthy = outcome.not_judged if outcome.stalls else outcome.violations
    for overlap in outcome.overlaps:
        length = (overlap.end - overlap.start) * 1000
        at = overlap.start - outcome.start
        problems.append(f"TWO HOLDERS: {overlap.address} on {overlap.hosts} for {length:.1f} ms, at {at:.3f} s")
    if stage.watch.overruns:
        problems.append(f"the watch lost events {stage.watch.overruns} times")
    if outcome.back_after is None:
        healthy.append(f"not serving within {SERVING:.0f} s after the end of the fault")
    elif outcome.rested_after is None:
        healthy.append(f"not at rest within {REST:.0f} s after the end of the fault: {stage.ears.now()}")
    if outcome.must_stay and (outcome.moves or outcome.losses):
        healthy.append(f"a healthy holder lost the address {outcome.losses} times; then: {outcome.path}")
    if dead := stage.dead_agents():
        problems.append(f"agents ended by themselves: {dead}")
    for name in stage.names:
        if stage.new_tracebacks(name):
            outcome.oddities.append(f"a traceback in the log of {name}")


def _within(seconds: float, predicate: Callable[[], bool]) -> float | None:
    """How long it took until it was true; None if it was not within so many seconds."""
    began = clock.now()
    while not predicate():
        if clock.now() - began > seconds:
            return None
        time.sleep(0.02)
    return clock.now() - began


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - clock.now()))


def _line(outcome: Outcome) -> str:
    took = outcome.end - outcome.start
    rested = f"{outcome.rested_after:.1f} s" if outcome.rested_after is not None else "NOT"
    moved = f"moves {outcome.moves} losses {outcome.losses}"
    stalls = f" | the machine: {', '.join(outcome.stalls)}" if outcome.stalls else ""
    stalls += f" | not judged: {'; '.join(outcome.not_judged)}" if outcome.not_judged else ""
    return (
        f"{time.strftime('%H:%M:%S')} {'; '.join(outcome.told)} | {took:.1f} s, {moved}, gap {outcome.gap:.3f} s, "
        f"available {outcome.availability:.2%}, at rest after {rested}{stalls}"
    )
