"""What services need beside a cluster: a volume that both hosts can open, and mounts that are each host's own.

A lab's hosts share the machine's files. Here the agent of a host, and so its hooks and what they start, live in a mount
namespace of their own, which a sleeping process of that host keeps: with the host it goes, and its mounts go with it.
"""

import os
import select
import subprocess
import sys
import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from locum import clock
from tests.e2e.cluster import Cluster, wait

SIZE = 64 * 1024 * 1024  # bytes of the volume


class Volume:
    """An ext4 filesystem in a loop device, for as long as its `with` lasts."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "volume.img"
        self.device = ""
        self.number = ""
        """major:minor, as mountinfo has it."""

    def __enter__(self) -> Self:
        with self._file.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "web", self._file], check=True)
        attach = ["losetup", "--find", "--show", self._file]
        self.device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
        status = Path(self.device).stat()
        self.number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Lazily: it goes when its last mount has gone, which the end of the hosts sees to.
        subprocess.run(["losetup", "--detach", self.device], check=False)

    def prepare(self, folder: Path, script: str) -> None:
        """Runs a shell script in the volume, mounted at the folder for that moment, while no host has it mounted."""
        folder.mkdir(exist_ok=True)
        # In a mount namespace that ends with the command.
        inside = f'mount "$1" "$2" && cd "$2" && {script}'
        command = ["unshare", "--mount", "sh", "-e", "-c", inside, "prepare", self.device, str(folder)]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def hook(self, folder: Path, name: str = "10_volume") -> str:
        """The line of the configuration that has it mounted there."""
        parameters = f'device = "{self.device}", directory = "{folder}", fstype = "ext4", run_fsck = "no"'
        return f'"{name}" = {{ use = "ocf", agent = "heartbeat:Filesystem", {parameters} }}'


@dataclass(frozen=True)
class Mounted:
    """From `at` on (seconds of locum.clock) the volume was mounted on these hosts."""

    at: float
    hosts: tuple[str, ...]


class MountWatch:
    """Where the volume is mounted, as the kernel says: a change of mountinfo wakes its reader (proc(5)).

    An open mountinfo keeps its mount namespace, so it is closed as soon as the process whose it is has ended.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._files: dict[str, tuple[int, int]] = {}  # mountinfo, and a pidfd of its process
        self._lock = threading.Lock()
        self.timeline: list[Mounted] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mount watch", daemon=True)

    def add(self, host: str, pid: int) -> None:
        """Watches that process's mounts from now on."""
        with self._lock:
            self._close(host)
            self._files[host] = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC), os.pidfd_open(pid)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        for host in list(self._files):
            self._close(host)

    def _close(self, host: str) -> None:
        for file in self._files.pop(host, ()):
            os.close(file)

    def _mounted(self, file: int) -> bool:
        text = os.pread(file, 1 << 20, 0).decode()
        return any(line.split()[2] == self._volume.number for line in text.splitlines())

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                for host, (_, process) in list(self._files.items()):
                    if select.select([process], [], [], 0)[0]:
                        self._close(host)
                files = {host: file for host, (file, _) in self._files.items()}
                hosts = self._look(files)
                if not self.timeline or self.timeline[-1].hosts != hosts:
                    self.timeline.append(Mounted(clock.now(), hosts))
                poll = select.poll()
                for file, process in self._files.values():
                    poll.register(file, select.POLLPRI)
                    poll.register(process, select.POLLIN)
            poll.poll(20)

    def _look(self, files: dict[str, int]) -> tuple[str, ...]:
        hosts = tuple(sorted(host for host, file in files.items() if self._mounted(file)))
        # One after the other was read: two are two only if the first still has it after the second.
        return tuple(host for host in hosts if self._mounted(files[host])) if len(hosts) > 1 else hosts

    def mounts(self) -> list[str]:
        """Who had it, one after the other, without the times when nobody had it."""
        return [" and ".join(moment.hosts) for moment in self.timeline if moment.hosts]


class Rooms:
    """The mount namespaces of a cluster's hosts: from now on its agents are started in them."""

    def __init__(self, cluster: Cluster, watch: MountWatch | None = None) -> None:
        self._cluster = cluster
        self._watch = watch
        self._keepers: dict[str, subprocess.Popen[Any]] = {}
        cluster.inside = self.inside

    def inside(self, name: str) -> list[str]:
        """The beginning of a command line that is to be run among the mounts of that host."""
        keeper = self._keepers.get(name)
        if keeper is None or keeper.poll() is not None:
            # With a /run of its own, as a host has: two servers must not find each other's pid file there.
            script = "mount -t tmpfs none /run && exec sleep infinity"
            keep = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
            keeper = self._keepers[name] = self._cluster.nodes[name].popen(keep)
            wait(lambda: Path(f"/proc/{keeper.pid}/comm").read_text() == "sleep\n", 5)
            if self._watch is not None:
                self._watch.add(name, keeper.pid)
        return ["nsenter", f"--mount=/proc/{keeper.pid}/ns/mnt", "--"]


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent and answered (seconds of locum.clock), and with what: "" if it was not."""

    sent_at: float
    at: float
    text: str


class Fetching:
    """A client that asks for a page again and again, each time over a new connection."""

    SCRIPT = """
import socket, sys, time
host, every = sys.argv[1], float(sys.argv[2])
while True:
    sent, text = time.clock_gettime(time.CLOCK_BOOTTIME), ""
    try:
        with socket.create_connection((host, 80), 0.25) as server:
            server.settimeout(0.25)
            server.sendall(b"GET /page HTTP/1.0\\r\\n\\r\\n")
            got = b"".join(iter(lambda: server.recv(4096), b""))
            if b" 200 " in got[:20]:
                text = got.rpartition(b"\\r\\n\\r\\n")[2].decode()
    except OSError:
        pass
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    print(sent, now, text, flush=True)
    time.sleep(max(0.0, every - (now - sent)))
"""

    def __init__(self, cluster: Cluster, address: str, every: float = 0.02) -> None:
        self.log = cluster.folder / "fetched.log"
        self._file = self.log.open("w")
        command = [sys.executable, "-c", self.SCRIPT, address, str(every)]
        self._process = cluster.client.popen(command, stdout=self._file, stderr=subprocess.DEVNULL)

    def answers(self) -> list[Answer]:
        found = []
        for line in self.log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                sent, at, text = line.rstrip("\n").split(" ", 2)
                found.append(Answer(float(sent), float(at), text))
        return found

    def wait_for_page(self, seconds: float = 15.0) -> None:
        """Until a request that is sent from now on is answered."""
        since = clock.now()
        wait(lambda: any(answer.text and answer.sent_at > since for answer in self.answers()), seconds)

    def longest_gap(self) -> float:
        """Seconds between two answers, at most."""
        times = [answer.at for answer in self.answers() if answer.text]
        return max(later - earlier for earlier, later in pairwise(times))

    def texts(self) -> set[str]:
        return {answer.text for answer in self.answers() if answer.text}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()
