"""`locum demo` happens as told, says what the client noticed, and leaves nothing behind however it ends."""

import os
import random
import re
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import locum
from locum.demo import figures
from locum.demo.screen import Screen
from locum.demo.watch import Overlap
from tests.namespaces import needs_namespaces

DEMO = ["-m", "locum", "demo", "--fast"]
NOBODY = 65534
SECONDS = 75  # for all of it, on a machine that has other things to do

# (what happened, the least and the most that the client may have gone without an answer, who has the address then).
# Beats of 500 ms and a lease of 2 s: a standby acts 2.5 s after the last beat, and the kernel keeps an address of a
# dead agent for 1 to 2 s of these.
STEPS = [
    ("start of both agents", None, "alpha"),
    ("alpha loses its power", (1_500, 4_000), "beta"),
    ("alpha comes back", (0, 200), "beta"),
    ("switchover to alpha", (2, 2_000), "alpha"),
    ("the broker restarts", (0, 200), "alpha"),
    ("alpha's agent is killed", (50, 2_500), "beta"),
    ("alpha's agent starts again", (0, 200), "beta"),
    ("beta's agent stops in order", (2, 2_000), "alpha"),
]
ROW = re.compile(r"(\S.*?) {2,}([\d,]+|-) +([\d,]+|-) +([\d,]+|-) +(\w+)")


def number(text: str) -> int:
    return int(text.replace(",", ""))


def check_story(said: str) -> None:
    lines = said.splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert "\x1b" not in said  # not a terminal: no colours, nothing that moves the cursor
    rows = [match.groups() for line in lines if (match := ROW.fullmatch(line))]
    assert [(row[0], row[4]) for row in rows] == [(title, holder) for title, _, holder in STEPS]
    for (title, bounds, _), (_, gap, lost, asked, _) in zip(STEPS, rows, strict=True):
        if bounds is None:
            assert gap == lost == asked == "-"
            continue
        assert bounds[0] <= number(gap) <= bounds[1], title
        # A request every 2 ms: what was lost is what was asked in the gap, and then some that were under way.
        assert number(lost) <= number(gap) / 2 + 100, title
        assert number(asked) > 250, title
    assert re.fullmatch(r"At no time did both hosts hold the address: \d+ address events seen\.", lines[-1])
    takeover = said[said.index("Now alpha is lost") : said.index("Alpha comes back")]
    order = ["alpha has no power", "beta claims web", "beta ran PreAcq_10_mount: ok", "kernel  beta has 10.0.0.100"]
    order += ["beta ran PostAcq_10_start: ok", "beta is active"]
    assert sorted(order, key=takeover.index) == order
    assert re.search(r"client  is answered again, after \d,\d{3} ms without", takeover)
    assert "$ locum switchover web --to alpha" in said and "web is on alpha" in said


# --- what is left


def processes() -> Iterator[Path]:
    return (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())


def field(process: Path, name: str) -> str:
    status = (process / "status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))


def namespace_under(caller: int) -> int | None:
    """The inode of the process namespace that the command has made below itself."""
    for process in processes():
        try:
            if field(process, "PPid") == str(caller):
                inode = (process / "ns/pid").stat().st_ino
                if inode != (Path("/proc/self/ns/pid")).stat().st_ino:
                    return inode
        except (OSError, StopIteration):
            continue
    return None


def living_in(namespace: int) -> list[str]:
    found = []
    for process in processes():
        try:
            if (process / "ns/pid").stat().st_ino == namespace and field(process, "State") != "Z":
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (OSError, StopIteration):
            continue
    return found


def traces() -> list[str]:
    """What anybody could find of a demo on this machine, but for its processes."""
    places = [Path(place) for place in ("/mnt", "/media", "/srv", "/run/netns")]
    found = [str(entry) for place in places if place.is_dir() for entry in place.iterdir()]
    return found + [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "locum-demo" in line]


def eventually(what: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def running(folder: Path, *, command: list[str] | None = None, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    """A demo that is checked to leave nothing behind: no process, no mount, no file."""
    folder.mkdir(exist_ok=True)
    before = traces()
    # These tests may themselves run in namespaces that such a command has made.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LOCUM_", "FORCE_COLOR"))}
    options.setdefault("env", environment | {"TMPDIR": str(folder)})
    with subprocess.Popen(
        command or [sys.executable, *DEMO], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as process:
        try:
            namespaces: list[int] = []

            def isolated() -> bool:
                namespaces.extend(inode for inode in [namespace_under(process.pid)] if inode is not None)
                return bool(namespaces) or process.poll() is not None

            assert eventually(isolated)
            yield process
        finally:
            process.kill()
    for namespace in namespaces:
        assert eventually(lambda namespace=namespace: living_in(namespace) == []), living_in(namespace)
    assert traces() == before
    assert list(folder.iterdir()) == []


# --- the tests


@needs_namespaces
def test_the_demo_happens_as_told(tmp_path: Path) -> None:
    with running(tmp_path / "tmp") as demo:
        out, err = demo.communicate(timeout=SECONDS)
    assert (demo.returncode, err) == (0, ""), out
    check_story(out)


@needs_namespaces
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: then the test above is this one")
def test_it_needs_no_root(tmp_path: Path) -> None:
    found = interpreter_of_nobody()
    if found is None:
        pytest.skip("an unprivileged user cannot read this Python, or these sources")
    python, environment = found
    folder = tmp_path / "tmp"
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/", "env": environment}
    with running(folder, command=[python, *DEMO], **nobody) as demo:
        out, err = demo.communicate(timeout=SECONDS)
    if demo.returncode == 1 and "may make namespaces" in err:
        assert err.count("\n") == 1 and "run it with sudo" in err and out == ""
        pytest.skip("unprivileged users may not make user namespaces here, and the demo says so")
    assert (demo.returncode, err) == (0, ""), out
    check_story(out)


@needs_namespaces
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_at_any_moment_it_leaves_nothing(tmp_path: Path, signum: signal.Signals) -> None:
    moment = random.uniform(0, 9)
    with running(tmp_path / "tmp") as demo:
        time.sleep(moment)
        demo.send_signal(signum)
        out, _ = demo.communicate(timeout=15)
    if signum == signal.SIGKILL:
        assert demo.returncode == -signal.SIGKILL, f"after {moment:.2f} s"
    else:
        assert demo.returncode == 128 + signum, f"after {moment:.2f} s: {out}"


def test_without_its_broker_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['amqtt'] = None; sys.argv = ['locum', 'demo']; from locum.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "pip install 'locum[broker]'" in done.stderr
    assert done.stdout == ""


def test_two_holders_at_once_would_be_said_and_end_with_failure(capsys: pytest.CaptureFixture[str]) -> None:
    overlap = Overlap("10.0.0.100", 1.0, 1.25, ("alpha", "beta"))
    watch: Any = SimpleNamespace(timeline=[], overruns=0, overlaps=lambda: [overlap])
    assert figures.verdict(Screen(), watch) == 1
    assert "alpha and beta held 10.0.0.100 at once, for 250.0 ms" in capsys.readouterr().out
    watch.overlaps, watch.overruns = list, 1
    assert figures.verdict(Screen(), watch) == 1
    assert "At no time" not in capsys.readouterr().out


# --- as another user


def interpreter_of_nobody() -> tuple[str, dict[str, str]] | None:
    """A Python that a user without any rights can start, with what it needs to find us; None if there is none."""
    sources = Path(locum.__file__).parents[1]
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": f"{sources}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    # It must be able to start itself, as the demo does: the first start may still be allowed by what we are.
    needs = "import amqtt.broker, locum.agent, rich, uvloop"
    again = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {needs!r}])"
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        try:
            done = subprocess.run(
                [python, "-c", again],
                env=environment,
                cwd="/",
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                timeout=20,
            )
        except OSError:  # not there, or not to be reached
            continue
        if done.returncode == 0:
            return python, environment
    return None
