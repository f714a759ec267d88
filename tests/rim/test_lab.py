"""The lab does to its hosts what it says, its witnesses see it, and nothing of it is left behind."""

import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyroute2
import pytest
from pyroute2 import IPRoute

import locum
from locum.clock import now
from locum.demo import enter, kernel
from locum.demo.answers import Answers
from locum.demo.client import Asking
from locum.demo.enter import CannotIsolate, ensure_isolated
from locum.demo.lab import Host, Lab, LabError
from locum.demo.watch import AddressWatch
from tests.namespaces import needs_namespaces, needs_nft

SERVICE = "10.0.0.100"


def three_hosts(lab: Lab) -> tuple[Host, Host, Host]:
    alpha, beta, gamma = (
        lab.host(name, [f"10.0.0.{n}/24", f"fd00::{n}/64"]) for n, name in enumerate(["alpha", "beta", "gamma"], 1)
    )
    return alpha, beta, gamma


def echoes(host: Host, address: str, count: int = 1) -> int:
    """How many of this many pings were answered."""
    done = host.run(["ping", "-n", "-q", f"-c{count}", "-i0.005", "-W0.2", address])
    found = re.search(r"(\d+) received", done.stdout)
    return int(found[1]) if found else 0


def address(host: Host, command: str, text: str, **lifetimes: int) -> None:
    def change() -> None:
        with IPRoute() as netlink:
            index = netlink.link_lookup(ifname="eth0")[0]
            ip, prefix = text.split("/")
            netlink.addr(command, index=index, address=ip, prefixlen=int(prefix), **lifetimes)

    host.inside(change)


def eventually(what: Callable[[], bool], timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- hosts and cables


@needs_namespaces
def test_hosts_reach_each_other_at_once_over_both_families() -> None:
    with Lab() as lab:
        alpha, beta, gamma = three_hosts(lab)
        assert alpha.addresses() == ["10.0.0.1/24", "fd00::1/64"]
        assert (alpha.mac(), beta.mac()) == ("02:00:00:00:00:01", "02:00:00:00:00:02")
        assert echoes(alpha, "fd00::2") == 1
        assert echoes(alpha, "10.0.0.2") == 1
        assert echoes(gamma, "10.0.0.2") == 1
        assert echoes(gamma, "127.0.0.1") == 1


@needs_namespaces
async def test_it_works_from_a_running_event_loop() -> None:
    with Lab() as lab:
        alpha, _, _ = three_hosts(lab)
        assert echoes(alpha, "10.0.0.2") == 1


@needs_namespaces
def test_a_cut_host_has_no_carrier_and_a_silently_cut_one_has() -> None:
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)
        for silent in (False, True):
            alpha.cut(silent=silent)
            assert eventually(lambda silent=silent: alpha.carrier() == silent)
            assert echoes(beta, "10.0.0.1") == 0
            assert echoes(beta, "10.0.0.3") == 1
            alpha.mend()
            assert eventually(alpha.carrier)
            assert eventually(lambda: echoes(beta, "10.0.0.1") == 1)
            assert alpha.addresses() == ["10.0.0.1/24", "fd00::1/64"]


@needs_namespaces
def test_one_network_of_two_is_cut() -> None:
    with Lab() as lab:
        lab.network("mgmt")
        alpha = lab.host("alpha", {"lan": ["10.0.0.1/24"], "mgmt": ["10.9.0.1/24"]})
        lab.host("beta", {"lan": ["10.0.0.2/24"], "mgmt": ["10.9.0.2/24"]})
        assert alpha.addresses("eth1") == ["10.9.0.1/24"]
        alpha.cut("lan")
        assert echoes(alpha, "10.0.0.2") == 0
        assert echoes(alpha, "10.9.0.2") == 1
        with pytest.raises(LabError, match="no network 'wan'"):
            lab.host("gamma", {"wan": ["10.1.0.1/24"]})


@needs_namespaces
def test_a_host_without_power_has_nothing_and_comes_back_as_it_was_made() -> None:
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)
        alpha.add_addresses([f"{SERVICE}/24", "fd00::100/64"])
        process = alpha.popen(["sleep", "60"])
        alpha.power_off()
        assert process.poll() == -signal.SIGKILL
        assert alpha.addresses() == []
        assert echoes(beta, SERVICE) == 0
        alpha.power_on()
        assert alpha.addresses() == ["10.0.0.1/24", "fd00::1/64"]
        assert eventually(lambda: echoes(beta, "10.0.0.1") == 1)


@needs_nft
def test_a_block_is_between_two_hosts_and_can_be_one_way() -> None:
    with Lab() as lab:
        alpha, beta, gamma = three_hosts(lab)
        sockets = {}
        for host, ip in ((alpha, "10.0.0.1"), (beta, "10.0.0.2")):
            sockets[ip] = host.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[ip].bind((ip, 4000))
            sockets[ip].settimeout(0.2)

        def passes(source: str, target: str) -> bool:
            sockets[source].sendto(b"x", (target, 4000))
            try:
                return sockets[target].recv(10) == b"x"
            except TimeoutError:
                return False

        try:
            assert passes("10.0.0.1", "10.0.0.2") and passes("10.0.0.2", "10.0.0.1")
            alpha.block(beta, "out")
            assert not passes("10.0.0.1", "10.0.0.2")
            assert passes("10.0.0.2", "10.0.0.1")
            alpha.unblock(beta)
            assert passes("10.0.0.1", "10.0.0.2")
            alpha.block(beta)
            assert echoes(gamma, "10.0.0.1") == echoes(gamma, "10.0.0.2") == 1
            assert echoes(alpha, "fd00::2") == echoes(alpha, "10.0.0.2") == 0
            # ARP too: a neighbour that was forgotten is not found again, nor does it hear of us.
            assert alpha.run(["ip", "neighbour", "flush", "all"]).returncode == 0
            assert echoes(alpha, "10.0.0.2") == 0
            assert "10.0.0.2 dev eth0 lladdr" not in alpha.run(["ip", "neighbour"]).stdout
            alpha.unblock()
            assert eventually(lambda: echoes(alpha, "10.0.0.2") == 1)
        finally:
            for opened in sockets.values():
                opened.close()


@needs_nft
def test_losing_half_loses_some_and_only_of_that_peer() -> None:
    with Lab() as lab:
        alpha, _, gamma = three_hosts(lab)
        alpha.lose(50, lab.hosts["beta"], "out")
        for ip in ("10.0.0.2", "fd00::2"):
            assert 0 < echoes(alpha, ip, 60) < 60
        assert echoes(alpha, "10.0.0.3", 30) == 30
        alpha.lose(0, lab.hosts["beta"])
        assert echoes(alpha, "10.0.0.2", 30) == 30
        alpha.lose(50)
        assert echoes(gamma, "10.0.0.1", 60) < 60
        assert echoes(gamma, "10.0.0.2", 30) == 30


@needs_namespaces
def test_a_limit_holds_back_what_is_too_much() -> None:
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)

        def flood() -> int:
            with (
                alpha.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender,
                beta.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as receiver,
            ):
                receiver.bind(("10.0.0.2", 4000))
                receiver.settimeout(0.2)
                for _ in range(50):
                    sender.sendto(bytes(1000), ("10.0.0.2", 4000))
                for received in range(51):
                    try:
                        receiver.recv(2000)
                    except TimeoutError:
                        return received
            raise AssertionError("more came than was sent")

        assert echoes(alpha, "10.0.0.2") == 1
        alpha.limit(1_000_000)
        assert 0 < flood() < 50
        alpha.limit(None)
        assert flood() == 50


# --- the witnesses


@needs_namespaces
def test_the_watch_sees_an_address_come_be_renewed_lapse_and_overlap() -> None:
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)
        with AddressWatch([alpha, beta], [SERVICE, "fd00::100", "10.0.0.1"]) as watch:
            assert watch.held_by("10.0.0.1") == ("alpha",)  # as it was before
            added = now()
            address(alpha, "add", f"{SERVICE}/24", valid_lft=1, preferred_lft=1)
            watch.wait(lambda: watch.held_by(SERVICE) == ("alpha",), timeout=1)
            address(alpha, "replace", f"{SERVICE}/24", valid_lft=1, preferred_lft=1)
            watch.wait(lambda: watch.held_by(SERVICE) == (), timeout=4)
            address(beta, "add", f"{SERVICE}/24")
            watch.wait(lambda: watch.held_by(SERVICE) == ("beta",), timeout=1)
            changes = [change for change in watch.timeline if change.address == SERVICE]
            assert [(c.host, c.present) for c in changes] == [("alpha", True), ("alpha", False), ("beta", True)]
            assert added <= changes[0].at < added + 0.5
            assert 0.9 < changes[1].at - added < 3
            assert watch.overlaps() == []

            for ip in (f"{SERVICE}/24", "fd00::100/64"):
                address(alpha, "add", ip)
            watch.wait(lambda: watch.held_by("fd00::100") == ("alpha",), timeout=1)
            address(beta, "add", "fd00::100/64")
            watch.wait(lambda: watch.held_by("fd00::100") == ("alpha", "beta"), timeout=1)
            time.sleep(0.1)
            address(alpha, "del", "fd00::100/64")
            watch.wait(lambda: watch.held_by("fd00::100") == ("beta",), timeout=1)
            still, ended = watch.overlaps()
            assert (still.address, still.hosts) == (SERVICE, ("alpha", "beta"))
            assert (ended.address, ended.hosts) == ("fd00::100", ("alpha", "beta"))
            assert 0.1 <= ended.end - ended.start < 0.6
            assert ended not in watch.overlaps(allowance=0.6)
            with pytest.raises(TimeoutError, match=r"latest changes: .*-alpha fd00::100"):
                watch.wait(lambda: False, timeout=0.01)
            assert watch.overruns == 0


@needs_namespaces
def test_the_watch_tells_which_of_two_hosts_was_first() -> None:
    """Moved as fast as netlink can, often: the order is the kernel's, so a clean move is never an overlap."""
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)

        def opened(host: Host) -> Callable[[str], None]:
            netlink = host.inside(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
            index = host.inside(lambda: socket.if_nametoindex("eth0"))
            ip = socket.inet_aton(SERVICE)
            body = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, index)  # ifaddrmsg, IFA_LOCAL, IFA_ADDRESS
            body += struct.pack("=HH4sHH4s", 8, 2, ip, 8, 1, ip)

            def change(command: str) -> None:
                kind = {"add": 20, "del": 21}[command]
                netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 0x5, 1, 0) + body)  # request, acknowledge
                assert netlink.recv(200)[16:20] == bytes(4)  # done, no error

            return change

        with AddressWatch([alpha, beta], [SERVICE]) as watch:
            holder, other = opened(alpha), opened(beta)
            holder("add")
            for _ in range(200):
                holder("del")
                other("add")
                holder, other = other, holder
            watch.wait(lambda: len(watch.timeline) == 401, timeout=5)
            assert watch.overlaps() == []
            for _ in range(50):
                other("add")
                holder("del")
                holder, other = other, holder
            watch.wait(lambda: len(watch.timeline) == 501, timeout=5)
            assert len(watch.overlaps()) == 50


@needs_namespaces
def test_a_watch_that_lost_events_asks_again() -> None:
    with Lab() as lab:
        alpha, beta, _ = three_hosts(lab)
        with AddressWatch([alpha, beta], [SERVICE]) as watch:
            watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)

            def much() -> None:
                with IPRoute() as netlink:
                    index = netlink.link_lookup(ifname="eth0")[0]
                    with watch._changed:  # the watch cannot go on meanwhile, once it has seen the first
                        netlink.addr("add", index=index, address=SERVICE, prefixlen=24)
                        for n in range(50):
                            netlink.addr("add", index=index, address=f"10.1.0.{n}", prefixlen=24)
                        netlink.addr("del", index=index, address=SERVICE, prefixlen=24)

            alpha.inside(much)
            assert eventually(lambda: watch.overruns > 0)
            watch.wait(lambda: watch.held_by(SERVICE) == (), timeout=2)


@needs_namespaces
@pytest.mark.parametrize("service", [f"{SERVICE}/24", "fd00::100/64"])
def test_the_client_measures_an_outage(service: str) -> None:
    with Lab() as lab:
        alpha, _, gamma = three_hosts(lab)
        alpha.add_addresses([service])
        with Asking(gamma, service.split("/")[0]) as client:
            time.sleep(0.3)
            address(alpha, "del", service)
            gone = now()
            time.sleep(0.3)
            back = now()
            address(alpha, "add", service, **({"flags": 2} if ":" in service else {}))
            time.sleep(0.3)
        answers = client.answers
        outage = back - gone
        slack = 0.05 + answers.lateness  # of a busy machine
        assert answers.longest_gap() == pytest.approx(outage, abs=slack)
        assert answers.lost() == pytest.approx(outage / 0.002, abs=slack / 0.002)
        ((start, end),) = answers.gaps(longer_than=0.2)
        assert (start, end) == pytest.approx((gone, back), abs=slack)
        # Before it all was well; and the end of a window is the end of a gap.
        assert answers.lost(until=gone - 0.01) == 0
        assert answers.longest_gap(until=gone - 0.01) < slack
        assert answers.longest_gap(since=gone + 0.05, until=gone + 0.15) == pytest.approx(0.1, abs=0.001)
        # The schedule does not drift.
        asked = answers.rows[-1][0] - answers.rows[0][0]
        assert answers.sent() + answers.skipped == pytest.approx(asked / 0.002, abs=2 + answers.lateness / 0.002)


@needs_namespaces
def test_the_client_counts_what_cannot_be_sent_as_lost(tmp_path: Path) -> None:
    with Lab() as lab:
        _, _, gamma = three_hosts(lab)
        log = tmp_path / "answers.log"
        with Asking(gamma, "192.0.2.1", interval=0.01, log=log) as client:  # no route to it
            time.sleep(0.2)
        assert client.answers == Answers.read(log)
        assert client.answers.lost() == client.answers.sent() > 10


# --- nothing is left

HELD = """
import os, signal, sys, time
from locum.demo.lab import Lab
lab = Lab()
host = lab.host("alpha", ["10.0.0.1/24"])
host.popen(["sleep", "300"])
host.popen(["sh", "-c", "setsid sleep 300 & sleep 0.1; echo started; sleep 300"]).pid
time.sleep(0.3)
print(host.namespace.inode, lab.switch.inode, flush=True)
sys.stdin.read()
lab.close()
print("closed", flush=True)
"""


def users_of(inodes: set[int]) -> list[str]:
    """Whatever keeps one of these namespaces: processes in it (not the dead, unreaped ones), and descriptors of it."""
    wanted = {f"net:[{inode}]" for inode in inodes} | {f"pid:[{inode}]" for inode in inodes}
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                continue
            links = [process / "ns/net", process / "ns/pid", *(process / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            try:
                if str(link.readlink()) in wanted:
                    found.append(str(link))
            except OSError:
                continue
    return found


@needs_namespaces
@pytest.mark.parametrize("killed", [False, True])
def test_nothing_of_a_lab_is_left(killed: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HELD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        while not (line := process.stdout.readline()).strip().replace(" ", "").isdigit():
            assert line, "the lab ended at once"
        inodes = {int(word) for word in line.split()}
        # Two sleeps, one in a session of its own, and two shells or one; and the lab's own descriptors.
        assert len([user for user in users_of(inodes) if user.endswith("ns/net")]) >= 3
        if killed:
            process.kill()
        else:
            process.stdin.close()
            assert "closed" in process.stdout.read()
            assert process.wait(timeout=5) == 0
        assert eventually(lambda: users_of(inodes) == []), users_of(inodes)


# --- isolation

ISOLATED = """
import os, subprocess, sys, time
from locum.demo.enter import ensure_isolated
ensure_isolated([sys.executable, *sys.orig_argv[1:]])
from locum.demo.lab import Lab
with Lab() as lab:
    host = lab.host("alpha", ["10.0.0.1/24", "fd00::1/64"])
    host.popen(["sh", "-c", "setsid sleep 300 & sleep 300"])
    for _ in range(5):
        subprocess.Popen(["true"])  # which nobody waits for
    subprocess.Popen(["sh", "-c", "sleep 300 &"])  # an orphan
    try:
        print("in", os.stat("/proc/self/ns/pid").st_ino, host.addresses(), flush=True)
        if "end" in sys.argv:
            sys.exit(7)
        time.sleep(300)
    finally:
        print("unwound", flush=True)
"""


def pid_namespace(line: str) -> set[int]:
    assert line.startswith("in ") and "['10.0.0.1/24', 'fd00::1/64']" in line, line
    inode = int(line.split()[1])
    assert inode != Path("/proc/self/ns/pid").stat().st_ino
    return {inode}


@needs_namespaces
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_an_isolated_command_ends_all_of_it(signum: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ISOLATED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        inodes = pid_namespace(process.stdout.readline())
        assert len(users_of(inodes)) > 5
        process.send_signal(signum)
        rest, _ = process.communicate(timeout=10)
        if signum == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert rest == "unwound\n"
            assert process.returncode == 128 + signum
        assert eventually(lambda: users_of(inodes) == []), users_of(inodes)


@needs_namespaces
def test_ctrl_c_at_a_terminal_ends_an_isolated_command_once() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ISOLATED])
    said = b""
    while not said.endswith(b"]\r\n"):
        said += os.read(terminal, 1000)
    inodes = pid_namespace(said.decode())
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 1000):
            said += more
    except OSError:  # EIO: nobody has the terminal open any more
        pass
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert said.count(b"unwound") == 1
    ended_by = [line for line in said.splitlines() if line == b"KeyboardInterrupt"]  # the traceback has it too
    assert len(ended_by) == 1, said
    assert eventually(lambda: users_of(inodes) == []), users_of(inodes)


@needs_namespaces
def test_the_status_of_an_isolated_command_is_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", ISOLATED, "end"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 7
    assert eventually(lambda: users_of(pid_namespace(done.stdout)) == [])


def as_nobody() -> list[str]:
    """The beginning of a command that runs Python with this package as a user without rights; skips if there is none.

    It takes a Python that others may run (one under /root is none), and a kernel that lets users make namespaces.
    """
    if os.geteuid() != 0:
        user: list[str] = []
    elif setpriv := shutil.which("setpriv"):
        user = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups"]
    else:
        pytest.skip("no setpriv (util-linux) to become another user with")
    packages = f"{Path(locum.__file__).parents[1]}:{Path(pyroute2.__file__).parents[1]}"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*user, "env", f"PYTHONPATH={packages}", "PYTHONDONTWRITEBYTECODE=1", python]
        probe = "import sys; assert sys.version_info >= (3, 11); import locum.demo.enter, pyroute2"
        if subprocess.run([*command, "-c", probe], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no Python 3.11 that a user without rights may run and that finds this package")
    if subprocess.run([*user, "unshare", "--map-root-user", "--net", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets only root make namespaces")
    return command


@needs_namespaces
def test_a_user_without_rights_can_have_a_lab() -> None:
    command = as_nobody()
    done = subprocess.run([*command, "-c", ISOLATED, "end"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 7, done.stderr
    assert eventually(lambda: users_of(pid_namespace(done.stdout)) == [])


@needs_namespaces
def test_a_machine_that_allows_no_namespaces_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_flags: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel, "unshare", refuse)
    monkeypatch.delenv(enter.MARK, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(
        CannotIsolate, match=r"Operation not permitted\): (run it with sudo|start it with --privileged)"
    ):
        ensure_isolated(["true"])
    with pytest.raises(LabError, match=r"\(Operation not permitted\): run it as root"):
        Lab()
