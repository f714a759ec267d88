"""The watchdog on a kernel of its own: Linux as a process (user-mode-linux), with the real softdog module.

The machine boots on this machine's files, read only where it matters, runs a broker and an agent, and says on its
console how far it came.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

UML = shutil.which("linux.uml")
MODULES = Path("/usr/lib/uml/modules")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the machine runs on root's files: needs root"),
    pytest.mark.skipif(UML is None, reason="needs the package user-mode-linux"),
]

BOOT_SECONDS = 90
"""For all of it; some seconds as a rule."""

INIT = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
cd {folder}
now() {{ cut -d" " -f1 /proc/uptime; }}
modules=$(echo {modules}/*/kernel)
insmod $modules/drivers/net/veth.ko
insmod $modules/drivers/watchdog/softdog.ko nowayout=0
ip link set lo up
ip link add eth0 type veth peer name port
ip link set eth0 up
ip link set port up
ip addr add 10.0.0.1/24 dev eth0
mosquitto -p 1883 >mosquitto.log 2>&1 &
broker=$!
sleep 0.5
{python} -m locum run --config locum.toml --node alpha >agent.log 2>&1 &
agent=$!
for i in $(seq 200); do
    ip addr show eth0 | grep -q 10.0.0.100 && break
    sleep 0.1
done
ip addr show eth0 | grep -q 10.0.0.100 && echo "SAYS held"
sleep 4
echo "SAYS fed"
{then}
for i in $(seq 60); do echo "SAYS $(now) alive"; sleep 0.1; done
echo "SAYS survived"
halt -f
"""
CONFIG = """cluster = "shop"
brokers = ["mqtt://127.0.0.1:1883"]
on_bus_loss = "release"
[nodes.alpha]
address = "10.0.0.1"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha"]
hooks_dir = "{folder}/hooks"
watchdog = "/dev/watchdog1"
"""


def machine(folder: Path, then: str, hook: str = "") -> list[str]:
    """What the machine says, line by line: `then` is what happens to it while it holds the service."""
    (folder / "locum.toml").write_text(CONFIG.format(folder=folder))
    if hook:
        path = folder / "hooks" / "web" / "PostRel_10_last"
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{hook}\n")
        path.chmod(0o755)
    init = folder / "init"
    init.write_text(INIT.format(folder=folder, modules=MODULES, python=sys.executable, then=then))
    init.chmod(0o755)
    assert UML is not None
    command = [UML, "mem=256M", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}", "con=null", "con0=fd:0,fd:1"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    found: list[str] = []
    text = ""
    kill = threading.Timer(BOOT_SECONDS, lambda: os.killpg(process.pid, signal.SIGKILL))
    kill.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            said = re.match(r"SAYS (.+?)\s*$", line)
            if said:
                found.append(said[1])
            if (
                "softdog: Initiating system reboot" in line
            ):  # the module's own word: whatever comes after is another start
                found.append("reset")
                break
    finally:
        kill.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print("\n".join(found) if found else text[-2500:])
    print((folder / "agent.log").read_text()[-2500:])
    return found


def lived(said: list[str]) -> float:
    """Seconds from the deed to the last sign of life."""
    at = [float(line.split()[0]) for line in said if line.endswith(" alive")]
    return at[-1] - at[0]


def test_a_holder_whose_agent_hangs_is_reset_before_another_may_act(tmp_path: Path) -> None:
    said = machine(tmp_path, "kill -STOP $agent")
    assert said[:2] == ["held", "fed"]
    assert said[-1] == "reset"
    print(f"figure: reset {lived(said):.1f} s after its agent had been stopped")
    assert lived(said) <= 2.5, "the window"


def test_a_holder_whose_agent_is_killed_is_reset_too(tmp_path: Path) -> None:
    said = machine(tmp_path, "kill -KILL $agent")
    assert said[:2] == ["held", "fed"] and said[-1] == "reset"
    assert lived(said) <= 2.5


def test_one_that_loses_its_lease_and_cannot_let_go_is_reset(tmp_path: Path) -> None:
    said = machine(tmp_path, "kill -KILL $broker", hook="sleep 30")
    assert said[:2] == ["held", "fed"] and said[-1] == "reset"
    assert lived(said) <= 2.7, "a beat may have been confirmed just before"


def test_who_lets_go_in_order_lives_on(tmp_path: Path) -> None:
    said = machine(tmp_path, "kill -TERM $agent")
    assert said[:2] == ["held", "fed"] and said[-1] == "survived"
    assert "watchdog /dev/watchdog1 disarmed" in (tmp_path / "agent.log").read_text()


def test_a_release_that_takes_long_under_a_good_lease_is_no_reason_for_a_reset(tmp_path: Path) -> None:
    said = machine(tmp_path, "kill -TERM $agent", hook="sleep 4")
    assert said[:2] == ["held", "fed"] and said[-1] == "survived"
