"""Checks on real hosts: a node that is not fit does not hold, where another one is."""

import json
import sys
import time
from pathlib import Path

from tests.e2e.cluster import Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


def sick(cluster: Cluster, name: str, is_sick: bool = True) -> None:
    mark = cluster.folder / f"{name}.sick"
    if is_sick:
        mark.write_text(f"{name} has a fever\n")
    else:
        mark.unlink()


def checked(make_cluster, tmp_path: Path, more: str = "") -> Cluster:  # type: ignore[no-untyped-def]
    script = tmp_path / "check-health"
    script.write_text(f'#!/bin/sh\nmark="{tmp_path}/$LOCUM_NODE.sick"\n! cat "$mark" 2>/dev/null\n')
    script.chmod(0o755)
    cluster: Cluster = make_cluster(
        more=f"""
[services.web.checks]
health = {{ command = "{script}", interval = "200ms", fall = 2, rise = 2 }}
broker = {{ icmp = "10.0.0.3", interval = "500ms" }}
{more}
"""
    )
    return cluster


def test_a_holder_whose_check_fails_hands_over_in_order_and_a_flapping_one_waits(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    cluster = checked(make_cluster, tmp_path)
    cluster.hook("web", "PreRel_stop")
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    with cluster.asking() as asking:
        sick(cluster, "alpha")
        cluster.held_by("beta")
        time.sleep(0.3)
        gap = asking.stop().longest_gap()
    print(f"figure: a check fails: the client's gap is {gap * 1000:.0f} ms")
    assert gap < 1.0, "handed over, not lost"
    assert cluster.hooks_run() == ["alpha PreRel_stop"]
    failing = next(event for event in subscriber.events("web") if kind(event) == "check")
    assert failing["data"]["check"] == "health" and "alpha has a fever" in failing["data"]["why"]
    said = json.loads(cluster.locum(cluster.client, "status", "--json").stdout)
    assert said["services"]["web"]["roles"] == {"alpha": "fault", "beta": "active"}
    assert said["nodes"]["alpha"]["checks"][0]["check"] == "health"
    assert "alpha has a fever" in cluster.locum(cluster.client, "status").stdout

    # It flaps: good for a moment, then bad again. The second time it has to be good for ten seconds.
    sick(cluster, "alpha", False)
    subscriber.wait(lambda: subscriber.kinds()[-1:] == ["alpha standby"])
    sick(cluster, "alpha")
    subscriber.wait(lambda: subscriber.kinds()[-1:] == ["alpha fault"])
    sick(cluster, "alpha", False)
    time.sleep(3)
    assert subscriber.kinds()[-1] == "alpha fault", "not believed yet"
    assert cluster.moves() == ["alpha", "beta"]
    cluster.never_two()


def test_with_no_fit_node_the_holder_keeps_the_service_and_says_so(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    cluster = checked(make_cluster, tmp_path)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    assert not [one for one in subscriber.kinds() if one.endswith(" fault")], "a start is no alarm"
    sick(cluster, "beta")
    subscriber.wait(lambda: "beta fault" in subscriber.kinds())
    sick(cluster, "alpha")
    subscriber.wait(lambda: "alpha unfit" in subscriber.kinds())
    time.sleep(1)
    assert cluster.moves() == ["alpha"]
    refused = cluster.locum(cluster.client, "switchover", "web")
    assert refused.returncode == 1 and "beta cannot take it now" in refused.stderr
    sick(cluster, "beta", False)
    cluster.held_by("beta")
    assert cluster.moves() == ["alpha", "beta"]
    # A node in fault takes nothing, whatever happens to the others.
    cluster.nodes["beta"].power_off()
    time.sleep(4)
    assert cluster.moves() == ["alpha", "beta"]
    sick(cluster, "alpha", False)
    cluster.held_by("alpha", seconds=30)


def test_a_check_of_the_holder_alone_is_not_made_on_the_others_and_is_held_against_it(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The server runs on the holder only. Where it died the node rests, and takes nothing back at once."""
    pid = tmp_path / "server.pid"
    cluster: Cluster = make_cluster(
        more="""
[services.web.checks]
server = { tcp = "10.0.0.100:80", when = "active", interval = "200ms", fall = 2 }
"""
    )
    server = tmp_path / "server.py"
    server.write_text("import socket\ns = socket.create_server(('', 80))\nwhile True:\n    s.accept()[0].close()\n")
    start = f"setsid {sys.executable} {server} >/dev/null 2>&1 &\necho $! >{pid}\n"
    cluster.hook("web", "PreAcq_serve", f"#!/bin/sh\n{start}")
    cluster.hook("web", "PreRel_stop", f"#!/bin/sh\nkill $(cat {pid}); exit 0\n")
    cluster.up()
    time.sleep(1)
    assert cluster.moves() == ["alpha"]
    wait(lambda: cluster.client.run(["sh", "-c", f"kill -9 $(cat {pid})"]).returncode == 0, 2)
    cluster.held_by("beta")
    said = json.loads(cluster.locum(cluster.client, "status", "--json").stdout)
    assert said["services"]["web"]["roles"]["alpha"] == "fault"
    cluster.never_two()
