"""Fencing with a real agent (fence_ipmilan, by ipmitool) against a real IPMI server (ipmi_sim) beside each host.

The server's power switch is a host's: at "off" everything in that host is killed and its addresses are gone.
"""

import shutil
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum import clock
from tests.e2e.cluster import Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES, needs_programs

pytestmark = [*NEEDS_NAMESPACES, *needs_programs("ipmi_sim", "ipmitool", "fence_ipmilan")]


class Switch:
    """The power switch of one host, behind an IPMI server on the machine that has the broker."""

    def __init__(self, cluster: Cluster, name: str, port: int) -> None:
        self.cluster, self.name, self.port = cluster, name, port
        self.off_at: list[float] = []
        self.folder = cluster.folder / f"ipmi-{name}"
        self.folder.mkdir()
        self._ended = threading.Event()
        self._power("1")
        # ipmi_sim asks it: set it waits until the host really is off.
        control = self.folder / "control"
        control.write_text(
            textwrap.dedent(f"""\
            #!/bin/sh
            shift
            case "$1 $2" in
            "get power") echo "power:$(cat {self.folder}/power)" ;;
            "set power")
                echo "$3" >{self.folder}/wanted.new && mv {self.folder}/wanted.new {self.folder}/wanted
                while [ "$(cat {self.folder}/power)" != "$3" ]; do sleep 0.02; done ;;
            esac
            """)
        )
        control.chmod(0o755)
        (self.folder / "lan.conf").write_text(
            textwrap.dedent(f"""\
            name "{name}"
            set_working_mc 0x20
            startlan 1
              addr 10.0.0.3 {port}
              priv_limit admin
              allowed_auths_admin none md2 md5 straight
              guid a123456789abcdefa123456789abcdef
            endlan
            chassis_control "{control} 0x20"
            user 1 true "" "test" user 10 none md2 md5 straight
            user 2 true "locum" "secret-of-{name}" admin 10 none md2 md5 straight
            """)
        )
        (self.folder / "emu").write_text(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
        )
        log = (self.folder / "log").open("w")
        command = ["ipmi_sim", "-c", "lan.conf", "-f", "emu", "-s", str(self.folder), "-n"]
        self.server = cluster.broker.popen(command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _power(self, state: str) -> None:
        (self.folder / "power.new").write_text(state)
        (self.folder / "power.new").rename(self.folder / "power")

    def _serve(self) -> None:
        wanted = self.folder / "wanted"
        while not self._ended.wait(0.01):
            if wanted.exists():
                state = wanted.read_text().strip()
                wanted.unlink()
                if state == "0":
                    self.cluster.nodes[self.name].power_off()
                    self.off_at.append(clock.now())
                self._power(state)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def fenced(make_cluster, tmp_path: Path) -> Iterator[tuple[Cluster, dict[str, Switch]]]:  # type: ignore[no-untyped-def]
    ports = {"alpha": 9001, "beta": 9002}
    lines = ["[services.web.hooks.05_fence]", 'use = "fence"', 'agent = "fence_ipmilan"', "lanplus = 1", "cipher = 3"]
    for name, port in ports.items():
        password = tmp_path / f"password-{name}"
        password.touch(mode=0o600)
        password.write_text(f"secret-of-{name}\n")
        lines += [f"[services.web.hooks.05_fence.nodes.{name}]", 'ip = "10.0.0.3"', f"ipport = {port}"]
        lines += ['username = "locum"', f'password_file = "{password}"']
    cluster = make_cluster(more="\n".join(lines))
    switches = {name: Switch(cluster, name, port) for name, port in ports.items()}
    for port in ports.values():
        ask = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", "10.0.0.3", "-p", str(port), "-U", "locum", "-P"]
        name = next(name for name in ports if ports[name] == port)
        wait(
            lambda ask=ask, name=name: (
                "is on" in cluster.client.run([*ask, f"secret-of-{name}", "chassis", "power", "status"]).stdout
            ),
            10,
        )
    yield cluster, switches
    for switch in switches.values():
        switch.close()


def test_takeover_comes_after_fencing_and_a_clean_handover_fences_nobody(fenced) -> None:  # type: ignore[no-untyped-def]
    cluster, switches = fenced
    cluster.config.write_text(cluster.config.read_text().replace("lanplus = 1", 'lanplus = 1\nunheard = "fence"'))
    cluster.start("beta")
    subscriber = cluster.subscriber("event/#", "node/#")
    wait(lambda: subscriber.kinds()[-1:] == ["beta failed"] or switches["alpha"].off_at, 30)
    assert switches["alpha"].off_at, "at the start, a node that is not heard is fenced before anything is taken"
    cluster.held_by("beta")
    taken = next(change.at for change in cluster.watch.timeline if change.present)
    assert switches["alpha"].off_at[0] < taken

    cluster.nodes["alpha"].power_on()
    switches["alpha"]._power("1")
    cluster.start("alpha")
    wait(lambda: cluster.locum(cluster.client, "switchover", "web", "--to", "alpha").returncode == 0, 20)
    cluster.held_by("alpha")
    assert switches["beta"].off_at == [] and len(switches["alpha"].off_at) == 1

    # The holder goes on running, but nobody hears it: cut off from all others, and so fenced before beta takes over.
    cluster.nodes["alpha"].cut(silent=True)
    cluster.held_by("beta", seconds=40)
    (at,) = switches["alpha"].off_at[1:]
    taken = [change for change in cluster.watch.timeline if change.host == "beta" and change.present][-1].at
    assert at < taken
    print(f"figure: fenced {taken - at:.2f} s before the takeover")
    cluster.never_two()
    log = cluster.log("beta") + cluster.log("alpha")
    assert "alpha is fenced (off)" in log and "secret-of" not in log
    assert not any("secret-of" in str(heard.payload) for heard in subscriber.messages())


def test_no_confirmed_fencing_no_takeover(fenced) -> None:  # type: ignore[no-untyped-def]
    cluster, switches = fenced
    subscriber = cluster.subscriber("event/#")
    cluster.start("alpha", "beta")
    cluster.held_by("alpha", "beta")
    holder = cluster.watch.held_by("10.0.0.100")[0]
    other = "beta" if holder == "alpha" else "alpha"
    time.sleep(3)
    switches[holder].server.kill()  # nobody answers any more
    cluster.nodes[holder].power_off()
    subscriber.wait(lambda: f"{other} failed" in subscriber.kinds(), 60)
    failed = next(event for event in subscriber.events("web") if kind(event) == "failed")
    assert f"{holder} is not fenced" in failed["data"]["why"], failed
    assert cluster.moves() == [holder]
    assert switches[holder].off_at == []


def test_at_the_start_a_node_that_may_just_be_booting_is_waited_for_and_not_shot(fenced) -> None:  # type: ignore[no-untyped-def]
    cluster, switches = fenced
    subscriber = cluster.subscriber("event/#")
    cluster.start("beta")
    subscriber.wait(lambda: "beta failed" in subscriber.kinds(), 30)
    failed = next(event for event in subscriber.events("web") if kind(event) == "failed")
    assert "alpha is on and is not heard: nothing is taken until it is heard, or off" in failed["data"]["why"]
    assert cluster.moves() == [] and switches["alpha"].off_at == []
    cluster.start("alpha")  # it has booted
    cluster.held_by("alpha", "beta", seconds=60)
    assert switches["alpha"].off_at == switches["beta"].off_at == []
    # One that stopped in good order is neither waited for nor shot.
    holder = cluster.held_by("alpha", "beta")
    other = "beta" if holder == "alpha" else "alpha"
    time.sleep(1)
    for name in (other, holder):
        cluster.signal(name, signal.SIGTERM)
        assert cluster.agents[name].wait(15) == 0
    cluster.start(holder)
    cluster.held_by(holder)
    assert switches["alpha"].off_at == switches["beta"].off_at == []


def test_what_is_wrong_is_said_by_check(fenced) -> None:  # type: ignore[no-untyped-def]
    cluster, _ = fenced
    assert shutil.which("fence_ipmilan")
    (cluster.folder / "password-beta").chmod(0o644)
    text = cluster.config.read_text()
    cluster.config.write_text(text.replace("lanplus = 1", "lanpuls = 1"))
    said = cluster.locum(cluster.nodes["alpha"], "check", "--node", "alpha").stderr
    assert "fence_ipmilan has no option 'lanpuls' (of alpha)" in said
    assert "password-beta can be read by others: chmod 600 it" in said
