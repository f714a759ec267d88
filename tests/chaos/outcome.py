"""What one injection did: as the kernels and the client saw it."""

from dataclasses import dataclass, field

from locum.demo.answers import Answers
from locum.demo.watch import Overlap
from tests.chaos.stage import Stage


@dataclass
class Outcome:
    """From the beginning of the (first) fault until the cluster was at rest again."""

    what: str
    whom: str
    mode: str
    shape: str
    told: list[str]
    """What was done, in words."""
    must_stay: bool
    start: float
    pair: bool
    end: float = 0.0
    back_after: float | None = None
    """Seconds from the end of the fault until exactly one host had the address; None: not within the bound."""
    rested_after: float | None = None
    """Seconds from the end of the fault until all nodes were ready again; None: not within the bound."""
    moves: int = 0
    losses: int = 0
    """How often the address went from a host, wherever it came back."""
    path: list[str] = field(default_factory=list)
    gap: float = 0.0
    asked: int = 0
    lost: int = 0
    overlaps: list[Overlap] = field(default_factory=list)
    by_hand: float = 0.0
    """Seconds for which two hosts had it because an operator had added it to the second."""
    violations: list[str] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)
    """What is no violation, and should be looked at."""
    stalls: list[str] = field(default_factory=list)
    """When this machine itself stood still."""
    not_judged: list[str] = field(default_factory=list)
    """What would be a violation, had it not."""

    @property
    def availability(self) -> float:
        return 1 - self.lost / self.asked if self.asked else 0.0

    def look(self, stage: Stage, answers: Answers) -> None:
        """Fills in what the witnesses say."""
        self._follow(stage)
        for overlap in stage.watch.overlaps():
            if overlap.end <= self.start:
                continue
            if any(since <= overlap.start and overlap.end <= until for since, until in stage.by_hand):
                self.by_hand += overlap.end - overlap.start
            else:
                self.overlaps.append(overlap)
        self.gap = answers.longest_gap(self.start, self.end)
        self.asked, self.lost = answers.sent(self.start, self.end), answers.lost(self.start, self.end)

    def _follow(self, stage: Stage) -> None:
        """Who had the first address, one after the other. What an operator added or deleted by hand is no move."""
        host = ""
        for change in stage.watch.timeline:
            if change.address != stage.addresses[0]:
                continue
            if any(since <= change.at <= until for since, until in stage.by_hand):
                continue
            late = change.at >= self.start
            if not change.present:
                self.losses += late
            elif late:
                self.moves += bool(host) and change.host != host
                self.path.append(change.host)
            if change.present:
                host = change.host
