"""The cluster that the faults happen to: the end-to-end tests' Cluster with more brokers, small disks, movable clocks.

Every node's agent writes its log to a disk of its own of one megabyte, and so do the hooks that run on it. Its wall
clock can be stepped (shifted.py).
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from locum import clock
from locum.demo.lab import Host
from tests.chaos.ears import Ears
from tests.chaos.shifted import set_clock
from tests.e2e.cluster import ADDRESS, BROKER, Cluster, wait

ADDRESS_6 = "fd00::100"
GATEWAY = "10.0.0.9"
_HOOK = '#!/bin/sh\necho "{name} $LOCUM_EPOCH" >> "{folder}/disk-$LOCUM_NODE/hooks"\n'


@dataclass(frozen=True)
class Shape:
    """One way to set a cluster up."""

    mode: str = "hold"
    nodes: int = 2
    brokers: int = 1
    gateway: bool = False
    both_families: bool = False

    def __str__(self) -> str:
        more = f"{', gateway' * self.gateway}{', IPv4 and IPv6' * self.both_families}"
        return f"{self.mode}, {self.nodes} nodes, {self.brokers} broker{'s' * (self.brokers > 1)}{more}"


class Stage(Cluster):
    """A cluster of that shape, in that folder (which is on a mount of our own: small disks are mounted in it)."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.shape = shape
        names = ("alpha", "beta", "gamma")[: shape.nodes]
        self.disks = {name: folder / f"disk-{name}" for name in names}
        self.clocks = {name: folder / f"clock-{name}" for name in names}
        addresses = [f"{ADDRESS}/24"] + ([f"{ADDRESS_6}/64"] if shape.both_families else [])
        top = f'on_bus_loss = "{shape.mode}"\n' + (f'gateway = "{GATEWAY}"\n' if shape.gateway else "")
        super().__init__(folder, names, top=top, addresses=addresses)
        self.own_addresses = {name: [f"fd00::{number}/64"] for name, number in zip(names, (1, 2, 4), strict=False)}
        self.brokers: dict[str, tuple[Host, str]] = {"broker": (self.broker, BROKER)}
        for number in range(2, shape.brokers + 1):
            address = f"10.0.0.{number}3"
            name = f"broker{number}"
            self.brokers[name] = (self.lab.host(name, [f"{address}/24"]), address)
        listed = ", ".join(f'"mqtt://{address}:1883"' for _, address in self.brokers.values())
        text = self.config.read_text()
        self.config.write_text(text.replace(f'brokers = ["mqtt://{BROKER}:1883"]', f"brokers = [{listed}]"))
        self.mosquittos: dict[str, subprocess.Popen[Any]] = {}
        self.by_hand: list[tuple[float, float]] = []
        """When an address was somewhere by the hand of an operator."""
        self._tracebacks: dict[str, int] = {}
        self.down_by_us: set[str] = set()
        """Nodes whose agent is to be down now."""

    def __enter__(self) -> "Stage":
        for name in self.names:
            self.disks[name].mkdir()
            command = ["mount", "-t", "tmpfs", "-o", "size=1m", "chaos", str(self.disks[name])]
            subprocess.run(command, check=True, timeout=10)
            set_clock(self.clocks[name], 0)
        for phase in ("PreAcq_10_note", "PostAcq_10_note", "PreRel_10_note", "PostRel_10_note"):
            # A disk that is full lets every one of these fail; of a PreAcq that would refuse the takeover, rightly.
            script = _HOOK.format(name=phase, folder=self.folder) + ("exit 0\n" if phase.startswith("PreAcq") else "")
            self.hook("web", phase, script)
        self.watch.__enter__()
        for name in self.brokers:
            self.start_mosquitto(name)
        self.ears = Ears(list(self.brokers.values()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ears.close()
        self.watch.__exit__(kind, error, at)
        self.lab.close()
        for disk in self.disks.values():
            subprocess.run(["umount", "-l", str(disk)], check=False, timeout=10)

    def _log_file(self, name: str) -> Path:
        return self.disks[name] / "log"

    # -- its parts ----------------------------------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        for name in names or self.names:
            command = [sys.executable, "-m", "tests.chaos.shifted", str(self.clocks[name])]
            command += ["run", "--config", str(self.config), "--node", name]
            with self._log_file(name).open("ab") as log:
                self.agents[name] = self.nodes[name].popen(command, stderr=log, stdout=log)
            self.down_by_us.discard(name)

    def start_mosquitto(self, name: str) -> None:
        """Starts a broker; returns when it answers."""
        host, address = self.brokers[name]
        config = self.folder / "mosquitto.conf"
        config.write_text("listener 1883\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n")
        with (self.folder / "mosquitto.log").open("w") as log:
            self.mosquittos[name] = host.popen(["mosquitto", "-c", str(config)], stdout=log, stderr=log)
        wait(lambda: host.run(["mosquitto_pub", "-h", address, "-t", "ready", "-m", "x"]).returncode == 0, 5)

    def kill_mosquitto(self, name: str) -> None:
        self.mosquittos[name].kill()
        self.mosquittos[name].wait()

    def host(self, name: str) -> Host:
        return self.lab.hosts[name]

    # -- how it is ----------------------------------------------------------------------------------------------------

    def holders(self) -> tuple[str, ...]:
        """Who has the first address now, as the kernels say."""
        return self.watch.held_by(self.addresses[0])

    def serving(self) -> bool:
        """Exactly one host has all of the addresses."""
        holders = {self.watch.held_by(address) for address in self.addresses}
        return len(holders) == 1 and len(next(iter(holders))) == 1

    def at_rest(self, since: float = 0.0) -> bool:
        """One node holds the service and says so; all others are heard (after since), and ready to take it."""
        heard = {name: said for name, said in self.ears.now().items() if said.at > since}
        if not self.serving() or set(heard) != set(self.names):
            return False
        holder = self.holders()[0]
        return all(said.role == "active" if name == holder else said.ready for name, said in heard.items())

    def dead_agents(self) -> list[str]:
        """Agents that have ended, though nobody ended them."""
        return [name for name, agent in self.agents.items() if name not in self.down_by_us and agent.poll() is not None]

    def new_tracebacks(self, name: str) -> int:
        """How many there are in a node's log that were not there when this was last asked."""
        count = self.log(name).count("Traceback")
        new = count - self._tracebacks.get(name, 0)
        self._tracebacks[name] = count
        return new

    @contextmanager
    def hand(self) -> Iterator[None]:
        """What is done meanwhile is done by an operator, and not by an agent."""
        since = clock.now()
        try:
            yield
        finally:
            self.by_hand.append((since, clock.now() + 0.05))
