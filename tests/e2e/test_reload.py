"""A changed configuration, and a newer program, while services run: what did not change notices nothing."""

import signal
import time

from tests.e2e.cluster import Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

MAIL = '[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["beta", "alpha"]\n'


def change(cluster: Cluster, old: str, new: str) -> None:
    text = cluster.config.read_text()
    assert old in text
    cluster.config.write_text(text.replace(old, new))


def holders(cluster: Cluster, address: str) -> list[str]:
    asked = ["ip", "-br", "address"]
    return [name for name in cluster.names if f" {address}/" in cluster.nodes[name].run(asked).stdout]


def reload(cluster: Cluster, *names: str) -> str:
    said = ""
    for name in names or cluster.names:
        done = cluster.locum(cluster.nodes[name], "reload", "--node", name)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return said


def test_services_come_change_and_go_while_another_one_notices_nothing(make_cluster, tmp_path) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    for name in ("PreAcq_start", "PreRel_stop"):
        cluster.hook("web", name)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    with cluster.asking() as asking:
        change(cluster, "[services.web]", MAIL + "[services.web]")
        assert "reloaded" in reload(cluster)
        wait(lambda: holders(cluster, "10.0.0.101"), 10)

        # Another address of the new one: released in order, and taken anew.
        change(cluster, "10.0.0.101/24", "10.0.0.102/24")
        reload(cluster)
        wait(lambda: holders(cluster, "10.0.0.102"), 10)
        assert holders(cluster, "10.0.0.101") == []

        # A check that fails from the first time on, on the holder alone; then it is not wanted any more.
        mark = tmp_path / "well"
        check = f'[services.web.checks]\nfit = {{ file = "{mark}", interval = "200ms" }}\n'
        mark.write_text("")
        change(cluster, MAIL.replace("101", "102"), check)
        said = reload(cluster)
        assert "reloaded" in said
        assert holders(cluster, "10.0.0.102") == [], "the service is gone from the configuration"
        mark.unlink()
        subscriber.wait(lambda: "alpha unfit" in subscriber.kinds(), 10)
        change(cluster, check, "")
        reload(cluster)
        assert cluster.locum(cluster.client, "status").returncode == 0
        lost = asking.stop().lost()
    print(f"figure: four reloads: {lost} packets of the client lost")
    assert lost == 0
    assert cluster.moves() == ["alpha"]
    assert cluster.hooks_run() == ["alpha PreAcq_start"]
    cluster.never_two()


def test_a_file_with_a_fault_changes_nothing_and_the_fault_is_told(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    good = cluster.config.read_text()
    for old, new, said in (
        ("[services.web]", f"{MAIL}[services.web]\nadresses = []", "services.web.adresses"),
        ('cluster = "shop"', 'cluster = "shop', "not valid TOML"),
        ("[nodes.alpha]", "[nodes.gamma]", "alpha"),
        ("10.0.0.3:1883", "10.0.0.4:1883", "brokers: cannot change while agents run"),
    ):
        cluster.config.write_text(good)
        change(cluster, old, new)
        before = len(subscriber.events("alpha"))
        cluster.signal("alpha", signal.SIGHUP)
        subscriber.wait(lambda before=before: len(subscriber.events("alpha")) > before)
        refused = subscriber.events("alpha")[-1]
        assert kind(refused) == "refused" and refused["data"]["way"] == "reload"
        assert said in refused["data"]["why"], refused
        cluster.config.write_text(good)
    time.sleep(0.5)
    assert cluster.moves() == ["alpha"] and holders(cluster, "10.0.0.101") == []
    # The command looks at the file first.
    cluster.config.write_text(good.replace("[services.web]", "[services.web]\nadresses = []"))
    done = cluster.locum(cluster.nodes["alpha"], "reload", "--node", "alpha")
    assert done.returncode == 2 and "services.web.adresses" in done.stderr
    cluster.config.write_text(good)
    assert cluster.locum(cluster.client, "status").returncode == 0


def test_nodes_with_different_configurations_say_so(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    change(cluster, "[services.web]", MAIL + "[services.web]")
    reload(cluster, "beta")
    subscriber.wait(lambda: [one for one in subscriber.events("beta") if kind(one) == "config-differs"])
    assert "another configuration" in cluster.locum(cluster.client, "status").stdout
    reload(cluster, "alpha")
    time.sleep(1)
    assert "another configuration" not in cluster.locum(cluster.client, "status").stdout


def test_an_agent_is_started_anew_in_place_and_goes_on_as_holder(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster()
    for name in ("PreAcq_start", "PreRel_stop"):
        cluster.hook("web", name)
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    pids = {name: cluster.agents[name].pid for name in cluster.names}
    with cluster.asking() as asking:
        for _ in range(3):
            for name in cluster.names:
                done = cluster.locum(cluster.client, "restart", "--node", name)
                assert done.returncode == 0, done.stderr
                assert "restarted" in done.stdout
        time.sleep(4)
        lost = asking.stop().lost()
    print(f"figure: six restarts in place: {lost} packets of the client lost")
    assert lost == 0
    assert cluster.moves() == ["alpha"] and cluster.hooks_run() == ["alpha PreAcq_start"]
    assert {name: cluster.agents[name].pid for name in cluster.names} == pids
    assert all(process.poll() is None for process in cluster.agents.values())
    ids = [event["id"] for event in subscriber.events()]
    assert len(ids) == len(set(ids))
    told = set(subscriber.kinds())
    assert told <= {f"alpha {one}" for one in ("claiming", "acquiring", "active", "taken", "hook")} | {"beta silent"}
    # And it is a holder like any other: it hands over, and takes.
    assert cluster.locum(cluster.client, "switchover", "web").returncode == 0
    assert cluster.held_by("beta") == "beta"
    cluster.signal("beta", signal.SIGKILL)
    cluster.held_by("alpha")
    cluster.never_two()


def test_an_agent_that_comes_too_late_lets_go(make_cluster) -> None:  # type: ignore[no-untyped-def]
    """Between its two lives it is stopped for longer than a lease: by then another may hold the service."""
    cluster: Cluster = make_cluster()
    cluster.up()
    cluster.signal("alpha", signal.SIGUSR2)
    time.sleep(0.2)
    cluster.signal("alpha", signal.SIGSTOP)
    cluster.held_by("beta")
    cluster.signal("alpha", signal.SIGCONT)
    time.sleep(3)
    assert cluster.watch.held_by("10.0.0.100") == ("beta",)
    cluster.never_two()
    wait(lambda: cluster.locum(cluster.client, "switchover", "web").returncode == 0, 20)
    assert cluster.held_by("alpha") == "alpha"
