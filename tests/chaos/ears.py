"""The latest beat of every node, as a subscriber on each broker's own host hears it: so no fault of a wire is in it.

Only used to tell when a cluster has come to rest, so that the next fault meets a healthy one.
"""

import json
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from locum import clock
from locum.demo.lab import Host

FRESH = 1.5
"""A node whose last beat is older than that (three of the default interval) is not heard."""


@dataclass(frozen=True)
class Heard:
    """What a node said last about the service."""

    at: float
    role: str
    ready: bool


class Ears:
    """Listens on these brokers until closed."""

    def __init__(self, brokers: list[tuple[Host, str]]) -> None:
        """`brokers`: the host and the address of each."""
        self._latest: dict[str, Heard] = {}
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[Any]] = []
        for host, address in brokers:
            command = ["mosquitto_sub", "-h", address, "-t", "locum/shop/beat/+", "-F", "%r %p"]
            process = host.popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self._processes.append(process)
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def now(self) -> dict[str, Heard]:
        """The nodes that beat, and what they say."""
        since = clock.now() - FRESH
        with self._lock:
            return {name: heard for name, heard in self._latest.items() if heard.at >= since}

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _listen(self, process: "subprocess.Popen[Any]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                beat = json.loads(line.partition(" ")[2])
                standing = beat["services"]["web"]
                # A standby is what a beat does not mention: defaults are left out.
                heard = Heard(clock.now(), standing.get("role", "standby"), standing.get("ready", False))
                with self._lock:
                    self._latest[beat["node"]] = heard
            except (ValueError, KeyError):
                continue
        process.stdout.close()
