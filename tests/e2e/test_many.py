"""Many addresses, many services, many nodes."""

import signal
import time

from locum.demo.watch import AddressWatch
from tests.e2e.cluster import Cluster, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


def test_a_hundred_addresses_move_together(make_cluster) -> None:  # type: ignore[no-untyped-def]
    addresses = [f"10.0.0.{number}" for number in range(101, 201)]
    cluster: Cluster = make_cluster(addresses=[f"{address}/24" for address in addresses])
    cluster.up()
    longest = gaps_of_switchovers(cluster, 3)
    for gaps in longest:
        print("figure: a switchover of 100 addresses: " + ", ".join(f"{gap * 1000:.0f} ms" for gap in gaps))
    assert min(max(gaps) for gaps in longest) < 1.0, "moved, not lost"
    cluster.never_two()


def gaps_of_switchovers(cluster: Cluster, rounds: int) -> list[tuple[float, float]]:
    """The client's longest gaps, in seconds, at the first and the last of the addresses. alpha holds it at first."""
    addresses, longest = cluster.addresses, []
    for number in range(rounds):
        holder = ("beta", "alpha")[number % 2]
        with cluster.asking(addresses[0]) as first, cluster.asking(addresses[-1]) as last:
            time.sleep(0.3)
            done = cluster.locum(cluster.client, "switchover", "web")
            assert done.returncode == 0, done.stderr
            time.sleep(0.3)
            longest.append((first.stop().longest_gap(), last.stop().longest_gap()))
        assert cluster.held_by(holder) == holder
        wait(lambda: cluster.locum(cluster.client, "status").stdout.count("not ready") == 0, 20)
    return longest


NODES = ("alpha", "beta", "gamma", "delta", "epsilon")


def test_every_node_is_restarted_and_each_service_moves_once_when_its_node_goes(make_cluster) -> None:  # type: ignore[no-untyped-def]
    """A hundred services on five nodes: each node is the first choice of twenty."""
    addresses = {f"s{number:02}": f"10.0.0.{number + 101}" for number in range(1, 100)}
    more = ""
    for number, (name, address) in enumerate(addresses.items()):
        order = ", ".join(f'"{node}"' for node in NODES[number % 5 :] + NODES[: number % 5])
        more += f'[services.{name}]\naddresses = ["{address}/24"]\ninterface = "eth0"\nnodes = [{order}]\n'
    cluster: Cluster = make_cluster(nodes=NODES, more=more)
    addresses["web"] = cluster.addresses[0]
    with AddressWatch(cluster.nodes.values(), addresses.values()) as watch:

        def holders() -> dict[str, tuple[str, ...]]:
            return {name: watch.held_by(address) for name, address in addresses.items()}

        def all_held() -> bool:
            return all(len(held) == 1 for held in holders().values())

        subscriber = cluster.subscriber("beat/+", "event/#")
        cluster.start()
        watch.wait(all_held, 60)
        time.sleep(2.0)
        before = holders()
        assert len(set(before.values())) == len(NODES), "the order of nodes spreads them"
        for node in NODES:
            at = len(watch.timeline)
            went = {name for name, held in before.items() if held == (node,)}
            cluster.signal(node, signal.SIGTERM)
            assert cluster.agents[node].wait(30) == 0
            cluster.start(node)
            watch.wait(all_held, 30)
            wait_until_ready(subscriber, node, len(addresses))
            time.sleep(1.0)
            after = holders()
            changes = watch.timeline[at:]
            assert {change.address for change in changes} == {addresses[name] for name in went}, node
            twice = {name for name in went if sum(change.address == addresses[name] for change in changes) != 2}
            told = [str(event) for event in subscriber.events() if event["subject"] in twice]
            assert not twice, "\n".join(told[-30:])
            assert len(changes) == 2 * len(went), f"{node}: one goes, one comes, for each service that it had"
            assert node not in {held for (held,) in (after[name] for name in went)}
            assert all(after[name] == before[name] for name in addresses if name not in went)
            away = sorted(gap(changes, addresses[name]) for name in went)
            if away:
                print(f"figure: {node} held {len(went)}; away for {away[0] * 1000:.0f} to {away[-1] * 1000:.0f} ms")
            before = after
        assert watch.overlaps() == []
        beats = [heard for heard in subscriber.messages() if "/beat/" in heard.topic]
        assert {heard.topic.rpartition("/")[2] for heard in beats} == set(NODES), "one beat for all services of a node"
        assert all(len(heard.payload["services"]) == len(addresses) for heard in beats)


def wait_until_ready(subscriber, node: str, services: int) -> None:  # type: ignore[no-untyped-def]
    """Until the node's latest beat says that it could take so many services."""

    def ready() -> bool:
        latest = [heard.payload for heard in subscriber.messages() if heard.topic.endswith(f"/beat/{node}")][-1]
        return sum(bool(standing.get("ready")) for standing in latest["services"].values()) == services

    wait(ready, 30, lambda: f"{node} does not come back")


def gap(changes, address: str) -> float:  # type: ignore[no-untyped-def]
    gone, come = (change.at for change in changes if change.address == address)
    return float(come - gone)
