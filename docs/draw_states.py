"""Draws the coordinator's TABLE into docs/states.md, between the lines ```mermaid and ```.

Run it after a change of TABLE: python docs/draw_states.py. A test holds the page against the table.
"""

from pathlib import Path

from locum.coordinator import TABLE
from locum.messages import Role

PAGE = Path(__file__).with_name("states.md")
BEGIN, END = "```mermaid\n", "```\n"


def diagram() -> str:
    """TABLE as a Mermaid state diagram: an arrow for each row, in its order."""
    lines = ["stateDiagram-v2", f"    [*] --> {Role.STANDBY.value}"]
    for (before, on), (action, after) in TABLE.items():
        does = "" if action == "nothing" else f" / {action.replace('_', ' ')}"
        lines.append(f"    {before.value} --> {after.value}: {on.value}{does}")
    return "\n".join(lines) + "\n"


def drawn(page: str) -> str:
    """The page with the diagram as it is now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} has no place for the diagram: {BEGIN.strip()} ... {END.strip()}")
    return before + begin + diagram() + end + after


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
