"""A directory on both nodes, each a provider for the other (multi-provider): the address moves, nobody is promoted.

Real slapd, real clients. slapd runs on both hosts all the time, so a check can say whether it does.
"""

import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.cluster import ADDRESS, Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES, needs_programs

pytestmark = [*NEEDS_NAMESPACES, *needs_programs("slapd", "slapadd", "ldapmodify", "ldapsearch", "ldapwhoami")]

ADMIN, PASSWORD = "cn=admin,dc=shop", "correct-horse"
USER = "uid=ann,dc=shop"
SLAPD = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload syncprov
pidfile {folder}/slapd.pid
# Each provider has a number of its own, which goes into what it writes.
serverID {number}
database mdb
directory {folder}/db
suffix dc=shop
rootdn {admin}
rootpw {password}
index objectClass,entryUUID,entryCSN eq
overlay syncprov
syncprov-checkpoint 100 1
# From the other node, at its own address: the service's address may be this node itself.
syncrepl rid=001 provider=ldap://{other}:389 type=refreshAndPersist retry="1 +" keepalive=2:2:2 network-timeout=2
  searchbase=dc=shop bindmethod=simple binddn={admin} credentials={password}
multiprovider on
"""
CONTENT = f"""\
dn: dc=shop
objectClass: dcObject
objectClass: organization
dc: shop
o: shop

dn: {USER}
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Example
userPassword: {PASSWORD}
"""


class Directory:
    """A slapd on each host, with files of its own."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.servers: dict[str, subprocess.Popen[Any]] = {}
        hosts = {"alpha": "10.0.0.1", "beta": "10.0.0.2"}
        for number, (name, other) in enumerate((("alpha", "beta"), ("beta", "alpha")), start=1):
            own = folder / f"slapd-{name}"
            (own / "db").mkdir(parents=True)
            (own / "slapd.conf").write_text(
                SLAPD.format(folder=own, number=number, other=hosts[other], admin=ADMIN, password=PASSWORD)
            )
        self.folder = folder
        load = ["slapadd", "-f", str(folder / "slapd-alpha/slapd.conf")]
        subprocess.run(load, input=CONTENT, text=True, check=True, capture_output=True)

    def start(self, name: str) -> None:
        configuration = self.folder / f"slapd-{name}/slapd.conf"
        with (self.folder / f"slapd-{name}.log").open("a") as log:
            self.servers[name] = self.cluster.nodes[name].popen(
                ["slapd", "-d", "sync", "-f", str(configuration), "-h", "ldap:///"], stdout=log, stderr=log
            )

    def ask(
        self, program: str, *arguments: str, who: str = USER, at: str = ADDRESS
    ) -> "subprocess.CompletedProcess[str]":
        login = ["-x", "-H", f"ldap://{at}", "-o", "nettimeout=2", "-D", who, "-w", PASSWORD]
        return self.cluster.client.run(["timeout", "4", program, *login, *arguments])

    def binds(self) -> bool:
        return self.ask("ldapwhoami").returncode == 0

    def write(self, title: str) -> bool:
        change = self.cluster.folder / "change.ldif"
        change.write_text(f"dn: {USER}\nchangetype: modify\nreplace: title\ntitle: {title}\n")
        return self.ask("ldapmodify", "-f", str(change), who=ADMIN).returncode == 0

    def title(self, at: str = ADDRESS) -> str:
        said = self.ask("ldapsearch", "-LLL", "-b", USER, "title", who=ADMIN, at=at).stdout
        return next((line[7:] for line in said.splitlines() if line.startswith("title: ")), "")


def test_a_bind_and_a_write_before_and_after_and_nothing_is_lost(make_cluster, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    checks = '[services.web.checks]\nslapd = { tcp = "127.0.0.1:389", interval = "200ms", timeout = "500ms" }\n'
    cluster = make_cluster(more=checks)
    directory = Directory(cluster, tmp_path)
    directory.start("alpha")
    directory.start("beta")
    cluster.up()
    wait(directory.binds, 10)
    wait(lambda: directory.write("one"), 10)
    wait(lambda: directory.title(at="10.0.0.2") == "one", 15)

    cluster.nodes["alpha"].power_off()
    cluster.held_by("beta")
    wait(directory.binds, 10)
    assert directory.title() == "one"
    wait(lambda: directory.write("two"), 10)

    # It comes back, hears what it missed, and takes over again when an operator says so.
    cluster.nodes["alpha"].power_on()
    directory.start("alpha")
    wait(lambda: directory.title(at="10.0.0.1") == "two", 20)
    cluster.start("alpha")
    wait(lambda: cluster.locum(cluster.client, "switchover", "web", "--to", "alpha").returncode == 0, 20)
    assert directory.binds() and directory.title() == "two"
    wait(lambda: directory.write("three"), 10)

    # The server alone dies, not its host: the check says so, and the address goes where the directory answers.
    subscriber = cluster.subscriber("event/#")
    directory.servers["alpha"].kill()
    cluster.held_by("beta")
    assert any(kind(event) == "check" and "127.0.0.1:389" in event["data"]["why"] for event in subscriber.events("web"))
    wait(directory.binds, 10)
    assert directory.title() == "three"
    cluster.never_two()
