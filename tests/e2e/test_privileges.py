"""The agent as a user of its own, with CAP_NET_ADMIN and CAP_NET_RAW and nothing else."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import locum
from tests.e2e.cluster import Cluster, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

NOBODY = 65534


def user() -> int:
    """Somebody who is not root; root without its rights, where nobody else can read the program."""
    for path in (Path(sys.executable), Path(locum.__file__)):
        for folder in path.parents:
            if not folder.stat().st_mode & 0o001:
                return 0
    return NOBODY


def stripped(uid: int) -> list[str]:
    rights = "-all,+net_admin,+net_raw"
    return [
        *("setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--no-new-privs"),
        *("--bounding-set", rights, "--inh-caps", rights, "--ambient-caps", rights),
    ]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that the agents may read and write."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, user(), user())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_it_needs_no_more_than_two_rights(open_folder: Path) -> None:
    uid = user()
    with Cluster(open_folder, addresses=["10.0.0.100/24", "fd00::100/64"]) as cluster:
        cluster.inside = lambda name: stripped(uid)
        script = f"#!/bin/sh\nid -u >> {open_folder}/who\ngrep CapEff /proc/self/status >> {open_folder}/who\n"
        cluster.hook("web", "PostAcq_10_who", script)
        cluster.up()
        status = Path(f"/proc/{cluster.agents['alpha'].pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(uid)] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 12 | 1 << 13
        cluster.stop_broker()  # under `hold` it asks others with ICMP echo
        time.sleep(4)
        cluster.start_broker()
        wait(lambda: cluster.log("alpha").count("connected") == 2, 10)
        assert cluster.moves() == ["alpha"]
        wait(lambda: cluster.locum(cluster.client, "status").returncode == 0, 10)
        time.sleep(3)
        cluster.nodes["alpha"].power_off()
        cluster.held_by("beta")
        cluster.never_two()
        assert (open_folder / "who").read_text().splitlines()[0] == str(uid), "so do its hooks"


def test_who_has_less_is_told_so(open_folder: Path) -> None:
    with Cluster(open_folder) as cluster:
        command = [
            *stripped(user())[:-6],
            "--bounding-set",
            "-all",
            "--inh-caps",
            "-all",
            sys.executable,
            "-m",
            "locum",
        ]
        done = cluster.nodes["alpha"].run([*command, "run", "--config", str(cluster.config), "--node", "alpha"])
        assert done.returncode == 1
        assert done.stderr.strip().startswith("locum run needs CAP_NET_ADMIN and CAP_NET_RAW")
