"""What happens to a host, or is done to it by hand."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from locum.demo import wire
from tests.chaos.shifted import set_clock
from tests.chaos.stage import Stage

_ORPHANS = Path("/proc/sys/net/ipv4/tcp_orphan_retries")
"""How often a namespace's TCP tries to deliver what an ended process had sent; 0 means eight times."""


@contextmanager
def powered_off(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """The plug is pulled: every process and every address is gone. Then it is switched on, and the agent starts."""
    host = stage.nodes[node]
    stage.down_by_us.add(node)
    # A host without power has no kernel that goes on sending what dead processes left behind. Here it has one.
    host.inside(lambda: _ORPHANS.write_text("1"))
    host.power_off()
    stage.agents[node].poll()
    try:
        yield ""
    finally:
        host.inside(lambda: _ORPHANS.write_text("0"))
        host.power_on()
        stage.start(node)


@contextmanager
def interface_down(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """`ip link set eth0 down`, and up again, with the host's own IPv6 address, which the kernel took away."""
    host = stage.nodes[node]
    host.inside(lambda: wire.set_up("eth0", False))
    try:
        yield ""
    finally:
        host.inside(lambda: wire.set_up("eth0", True))
        for address in stage.own_addresses[node]:
            with suppress(NetlinkError):  # it is still there
                host.add_addresses([address])


@contextmanager
def disk_full(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """The disk of its log and of what its hooks write."""
    filler = stage.disks[node] / "filler"
    _fill(filler)
    try:
        yield ""
    finally:
        filler.unlink(missing_ok=True)


@contextmanager
def clock_stepped(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """The agent's wall clock steps by an hour, and back."""
    step = rng.choice((3600, -3600))
    set_clock(stage.clocks[node], step)
    try:
        yield f"{step:+} s"
    finally:
        set_clock(stage.clocks[node], 0)


@contextmanager
def address_deleted(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """`ip address del`, of each address that moves."""
    for address in stage.addresses:
        stage.nodes[node].inside(lambda address=address: _delete(address))  # type: ignore[misc]
    yield ""


@contextmanager
def address_added(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """`ip address add` on a host that does not hold it, and undone. Two hosts have it then, by hand."""
    address = stage.addresses[0]
    with stage.hand():
        stage.nodes[node].add_addresses([f"{address}/24"])
        try:
            yield ""
        finally:
            stage.nodes[node].inside(lambda: _delete(address))


@contextmanager
def switchover(stage: Stage, node: str, rng: Random) -> Iterator[str]:
    """An operator asks for it, on the client's host."""
    command = ["locum", "switchover", "web", "--config", str(stage.config)]
    process = stage.client.popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    )
    try:
        yield ""
    finally:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (4096, 1):
            with suppress(OSError):
                for _ in range(1024):
                    file.write(b"x" * size)


def _delete(address: str) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname="eth0")[0]
        prefix = 24 if "." in address else 64
        with suppress(NetlinkError):  # it is gone already
            netlink.addr("del", index=index, address=address, prefixlen=prefix)
