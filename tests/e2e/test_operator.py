"""An operator's hand: pause, resume, release, drain. Each command waits for the outcome, and says how it went."""

import json
import signal
import time

from tests.e2e.cluster import Cluster, kind
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES


def told(cluster: Cluster, *arguments: str, status: int = 0) -> str:
    """What a command says, on both its outputs."""
    done = cluster.locum(cluster.client, *arguments, timeout=60)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


def test_a_paused_service_stays_where_it_is_also_while_its_agent_is_started_anew(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    for name in ("PreAcq_start", "PreRel_stop"):
        cluster.hook("web", name)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    assert "web is on alpha" in told(cluster, "pause", "web")
    assert "web is on alpha" in told(cluster, "pause", "web"), "said twice it is still so"
    said = json.loads(told(cluster, "status", "--json"))
    assert said["services"]["web"]["paused"] and said["services"]["web"]["keeper"] == "alpha"
    assert said["services"]["web"]["roles"] == {"alpha": "active", "beta": "paused"}
    assert "only alpha may hold it" in told(cluster, "status")
    refused = told(cluster, "switchover", "web", status=1)
    assert "it is paused: resume it first" in refused
    asked = [event for event in subscriber.events("web") if kind(event) == "command"]
    assert [(event["data"]["what"], "@" in event["data"]["by"]) for event in asked] == [("pause", True)]

    with cluster.asking() as asking:
        for number in (signal.SIGTERM,):
            cluster.signal("alpha", number)
            assert cluster.agents["alpha"].wait(15) == 0
            # What systemd runs after every end of the agent leaves it there too.
            dropped = cluster.locum(cluster.nodes["alpha"], "drop", "--node", "alpha")
            assert dropped.returncode == 0 and "paused, and left on eth0" in dropped.stdout
            time.sleep(5)
            cluster.start("alpha")
            subscriber.wait(lambda: subscriber.kinds()[-1:] == ["alpha active"], 15)
            time.sleep(4)
        lost = asking.stop().lost()
    print(f"figure: an agent started anew while paused: {lost} packets of the client lost")
    assert lost == 0
    assert cluster.moves() == ["alpha"]
    assert cluster.hooks_run() == ["alpha PreAcq_start"], "nothing was stopped, so nothing is started"

    # The holder dies: the operator wanted it nowhere else.
    cluster.nodes["alpha"].power_off()
    time.sleep(5)
    assert cluster.moves() == ["alpha"]
    assert "alpha is not heard" in told(cluster, "resume", "web")
    cluster.held_by("beta")
    cluster.never_two()


def test_the_broker_goes_away_and_forgets_while_a_service_is_paused(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    cluster.up()
    told(cluster, "pause", "web")
    with cluster.asking() as asking:
        cluster.stop_broker()
        time.sleep(3)
        for name in ("mosquitto.db", "mosquitto.db.new"):
            (cluster.folder / name).unlink(missing_ok=True)
        cluster.start_broker()
        time.sleep(4)
        assert "it is paused" in told(cluster, "switchover", "web", status=1), "the beats say so still"
        assert asking.stop().lost() == 0
    late = cluster.subscriber("service/#")
    late.wait(lambda: [heard for heard in late.messages() if "/service/" in heard.topic])
    record = next(heard.payload for heard in late.messages() if "/service/" in heard.topic)
    assert record["holder"] == "alpha" and record["hand"]["keeper"] == "alpha"
    assert cluster.moves() == ["alpha"]


def test_a_released_service_is_nowhere_until_it_is_resumed(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    cluster.hook("web", "PreRel_stop", "#!/bin/sh\nexit 1\n")
    cluster.up()
    assert "web is nowhere" in told(cluster, "release", "web")
    assert cluster.watch.held_by("10.0.0.100") == (), "at once, whatever the hooks say"
    time.sleep(4)
    cluster.signal("beta", signal.SIGTERM)
    assert cluster.agents["beta"].wait(15) == 0
    cluster.start("beta")
    time.sleep(6)
    assert cluster.moves() == ["alpha"]
    status = cluster.locum(cluster.client, "status")
    assert status.returncode == 1 and "nobody may hold it" in status.stdout
    assert "may move again" in told(cluster, "resume", "web")
    cluster.held_by("alpha", "beta")
    cluster.never_two()


def test_a_drained_node_is_empty_and_takes_nothing(make_cluster) -> None:  # type: ignore[no-untyped-def]
    mail = '[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'
    cluster: Cluster = make_cluster(more=mail)
    cluster.up()
    with cluster.asking() as asking:
        said = told(cluster, "drain", "alpha")
        time.sleep(0.5)
        gap = asking.stop().longest_gap()
    print(f"figure: a node is drained: the client's gap is {gap * 1000:.0f} ms")
    assert gap < 1.0, "handed over, not lost"
    assert "web is on beta" in said and "mail is on beta" in said and "alpha holds nothing" in said
    assert cluster.held_by("beta") == "beta"
    assert "alpha: drained" in told(cluster, "status")
    # Nobody is left to take what beta has: refused, and nothing is moved.
    assert "alpha cannot take it now" in told(cluster, "drain", "beta", status=1)
    assert "alpha cannot take it now" in told(cluster, "switchover", "web", status=1)
    cluster.nodes["beta"].power_off()
    time.sleep(5)
    assert cluster.moves() == ["alpha", "beta"], "not even then"
    assert "alpha takes part again" in told(cluster, "undrain", "alpha")
    cluster.held_by("alpha")
    cluster.never_two()


def test_what_makes_no_sense_is_refused_in_a_line(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    assert "there is no service 'nonsense' (there are web)" in told(cluster, "pause", "nonsense", status=2)
    assert "there is no node 'nonsense' (there are alpha, beta)" in told(cluster, "drain", "nonsense", status=2)
    assert "alpha and beta: not heard" in told(cluster, "pause", "web", status=1)
    assert "alpha: not heard" in told(cluster, "drain", "alpha", status=1)
    cluster.stop_broker()
    assert "broker mqtt://10.0.0.3:1883" in told(cluster, "pause", "web", status=1)
