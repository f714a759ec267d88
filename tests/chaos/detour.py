"""Puts the forwarder into a host's cable: host, port, forwarder, another port, switch. Undone, the cable is direct."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute

from locum.demo import wire
from locum.demo.lab import LAN, Host


@contextmanager
def detour(host: Host, **options: float) -> Iterator[None]:
    """While it lasts, the host's frames go through the forwarder, with these options of it."""
    switch = host.lab.switch
    port, outer, inner = f"{host.name}.eth0", f"{host.name}.out", f"{host.name}.in"
    switch.inside(lambda: _make_pair(outer, inner))
    process: subprocess.Popen[Any] | None = None
    try:
        arguments = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "tests.chaos.forwarder", port, inner, *arguments]
        process = switch.inside(lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
        assert process.stdout is not None and process.stdout.readline(), "the forwarder ended at once"
        switch.inside(lambda: _swap(port, outer))
        yield
    finally:
        switch.inside(lambda: _swap(outer, port))
        if process is not None:
            process.terminate()  # it still sends what is under way
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        switch.inside(lambda: _remove(outer))


def _swap(away: str, there: str) -> None:
    """One port leaves the switch and the other one is plugged in, with nothing between."""
    with IPRoute() as netlink:
        away_index, there_index, switch = (netlink.link_lookup(ifname=name)[0] for name in (away, there, LAN))
        netlink.link("set", index=away_index, master=0)
        netlink.link("set", index=there_index, master=switch)


def _make_pair(outer: str, inner: str) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname=outer, kind="veth", peer={"ifname": inner})
    wire.set_up(outer)
    wire.set_up(inner)


def _remove(interface: str) -> None:
    with IPRoute() as netlink:
        for index in netlink.link_lookup(ifname=interface):
            netlink.link("del", index=index)
