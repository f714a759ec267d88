"""A cluster whose bus is three servers: three Mosquittos that know nothing of each other, or one NATS cluster.

Each server is on a host of its own. Mosquittos are three brokers, of which a majority confirms; a cluster is one broker
that is reached at three places.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locum.demo.lab import Host
from tests.e2e.cluster import BROKER, Cluster, wait


def rabbit(host: Host, folder: Path) -> "subprocess.Popen[Any]":
    """A RabbitMQ with its MQTT plugin, open to all, at BROKER; returns when it answers."""
    folder.mkdir()
    (folder / "plugins").write_text("[rabbitmq_mqtt].\n")
    (folder / "rabbit.conf").write_text(
        f"""listeners.tcp.default = 127.0.0.1:5672
mqtt.listeners.tcp.default = {BROKER}:1883
mqtt.allow_anonymous = true
mqtt.default_user = guest
mqtt.default_pass = guest
loopback_users = none
"""
    )
    environment = {
        "HOME": str(folder),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "RABBITMQ_NODENAME": "bus@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "store"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
    }
    command = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    log = folder / "log"
    with log.open("w") as file:
        # Not the script in /usr/sbin: it changes to a user of its own, who may not write here.
        process = host.popen([*command, "/usr/lib/rabbitmq/bin/rabbitmq-server"], stdout=file, stderr=file)
    ask = ["mosquitto_pub", "-h", BROKER, "-q", "1", "-t", "ready", "-m", "x"]
    wait(lambda: host.run(ask).returncode == 0, CLUSTER_SECONDS, lambda: log.read_text()[-3000:])
    return process


PLACES = {"broker": BROKER, "broker2": "10.0.0.23", "broker3": "10.0.0.33"}
CLUSTER_SECONDS = 60.0
"""How long a cluster of servers may take until all of them answer."""


class Several(Cluster):
    def __init__(self, folder: Path, kind: str, **options: Any) -> None:
        """`kind`: mosquitto or nats."""
        super().__init__(folder, **options)
        self.kind = kind
        self.places = dict(PLACES)
        self.servers: dict[str, Host] = {"broker": self.broker}
        self.find_hosts()
        ways = [f"{address}:1883" for address in self.places.values()]
        urls = [f"mqtt://{way}" for way in ways] if kind == "mosquitto" else [f"mqtt://{','.join(ways)}"]
        listed = ", ".join(f'"{url}"' for url in urls)
        text = self.config.read_text()
        self.config.write_text(text.replace(f'brokers = ["mqtt://{BROKER}:1883"]', f"brokers = [{listed}]"))
        self.processes: dict[str, subprocess.Popen[Any]] = {}

    def find_hosts(self) -> None:
        for name, address in list(PLACES.items())[1:]:
            self.servers[name] = self.lab.host(name, [f"{address}/24"])

    def start_broker(self, more: str = "") -> None:
        for name in self.servers:
            self.start_server(name)
        for name in self.servers:
            self.answers(name)

    def start_server(self, name: str) -> None:
        command = self._mosquitto_command(name) if self.kind == "mosquitto" else self._nats_command(name)
        with (self.folder / f"{name}.server.log").open("a") as log:
            self.processes[name] = self.servers[name].popen(command, stdout=log, stderr=log)

    def answers(self, name: str) -> None:
        """Waits until a message at QoS 1 is confirmed there."""
        ask = ["mosquitto_pub", "-h", self.places[name], "-q", "1", "-t", "ready", "-m", "x"]
        log = self.folder / f"{name}.server.log"
        wait(lambda: self.servers[name].run(ask).returncode == 0, CLUSTER_SECONDS, lambda: log.read_text()[-3000:])
        if self.kind == "nats":
            # It has caught up with the others: before, another one that goes would be the second one away.
            wait(lambda: all(self._healthy(server) for server in self.servers), CLUSTER_SECONDS)

    def _healthy(self, name: str) -> bool:
        question = (
            f"import urllib.request as r; print(r.urlopen('http://{self.places[name]}:8222/healthz', timeout=1).read())"
        )
        return '"ok"' in self.servers[name].run([sys.executable, "-c", question]).stdout

    def _mosquitto_command(self, name: str) -> list[str]:
        config = self.folder / f"{name}.conf"
        store = self.folder / f"{name}.store"
        store.mkdir(exist_ok=True)
        config.write_text(self.broker_config().replace(f"{self.folder}/", f"{store}/") + "user root\n")
        return ["mosquitto", "-c", str(config)]

    def _nats_command(self, name: str) -> list[str]:
        address = self.places[name]
        routes = ", ".join(f'"nats://{other}:6222"' for other in self.places.values())
        config = self.folder / f"{name}.conf"
        config.write_text(
            f"""server_name: {name}
listen: "{address}:4222"
http: "{address}:8222"
jetstream {{ store_dir: "{self.folder}/{name}.store", max_mem: 64MB, max_file: 256MB }}
cluster {{ name: bus, listen: "{address}:6222", routes: [{routes}] }}
mqtt {{ listen: "{address}:1883" }}
"""
        )
        program = shutil.which("nats-server") or str(Path(sys.executable).parent / "nats-server")
        return [program, "-c", str(config)]

    # -- what happens to a server -------------------------------------------------------------------------------------

    @contextmanager
    def killed(self, name: str) -> Iterator[None]:
        self.processes[name].kill()
        self.processes[name].wait()
        yield
        self.start_server(name)

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Its connections stay, and nothing comes of them."""
        os.kill(self.processes[name].pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.processes[name].pid, signal.SIGCONT)

    @contextmanager
    def restarted(self, name: str) -> Iterator[None]:
        self.processes[name].terminate()
        self.processes[name].wait(10)
        self.start_server(name)
        yield

    @contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """Its host is off the network, with its carrier up."""
        self.servers[name].cut(silent=True)
        yield
        self.servers[name].mend()

    @property
    def faults(self) -> list[Any]:
        return [self.killed, self.restarted, self.cut, self.stopped]

    def settle(self, seconds: float = 30.0) -> None:
        """Waits until everybody is ready again, by what is heard on the bus."""
        until = time.monotonic() + seconds

        def ready() -> bool:
            status = self.locum(self.client, "status", "--json")
            roles = status.stdout
            return status.returncode == 0 and "(not ready)" not in roles and roles.count('"heard": true') == 2

        wait(ready, max(1.0, until - time.monotonic()))


class OnNodes(Several):
    """A Mosquitto on each node, and one on a third machine."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, "mosquitto", **options)

    def find_hosts(self) -> None:
        self.places = {"broker": BROKER, "alpha": "10.0.0.1", "beta": "10.0.0.2"}
        self.servers |= {name: self.nodes[name] for name in ("alpha", "beta")}
