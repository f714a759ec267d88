"""What an agent takes: to start, and at rest. Printed; held against the README's figures by `make figures`."""

import os
import time
from pathlib import Path

from tests.e2e.cluster import Cluster
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_bytes(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_start_and_rest(cluster: Cluster) -> None:
    subscriber = cluster.subscriber("beat/#")
    started = time.time()
    cluster.start("alpha")
    subscriber.wait(lambda: any("/beat/" in heard.topic for heard in subscriber.messages()), 10)
    first = next(heard.at for heard in subscriber.messages() if "/beat/" in heard.topic)
    print(f"figure: start to first beat: {(first - started) * 1000:.0f} ms")
    cluster.held_by("alpha")
    cluster.start("beta")
    time.sleep(3)
    pid = cluster.agents["alpha"].pid
    before, at = cpu_seconds(pid), time.monotonic()
    time.sleep(6)
    share = (cpu_seconds(pid) - before) / (time.monotonic() - at)
    print(f"figure: at rest: {share * 100:.2f} % of one core, {resident_bytes(pid) / 1e6:.0f} MB")
    assert share < 0.1 and resident_bytes(pid) < 120e6, "something spins or leaks"
    beats = [heard.at for heard in subscriber.messages() if heard.topic.endswith("beat/alpha")]
    assert 10 <= len(beats) < 80, "a beat every 500 ms, and a few more at each change"
