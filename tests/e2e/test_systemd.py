"""Units of a real systemd, started and stopped over D-Bus, on containers with a small Debian of their own."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from locum.config import parse
from locum.demo.lab import Lab
from locum.hooks import HookContext, HookResult, Phase, declared, find, run_phase
from tests.e2e.cluster import ADDRESS, kind, wait
from tests.e2e.machine import PAGE, Machine
from tests.e2e.services import Fetching, Rooms
from tests.namespaces import NEEDS_NAMESPACES, NEEDS_ROOT, needs_programs

pytestmark = [*NEEDS_NAMESPACES, NEEDS_ROOT, *needs_programs("debootstrap", "systemd-nspawn"), pytest.mark.timeout(600)]

CONFIGURATION = """
cluster = "shop"
brokers = ["mqtt://10.0.0.3:1883"]
[nodes.alpha]
address = "10.0.0.1"
[services.web]
addresses = ["10.0.0.100/24"]
interface = "eth0"
nodes = ["alpha"]
hooks_dir = "{folder}"
[services.web.hooks]
"20_unit" = {{ use = "systemd", unit = "{unit}", bus = "unix:path={bus}", timeout = "{timeout}" }}
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Lab() as lab:
        yield Machine(lab.host("alpha", ["10.0.0.1/24"]), tmp_path_factory.mktemp("machine"))


def run(machine: Machine, unit: str, phase: Phase, timeout: str = "20s") -> tuple[HookResult, list[str]]:
    """One run of the hook, as the agent would: its result, and what it printed."""
    text = CONFIGURATION.format(folder="/nonexistent", unit=unit, bus=machine.bus, timeout=timeout)
    service = parse(text).services["web"]
    hooks = find(service.hooks_dir, "web", ["10.0.0.100/24"], phase, declared(service)).hooks
    assert len(hooks) == 1
    said: list[str] = []
    context = HookContext(phase, "web", "10.0.0.100/24", ("10.0.0.100/24",), "eth0", "alpha", "", 1, "start")
    outcome = asyncio.run(
        run_phase(
            hooks,
            lambda hook: context,
            on_line=lambda hook, line: said.append(line),
            on_result=lambda result: None,
            stop_at_first_failure=True,
        )
    )
    return outcome.results[0], said


def test_up_waits_for_the_job_and_down_stops(machine: Machine) -> None:
    result, _ = run(machine, "slow.service", Phase.PreAcq)
    assert result.ok and result.seconds >= 2
    assert machine.systemctl("is-active", "slow.service") == "active"
    again, _ = run(machine, "slow.service", Phase.PreAcq)
    assert again.ok, "what runs already is started"
    for _ in range(2):
        result, _ = run(machine, "slow.service", Phase.PreRel)
        assert result.ok
        assert machine.systemctl("is-active", "slow.service") == "inactive"
    assert run(machine, "once.service", Phase.PreAcq)[0].ok


@pytest.mark.parametrize(
    ("unit", "says"),
    [
        ("fails.service", "fails.service: start failed: failed; journalctl -u fails.service has more"),
        ("needs.service", "needs.service: start failed: dependency; journalctl -u needs.service has more"),
        ("nonesuch.service", "nonesuch.service is not-found here: install what has it, or mend its name"),
        ("masked.service", "masked.service is masked here: install what has it, or mend its name"),
    ],
)
def test_what_does_not_start_is_one_clear_line(machine: Machine, unit: str, says: str) -> None:
    result, said = run(machine, unit, Phase.PreAcq)
    assert (result.ok, result.status, said) == (False, 1, [says])
    assert result.detail == f"failed with exit status 1: {says}"


def test_at_the_timeout_systemd_does_not_go_on(machine: Machine) -> None:
    result, _ = run(machine, "hangs.service", Phase.PreAcq, timeout="1s")
    assert result.timed_out and not result.ok
    wait(lambda: machine.systemctl("list-jobs", "--no-legend") == "", 5)
    assert run(machine, "hangs.service", Phase.PreRel)[0].ok


def test_nginx_runs_where_the_address_is(make_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bus = tmp_path / "bus" / "socket"
    bus.parent.mkdir()
    unit = f'{{ use = "systemd", unit = "nginx.service", bus = "unix:path={bus}" }}'
    cluster = make_cluster(more=f'[services.web.hooks]\n"20_web" = {unit}\n')
    rooms = Rooms(cluster)
    machines = {name: Machine(cluster.nodes[name], tmp_path) for name in ("alpha", "beta")}
    for name, machine in machines.items():
        # The same path on both hosts, as the configuration is: a folder of each host's own, with a link in it.
        script = f"mount -t tmpfs none {bus.parent} && ln -s {machine.bus} {bus}"
        assert cluster.nodes[name].run([*rooms.inside(name), "sh", "-c", script]).returncode == 0
    subscriber = cluster.subscriber("event/#")
    cluster.up()

    def states() -> list[str]:
        return [machine.systemctl("is-active", "nginx.service") for machine in machines.values()]

    assert states() == ["active", "inactive"]
    fetching = Fetching(cluster, ADDRESS)
    fetching.wait_for_page()
    done = cluster.locum(cluster.client, "switchover", "web")
    assert done.returncode == 0, done.stderr
    fetching.wait_for_page()
    assert states() == ["inactive", "active"]
    print(
        f"figure: switchover with nginx.service: the client's gap is {fetching.longest_gap() * 1000:.0f} ms to a page"
    )
    cluster.nodes["beta"].power_off()
    cluster.held_by("alpha")
    fetching.wait_for_page()
    assert machines["alpha"].systemctl("is-active", "nginx.service") == "active"
    fetching.stop()
    assert fetching.texts() == {PAGE}
    hooks = [event["data"] for event in subscriber.events("web") if kind(event) == "hook"]
    assert all(hook["ok"] and hook["name"] == "20_web" for hook in hooks)
    cluster.never_two()


def test_the_agent_as_a_unit(make_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """deploy/locum.service: started when it is ready, its addresses dropped after SIGKILL, ended when it hangs."""
    cluster = make_cluster(nodes=("alpha",))
    top = Path(__file__).parents[2]
    locum = f"{sys.executable} -m locum"
    unit = (top / "deploy" / "locum.service").read_text()
    assert unit.count("/usr/local/bin/locum") == 3
    unit = unit.replace("/usr/local/bin/locum", locum).replace(
        "/etc/locum/locum.toml", f"{cluster.config} --node alpha"
    )
    (tmp_path / "locum.service").write_text(unit.replace("WatchdogSec=10", "WatchdogSec=3"))
    binds = [str(path) for path in dict.fromkeys((sys.base_prefix, sys.prefix, top, tmp_path))]
    machine = Machine(
        cluster.nodes["alpha"],
        tmp_path,
        *(f"--bind-ro={path}" for path in binds),
        f"--bind-ro={tmp_path}/locum.service:/etc/systemd/system/locum.service",
        "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
    )

    def journal() -> str:
        return machine.run("journalctl", "--unit=locum", "--no-pager", "--output=cat").stdout

    def shown(name: str) -> str:
        return machine.systemctl("show", "--value", f"--property={name}", "locum")

    def pid() -> int:
        """Of the agent, by its number here."""
        inside = shown("MainPID")
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            numbers = next((line.split()[1:] for line in text.splitlines() if line.startswith("NSpid:")), [])
            space = Path(f"/proc/{machine.leader}/ns/pid")
            if numbers[1:] == [inside] and (status.parent / "ns/pid").readlink() == space.readlink():
                return int(numbers[0])
        raise AssertionError(f"no process {inside}\n{journal()}")

    started = machine.run("systemctl", "start", "locum")
    assert started.returncode == 0, started.stderr + journal()
    assert (shown("ActiveState"), shown("StatusText")) == ("active", "alpha of shop")
    assert "of cluster shop started" in journal(), "it is called started when it is"
    cluster.held_by("alpha")

    # Another configuration, and then the program anew in place: the same process, ready again, watched on.
    first, text = pid(), cluster.config.read_text()
    cluster.config.write_text(text.replace('"10.0.0.100/24"', '"10.0.0.100/24", "10.0.0.101/24"'))
    reloaded = machine.run("systemctl", "reload", "locum")
    assert reloaded.returncode == 0, reloaded.stderr + journal()
    cluster.held_by("alpha")
    assert "reloaded: changed=web" in journal()
    cluster.config.write_text(text.replace("[services.web]", "[services.web]\nadresses = []"))
    assert machine.run("systemctl", "reload", "locum").returncode != 0
    cluster.config.write_text(text)
    assert machine.run("systemctl", "reload", "locum").returncode == 0
    cluster.watch.wait(lambda: cluster.moves() == ["alpha"] * 3, 10)
    assert machine.run("systemctl", "kill", "--signal=SIGUSR2", "--kill-who=main", "locum").returncode == 0
    wait(lambda: "restarted: version=" in journal(), 10, journal)
    time.sleep(5)  # longer than its watchdog waits
    assert (pid(), shown("NRestarts"), shown("ActiveState")) == (first, "0", "active")
    assert cluster.moves() == ["alpha"] * 3, "one for each change of its addresses"

    os.kill(pid(), signal.SIGKILL)
    cluster.watch.wait(lambda: cluster.watch.held_by(ADDRESS) == (), 10)
    wait(lambda: "web: eth0 10.0.0.100/24: gone" in journal(), 10, journal)
    cluster.held_by("alpha")
    assert shown("NRestarts") == "1"

    os.kill(pid(), signal.SIGSTOP)
    wait(lambda: shown("NRestarts") == "2", 30, journal)
    wait(lambda: shown("ActiveState") == "active", 10, journal)
    cluster.held_by("alpha")

    refused = machine.run(*locum.split(), "drop", "--config", str(cluster.config), "--node", "alpha")
    assert refused.returncode == 1 and "stop it, and it releases in order" in refused.stderr
    assert cluster.watch.held_by(ADDRESS) == ("alpha",)
    assert machine.run("systemctl", "stop", "locum").returncode == 0
    assert cluster.watch.held_by(ADDRESS) == () and (shown("Result"), shown("ActiveState")) == ("success", "inactive")
