"""A cluster in a lab: real agents, a real Mosquitto, a client, and another subscriber. What the tests talk to.

Truth comes from outside the agents: the kernel's address events on all hosts, the client's log, and mosquitto_sub.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from locum import clock
from locum.demo.client import Asking
from locum.demo.lab import LAN, Host, Lab
from locum.demo.watch import AddressWatch
from locum.messages import PAYLOAD_MOST

DEPLOYED = Path(__file__).parents[2] / "mosquitto.conf"
"""The broker's configuration as it is meant for production; only its folder is another one here."""
ADDRESS = "10.0.0.100"
BROKER = "10.0.0.3"
START_SECONDS = 15.0
"""How long a cluster may take until somebody holds the service, on a machine that is busy."""


@dataclass(frozen=True)
class Heard:
    """A message that the subscriber saw: when (wall clock seconds), whether retained, topic, payload."""

    at: float
    retained: bool
    topic: str
    payload: Any


class Subscriber:
    """mosquitto_sub on a host: every message of the cluster, as somebody else hears it."""

    def __init__(self, host: Host, log: Path, topics: Sequence[str] = ("#",), access: Sequence[str] = ()) -> None:
        self.log = log
        options = [option for topic in topics for option in ("-t", f"locum/shop/{topic}")]
        self._file = log.open("w")
        command = ["mosquitto_sub", "-h", BROKER, *access, "-q", "1", *options, "-F", "%U %r %t %p"]
        self.process = host.popen(command, stdout=self._file, stderr=subprocess.DEVNULL)

    def messages(self) -> list[Heard]:
        found = []
        for line in self.log.read_text().splitlines(keepends=True):
            parts = line.rstrip("\n").split(" ", 3)
            if not line.endswith("\n") or len(parts) < 4:
                continue
            try:
                payload = json.loads(parts[3])
            except ValueError:
                payload = parts[3]
            found.append(Heard(float(parts[0]), parts[1] == "1", parts[2], payload))
        return found

    def events(self, subject: str | None = None) -> list[dict[str, Any]]:
        """The events so far, each once, in the order in which they came."""
        seen: dict[str, dict[str, Any]] = {}
        for heard in self.messages():
            if "/event/" in heard.topic and isinstance(heard.payload, dict):
                seen.setdefault(heard.payload["id"], heard.payload)
        return [event for event in seen.values() if subject in (None, event["subject"])]

    def kinds(self, subject: str = "web") -> list[str]:
        """What happened to a service: "beta active" and so on."""
        return [f"{event['source'].rpartition('/')[2]} {kind(event)}" for event in self.events(subject)]

    def wait(self, predicate: Callable[[], Any], seconds: float = 5.0) -> Any:
        return wait(predicate, seconds, lambda: "\n".join(str(heard) for heard in self.messages()[-20:]))

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._file.close()


def kind(event: Mapping[str, Any]) -> str:
    """The last part of an event's type."""
    return str(event["type"]).rpartition(".")[2]


def wait(predicate: Callable[[], Any], seconds: float, why: Callable[[], str] = lambda: "") -> Any:
    """Asks until it is true, and returns what it said; fails after so many seconds."""
    until = time.monotonic() + seconds
    while not (result := predicate()):
        assert time.monotonic() < until, f"not within {seconds} s\n{why()}"
        time.sleep(0.01)
    return result


class Cluster:
    """alpha and beta (and more, if asked for), a broker, a client. Nothing runs until it is started."""

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str] = ("alpha", "beta"),
        top: str = "",
        service: str = "",
        addresses: Sequence[str] = (f"{ADDRESS}/24",),
        more: str = "",
        networks: Sequence[str] = (),
    ) -> None:
        """`networks`: beside the one where the service is; on the first of them hosts are 10.1.0.*, and so on.
        `top`, `service`, `more`: lines of the configuration, above all, in [services.web], and at the end.
        """
        self.folder = folder
        self.names = list(nodes)
        self.hooks = folder / "hooks"
        self.lab = Lab()
        self.nodes: dict[str, Host] = {}
        for number, name in enumerate(self.names):
            last = (1, 2, 4, 5, 6)[number]
            others = {network: [f"10.{place}.0.{last}/24"] for place, network in enumerate(networks, 1)}
            for network in others:
                self.lab.network(network)
            self.nodes[name] = self.lab.host(name, {LAN: [f"10.0.0.{last}/24", f"fd00::{last}/64"], **others})
        others = {network: [f"10.{place}.0.3/24"] for place, network in enumerate(networks, 1)}
        self.broker = self.lab.host("broker", {LAN: [f"{BROKER}/24"], **others})
        self.client = self.lab.host("client", ["10.0.0.9/24", "fd00::9/64"])
        self.addresses = [address.partition("/")[0] for address in addresses]
        self.watch = AddressWatch(self.nodes.values(), self.addresses)
        self.agents: dict[str, subprocess.Popen[Any]] = {}
        self.inside: Callable[[str], list[str]] = lambda name: []
        """The beginning of the command line with which a node's agent is started."""
        self.access: list[str] = []
        """Options with which other clients come in to the broker."""
        self._mosquitto: subprocess.Popen[Any] | None = None
        self._subscribers: list[Subscriber] = []
        self.config = folder / "locum.toml"
        listed = ", ".join(f'"{name}"' for name in self.names)
        hosts = "\n".join(
            f'[nodes.{name}]\naddress = "10.0.0.{(1, 2, 4, 5, 6)[number]}"' for number, name in enumerate(self.names)
        )
        moving = ", ".join(f'"{address}"' for address in addresses)
        self.config.write_text(
            f"""cluster = "shop"
brokers = ["mqtt://{BROKER}:1883"]
{top}
{hosts}
[services.web]
addresses = [{moving}]
interface = "eth0"
nodes = [{listed}]
hooks_dir = "{self.hooks}"
{service}
{more}
"""
        )

    def __enter__(self) -> Self:
        self.watch.__enter__()
        self.start_broker()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for subscriber in self._subscribers:
            subscriber.close()
        self.watch.__exit__(kind, error, at)
        self.lab.close()
        if error is not None:
            for name in self.names:
                print(f"--- {name}\n{self.log(name)[-6000:]}")

    # -- its parts ----------------------------------------------------------------------------------------------------

    def start_broker(self, more: str = "") -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(f"{self.broker_config()}\nuser root\n{more}\n")
        with (self.folder / "mosquitto.log").open("a") as log:
            self._mosquitto = self.broker.popen(["mosquitto", "-c", str(config)], stdout=log, stderr=log)
        ask = ["mosquitto_pub", "-h", BROKER, *self.access, "-t", "ready", "-m", "x"]
        wait(lambda: self.broker.run(ask).returncode == 0, 5)

    def broker_config(self) -> str:
        """As it is deployed, but for its folder; open to all, on one port, instead of the listeners that need keys."""
        text, found, _ = DEPLOYED.read_text().partition("# -- Who may come in")
        assert found
        return text.replace("/var/lib/mosquitto/", f"{self.folder}/") + "listener 1883\nallow_anonymous true\n"

    def config_of(self, name: str) -> Path:
        """The configuration file of a node."""
        return self.config

    def stop_broker(self) -> None:
        assert self._mosquitto is not None
        self._mosquitto.kill()
        self._mosquitto.wait()

    def subscriber(self, *topics: str) -> Subscriber:
        """Somebody else on the bus, from now on; ready when it returns."""
        log = self.folder / f"subscriber-{len(self._subscribers)}.log"
        subscriber = Subscriber(self.client, log, (*(topics or ("#",)), "probe/ready"), self.access)
        self._subscribers.append(subscriber)
        say = ["mosquitto_pub", "-h", BROKER, *self.access, "-t", "locum/shop/probe/ready", "-m", "x"]
        wait(lambda: self.client.run(say).returncode == 0 and "ready" in log.read_text(), 5)
        return subscriber

    def start(self, *names: str) -> None:
        """Starts agents; does not wait for them."""
        for name in names or self.names:
            with self._log_file(name).open("a") as log:
                self.agents[name] = self.nodes[name].popen(
                    [
                        *self.inside(name),
                        sys.executable,
                        "-m",
                        "locum",
                        "run",
                        "--config",
                        str(self.config_of(name)),
                        "--node",
                        name,
                    ],
                    stderr=log,
                    stdout=log,
                )

    def up(self, *names: str) -> str:
        """Starts agents; returns when the first holds the service and all others are ready to take it. Its name.

        Without names all of them, the most preferred first: started at once, the one that connects first would win.
        """
        names = names or tuple(self.names)
        subscriber = self.subscriber("beat/+")
        self.start(names[0])
        holder = self.held_by(names[0])
        if names[1:]:
            self.start(*names[1:])
        latest: dict[str, Any] = {}

        def settled() -> bool:
            for heard in subscriber.messages():
                if "/beat/" in heard.topic:
                    latest[heard.payload["node"]] = heard.payload["services"]["web"]
            ready = all(latest.get(name, {}).get("ready") for name in names if name != holder)
            return ready and latest.get(holder, {}).get("role") == "active"

        subscriber.wait(settled, START_SECONDS)
        subscriber.close()
        self._subscribers.remove(subscriber)
        return holder

    def log(self, name: str) -> str:
        file = self._log_file(name)
        return file.read_text() if file.exists() else ""

    def _log_file(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the agent alone."""
        os.kill(self.agents[name].pid, number)

    def locum(self, host: Host, *arguments: str, timeout: float = 30.0) -> "subprocess.CompletedProcess[str]":
        """A command of the command line, on a host, with the cluster's configuration."""
        config = next((self.config_of(name) for name, node in self.nodes.items() if node is host), self.config)
        return host.run([sys.executable, "-m", "locum", *arguments, "--config", str(config)], timeout)

    def publish(self, topic: str, payload: str | bytes, *options: str) -> None:
        data = payload.encode() if isinstance(payload, str) else payload
        process = self.client.popen(
            ["mosquitto_pub", "-h", BROKER, *self.access, "-q", "1", "-t", topic, "-s", *options],
            stdin=subprocess.PIPE,
        )
        process.communicate(data, timeout=5)
        # The broker ends the connection of whoever sends more than any message of ours has.
        assert process.returncode == 0 or len(data) > PAYLOAD_MOST

    # -- the truth ----------------------------------------------------------------------------------------------------

    def held_by(self, *names: str, seconds: float = START_SECONDS) -> str:
        """Waits until exactly one of these has every address, and returns which."""

        def holders() -> set[tuple[str, ...]]:
            return {self.watch.held_by(address) for address in self.addresses}

        self.watch.wait(lambda: len(holders()) == 1 and next(iter(holders())) in {(name,) for name in names}, seconds)
        return self.watch.held_by(self.addresses[0])[0]

    def never_two(self) -> None:
        assert self.watch.overlaps() == []
        assert self.watch.overruns == 0

    def moves(self) -> list[str]:
        """Who had the first address, one after the other."""
        return [change.host for change in self.watch.timeline if change.present and change.address == self.addresses[0]]

    def asking(self, address: str | None = None) -> Asking:
        return Asking(self.client, address or self.addresses[0])

    def hook(self, folder: str, name: str, script: str = "", executable: bool = True) -> Path:
        """Writes a hook; by default it writes its name and environment to the file `hooks.log`."""
        path = self.hooks / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script or f'#!/bin/sh\necho "$LOCUM_NODE {name} $LOCUM_EPOCH" >> {self.folder}/hooks.log\n')
        path.chmod(0o755 if executable else 0o644)
        return path

    def hooks_run(self) -> list[str]:
        """What the default hooks wrote: "alpha PreAcq_10_mount", in order."""
        file = self.folder / "hooks.log"
        return [line.rpartition(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []


def since_now() -> float:
    """A moment of the clock that the watch and the client's log use."""
    return clock.now()
