"""Bad input: a clear line, no traceback, no harm; what was running goes on running."""

import json
import time
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[nodes.alpha]", "[nodes.alpha", "not valid TOML"),
        ("interface =", "interfase =", "services.web.interfase: unknown key; did you mean 'interface'?"),
        ('["alpha", "beta"]', '["alpha", "gamma"]', "services.web.nodes: there is no node 'gamma'"),
        (
            '"10.0.0.100/24"',
            '"10.0.0.100"',
            "services.web.addresses[0]: '10.0.0.100' is not an address with its prefix",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used(cluster: Cluster, old: str, new: str, said: str) -> None:
    text = cluster.config.read_text()
    assert old in text
    cluster.config.write_text(text.replace(old, new))
    for command in ("run", "check", "status"):
        done = cluster.locum(cluster.nodes["alpha"], command)
        assert done.returncode == 2
        assert said in done.stderr and str(cluster.config) in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
    assert cluster.nodes["alpha"].addresses() == ["10.0.0.1/24", "fd00::1/64"]


def test_a_node_that_does_not_exist(cluster: Cluster) -> None:
    done = cluster.locum(cluster.nodes["alpha"], "run", "--node", "gamma")
    assert done.returncode == 2
    assert "there is no node 'gamma' (there are alpha, beta); use --node NAME" in done.stderr


def test_check_says_everything_at_once(cluster: Cluster) -> None:
    ok = cluster.locum(cluster.nodes["alpha"], "check", "--node", "alpha")
    assert ok.returncode == 0 and "no problem found" in ok.stdout, ok.stderr
    cluster.hook("web", "PreAcq_10_mount", executable=False)
    cluster.config.write_text(cluster.config.read_text().replace('"eth0"', '"eth7"').replace(":1883", ":1999"))
    bad = cluster.locum(cluster.nodes["alpha"], "check", "--node", "alpha")
    assert bad.returncode == 1
    lines = bad.stderr.splitlines()
    assert len(lines) == 3, bad.stderr
    assert any("interface eth7 does not exist" in line for line in lines)
    assert any("PreAcq_10_mount is not executable" in line and "chmod +x" in line for line in lines)
    assert any("broker mqtt://10.0.0.3:1999" in line for line in lines)


def test_an_interface_that_is_missing(cluster: Cluster) -> None:
    cluster.config.write_text(cluster.config.read_text().replace('"eth0"', '"eth7"'))
    cluster.start("alpha")
    time.sleep(4)
    assert cluster.agents["alpha"].poll() is None, "it waits for the interface: it may come later in the boot"
    log = cluster.log("alpha")
    assert "interface eth7 (of web) does not exist" in log and "Traceback" not in log
    status = cluster.locum(cluster.client, "status")
    assert status.returncode == 1 and "alpha fault" in status.stdout


def test_a_broker_that_cannot_be_reached(cluster: Cluster) -> None:
    cluster.stop_broker()
    cluster.start("alpha")
    time.sleep(3)
    log = cluster.log("alpha")
    assert "broker mqtt://10.0.0.3:1883: " in log and "Traceback" not in log
    assert len([line for line in log.splitlines() if "trying again" in line]) <= 2, "it says so once, not all the time"
    status = cluster.locum(cluster.client, "status")
    assert status.returncode == 1 and "no broker can be reached" in status.stderr
    cluster.start_broker()
    cluster.held_by("alpha")


GARBAGE = [
    b"\xff\xfe\x00",
    b"{",
    b"[]",
    b"null",
    b'{"node": 7}',
    b"x" * 100_000,
    b"[" * 50_000,
    b'{"node":"beta","boot":"beta/0","seq":1e999,"every":0.5,"services":{}}',
    json.dumps({"node": "alpha", "boot": "beta/0", "seq": 1, "every": 0.5}).encode(),
    json.dumps(
        {
            "node": "ghost",
            "boot": "ghost/0",
            "seq": 1,
            "every": 0.5,
            "services": {"web": {"role": "active", "epoch": 9}},
        }
    ).encode(),
]


def test_garbage_on_every_topic(cluster: Cluster, tmp_path: Path) -> None:
    cluster.up()
    with cluster.asking() as client:
        topics = [
            *("beat/alpha", "beat/beta", "beat/ghost", "node/alpha", "node/ghost", "service/web", "service/ghost"),
            *("command/web", "command/ghost", "event/web/active", "beat", "beat/alpha/x", "nonsense"),
        ]
        for number, topic in enumerate(topics):
            for payload in GARBAGE:
                options = ["-r"] if number % 2 else []
                cluster.publish(f"locum/shop/{topic}", payload, *options)
        time.sleep(1)
        answers = client.stop()
    assert answers.lost() == 0 and cluster.moves() == ["alpha"]
    for name in cluster.names:
        assert cluster.agents[name].poll() is None
        log = cluster.log(name)
        assert "Traceback" not in log and "ignored" in log
        assert max(len(line) for line in log.splitlines()) < 1000
    status = cluster.locum(cluster.client, "status")
    assert status.returncode == 0, status.stdout
