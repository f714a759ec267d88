"""The end of the demo: what the client noticed of each step, and whether two hosts ever held the address at once."""

from collections.abc import Sequence

from locum.demo.answers import Answers
from locum.demo.play import Step
from locum.demo.screen import Screen
from locum.demo.watch import AddressWatch

WORTH_SAYING = 0.02  # seconds by which the client itself was late

_COLUMNS = (
    ("what happened", False),
    ("longest gap, ms", True),
    ("lost", True),
    ("of", True),
    ("then held by", False),
)


def show(screen: Screen, steps: Sequence[Step], answers: Answers) -> None:
    """The table. A step's window lasts until the next one begins."""
    ends = [step.start for step in steps[1:]] + [steps[-1].end]
    rows = []
    for step, end in zip(steps, ends, strict=True):
        if step is steps[0]:  # nobody had the address before: there was nothing to notice
            rows.append((step.title, "-", "-", "-", step.holder))
            continue
        gap = answers.longest_gap(step.start, end) * 1000
        asked, lost = answers.sent(step.start, end), answers.lost(step.start, end)
        rows.append((step.title, f"{gap:,.0f}", f"{lost:,}", f"{asked:,}", step.holder))
    screen.table(_COLUMNS, rows)
    if answers.lateness > WORTH_SAYING:
        late = f"{answers.lateness * 1000:,.0f} ms"
        screen.say(f"This machine was busy: the client itself was late by up to {late}, and no gap is more exact.")


def verdict(screen: Screen, watch: AddressWatch) -> int:
    """Says whether two hosts held the address at once: 0 if never, 1 if they did, or if it cannot be known."""
    events = len(watch.timeline)
    if overlaps := watch.overlaps():
        for overlap in overlaps:
            screen.say(
                f"{' and '.join(overlap.hosts)} held {overlap.address} at once, for "
                f"{(overlap.end - overlap.start) * 1000:,.1f} ms.",
                "bold red",
            )
        return 1
    if watch.overruns:
        screen.say(f"The kernel dropped address events {watch.overruns} times: it cannot be told who held it.", "red")
        return 1
    screen.say(f"At no time did both hosts hold the address: {events} address events seen.", "bold green")
    return 0
