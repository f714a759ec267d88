"""The hook folders of Mac OS X Server's IP failover, on two real hosts: everything runs in the order that was promised.

PreAcq mounts, PostAcq starts, PreRel stops and unmounts, PostRel logs; several a phase, in the order of `LC_ALL=C ls`.
"""

import signal
import time
from itertools import pairwise

from tests.e2e.cluster import ADDRESS, Cluster, kind
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

WAY_UP = ["PreAcq_10_mount", "PreAcq_20_fsck", "PreAcq_9_last", "PostAcq_10_web", "PostAcq_20_afp"]
WAY_DOWN = ["PreRel_10_afp", "PreRel_20_web", "PreRel_30_unmount", "PostRel_10_log", "PostRel_20_mail"]


def article(cluster: Cluster) -> None:
    for name in WAY_UP + WAY_DOWN:
        cluster.hook(ADDRESS, name)


def test_the_order_of_everything(cluster: Cluster) -> None:
    article(cluster)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    assert cluster.hooks_run() == [f"alpha {name}" for name in WAY_UP]
    done = cluster.locum(cluster.client, "switchover", "web")
    assert done.returncode == 0, done.stderr
    expected = [
        *(f"alpha {name}" for name in WAY_UP),
        *(f"alpha {name}" for name in WAY_DOWN),  # all of it, before the other begins
        *(f"beta {name}" for name in WAY_UP),
    ]
    assert cluster.hooks_run() == expected
    cluster.signal("beta", signal.SIGTERM)
    assert cluster.agents["beta"].wait(5) == 0
    cluster.held_by("alpha")
    subscriber.wait(lambda: subscriber.kinds()[-1:] == ["alpha active"])
    assert cluster.hooks_run()[len(expected) :] == [
        *(f"beta {name}" for name in WAY_DOWN),
        *(f"alpha {name}" for name in WAY_UP),
    ]

    # The address came between PreAcq and PostAcq, and went between PreRel and PostRel: each step is an event.
    told = []
    for event in subscriber.events("web"):
        node = event["source"].rpartition("/")[2]
        if kind(event) == "hook":
            told.append(f"{node} {event['data']['path'].rpartition('/')[2]}")
            assert event["data"]["ok"] and event["data"]["status"] == 0 and event["data"]["seconds"] >= 0
        elif kind(event) in ("taken", "dropped", "active", "standby"):
            told.append(f"{node} {kind(event)}")
    up = [*WAY_UP[:3], "taken", *WAY_UP[3:], "active"]
    down = [*WAY_DOWN[:3], "dropped", *WAY_DOWN[3:], "standby"]
    alpha_first = [f"alpha {what}" for what in [*up, *down]]
    assert [what for what in told if what.startswith("alpha")][: len(alpha_first)] == alpha_first
    assert [what for what in told if what.startswith("beta")] == [f"beta {what}" for what in [*up, *down]]
    cluster.never_two()


def test_what_a_hook_is_told(cluster: Cluster) -> None:
    cluster.hook(ADDRESS, "PostAcq_env", f"#!/bin/sh\nenv | grep ^LOCUM_ | sort > {cluster.folder}/env\n")
    cluster.hook("web", "PostAcq_py.py", COROUTINE.format(folder=cluster.folder), executable=False)
    cluster.up()
    assert (cluster.folder / "env").read_text().splitlines() == [
        "LOCUM_ADDRESS=10.0.0.100/24",
        "LOCUM_ADDRESSES=10.0.0.100/24",
        "LOCUM_EPOCH=" + (cluster.folder / "epoch").read_text(),
        "LOCUM_HOSTS=alpha=10.0.0.1 beta=10.0.0.2",
        "LOCUM_INTERFACE=eth0",
        "LOCUM_NODE=alpha",
        "LOCUM_PEER=",
        "LOCUM_PHASE=PostAcq",
        "LOCUM_REASON=start",
        "LOCUM_SERVICE=web",
        "LOCUM_UNHEARD=beta",
    ]


COROUTINE = """\
import asyncio
from pathlib import Path


async def hook(context):
    await asyncio.sleep(0)
    Path("{folder}/epoch").write_text(str(context.epoch))
"""


def test_a_test_that_says_no_means_notify_only(cluster: Cluster) -> None:
    """The address is not taken, and an event says so; nobody mounts anything."""
    article(cluster)
    cluster.hook(ADDRESS, "Test", "#!/bin/sh\necho not today >&2\nexit 1\n")
    subscriber = cluster.subscriber("event/#")
    cluster.start()
    subscriber.wait(lambda: {"alpha refused", "beta refused"} <= set(subscriber.kinds()), 20)
    refused = next(event for event in subscriber.events("web") if kind(event) == "refused")
    assert refused["data"]["way"] == "acquire" and "not today" in refused["data"]["why"]
    time.sleep(1)
    assert cluster.moves() == [] and cluster.hooks_run() == []


def test_a_test_that_says_no_keeps_the_address(cluster: Cluster) -> None:
    """The same on the way down: a switchover is refused, and nothing has moved or stopped."""
    article(cluster)
    cluster.hook(ADDRESS, "Test", '#!/bin/sh\ntest "$LOCUM_REASON" != switchover\n')
    cluster.up()
    done = cluster.locum(cluster.client, "switchover", "web")
    assert done.returncode == 1 and "not switched over" in done.stderr
    assert cluster.hooks_run() == [f"alpha {name}" for name in WAY_UP]
    assert cluster.moves() == ["alpha"]
    assert cluster.locum(cluster.client, "status").returncode == 0


def test_a_takeover_that_fails_is_undone_and_another_node_tries(cluster: Cluster) -> None:
    article(cluster)
    cluster.hook(ADDRESS, "PreAcq_30_breaks", '#!/bin/sh\ntest "$LOCUM_NODE" = beta\n')
    subscriber = cluster.subscriber("event/#")
    cluster.start("alpha")
    subscriber.wait(lambda: "alpha failed" in subscriber.kinds(), 15)
    cluster.start("beta")
    cluster.held_by("beta")
    assert cluster.moves() == ["beta"]
    ran = cluster.hooks_run()
    assert ran[:7] == [f"alpha {name}" for name in ["PreAcq_10_mount", "PreAcq_20_fsck", *WAY_DOWN]], "undone"


def test_a_hook_that_hangs_costs_no_beat(make_cluster) -> None:  # type: ignore[no-untyped-def]
    """It ignores SIGTERM and forks; it is killed with its children, and the beats went on meanwhile."""
    cluster = make_cluster(service='hook_timeout = "2s"')
    cluster.hook("web", "PreRel_hang", "#!/bin/sh\ntrap '' TERM\nsleep 60 &\nwhile :; do sleep 60; done\n")
    subscriber = cluster.subscriber("beat/alpha", "event/web/+")
    cluster.up()
    cluster.signal("alpha", signal.SIGTERM)
    cluster.held_by("beta")
    beats = [heard.at for heard in subscriber.messages() if "/beat/" in heard.topic]
    worst = max(later - earlier for earlier, later in pairwise(beats))
    print(f"figure: longest time between two beats while a hook hangs: {worst * 1000:.0f} ms")
    assert len(beats) > 10 and worst < 1.0, "never late by more than one interval"
    hung = next(event for event in subscriber.events("web") if kind(event) == "hook")
    assert hung["data"]["timed_out"] and not hung["data"]["ok"]
    assert cluster.agents["alpha"].wait(5) == 0
    left = cluster.nodes["alpha"].run(["pgrep", "-f", "PreRel_hang"])
    assert left.stdout == ""
    cluster.never_two()
