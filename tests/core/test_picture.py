"""What `locum watch` and `locum status` make of what they hear, without a bus."""

import pytest
from rich.console import Console

from locum.commands.status import describe, notes
from locum.commands.watch import Picture
from locum.config import Config
from locum.messages import Beat, Role, Standing
from tests.core.test_config import parse, placed

NODES = ("alpha", "beta", "gamma", "delta", "epsilon")


def beat(node: str, **roles: Role) -> Beat:
    """All that are standby are not ready."""
    services = {name: Standing(role=role, epoch=5 if role is Role.ACTIVE else 0) for name, role in roles.items()}
    return Beat(node=node, boot=f"{node}/1", seq=1, every=0.5, services=services)


def frame(config: Config, beats: list[Beat], lines: int = 24) -> list[str]:
    picture = Picture(config)
    for one in beats:
        picture.hear(one, 100.0)
    console = Console(width=80, height=lines, highlight=False, emoji=False, color_system=None)
    with console.capture() as captured:
        console.print(picture.show(100.1, lines))
    return captured.get().splitlines()


def hundred() -> Config:
    text = 'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n'
    text += "".join(f'[nodes.{node}]\naddress = "10.0.0.{place}"\n' for place, node in enumerate(NODES, 11))
    listed = ", ".join(f'"{node}"' for node in NODES)
    for number in range(100):
        text += f'[services.s{number:02}]\naddresses = ["10.0.1.{number + 1}/24"]\ninterface = "eth0"\n'
        text += f"nodes = [{listed}]\n"
    return parse(text)


@pytest.mark.parametrize("lines", [24, 40, 200])
def test_a_hundred_services_fit_into_a_terminal_and_what_is_not_well_comes_first(lines: int) -> None:
    config = hundred()
    names = list(config.services)
    beats = [
        beat(node, **{name: Role.ACTIVE if number % 5 == place and number != 77 else Role.STANDBY
                      for number, name in enumerate(names)})
        for place, node in enumerate(NODES)
    ]  # fmt: skip
    shown = frame(config, beats, lines)
    assert len(shown) <= lines
    assert all(len(line) <= 80 for line in shown)
    assert any(line.startswith("s77") and "no holder heard" in line for line in shown)
    assert any(line.startswith("alpha") and "20 active" in line and "80 standby" in line for line in shown)
    hidden = [line for line in shown if line.startswith("+")]
    assert len(hidden) == (lines < 200)
    if hidden:
        total = int(hidden[0].split()[0]) + sum(line[:1] == "s" and line[1:3].isdigit() for line in shown)
        assert total == 100


def test_who_is_not_ready_as_it_should_be_is_not_told_as_trouble() -> None:
    config = parse(placed('together_with = "web"', 'apart_from = ["web"]'))
    alpha = beat("alpha", web=Role.ACTIVE, mail=Role.ACTIVE, db=Role.STANDBY)
    beta = beat("beta", web=Role.STANDBY, mail=Role.STANDBY, db=Role.ACTIVE)
    picture = describe(config, {"alpha": alpha, "beta": beta}, {})
    services = picture["services"]
    assert services["mail"]["roles"] == {"alpha": "active", "beta": "standby (goes with web)"}
    assert services["db"]["roles"] == {"alpha": "standby (has web)", "beta": "active"}
    assert services["web"]["roles"] == {"alpha": "active", "beta": "standby (has db)"}
    assert not [text for text, _ in notes(picture) if "must be" in text]


def test_what_is_where_it_must_not_be_is_told() -> None:
    config = parse(placed('together_with = "web"', 'apart_from = ["web"]'))
    alpha = beat("alpha", web=Role.ACTIVE, mail=Role.STANDBY, db=Role.ACTIVE)
    beta = beat("beta", web=Role.STANDBY, mail=Role.ACTIVE, db=Role.STANDBY)
    said = [text for text, _ in notes(describe(config, {"alpha": alpha, "beta": beta}, {}))]
    assert "mail: must be together with web, which alpha has" in said
    assert "web: must be apart from db" in said and "db: must be apart from web" in said
