"""`make figures`: the measured times of the README, over many rounds, held against what was promised.

Not part of the ordinary tests: times on a shared machine say little. ROUNDS sets how often each thing is done, and
FIGURES_FILE where the table is written as Markdown.
"""

import os
import platform
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cluster import ADDRESS, Cluster, since_now
from tests.e2e.test_many import gaps_of_switchovers
from tests.e2e.test_rest import cpu_seconds, resident_bytes
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = [*NEEDS_NAMESPACES, pytest.mark.figures, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("ROUNDS", "10"))
UNIT = 1000.0


class Table:
    """Rows of: what, the promise, and the samples, all in milliseconds."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, list[float]]] = []

    def add(self, what: str, promise: float, samples: list[float]) -> None:
        self.rows.append((what, promise, samples))
        print(f"figure: {what}: {[round(sample) for sample in samples]} ms, promised at most {promise:.0f}")

    def markdown(self) -> str:
        lines = ["| what | promised, ms | median, ms | worst, ms | rounds |", "|---|---|---|---|---|"]
        for what, promise, samples in self.rows:
            median, worst = statistics.median(samples), max(samples)
            lines.append(f"| {what} | {promise:.0f} | {median:.1f} | {worst:.1f} | {len(samples)} |")
        return "\n".join(lines)

    def broken(self) -> list[str]:
        return [f"{what}: {max(samples):.0f} ms" for what, promise, samples in self.rows if max(samples) > promise]


def other(cluster: Cluster, name: str) -> str:
    return next(other for other in cluster.names if other != name)


def settle(cluster: Cluster) -> str:
    """Waits until one node holds the service and the other could take it; returns the holder."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = cluster.locum(cluster.client, "status", "--json")
        if status.returncode == 0 and status.stdout.count('"heard": true') == len(cluster.names):
            time.sleep(3)  # the standby's subscription has to be older than the window
            return cluster.watch.held_by(ADDRESS)[0]
        time.sleep(0.2)
    raise AssertionError("it did not settle")


def rounds(
    cluster: Cluster, act: Callable[[str], None], heal: Callable[[str], None]
) -> tuple[list[float], list[float]]:
    """For each round the longest gap and the time from the act until the client is answered again, in ms."""
    gaps, backs = [], []
    for number in range(ROUNDS):
        holder = settle(cluster)
        with cluster.asking() as client:
            time.sleep(0.5 + number * 0.5 / ROUNDS)  # another moment between two beats each time
            at = since_now()
            act(holder)
            cluster.held_by(other(cluster, holder))
            time.sleep(0.4)
            answers = client.stop()
        gaps.append(answers.longest_gap() * UNIT)
        backs.append((max(end for _, end in answers.gaps(0.0035, since=at)) - at) * UNIT)
        heal(holder)
        cluster.never_two()
    return gaps, backs


def test_figures(make_cluster: Callable[..., Cluster]) -> None:
    table = Table()
    many = make_cluster(addresses=[f"10.0.0.{number}/24" for number in range(101, 201)])
    many.up()
    hundred = [max(gaps) * UNIT for gaps in gaps_of_switchovers(many, ROUNDS)]
    for agent in many.agents.values():
        agent.terminate()
        agent.wait()
    many.stop_broker()
    cluster = make_cluster()
    starts = []
    for _ in range(ROUNDS):
        subscriber = cluster.subscriber("beat/beta")
        at = time.time()
        cluster.start("beta")
        subscriber.wait(lambda: any("/beat/" in heard.topic for heard in subscriber.messages()), 10)  # noqa: B023
        starts.append((subscriber.messages()[-1].at - at) * UNIT)
        cluster.signal("beta", signal.SIGKILL)
        cluster.agents["beta"].wait()
    table.add("start to first beat", 600, starts)
    cluster.start()

    def restart(name: str) -> None:
        cluster.agents[name].kill()
        cluster.agents[name].wait()
        cluster.start(name)

    gaps, _ = rounds(cluster, lambda name: cluster.nodes[name].cut(), lambda name: cluster.nodes[name].mend())
    table.add("host lost (its link cut): longest gap", 2800, gaps)
    gaps, _ = rounds(cluster, lambda name: cluster.signal(name, signal.SIGTERM), restart)
    table.add("SIGTERM to the holder: longest gap", 50, gaps)
    gaps, _ = rounds(cluster, lambda name: switch(cluster), lambda name: None)
    table.add("`locum switchover`: longest gap", 50, gaps)
    table.add("`locum switchover` of 100 addresses: longest gap", 100, hundred)
    _, backs = rounds(cluster, lambda name: cluster.signal(name, signal.SIGKILL), restart)
    table.add("SIGKILL of the holder's agent: service back after", 3200, backs)

    def wake(name: str) -> None:
        time.sleep(7)
        cluster.signal(name, signal.SIGCONT)

    _, backs = rounds(cluster, lambda name: cluster.signal(name, signal.SIGSTOP), wake)
    table.add("SIGSTOP of the holder's agent for 10 s: service back after", 3200, backs)

    settle(cluster)
    moves = cluster.moves()
    lost = []
    for _ in range(max(1, ROUNDS // 5)):
        with cluster.asking() as client:
            time.sleep(0.5)
            cluster.stop_broker()
            time.sleep(5)
            cluster.start_broker()
            time.sleep(4)
            lost.append(float(client.stop().lost()))
    assert cluster.moves() == moves and sum(lost) == 0, "a broker that is away for 5 s moves nothing and loses nothing"
    holder = settle(cluster)
    pid = cluster.agents[holder].pid
    before, at = cpu_seconds(pid), time.monotonic()
    time.sleep(20)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - at) * 100
    memory = resident_bytes(pid) / 1e6
    at_rest = f"At rest the holder's agent takes {share:.2f} % of one core and {memory:.0f} MB."
    print(at_rest)
    if "FIGURES_FILE" in os.environ:
        Path(os.environ["FIGURES_FILE"]).write_text(
            PAGE.format(kernel=platform.release().partition("-")[0], table=table.markdown(), at_rest=at_rest)
        )
    assert table.broken() == []
    assert share < 1.0 and memory < 60


def switch(cluster: Cluster) -> None:
    done = cluster.locum(cluster.client, "switchover", "web")
    assert done.returncode == 0, done.stderr


PAGE = """\
# Figures

Made by `make figures`: two hosts, a client that asks every 2 ms and a Mosquitto on a third host, in network namespaces
of one machine with two cores (Linux {kernel}), default timing (beat 500 ms, lease 2 s). A gap is the longest time in
which the client got no answer; every round begins at another moment between two beats.

{table}

In all rounds the kernel's address events were watched on both hosts: at no time did both have the address.

A Mosquitto that is away for 5 s moves nothing, and the client loses no packet. {at_rest}
"""
