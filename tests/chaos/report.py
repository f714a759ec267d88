"""The figures of a run, as text and as Markdown."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from tests.chaos.outcome import Outcome
from tests.chaos.run import REST, SERVING, Run

HEAD = ("fault", "on", "mode", "times", "moves", "longest gap, median", "largest", "available", "two holders")

ABOUT = f"""\
Each row is one kind of fault, alone, in one mode (`on_bus_loss`); what happened two at a time is in the last rows.
*Times*: how often it was injected. *Moves*: how often the address went to another host. *Longest gap*: the longest
time without an answer to the client, which asks every 2 ms, in each injection: the median and the largest of these.
*Available*: the share of the client's requests that were answered within a second, from the beginning of the fault
until every node was ready again. *Two holders*: moments at which two kernels had the address.

After the end of each fault, exactly one host must have the address within {SERVING:.0f} s, and all others must be ready
to take it within {REST:.0f} s. Rows marked `*` are those in which a healthy holder must not lose the address at all.
"""

LIMITS = """\
- An address that an operator adds by hand to a second host is there twice until it is removed again. That is not the
  agents' doing, and not counted as two holders; the time is given above.
- Under `hold`, two holders are possible while the wire between the nodes carries nothing, both reach somebody else who
  answers, and the bus is away as well (see the page of guarantees). So the nodes are cut off from each other in that
  mode only while nothing else happens, and a node's bandwidth is limited only so far that probes get through.
- Clock steps move what the agent's own code reads as wall clock. The kernel's and the hooks' clock stays as it is;
  nothing in the agent depends on it.
- Delay, duplication and reordering are made frame by frame, by a process in the host's cable.
- All hosts share one machine and its processors. A gap of some milliseconds may be the machine's.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    whom: str
    mode: str
    outcomes: tuple[Outcome, ...]

    def cells(self) -> tuple[str, ...]:
        asked = sum(outcome.asked for outcome in self.outcomes)
        lost = sum(outcome.lost for outcome in self.outcomes)
        gaps = [outcome.gap for outcome in self.outcomes]
        star = "*" if all(outcome.must_stay for outcome in self.outcomes) else ""
        return (
            self.what + star,
            self.whom,
            self.mode,
            str(len(self.outcomes)),
            str(sum(outcome.moves for outcome in self.outcomes)),
            _seconds(median(gaps)),
            _seconds(max(gaps)),
            f"{100 * (1 - lost / asked if asked else 0):.2f} %",
            str(sum(len(outcome.overlaps) for outcome in self.outcomes)),
        )


def rows(outcomes: Iterable[Outcome]) -> list[Row]:
    """One for each kind and mode, and one a mode for what came in pairs."""
    groups: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        key = ("two faults at once", "", outcome.mode) if outcome.pair else (outcome.what, outcome.whom, outcome.mode)
        groups[key].append(outcome)
    order = {"holder": 0, "standby": 1, "broker": 2, "": 3}
    keys = sorted(groups, key=lambda key: (order[key[1]], key[0], key[2]))
    return [Row(*key, tuple(groups[key])) for key in keys]


def text(run: Run) -> str:
    """For a terminal."""
    table = [HEAD, *(row.cells() for row in rows(run.outcomes))]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    found = [f"VIOLATION {problem}" for problem in run.violations] + [f"ODD {oddity}" for oddity in run.oddities]
    return "\n".join([*lines, "", *_summary(run), *found])


def markdown(run: Run) -> str:
    """For docs/results-chaos.md."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    lines = ["# Chaos on real hosts: results", ""]
    lines += [
        f"Written by `make chaos` on {date}: seed {run.seed}, {run.seconds / 60:.0f} minutes, the default timing."
    ]
    lines += [
        "Real agents, Mosquitto and a client, each in a network namespace of its own; faults at random moments.",
        "",
    ]
    lines += ["## What it found", "", *(f"- {line}" for line in _summary(run)), *_found("violations", run.violations)]
    lines += [*_found("oddities in the agents' logs", run.oddities), ""]
    lines += ["## Fault by fault", "", ABOUT, *_table(HEAD, [row.cells() for row in rows(run.outcomes)]), ""]
    lines += ["## What it does not cover", "", LIMITS]
    return "\n".join(lines)


def _summary(run: Run) -> list[str]:
    outcomes = run.outcomes
    if not outcomes:
        return ["nothing was injected"]
    back = [outcome.back_after for outcome in outcomes if outcome.back_after is not None]
    rest = [outcome.rested_after for outcome in outcomes if outcome.rested_after is not None]
    asked, lost = sum(outcome.asked for outcome in outcomes), sum(outcome.lost for outcome in outcomes)
    stays = [outcome for outcome in outcomes if outcome.must_stay]
    moved = sum(bool(outcome.losses) for outcome in stays)
    loss = [outcome for outcome in stays if "30 % loss" in outcome.what and outcome.whom == "holder"]
    lines = [
        f"{len(outcomes)} injections ({sum(outcome.pair for outcome in outcomes)} of two faults at once) into "
        f"{run.rounds} clusters, one after the other, in {run.seconds / 60:.1f} minutes; seed {run.seed}",
        f"moments with two holders: {sum(len(outcome.overlaps) for outcome in outcomes)}",
        f"faults that a healthy holder must not notice: {len(stays)}; it lost the address in {moved} of them",
        f"of these, 30 % loss between the holder and the brokers under `hold`: {len(loss)} "
        f"({sum(outcome.end - outcome.start for outcome in loss):.0f} s); "
        f"it lost the address in {sum(bool(outcome.losses) for outcome in loss)}",
        f"moves in all: {sum(outcome.moves for outcome in outcomes)}; the longest gap: "
        f"{_seconds(max(outcome.gap for outcome in outcomes))}; requests answered: {100 * (1 - lost / asked):.2f} %",
    ]
    if back and rest:
        lines.append(
            f"after the end of a fault the service was on exactly one host within {_seconds(max(back))}, "
            f"and everybody was ready again within {_seconds(max(rest))} (median {_seconds(median(rest))})"
        )
    by_hand = sum(outcome.by_hand for outcome in outcomes)
    lines.append(f"time for which two hosts had the address by an operator's hand: {_seconds(by_hand)}")
    busy = [outcome for outcome in outcomes if outcome.stalls]
    if busy:
        spared = sum(bool(outcome.not_judged) for outcome in busy)
        lines.append(
            f"the machine itself stood still for 0.3 s or more during {len(busy)} injections; in {spared} of these "
            "a healthy holder lost the address, or the bounds were not met, and this is not counted as a violation"
        )
    return lines


def _found(what: str, found: Sequence[str]) -> list[str]:
    if not found:
        return [f"- {what}: none"]
    return [f"- {what}: {len(found)}", *(f"  - {problem}" for problem in found)]


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    left = 3  # columns of words; the others are figures
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
