"""Services that must be together, and services that must be apart: on real hosts."""

import json
import time

from locum.demo.watch import AddressWatch
from tests.e2e.cluster import Cluster, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

MAIL, DB = "10.0.0.101", "10.0.0.102"


def more(name: str, address: str, placing: str, checks: str = "") -> str:
    nodes = 'nodes = ["alpha", "beta"]'
    text = f'[services.{name}]\naddresses = ["{address}/24"]\ninterface = "eth0"\n{nodes}\n{placing}\n'
    return text + (f"[services.{name}.checks]\n{checks}\n" if checks else "")


def said(cluster: Cluster, *arguments: str, status: int = 0) -> str:
    done = cluster.locum(cluster.client, *arguments)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_what_must_be_together_moves_together(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    sick = tmp_path / "sick-alpha"
    # Every host has a file of its own: the check finds it by the node's name in the agent's environment.
    script = tmp_path / "well"
    script.write_text(f'#!/bin/sh\ntest ! -e "{tmp_path}/sick-$LOCUM_NODE"\n')
    script.chmod(0o755)
    check = f'well = {{ command = "{script}", interval = "200ms", fall = 2 }}'
    cluster: Cluster = make_cluster(more=more("mail", MAIL, 'together_with = "web"', check))
    with AddressWatch(cluster.nodes.values(), [cluster.addresses[0], MAIL]) as watch:

        def both(node: str) -> None:
            watch.wait(lambda: all(watch.held_by(one) == (node,) for one in (cluster.addresses[0], MAIL)), 15)

        cluster.up()
        both("alpha")
        assert "it goes where web goes" in said(cluster, "switchover", "mail", status=1)
        said(cluster, "switchover", "web")
        both("beta")
        said(cluster, "switchover", "web")
        both("alpha")
        # What is wrong with the one takes both away.
        sick.touch()
        both("beta")
        sick.unlink()
        wait(lambda: "not ready" not in said(cluster, "status"), 10)
        cluster.nodes["beta"].power_off()
        both("alpha")
        time.sleep(1)
        picture = json.loads(said(cluster, "status", "--json"))["services"]
        assert {picture[name]["holder"] for name in ("web", "mail")} == {"alpha"}
        assert watch.overlaps() == []


def test_what_must_be_apart_is_never_together(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster(more=more("db", DB, 'apart_from = ["web"]'))
    with AddressWatch(cluster.nodes.values(), [cluster.addresses[0], DB]) as watch:
        where = {"web": cluster.addresses[0], "db": DB}

        def held() -> dict[str, str]:
            return {name: watch.held_by(address)[0] for name, address in where.items() if watch.held_by(address)}

        cluster.start()
        watch.wait(lambda: len(held()) == 2, 15)
        first = held()
        assert set(first.values()) == {"alpha", "beta"}
        time.sleep(1)
        refused = said(cluster, "switchover", "web", "--to", first["db"], status=1)
        assert f"{first['db']} has db, which must be apart from it" in refused
        cluster.nodes[first["db"]].power_off()
        time.sleep(6)
        assert watch.held_by(DB) in ((), (first["db"],)), "the dead host's own kernel may have it for a while"
        assert watch.held_by(where["web"]) == (first["web"],)
        assert not any(change.host == first["web"] and change.address == DB for change in watch.timeline)
        assert watch.overlaps() == []
