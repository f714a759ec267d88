"""Garbage at 10,000 messages a second: beats go on, memory does not grow, nothing moves."""

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from tests.e2e.cluster import BROKER, Cluster
from tests.e2e.test_rest import resident_bytes
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

RATE, SECONDS = 10_000, 10
BEAT = 0.5
TOPICS = ["beat/alpha", "beta/junk", "beat/stranger", "node/alpha", "service/web", "command/web", "event/web/x"]


def test_beats_are_on_time_under_a_flood(cluster: Cluster) -> None:
    cluster.up()
    beats = cluster.subscriber("beat/beta")  # where no garbage is sent: this listener is not to be slowed down
    time.sleep(1.0)
    before = {name: resident_bytes(cluster.agents[name].pid) for name in cluster.names}
    command = [sys.executable, "-m", "tests.e2e.flood", BROKER, str(RATE), str(SECONDS)]
    command += [f"locum/shop/{topic}" for topic in TOPICS]
    begun = time.time()
    flood = cluster.client.popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    sent = float(flood.communicate(timeout=60)[0])
    ended = time.time()
    time.sleep(1.0)
    grown = {name: resident_bytes(cluster.agents[name].pid) - before[name] for name in cluster.names}
    heard = sorted(
        {message.payload["seq"]: message.at for message in beats.messages() if "/beat/" in message.topic}.items()
    )
    times = [at for _, at in heard if begun - 1 <= at <= ended + 1]
    late = max(later - earlier for earlier, later in pairwise(times)) - BEAT
    print(f"figure: {sent:.0f} messages a second: a beat at most {late * 1000:.0f} ms late; memory {grown}")
    assert sent > RATE * 0.9
    assert len(times) > SECONDS / BEAT
    assert late <= BEAT, "by more than one interval"
    assert max(grown.values()) < 8_000_000
    for name in cluster.names:
        assert "ignored: " in cluster.log(name), "it was all for them"
    assert cluster.moves() == ["alpha"]
    cluster.never_two()
