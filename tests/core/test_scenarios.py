"""The scenarios: each file in `scenarios/` is a story that a reader can follow, and that comes out as it is written.

After a change that is meant to change them: REWRITE=1 pytest tests/core/test_scenarios.py, and read the difference.
While a story is played, story.py also watches over what must hold in every one: that each change of role is told by
exactly one event, that every event is one that is described and can be read by others, and that nobody runs in circles.
"""

import difflib
from pathlib import Path

import pytest

from tests.core.story import Story, StoryError, perform, wants_rewrite

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))

TWO_HOLDERS = frozenset({"wire_splits"})
"""The one story in which two machines have the address for a while: the limit of on_bus_loss = "hold"."""


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_scenario(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    played, story = perform(written)
    assert bool(story.overlaps) == (path.stem in TWO_HOLDERS), story.overlaps
    if wants_rewrite():
        path.write_text(played, encoding="utf-8")
        return
    if written != played:
        lines = difflib.unified_diff(written.splitlines(), played.splitlines(), "as written", "as played", lineterm="")
        pytest.fail("\n".join(lines), pytrace=False)


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 25


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_every_scenario_tells_the_reader_what_it_is_about(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


# -- the player itself --------------------------------------------------------------------------------------------

BEGINNING = "cluster nodes=alpha,beta\nstart alpha beta\nrun 5s\n----\n"


def test_what_was_written_before_is_replaced_and_comments_stay() -> None:
    played, _ = perform("# Why.\n" + BEGINNING + "lies\n\n# More.\nstatus\n----\nmore lies\n")
    assert "lies" not in played
    assert played.startswith("# Why.\ncluster nodes=alpha,beta\n")
    assert "\n# More.\nstatus\n----\nalpha: web active, has 10.0.0.100/24\n" in played
    assert perform(played)[0] == played


@pytest.mark.parametrize(
    "text",
    [
        "start alpha\n----\n",
        BEGINNING + "\ndance alpha\n----\n",
        BEGINNING + "\nrun\n----\n",
        BEGINNING + "\nrun 5s how=fast\n----\n",
        BEGINNING + "\nstart alpha\n----\n",
        BEGINNING + "\nstatus\n",
    ],
    ids=["no cluster", "no such command", "too little", "too much", "runs already", "no outcome"],
)
def test_a_story_that_cannot_be_played(text: str) -> None:
    with pytest.raises(StoryError):
        perform(text)


def test_verbose_shows_the_beats() -> None:
    played, _ = perform("cluster nodes=alpha,beta\nstart alpha\nverbose on\nrun 3s\n----\n")
    assert "alpha: beat 2: web standby/0" in played
    assert "alpha: asks the wire for 10.0.0.100: silence" in played
    assert "alpha: renews 10.0.0.100/24" in played


def test_two_machines_with_one_address_do_not_go_unseen() -> None:
    story = Story()
    for command in ["cluster nodes=alpha,beta", "start alpha beta", "run 5s"]:
        story.play(command)
    beta = story.machines["beta"]
    assert story._set(beta, "web", until=story.now + beta.offset + 5.0)
    assert story.overlaps == ["10.0.0.100/24 is on alpha and on beta"]
