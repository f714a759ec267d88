"""Machines with a systemd of their own, on the hosts of a lab: containers of systemd-nspawn with a small Debian in it.

The root is made once, by debootstrap with the mirror that this machine's apt uses, and kept in build/. A machine writes
to an overlay above it, in memory. It has the network of its host, and goes with it.
"""

import contextlib
import fcntl
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from locum.demo.lab import Host
from tests.e2e.cluster import wait

ROOT = Path(__file__).parents[2] / "build" / "machine"
PACKAGES = "systemd,systemd-sysv,dbus,nginx-light,python3"
# python3: for what its library needs of the system, should the agent run in there.
BUILD_SECONDS = 600.0
BOOT_SECONDS = 60.0
PAGE = "from nginx.service"

UNITS = {
    "fails.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/false\n",
    "slow.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sleep 2\n",
    "hangs.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nTimeoutStartSec=60\nExecStart=/bin/sleep 1000\n",
    "once.service": "[Service]\nType=oneshot\nExecStart=/bin/true\n",
    "needs.service": "[Unit]\nRequires=fails.service\nAfter=fails.service\n[Service]\nExecStart=/bin/sleep 1000\n",
}
"""Units beside those of the packages."""


def root() -> Path:
    """The folder with the small Debian, made if it is not there."""
    ROOT.parent.mkdir(exist_ok=True)
    with (ROOT.parent / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come at once
        if not (ROOT / "ready").exists():
            shutil.rmtree(ROOT, ignore_errors=True)
            _build()
            (ROOT / "ready").touch()
    return ROOT


def _build() -> None:
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages", "Component: main"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    release = next(line.partition("=")[2] for line in _os_release() if line.startswith("VERSION_CODENAME="))
    mirror = next(line.partition(" ")[0] for line in listed if line.endswith(f" {release}"))
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", release, str(ROOT), mirror]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    for wants in (ROOT / "etc/systemd/system").glob("*.wants"):
        (wants / "nginx.service").unlink(missing_ok=True)  # it is the holder's, and no boot's
    for name, text in UNITS.items():
        (ROOT / "etc/systemd/system" / name).write_text(textwrap.dedent(text))
    (ROOT / "etc/systemd/system/masked.service").symlink_to("/dev/null")
    (ROOT / "var/www/html/page").write_text(PAGE)


def _os_release() -> list[str]:
    return Path("/etc/os-release").read_text().replace('"', "").splitlines()


class Machine:
    """A systemd that has booted on a host of the lab."""

    def __init__(self, host: Host, folder: Path, *options: str) -> None:
        self.log = folder / f"{host.name}.console"
        # No register, no unit: this machine's own systemd, if it has one, is left alone.
        ours = ["--quiet", "--register=no", "--keep-unit", "--volatile=overlay", "--console=passive"]
        command = ["systemd-nspawn", *ours, *options, f"--directory={root()}", f"--machine={host.name}", "--boot"]
        with self.log.open("w") as log:
            self.process: subprocess.Popen[Any] = host.popen(
                [*command, "systemd.log_target=console"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            wait(self._booted, BOOT_SECONDS)
        except AssertionError:
            print(self.log.read_text(errors="replace")[-3000:])
            raise

    def _booted(self) -> bool:
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-2000:]
        return self.leader != 0 and self.bus.exists()

    @property
    def leader(self) -> int:
        """The machine's process 1, by its number here; 0 while there is none."""
        with contextlib.suppress(OSError):
            for child in _children(self.process.pid):
                # Process 1 of the machine is in a process namespace of its own, and nspawn's helper is not.
                if Path(f"/proc/{child}/comm").read_text().strip() in ("systemd", "init"):
                    return child
        return 0

    @property
    def bus(self) -> Path:
        return Path(f"/proc/{self.leader}/root/run/dbus/system_bus_socket")

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """Runs a command in the machine."""
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--pid", "--net", "--uts", "--ipc", "--root"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=False)

    def systemctl(self, *arguments: str) -> str:
        """What systemctl prints in the machine."""
        return self.run("systemctl", *arguments).stdout.strip()


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":  # beforehand: it keeps a processor busy for a minute, and tests look at the time
    root()
