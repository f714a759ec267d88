"""Hooks that misbehave: beats go on, the log has a bound, no process stays, and the stated consequence is the only one.

The witness of the beats is another client on the bus; of the processes, the kernel.
"""

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

INTERVAL = 0.5

BLOCKS = "#!/bin/sh\nexec sleep 20\n"
PRINTS = "#!/bin/sh\nhead -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 99\nexit 1\n"
FORKS = "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8; do (trap '' TERM; sleep 77) & done\nexit 1\n"
STUBBORN = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 78; done\n"
RAISES = "async def hook(context):\n    raise ValueError('no such volume')\n"
BLOCKS_PYTHON = "import time\n\n\nasync def hook(context):\n    time.sleep(79)\n"


def processes(cluster: Cluster) -> list[str]:
    """The command lines of what runs on alpha beside its agent."""
    said = cluster.nodes["alpha"].run(["pgrep", "-a", "-f", "PreAcq_50|sleep 7[789]|sleep 20|fold -w 99"])
    inside = cluster.nodes["alpha"].namespace.inode
    found = []
    for line in said.stdout.splitlines():
        try:
            same = Path(f"/proc/{line.split()[0]}/ns/net").stat().st_ino == inside
        except OSError:
            continue
        if same and "pgrep" not in line:
            found.append(line)
    return found


def longest_beat_gap(beats: list[float]) -> float:
    return max(later - earlier for earlier, later in pairwise(beats))


@pytest.mark.parametrize(
    ("name", "script", "why"),
    [
        ("PreAcq_50_prints", PRINTS, "failed with exit status 1"),
        ("PreAcq_50_forks", FORKS, "failed with exit status 1"),
        ("PreAcq_50_stubborn", STUBBORN, "ran longer than 2 s and ignored SIGTERM and was killed"),
        ("PreAcq_50_raises.py", RAISES, "no such volume"),
        ("PreAcq_50_blocks.py", BLOCKS_PYTHON, "ran longer than 2 s"),
    ],
)
def test_a_preacq_that_misbehaves_is_undone_and_the_other_node_serves(  # type: ignore[no-untyped-def]
    make_cluster, name: str, script: str, why: str
) -> None:
    cluster = make_cluster(service='hook_timeout = "2s"')
    only_alpha = '#!/bin/sh\n[ "$LOCUM_NODE" = alpha ] || exit 0\n'
    if name.endswith(".py"):
        script = script.replace(":\n    ", ":\n    if context.node != 'alpha':\n        return\n    ", 1)
    else:
        script = script.replace("#!/bin/sh\n", only_alpha, 1)
    cluster.hook("web", name, script, executable=not name.endswith(".py"))
    cluster.hook("web", "PreRel_50_undo")
    subscriber = cluster.subscriber("beat/alpha", "event/web/+")
    cluster.start("alpha")
    subscriber.wait(lambda: "alpha failed" in subscriber.kinds(), 20)
    cluster.start("beta")
    cluster.held_by("beta")
    subscriber.wait(lambda: "beta active" in subscriber.kinds())
    failed = next(event["data"] for event in subscriber.events("web") if kind(event) == "failed")
    assert failed["step"] == "PreAcq" and why in failed["why"]
    assert cluster.hooks_run()[0] == "alpha PreRel_50_undo" and cluster.moves() == ["beta"]
    wait(lambda: processes(cluster) == [], 5)
    assert len(cluster.log("alpha")) < 1_000_000, "the log has a bound"
    beats = [heard.at for heard in subscriber.messages() if "/beat/" in heard.topic]
    late = longest_beat_gap(beats) - INTERVAL
    print(f"figure: {name}: a beat was {max(0.0, late) * 1000:.0f} ms late at most")
    assert late < INTERVAL, "never late by more than one interval"
    cluster.never_two()


def test_a_hook_that_takes_twenty_seconds_is_waited_for_and_seen(make_cluster) -> None:  # type: ignore[no-untyped-def]
    """Its name, phase and seconds so far are in the node's state on the bus, and in `locum status`."""
    cluster = make_cluster(nodes=("alpha",))
    cluster.hook("web", "PreAcq_50_long", BLOCKS)
    subscriber = cluster.subscriber("#")
    cluster.start("alpha")
    began = time.monotonic()
    wait(lambda: "runs PreAcq_50_long for" in cluster.locum(cluster.client, "status").stdout, 15)
    status = json.loads(cluster.locum(cluster.client, "status", "--json").stdout)
    (running,) = status["nodes"]["alpha"]["hooks"]
    assert (running["service"], running["phase"], running["hook"]) == ("web", "PreAcq", "PreAcq_50_long")
    assert status["services"]["web"]["state"] == "acquiring"
    cluster.held_by("alpha", seconds=40)
    assert time.monotonic() - began > 15
    subscriber.wait(lambda: "alpha active" in subscriber.kinds())

    def states() -> list[float]:
        """What the node's retained state said of it, one after the other; -1: nothing runs."""
        said = [heard.payload for heard in subscriber.messages() if heard.topic.endswith("/node/alpha")]
        return [state["hooks"][0]["seconds"] if state["hooks"] else -1.0 for state in said]

    subscriber.wait(lambda: states()[-1] == -1.0, 10)
    seconds = [one for one in states() if one >= 0]
    assert len(seconds) >= 5 and seconds == sorted(seconds) and seconds[-1] > 15
    hook = next(event["data"] for event in subscriber.events("web") if kind(event) == "hook")
    assert hook["ok"] and hook["status"] == 0 and 19 < hook["seconds"] < 40
    beats = [heard.at for heard in subscriber.messages() if heard.topic.endswith("/beat/alpha")]
    late = longest_beat_gap(beats) - INTERVAL
    print(f"figure: a hook that takes 20 s: a beat was {max(0.0, late) * 1000:.0f} ms late at most")
    assert late < INTERVAL
    assert "Traceback" not in cluster.log("alpha")
