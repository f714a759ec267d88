"""Three servers for the bus, and any one of them away, restarted or cut off: nothing moves, and failover works on.

The long form is `make brokers MINUTES=10`; here one kind of fault comes to each server once.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path

import pytest

from locum.demo.lab import LAN
from tests.e2e.cluster import ADDRESS, BROKER, Cluster, wait
from tests.e2e.several import OnNodes, Several
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = [*NEEDS_NAMESPACES, pytest.mark.timeout(1800)]

KINDS = ["mosquitto", "nats"]
MINUTES = float(os.environ.get("BROKER_MINUTES", "0"))
AWAY = 4.0
"""Seconds for which a server is away: longer than the lease and the window."""
ROOM = 3.0


@pytest.fixture(params=KINDS)
def several(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Several]:
    with Several(tmp_path, request.param) as cluster:
        yield cluster


def plague(cluster: Several, seconds: float) -> int:
    """One fault after the other, each to each server in turn, for so long or at least once. How many."""
    until = time.monotonic() + seconds
    faults = cluster.faults if MINUTES else [cluster.cut] if cluster.kind == "mosquitto" else [cluster.killed]
    every = list(product(faults, cluster.servers))
    holder = cluster.watch.held_by(ADDRESS)
    moves = len(cluster.moves())
    count = 0
    for fault, name in cycle(every):
        if count >= len(every) and time.monotonic() >= until:
            break
        with fault(name):
            time.sleep(AWAY)
            what = f"{fault.__name__} {name}"
            assert cluster.watch.held_by(ADDRESS) == holder and len(cluster.moves()) == moves, what
        cluster.answers(name)
        cluster.settle(90.0)
        assert len(cluster.moves()) == moves, what
        count += 1
    return count


def test_any_one_server_may_go(several: Several) -> None:
    several.up()
    with several.asking() as client:
        count = plague(several, MINUTES * 60)
        answers = client.stop()
    print(f"figure: {several.kind}: {count} faults, the client's longest gap {answers.longest_gap() * 1000:.0f} ms")
    assert several.moves() == ["alpha"]
    assert answers.longest_gap() < 1.0
    several.never_two()


def test_a_broker_on_two_networks(make_cluster: Callable[..., Cluster]) -> None:
    """Either network may be silent, and nothing moves; a node that is silent on both is lost."""
    cluster = make_cluster(networks=["back"])
    text = cluster.config.read_text()
    cluster.config.write_text(text.replace(f"mqtt://{BROKER}:1883", f"mqtt://{BROKER}:1883,10.1.0.3:1883"))
    cluster.up()
    with cluster.asking() as client:
        for network, other in ((LAN, "10.1.0.3"), ("back", BROKER)):
            cluster.broker.cut(network, silent=True)
            connected = f"{other}:1883: connected"
            for name in cluster.names:
                wait(lambda name=name, said=connected: said in cluster.log(name)[-700:], 15)  # type: ignore[misc]
            time.sleep(3.0)
            cluster.broker.mend(network)
        answers = client.stop()
    assert cluster.moves() == ["alpha"]
    assert answers.longest_gap() < 0.5
    time.sleep(3.0)
    cluster.nodes["alpha"].cut(LAN, silent=True)
    cluster.nodes["alpha"].cut("back", silent=True)
    cluster.held_by("beta")
    cluster.never_two()


def test_the_order_of_messages_is_measured(several: Several) -> None:
    done = several.locum(several.client, "check", "--bus", timeout=90)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("safe for the lease protocol: every subscriber heard the same") == (
        1 if several.kind == "nats" else 3
    )


def test_a_broker_that_keeps_no_order_is_told_of(tmp_path: Path) -> None:
    """Three NATS servers at QoS 0 hand each subscriber what comes to its own server first."""
    with Several(tmp_path, "nats") as cluster:
        code = (
            "import asyncio; from pathlib import Path; from locum.config import load; from locum.commands import order;"
            f"config = load(Path({str(cluster.config)!r})); "
            "print(*asyncio.run(order.measure(config, config.brokers[0], qos=0)).lines(), sep='\\n')"
        )
        for _ in range(5):  # chance has its part in it
            told = cluster.client.run([sys.executable, "-c", code], 60).stdout
            if "NOT SAFE: subscribers heard another order" in told:
                break
    assert "NOT SAFE: subscribers heard another order at" in told and "safe for the lease protocol" not in told


def test_the_figures_of_a_failover(several: Several) -> None:
    """The main job again; also while one of the brokers is away."""
    several.up()
    away = [] if several.kind == "nats" else list(several.servers)[: 3 if MINUTES else 1]
    for server in (None, *away):
        if server is not None:
            several.processes[server].kill()
            several.processes[server].wait()
            time.sleep(3.0)
            several.settle(90.0)
        holder = several.watch.held_by(ADDRESS)[0]
        other = next(name for name in several.names if name != holder)
        with several.asking() as client:
            time.sleep(0.3)
            assert several.locum(several.nodes[holder], "switchover", "web").returncode == 0
            several.held_by(other)
            time.sleep(0.3)
            answers = client.stop()
        print(f"figure: {several.kind}, without {server}: switchover {answers.longest_gap() * 1000:.0f} ms")
        assert answers.longest_gap() < 0.05 + ROOM
        several.settle()
        with several.asking() as client:
            time.sleep(0.3)
            several.nodes[other].cut()
            several.held_by(holder)
            time.sleep(0.3)
            answers = client.stop()
        print(f"figure: {several.kind}, without {server}: host lost {answers.longest_gap() * 1000:.0f} ms")
        assert answers.longest_gap() < 2.8 + ROOM
        several.nodes[other].mend()
        if server is not None:
            several.start_server(server)
            several.answers(server)
        several.settle()
    several.never_two()


WHAT = [("killed", signal.SIGKILL, 3.2), ("stopped for 10 s", signal.SIGSTOP, 3.2), ("ended", signal.SIGTERM, 0.05)]


@pytest.mark.parametrize(("what", "number", "promise"), WHAT if MINUTES else WHAT[:1])
def test_what_happens_to_an_agent_alone(several: Several, what: str, number: signal.Signals, promise: float) -> None:
    several.up()
    with several.asking() as client:
        time.sleep(0.3)
        several.signal("alpha", number)
        several.held_by("beta")
        if number is signal.SIGSTOP:
            time.sleep(10.0)
            several.signal("alpha", signal.SIGCONT)
            time.sleep(1.0)
        time.sleep(0.3)
        answers = client.stop()
    print(f"figure: {several.kind}: agent {what}: {answers.longest_gap() * 1000:.0f} ms")
    assert answers.longest_gap() < promise + ROOM
    assert several.moves() == ["alpha", "beta"]
    several.never_two()


@pytest.mark.parametrize("policy", ["hold", "release"])
def test_a_node_that_sees_only_its_own_broker_lets_go(tmp_path: Path, policy: str) -> None:
    """A broker on each node and one on a third machine. The holder is cut off, with its broker; the other two are a
    majority. And a standby whose broker goes with it changes nothing."""
    with OnNodes(tmp_path, top=f'on_bus_loss = "{policy}"') as cluster:
        cluster.up()
        cluster.nodes["beta"].cut(silent=True)
        time.sleep(5.0)
        assert cluster.moves() == ["alpha"]
        cluster.nodes["beta"].mend()
        cluster.settle()
        with cluster.asking() as client:
            time.sleep(0.3)
            cluster.nodes["alpha"].cut(silent=True)
            cluster.held_by("beta")
            time.sleep(0.3)
            answers = client.stop()
        print(f"figure: brokers on the nodes, {policy}: host lost {answers.longest_gap() * 1000:.0f} ms")
        assert answers.longest_gap() < 2.8 + ROOM
        cluster.nodes["alpha"].mend()
        cluster.settle()
        assert cluster.moves() == ["alpha", "beta"]
        cluster.never_two()


def test_each_event_is_told_once_by_whichever_brokers_are_there(tmp_path: Path) -> None:
    with Several(tmp_path, "mosquitto") as cluster:
        cluster.up()
        with cluster.killed("broker2"):
            told = cluster.locum(cluster.nodes["alpha"], "switchover", "web")
        assert told.returncode == 0, told.stderr
        lines = told.stdout.splitlines()
        assert "beta taken" in lines and len(lines) == len(set(lines)), "two brokers told of it"
