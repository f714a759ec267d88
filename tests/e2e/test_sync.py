"""The hook `sync` with real rsync daemons: a copy on every standby, from the holder and from nobody else."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cluster import Cluster, wait
from tests.e2e.services import Rooms
from tests.namespaces import NEEDS_NAMESPACES, needs_programs

pytestmark = [*NEEDS_NAMESPACES, *needs_programs("rsync")]


class Content:
    """The folder /srv of each host: the same path, another file system."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.path = cluster, folder / "srv"
        self.path.mkdir()
        self.rooms = Rooms(cluster)
        self.daemons: dict[str, subprocess.Popen[Any]] = {}
        for name, host in cluster.nodes.items():
            inside = self.rooms.inside(name)
            assert host.run([*inside, "mount", "-t", "tmpfs", "none", str(self.path)]).returncode == 0
            configuration = folder / f"rsyncd-{name}.conf"
            configuration.write_text(
                f"use chroot = no\nuid = root\ngid = root\nlog file = {self.log(name)}\n"
                f"[content]\npath = {self.path}\nread only = yes\n"
            )
            command = [*inside, "rsync", "--daemon", "--no-detach", f"--config={configuration}"]
            self.daemons[name] = host.popen(command)

    def log(self, name: str) -> Path:
        return self.cluster.folder / f"rsyncd-{name}.log"

    def write(self, name: str, file: str, text: str) -> None:
        script = f'printf %s "{text}" >{self.path}/{file}'
        assert self.cluster.nodes[name].run([*self.rooms.inside(name), "sh", "-c", script]).returncode == 0

    def read(self, name: str) -> dict[str, str]:
        """All files of a host's folder."""
        script = f'cd {self.path} && for file in *; do [ ! -f "$file" ] || echo "$file=$(cat "$file")"; done'
        said = self.cluster.nodes[name].run([*self.rooms.inside(name), "sh", "-c", script]).stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    def asked(self, name: str) -> int:
        """How often somebody has copied from this host."""
        log = self.log(name)
        return log.read_text().count("rsync on content/") if log.exists() else 0


@pytest.fixture
def content(make_cluster, tmp_path: Path) -> Iterator[Content]:  # type: ignore[no-untyped-def]
    hook = f'{{ use = "sync", path = "{tmp_path}/srv/", module = "content", every = "2s" }}'
    cluster = make_cluster(nodes=("alpha", "beta", "gamma"), more=f'[services.web.hooks]\n"15_content" = {hook}\n')
    yield Content(cluster, tmp_path)


def test_standbys_follow_the_holder_and_nobody_else(content: Content) -> None:
    cluster = content.cluster
    content.write("alpha", "page", "one")
    content.write("beta", "stray", "x")
    cluster.up()
    wait(lambda: content.read("beta") == content.read("gamma") == {"page": "one"}, 15)
    assert content.asked("beta") == content.asked("gamma") == 0

    # What was written last is there after a planned switchover: it is fetched after the one's end.
    content.write("alpha", "page", "two")
    done = cluster.locum(cluster.client, "switchover", "web", "--to", "beta")
    assert done.returncode == 0, done.stderr
    assert content.read("beta") == {"page": "two"}
    content.write("beta", "page", "three")
    wait(lambda: content.read("alpha") == content.read("gamma") == {"page": "three"}, 15)

    # The holder is lost: what its standby has is what there is, and nobody asks anybody else for more.
    before = {name: content.asked(name) for name in ("alpha", "gamma")}
    cluster.nodes["beta"].power_off()
    cluster.held_by("alpha")
    assert content.read("alpha") == {"page": "three"}
    assert content.asked("gamma") == before["gamma"], "a standby is nobody to copy from"
    wait(lambda: content.asked("alpha") > before["alpha"], 15)
    assert content.asked("gamma") == 0
    cluster.never_two()


def test_a_planned_takeover_without_the_last_copy_is_undone(content: Content) -> None:
    cluster = content.cluster
    content.write("alpha", "page", "one")
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    wait(lambda: content.read("beta") == content.read("gamma") == {"page": "one"}, 15)
    content.daemons["alpha"].kill()
    content.write("alpha", "page", "two")
    done = cluster.locum(cluster.client, "switchover", "web", "--to", "beta", "--timeout", "20")
    assert done.returncode == 1
    subscriber.wait(lambda: "beta failed" in subscriber.kinds())
    assert "beta" not in cluster.moves()
