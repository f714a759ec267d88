"""File servers on a volume that moves: Samba and NFS-Ganesha, with what they must remember on the volume too.

Real servers and user-space clients (smbclient, libnfs): this kernel need not know NFS or CIFS. The servers are started
by the resource agent `anything`, since no systemd runs on a lab's hosts.
"""

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from locum.demo.lab import Host
from tests.e2e.cluster import ADDRESS, Cluster, wait
from tests.e2e.services import MountWatch, Rooms, Volume
from tests.namespaces import NEEDS_NAMESPACES, NEEDS_ROOT, needs_programs

pytestmark = [
    *NEEDS_NAMESPACES,
    NEEDS_ROOT,
    *needs_programs("mkfs.ext4", "losetup", "/usr/lib/ocf/resource.d/heartbeat/Filesystem"),
    *needs_programs("smbd", "smbclient", "ganesha.nfsd", "nfs-cat", "nfs-cp"),
]

PASSWORD = "correct-horse"
SAMBA = """\
[global]
    workgroup = SHOP
    netbios name = FILES
    server role = standalone server
    # What makes it the same server wherever it runs: its secrets and users, and what it must remember of clients.
    private dir = {volume}/samba/private
    state directory = {volume}/samba/state
    passdb backend = tdbsam:{volume}/samba/private/passdb.tdb
    # What only this run needs stays on the host.
    lock directory = {run}
    cache directory = {run}
    pid directory = {run}
    ncalrpc dir = {run}/ncalrpc
    log file = {run}/log
    disable netbios = yes
    load printers = no
[share]
    path = {volume}/share
    read only = no
"""
GANESHA = """\
NFS_CORE_PARAM {{ Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }}
# The clients that were there, so that after a failover they may reclaim what they had, and nobody else may take it.
NFSv4 {{
    RecoveryBackend = fs;
    RecoveryRoot = {volume}/ganesha;
    Lease_Lifetime = 5;
    Grace_Period = 6;
    Only_Numeric_Owners = true;
}}
EXPORT {{
    Export_Id = 1;
    Path = {volume}/share;
    Pseudo = /share;
    Access_Type = RW;
    Squash = No_Root_Squash;
    SecType = sys;
    Protocols = 4;
    Transports = TCP;
    # The same on both hosts: a file handle must mean the same file.
    Filesystem_Id = 192.168;
    FSAL {{ Name = VFS; }}
}}
"""


@dataclass
class Files:
    cluster: Cluster
    mounts: MountWatch
    volume: Path

    @property
    def client(self) -> Host:
        return self.cluster.client


Make = Callable[[str, str, str], Files]


@pytest.fixture
def serve(make_cluster, tmp_path: Path) -> Iterator[Make]:  # type: ignore[no-untyped-def]
    """Makes a cluster whose service is a program, started on the volume: (shell to prepare it, program, options)."""
    folder = tmp_path / "vol"
    ended = []
    with Volume(tmp_path) as volume:

        def make(prepare: str, program: str, options: str) -> Files:
            volume.prepare(folder, f"mkdir share && printf '%s' 'the same file' >share/page && {prepare}")
            hook = textwrap.dedent(f"""\
                [services.web.hooks]
                {volume.hook(folder)}
                [services.web.hooks.20_server]
                use = "ocf"
                agent = "heartbeat:anything"
                binfile = "{program}"
                cmdline_options = "{options}"
                pidfile = "/run/resource-agents/locum-test.pid"
                logfile = "{tmp_path}/server.log"
                errlogfile = "{tmp_path}/server.log"
                """)
            cluster = make_cluster(more=hook)
            watch = MountWatch(volume)
            watch.start()
            ended.append((cluster, watch))
            rooms = Rooms(cluster)
            rooms._watch = watch
            for name, host in cluster.nodes.items():
                # Files of a host's own, where a real one has its /run.
                own = f"mkdir -p {tmp_path}/run && mount -t tmpfs none {tmp_path}/run"
                assert host.run([*rooms.inside(name), "sh", "-c", own]).returncode == 0
            return Files(cluster, watch, folder)

        yield make
        for cluster, watch in ended:
            cluster.lab.close()
            watch.stop()


def survives(files: Files, read: Callable[[], str], write: Callable[[str], bool], grace: float = 0.0) -> None:
    """The same client, before and after a planned switchover and the loss of the holder."""
    files.cluster.up()
    wait(lambda: read() == "the same file", 20)
    wait(lambda: write("one"), 20 + grace)
    done = files.cluster.locum(files.client, "switchover", "web")
    assert done.returncode == 0, done.stderr
    began = time.monotonic()
    wait(lambda: read() == "the same file", 20)
    print(f"figure: switchover: read again {time.monotonic() - began:.1f} s after it had returned")
    wait(lambda: write("two"), 20 + grace)
    files.cluster.nodes["beta"].power_off()
    began = time.monotonic()
    files.cluster.held_by("alpha", seconds=30)
    wait(lambda: read() == "the same file", 30)
    print(f"figure: host lost: read again {time.monotonic() - began:.1f} s after it was lost")
    wait(lambda: write("three"), 20 + grace)
    assert files.mounts.mounts() == ["alpha", "beta", "alpha"]
    files.cluster.never_two()


def test_samba_has_the_same_credentials_share_and_content(serve: Make, tmp_path: Path) -> None:
    folder, configuration = tmp_path / "vol", tmp_path / "smb.conf"
    configuration.write_text(SAMBA.format(volume=folder, run=tmp_path / "run"))
    (tmp_path / "run").mkdir()
    add = f"printf '%s\\n%s\\n' {PASSWORD} {PASSWORD} | smbpasswd -c {configuration} -s -a root"
    prepare = f"mkdir -p samba/private samba/state && {add}"
    files = serve(prepare, "/usr/sbin/smbd", f"--foreground --no-process-group --configfile={configuration}")
    login = ["smbclient", f"//{ADDRESS}/share", "--user", f"root%{PASSWORD}", "--timeout", "2"]

    def read() -> str:
        got = tmp_path / "got"
        got.unlink(missing_ok=True)
        files.client.run([*login, "--command", f"get page {got}"], timeout=15)
        return got.read_text() if got.exists() else ""

    def write(text: str) -> bool:
        (tmp_path / "new").write_text(text)
        return files.client.run([*login, "--command", f"put {tmp_path}/new {text}"], timeout=15).returncode == 0

    survives(files, read, write)
    wrong = files.client.run([*login[:3], "root%wrong", "--command", "ls"], timeout=15)
    assert wrong.returncode != 0


def test_ganesha_has_the_same_export_and_remembers_its_clients(serve: Make, tmp_path: Path) -> None:
    configuration = tmp_path / "ganesha.conf"
    configuration.write_text(GANESHA.format(volume=tmp_path / "vol"))
    options = f"-F -f {configuration} -p /run/ganesha.pid -L {tmp_path}/ganesha.log -N NIV_EVENT"
    files = serve("mkdir ganesha", "/usr/bin/ganesha.nfsd", options)
    url = f"nfs://{ADDRESS}/share"

    def read() -> str:
        return files.client.run(["timeout", "5", "nfs-cat", f"{url}/page?version=4"]).stdout

    def write(text: str) -> bool:
        (tmp_path / "new").write_text(text)
        copy = ["timeout", "9", "nfs-cp", str(tmp_path / "new"), f"{url}/{text}?version=4"]
        return files.client.run(copy, timeout=12).returncode == 0

    survives(files, read, write, grace=15.0)
    log = (tmp_path / "ganesha.log").read_text(errors="replace")
    assert "NFS SERVER INITIALIZED" in log
