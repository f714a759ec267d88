"""What is not a watchdog, or one that cannot be disarmed. The real one is in tests/e2e/test_watchdog.py."""

import os
from pathlib import Path

import pytest

from locum import watchdog
from locum.watchdog import Watchdog, problem


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    missing = tmp_path / "watchdog"
    assert problem(missing) == f"watchdog {missing}: No such file or directory"
    with pytest.raises(OSError, match="No such file") as error:
        Watchdog(missing, 1).arm()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["/dev/null", "a file"])
def test_what_is_no_watchdog_is_left_alone(what: str, tmp_path: Path) -> None:
    path = Path(what) if what.startswith("/") else tmp_path / "file"
    if not path.exists():
        path.write_text("")
    dog = Watchdog(path, 1)
    with pytest.raises(OSError, match=f"watchdog {path}: is no watchdog: "):
        dog.arm()
    assert not dog.armed
    dog.feed()
    dog.disarm()


@pytest.mark.parametrize(("nowayout", "fine"), [("1\n", False), ("0\n", True), (None, True)])
def test_one_that_cannot_be_disarmed_is_told(
    nowayout: str | None, fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "SYSTEM", tmp_path)
    number = Path("/dev/null").stat().st_rdev
    facts = tmp_path / f"dev/char/{os.major(number)}:{os.minor(number)}"
    facts.mkdir(parents=True)
    if nowayout is not None:
        (facts / "nowayout").write_text(nowayout)
    said = problem(Path("/dev/null"))
    assert said == "" if fine else "once armed it cannot be disarmed" in said
