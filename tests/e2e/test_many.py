"""Many addresses, many services, many nodes."""

import time

from tests.e2e.cluster import Cluster, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


def test_a_hundred_addresses_move_together(make_cluster) -> None:  # type: ignore[no-untyped-def]
    addresses = [f"10.0.0.{number}" for number in range(101, 201)]
    cluster: Cluster = make_cluster(addresses=[f"{address}/24" for address in addresses])
    cluster.up()
    longest = []
    for holder in ("beta", "alpha", "beta"):
        with cluster.asking(addresses[0]) as first, cluster.asking(addresses[-1]) as last:
            time.sleep(0.3)
            done = cluster.locum(cluster.client, "switchover", "web")
            assert done.returncode == 0, done.stderr
            time.sleep(0.3)
            longest.append((first.stop().longest_gap(), last.stop().longest_gap()))
        assert cluster.held_by(holder) == holder
        wait(lambda: cluster.locum(cluster.client, "status").stdout.count("not ready") == 0, 20)
    for gaps in longest:
        print("figure: a switchover of 100 addresses: " + ", ".join(f"{gap * 1000:.0f} ms" for gap in gaps))
    assert min(max(gaps) for gaps in longest) < 1.0, "moved, not lost"
    cluster.never_two()
