"""What the demo builds: four hosts in a lab, their configuration and hooks, and the processes that run on them.

    alpha, beta    the real agent, `locum run`
    broker         amqtt
    client         asks the service's address for echoes, listens to the bus, and is where the operator sits

All files are in a tmpfs that only this mount namespace sees: they are gone when the last process of the demo is.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from locum.demo import kernel
from locum.demo.client import Asking
from locum.demo.lab import Host, Lab
from locum.demo.watch import AddressWatch

ADDRESS = "10.0.0.100"
SERVICE = "web"
NODES = ("alpha", "beta")
HOSTS = {"alpha": "10.0.0.1", "beta": "10.0.0.2", "broker": "10.0.0.3", "client": "10.0.0.4"}

_CONFIGURATION = f"""\
cluster = "demo"
brokers = ["mqtt://{HOSTS["broker"]}:1883"]

[timing]
beat  = "500ms"
lease = "2s"

[nodes.alpha]
address = "{HOSTS["alpha"]}"
[nodes.beta]
address = "{HOSTS["beta"]}"

[services.{SERVICE}]
addresses = ["{ADDRESS}/24"]
interface = "eth0"
nodes     = ["alpha", "beta"]
hooks_dir = "{{hooks}}"
"""

# One of each phase, with the names that they might have for a server whose data is on a disk that both hosts reach.
_HOOKS = {
    "PreAcq_10_mount": "the data is mounted",
    "PostAcq_10_start": "the server is started",
    "PreRel_10_stop": "the server is stopped",
    "PostRel_10_unmount": "the data is unmounted",
}

_SHOWN_LINES = 12  # of each log, when something has gone wrong


class StageError(Exception):
    """The demo cannot be built here. One line that says why."""


class Stage:
    """Builds everything but the agents, which are the story's to start. It must be in namespaces of its own."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._expected: dict[str, subprocess.Popen[Any]] = {}
        """What has to be running, by its name for the user."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.folder = private_folder()
            self.configuration = self._write_files()
            self.lab = stack.enter_context(Lab())
            self.hosts = {name: self.lab.host(name, [f"{address}/24"]) for name, address in HOSTS.items()}
            self.watch = stack.enter_context(AddressWatch([self.hosts[name] for name in NODES], [ADDRESS]))
            self.start_broker()
            self.listener = self._start_listener()
            log = self.folder / "answers.log"
            self.client = stack.enter_context(Asking(self.hosts["client"], ADDRESS, log=log))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    # --- the agents and the broker

    def start_agent(self, node: str) -> None:
        self._start(f"the agent of {node}", node, ["-m", "locum", "run", "-c", str(self.configuration), "-n", node])

    def stop_agent(self, node: str) -> "subprocess.Popen[Any]":
        """SIGTERM, as a service manager sends it; gives the process, which will end."""
        process = self._expected.pop(f"the agent of {node}")
        process.terminate()
        return process

    def kill_agent(self, node: str) -> None:
        """SIGKILL: it has no time for anything."""
        process = self._expected.pop(f"the agent of {node}")
        process.kill()
        process.wait()

    def power_off(self, node: str) -> None:
        """The host loses its power, and with it everything that runs on it."""
        del self._expected[f"the agent of {node}"]
        self.hosts[node].power_off()

    def start_broker(self) -> None:
        """It is there a moment later: the listener says when."""
        self._start("the broker", "broker", ["-m", "locum.demo.broker", "0.0.0.0:1883"])

    def kill_broker(self) -> None:
        process = self._expected.pop("the broker")
        process.kill()
        process.wait()

    def operator(self, *arguments: str) -> tuple["subprocess.Popen[Any]", "Lines"]:
        """Runs `locum` with these arguments and the configuration on the client's host; gives it and what it says."""
        command = [sys.executable, "-u", "-m", "locum", *arguments, "--config", str(self.configuration)]
        process = self.hosts["client"].popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        return process, Lines(process.stdout)

    def ended(self) -> str:
        """Which process ended that should be running, and how; empty if none did."""
        for name, process in self._expected.items():
            status = process.poll()
            if status is not None:
                how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
                return f"{name} has ended {how}"
        return ""

    def last_lines(self) -> list[str]:
        """The end of each process's log, each with its headline."""
        return [
            line for name in HOSTS if (tail := self._tail(name)) for line in (f"--- log of {name}, its end", *tail, "")
        ]

    # --- how

    def _start(self, what: str, name: str, arguments: list[str], **options: Any) -> "subprocess.Popen[Any]":
        host: Host = self.hosts[name]
        with self._log(name).open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
            process = host.popen([sys.executable, *arguments], **options)
        self._expected[what] = process
        return process

    def _start_listener(self) -> "Lines":
        """The guest on the bus, and what it says."""
        arguments = ["-m", "locum.demo.listen", str(self.configuration)]
        process = self._start("the listener on the bus", "client", arguments, stdout=subprocess.PIPE, bufsize=0)
        return Lines(process.stdout)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _tail(self, name: str) -> list[str]:
        try:
            return self._log(name).read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        except FileNotFoundError:
            return []

    def _write_files(self) -> Path:
        hooks = self.folder / "hooks"
        place = hooks / SERVICE
        place.mkdir(parents=True)
        for folder in (hooks, place):  # whatever the umask: hooks that everyone can write are refused
            folder.chmod(0o755)
        for name, does in _HOOKS.items():
            hook = place / name
            hook.write_text(f'#!/bin/sh\necho "on $LOCUM_NODE {does}"\n')
            hook.chmod(0o755)
        configuration = self.folder / "locum.toml"
        configuration.write_text(_CONFIGURATION.format(hooks=hooks))
        return configuration


class Lines:
    """The lines of a process's output, read without ever waiting."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        os.set_blocking(stream.fileno(), False)
        self._stream = stream
        self._half = b""

    def read(self) -> Iterator[str]:
        """Those that are there by now."""
        while data := self._stream.read(65_536):  # None: nothing yet; empty: the process has ended
            *lines, self._half = (self._half + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")


def private_folder() -> Path:
    """A new tmpfs that only this mount namespace sees, over a folder in which nothing is that the demo needs."""
    needed = [Path(place).resolve() for place in (*sys.path, sys.base_prefix, sys.executable, ".")]
    why = "no folder is left for it"
    for place in map(Path, ("/mnt", "/media", "/srv", "/dev/shm", "/tmp")):
        if not place.is_dir() or any(path.is_relative_to(place) for path in needed):
            continue
        try:
            kernel.mount("locum-demo", str(place), "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV)
        except OSError as error:
            why = error.strerror or str(error)
            continue
        place.chmod(0o755)
        return place
    raise StageError(f"a folder for the demo's own files cannot be had: {why}")
