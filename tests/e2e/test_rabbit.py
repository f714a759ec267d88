"""RabbitMQ as a broker: why it must not be one."""

from collections.abc import Callable
from pathlib import Path

from tests.e2e.cluster import Cluster
from tests.e2e.several import rabbit
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


def test_rabbitmq_keeps_no_order(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Each subscriber has a queue of its own, and two publishers' messages reach two queues in two orders: measured
    with 3.10, one server. A cluster on it works, as long as nothing needs the order."""
    cluster = make_cluster()
    cluster.stop_broker()
    rabbit(cluster.broker, tmp_path / "rabbit")
    for _ in range(20):  # a few of 1,500 at a time
        done = cluster.locum(cluster.client, "check", "--bus", timeout=90)
        if done.returncode != 0:
            break
    print(done.stdout, done.stderr)
    assert done.returncode == 1 and "NOT SAFE: subscribers heard another order at" in done.stderr
