"""Strangers on the bus: what they try, that nothing comes of it, and the line that it leaves.

A broker that lets in only who has a key, made by `locum secure init`; and a broker that is open to all, where messages
are signed.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from locum.signing import Keys, new_key
from tests.e2e.cluster import BROKER, Cluster, Heard, Subscriber, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

# -- a broker that asks who is there ------------------------------------------------------------------------------


class Locked(Cluster):
    """What `locum secure init` writes, copied to where it says; nothing else."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        command = [sys.executable, "-m", "locum", "secure", "init", "--config", str(self.config)]
        command += ["--out", str(folder / "made"), "--reader", "alerts"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert made.returncode == 0, made.stderr
        shown = made.stdout[made.stdout.index("brokers =") :]
        for name in self.names:
            here = folder / "secure" / name
            shutil.copytree(folder / "made" / "nodes" / name, here)
            text = re.sub(r"^brokers = .*$", "", self.config.read_text(), flags=re.MULTILINE)
            head, middle, rest = text.partition("[nodes.")
            self.config_of(name).write_text(head + shown.replace("/etc/locum/secure", str(here)) + "\n" + middle + rest)
        shutil.copytree(folder / "made" / "brokers" / BROKER, folder / "broker")
        self.access = self.proof("alpha", "operator")

    def proof(self, name: str, who: str = "node") -> list[str]:
        here = self.folder / "secure" / name
        files = {"--cafile": here / "ca.pem", "--cert": here / f"{who}.pem", "--key": here / f"{who}.key"}
        return ["-p", "8883", *(str(part) for pair in files.items() for part in pair)]

    @property
    def reader(self) -> list[str]:
        user, _, password = (self.folder / "made/readers/alerts.login").read_text().strip().partition(":")
        return ["-p", "8884", "--cafile", str(self.folder / "made/readers/ca.pem"), "-u", user, "-P", password]

    def config_of(self, name: str) -> Path:
        return self.folder / f"{name}.toml"

    def broker_config(self) -> str:
        text = (self.folder / "broker/mosquitto.conf").read_text()
        text = text.replace("/etc/mosquitto/locum", str(self.folder / "broker"))
        # Mosquitto tells of a publish that it denied at this level only.
        return text.replace("/var/lib/mosquitto/", f"{self.folder}/") + "log_type debug\n"

    def attempt(self, access: list[str], topic: str, payload: str, *options: str) -> "subprocess.CompletedProcess[str]":
        """As somebody with this access; QoS 1, so that the broker has decided when it returns."""
        command = ["mosquitto_pub", "-h", BROKER, *access, "-q", "1", "-t", topic, "-m", payload, *options]
        return self.client.run(command)

    def broker_log(self) -> str:
        return (self.folder / "mosquitto.log").read_text()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Locked]:
    with Locked(tmp_path) as cluster:
        yield cluster


def test_it_does_all_that_it_does_on_an_open_broker(locked: Locked) -> None:
    locked.up()
    subscriber = locked.subscriber()
    assert locked.locum(locked.nodes["beta"], "status").returncode == 0
    checked = locked.locum(locked.nodes["beta"], "check", "--node", "beta")
    assert checked.returncode == 0, checked.stderr
    done = locked.locum(locked.nodes["alpha"], "switchover", "web")
    assert (done.returncode, done.stderr) == (0, "")
    locked.held_by("beta")
    locked.nodes["beta"].power_off()
    locked.held_by("alpha")
    subscriber.wait(lambda: kind(subscriber.events("web")[-1]) == "active")
    locked.signal("alpha", signal.SIGTERM)
    locked.agents["alpha"].wait(10)
    subscriber.wait(lambda: subscriber.kinds()[-1] == "alpha standby")
    locked.never_two()
    denied = re.findall(r"Denied PUBLISH from locum-shop-.*", locked.broker_log())
    assert denied == [], "nothing that a node must say is forbidden to it"


def test_who_has_no_key_is_not_let_in(locked: Locked, tmp_path: Path) -> None:
    ca = ["--cafile", str(tmp_path / "made/ca/ca.pem")]
    other = tmp_path / "other"
    again = [sys.executable, "-m", "locum", "secure", "init", "--out", str(other), "--config", str(locked.config)]
    assert subprocess.run(again, capture_output=True, timeout=60).returncode == 0
    theirs = ["--cert", str(other / "nodes/alpha/node.pem"), "--key", str(other / "nodes/alpha/node.key")]
    for access in (
        ["-p", "8883", *ca],
        ["-p", "8883", *ca, *theirs],
        ["-p", "8883", "-u", "alpha", "-P", "alpha"],
        ["-p", "8884", *ca],
        ["-p", "8884", *ca, "-u", "@alerts", "-P", "guess"],
        ["-p", "8884", *ca, "-u", "alpha", "-P", "alpha"],
        ["-p", "1883"],
    ):
        assert locked.attempt(access, "locum/shop/command/web", "x").returncode != 0, access
    assert locked.broker_log().count("OpenSSL Error") >= 2
    # And the other way round: a broker that is not ours is not believed.
    node = locked.folder / "alpha.toml"
    node.write_text(node.read_text().replace(str(tmp_path / "secure/alpha/ca.pem"), str(other / "ca/ca.pem")))
    checked = locked.locum(locked.nodes["alpha"], "check", "--node", "alpha")
    assert checked.returncode == 1 and "certificate verify failed" in checked.stderr


def test_who_has_a_key_may_say_what_is_his_to_say(locked: Locked) -> None:
    """Another node's topic, its will; a command without right; a reader who speaks; somebody else's connection."""
    locked.up()
    everything = locked.subscriber("beat/#", "command/#", "node/#", "service/#")
    beta, reader = locked.proof("beta"), locked.reader
    before = len(locked.moves())
    tried = {
        "beat/alpha": beta,
        "command/web": beta,
        "service/other": beta,
        "beat/beta": reader,
        "node/alpha": reader,
        "command/alpha": reader,
        "service/web": reader,
    }
    for topic, access in tried.items():
        locked.attempt(access, f"locum/shop/{topic}", f"forged {topic}")
    # The will of another node: it is sent when its client dies.
    will = ["--will-topic", "locum/shop/beat/alpha", "--will-payload", "forged will", "--will-qos", "1"]
    command = ["mosquitto_sub", "-h", BROKER, *beta, "-t", "locum/shop/beat/+", *will]
    dying = locked.client.popen(command, stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    dying.kill()
    dying.wait()
    # A reader that takes the agent's name for its connection would end the agent's.
    taken = locked.attempt(reader, "locum/shop/probe/x", "x", "-i", "locum-shop-alpha")
    assert taken.returncode == 0
    time.sleep(1.0)
    assert not [heard for heard in everything.messages() if "forged" in str(heard.payload)]
    assert "trying again" not in locked.log("alpha"), "its connection was not ended"
    assert len(locked.moves()) == before
    for topic in tried:
        assert re.search(rf"Denied PUBLISH .*locum/shop/{topic}", locked.broker_log()), topic
    # A reader reads.
    log = locked.folder / "reader.log"
    listening = Subscriber(locked.client, log, ("event/#",), reader)
    time.sleep(0.5)
    assert locked.locum(locked.nodes["alpha"], "switchover", "web").returncode == 0
    listening.wait(lambda: "beta active" in listening.kinds())
    listening.close()


def test_certificates_and_keys_are_renewed_without_a_failover(locked: Locked) -> None:
    """New ones from the same authority; the broker takes them at a SIGHUP, agents with their next connection."""
    locked.up()
    with locked.asking() as asking:
        before = {name: (locked.folder / f"secure/{name}/node.pem").read_text() for name in locked.names}
        made = locked.folder / "made"
        for pem in [*made.glob("nodes/*/node.*"), *made.glob("brokers/*/broker.*")]:
            pem.unlink()
        again = [sys.executable, "-m", "locum", "secure", "init", "--out", str(made), "--config", str(locked.config)]
        assert subprocess.run(again, capture_output=True, timeout=60).returncode == 0
        for name in locked.names:
            shutil.copytree(made / "nodes" / name, locked.folder / "secure" / name, dirs_exist_ok=True)
            assert (locked.folder / f"secure/{name}/node.pem").read_text() != before[name]
        shutil.copytree(made / "brokers" / BROKER, locked.folder / "broker", dirs_exist_ok=True)
        locked.stop_broker()
        locked.start_broker()
        for name in locked.names:
            wait(lambda name=name: locked.log(name).count("connected") == 2, 10)  # type: ignore[misc]
        time.sleep(1.0)
    assert locked.moves() == ["alpha"]
    assert asking.answers.longest_gap() < 0.5
    locked.never_two()


def test_user_and_password(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """Without TLS: from a file, which is read anew for each connection."""
    login, passwords = tmp_path / "login", tmp_path / "passwords"

    def change(password: str) -> None:
        passwords.write_text(f"locum:{password}\n")
        subprocess.run(["mosquitto_passwd", "-U", str(passwords)], check=True)

    change("first")
    login.write_text("locum:first\n")
    login.chmod(0o600)
    cluster = make_cluster(top=f'[security]\nlogin = "{login}"')
    cluster.access = ["-u", "locum", "-P", "first"]
    cluster.stop_broker()
    cluster.broker_config = lambda: (  # type: ignore[method-assign]
        Cluster.broker_config(cluster).replace("allow_anonymous true", f"password_file {passwords}")
    )
    cluster.start_broker()
    cluster.up()
    change("second")
    assert cluster._mosquitto is not None
    cluster._mosquitto.send_signal(signal.SIGHUP)  # whoever is not let in any more is sent away
    time.sleep(1.0)
    login.write_text("locum:second\n")
    cluster.access = ["-u", "locum", "-P", "second"]
    assert cluster.locum(cluster.nodes["alpha"], "status").returncode == 0
    for name in cluster.names:
        wait(lambda name=name: cluster.log(name).rstrip().count("connected") >= 1, 5)  # type: ignore[misc]
    time.sleep(2.0)
    assert cluster.locum(cluster.nodes["alpha"], "status").returncode == 0
    assert cluster.moves() == ["alpha"]
    login.chmod(0o644)
    started = cluster.locum(cluster.nodes["alpha"], "run", "--node", "alpha")
    assert started.returncode == 2 and "others may read it (mode 0644)" in started.stderr


# -- a broker that is open to all ---------------------------------------------------------------------------------


class Signed:
    """Two nodes that sign, and a stranger who hears everything, keeps it, and may say what he likes."""

    def __init__(self, make_cluster: Callable[..., Cluster], folder: Path) -> None:
        self.keys = folder / "signing.keys"
        self.keys.write_text(new_key() + "\n")
        self.keys.chmod(0o600)
        self.cluster = make_cluster(top=f'[security]\nsigning = "{self.keys}"')
        self.cluster.up()
        self.stranger = self.cluster.subscriber()

    def newest(self, topic: str) -> Heard:
        keys = Keys.parse(self.keys.read_text(), "")

        def genuine(heard: Heard) -> bool:
            try:
                return bool(keys.open(heard.topic, self.raw(heard).encode()))
            except ValueError:
                return False

        def there() -> list[Heard]:
            mine = [heard for heard in self.stranger.messages() if heard.topic == f"locum/shop/{topic}"]
            return [heard for heard in mine if genuine(heard)]

        return self.stranger.wait(there)[-1]  # type: ignore[no-any-return]

    def raw(self, heard: Heard) -> str:
        """Byte for byte as it was sent: JSON without spaces, in the order of its fields."""
        return json.dumps(heard.payload, separators=(",", ":"), ensure_ascii=False)

    def leaves(self, name: str, why: str) -> None:
        """A line in that node's log."""
        wait(lambda: why in self.cluster.log(name), 3, lambda: self.cluster.log(name)[-2000:])


@pytest.fixture
def signed(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Signed:
    return Signed(make_cluster, tmp_path)


def forged_release(signed: Signed) -> None:
    """A release by the holder, as a stranger would write it: with the next number, and everything right but the key."""
    beat: dict[str, Any] = dict(signed.newest("beat/alpha").payload)
    beat["seq"] += 2
    beat["services"] = {"web": {"role": "standby", "epoch": beat["services"]["web"]["epoch"], "clean": True}}
    del beat["signature"]
    cluster = signed.cluster
    cluster.publish("locum/shop/beat/alpha", json.dumps(beat))
    signed.leaves("beta", "locum/shop/beat/alpha: ignored: it is not signed")
    theirs = Keys.parse(new_key(), "")
    cluster.publish("locum/shop/beat/alpha", theirs.sign("locum/shop/beat/alpha", json.dumps(beat).encode()))
    signed.leaves("beta", "which is not known here")
    good = signed.raw(signed.newest("beat/alpha"))
    cluster.publish("locum/shop/beat/alpha", good.replace('"active"', '"standby"'))
    signed.leaves("beta", "locum/shop/beat/alpha: ignored: its signature is wrong")


def forged_claim(signed: Signed) -> None:
    """A holder lets go at the sight of a higher epoch."""
    beat: dict[str, Any] = dict(signed.newest("beat/beta").payload)
    beat["seq"] += 2
    del beat["signature"]
    beat["services"] = {"web": {"role": "active", "epoch": signed.newest("service/web").payload["epoch"] + 1}}
    signed.cluster.publish("locum/shop/beat/beta", json.dumps(beat))
    signed.leaves("alpha", "locum/shop/beat/beta: ignored: it is not signed")


def replayed_beat(signed: Signed) -> None:
    signed.cluster.publish("locum/shop/beat/alpha", signed.raw(signed.newest("beat/alpha")))
    signed.leaves("beta", "it is a replay, or a double")


def replayed_as_another_topic(signed: Signed) -> None:
    signed.cluster.publish("locum/shop/beat/beta", signed.raw(signed.newest("beat/alpha")))
    signed.leaves("alpha", "locum/shop/beat/beta: ignored: its signature is wrong")


def command_without_right(signed: Signed) -> None:
    command = {"id": "1", "command": "switchover", "service": "web", "by": "root"}
    signed.cluster.publish("locum/shop/command/web", json.dumps(command))
    signed.leaves("alpha", "locum/shop/command/web: ignored: it is not signed")
    drain = {"id": "2", "command": "drain", "node": "alpha", "by": "root"}
    signed.cluster.publish("locum/shop/command/alpha", json.dumps(drain))
    signed.leaves("alpha", "locum/shop/command/alpha: ignored: it is not signed")


def retained_junk(signed: Signed) -> None:
    for topic in ("beat/alpha", "node/alpha", "service/web", "command/web", "event/web/active"):
        signed.cluster.publish(f"locum/shop/{topic}", "junk", "-r")
    record = {"service": "web", "holder": "beta", "epoch": 2**53, "by": "beta"}
    signed.cluster.publish("locum/shop/service/web", json.dumps(record), "-r")
    signed.leaves("alpha", "locum/shop/service/web: ignored: it is not signed")
    offline = {"node": "alpha", "state": "offline", "reason": "stopped"}
    signed.cluster.publish("locum/shop/node/alpha", json.dumps(offline), "-r")
    signed.leaves("beta", "locum/shop/node/alpha: ignored: it is not signed")


ATTACKS = [forged_release, forged_claim, replayed_beat, replayed_as_another_topic, command_without_right, retained_junk]


def test_nothing_comes_of_what_a_stranger_says(signed: Signed) -> None:
    cluster = signed.cluster
    epoch = signed.newest("service/web").payload["epoch"]
    with cluster.asking() as asking:
        for attack in ATTACKS:
            attack(signed)
        time.sleep(3.0)
    assert cluster.moves() == ["alpha"]
    assert asking.answers.lost() == 0 and asking.answers.longest_gap() < 0.5
    latest = signed.newest("beat/alpha").payload["services"]["web"]
    assert (latest["role"], latest["epoch"]) == ("active", epoch)
    status = cluster.locum(cluster.client, "status")
    assert status.returncode == 0, status.stderr
    # And whoever has the key is still heard.
    assert cluster.locum(cluster.nodes["alpha"], "switchover", "web").returncode == 0
    cluster.held_by("beta")


def test_an_operators_command_counts_once(signed: Signed) -> None:
    cluster = signed.cluster
    assert cluster.locum(cluster.nodes["alpha"], "switchover", "web").returncode == 0
    cluster.held_by("beta")
    command = signed.raw(signed.newest("command/web"))
    moved = len(cluster.moves())
    cluster.publish("locum/shop/command/web", command)
    time.sleep(1.5)
    assert len(cluster.moves()) == moved, "its number was followed already"
    cluster.signal("alpha", signal.SIGTERM)
    cluster.agents["alpha"].wait(10)
    cluster.start("alpha")
    wait(lambda: '"ready":true' in signed.raw(signed.newest("beat/alpha")), 15)
    assert cluster.locum(cluster.nodes["alpha"], "switchover", "web").returncode == 0
    cluster.held_by("alpha")
    moved = len(cluster.moves())
    cluster.publish("locum/shop/command/web", command)  # to an agent that has never seen it
    signed.leaves("alpha", "it is a replay: a command of another time")
    time.sleep(1.0)
    assert len(cluster.moves()) == moved


def test_a_dead_node_is_not_kept_alive_by_its_old_beats(signed: Signed) -> None:
    """Also not for a node that has just started, and did not hear it die."""
    cluster = signed.cluster

    def beats() -> list[str]:
        return [signed.raw(heard) for heard in signed.stranger.messages() if heard.topic == "locum/shop/beat/alpha"]

    recorded = wait(lambda: beats() if len(beats()) > 6 else None, 10)
    cluster.nodes["alpha"].power_off()
    died = time.monotonic()
    while cluster.watch.held_by(cluster.addresses[0]) != ("beta",):
        for beat in recorded:
            cluster.publish("locum/shop/beat/alpha", beat)
        assert time.monotonic() < died + 10
    signed.leaves("beta", "locum/shop/beat/alpha: ignored: it is a replay")


def test_keys_are_changed_without_a_failover(signed: Signed) -> None:
    cluster = signed.cluster
    old, new = signed.keys.read_text().strip(), new_key()
    with cluster.asking() as asking:
        for text in (f"{old}\n{new}", f"{new}\n{old}", new):
            signed.keys.write_text(text + "\n")
            for name in cluster.names:
                done = cluster.locum(cluster.nodes[name], "reload", "--node", name)
                assert done.returncode == 0, (text, done.stderr)
    assert cluster.moves() == ["alpha"] and asking.answers.longest_gap() < 0.5
    assert signed.newest("beat/alpha").payload["signature"].startswith(old.split()[0]) is False
    signed.keys.write_text("nonsense\n")
    done = cluster.locum(cluster.nodes["alpha"], "reload", "--node", "alpha")
    assert done.returncode == 1
    assert cluster.moves() == ["alpha"]


def test_signing_is_brought_in_without_a_failover(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster()
    cluster.up()
    keys = tmp_path / "signing.keys"
    keys.write_text(new_key() + "\n")
    keys.chmod(0o600)
    plain = cluster.config.read_text()
    for policy in ("accept", "refuse"):
        security = f'[security]\nsigning = "{keys}"\nunsigned = "{policy}"\n'
        cluster.config.write_text(plain.replace("[nodes.alpha]", f"{security}[nodes.alpha]", 1))
        for name in cluster.names:
            done = cluster.locum(cluster.nodes[name], "reload", "--node", name)
            assert done.returncode == 0, (policy, done.stderr)
    time.sleep(2.0)
    assert cluster.moves() == ["alpha"]
    cluster.nodes["alpha"].power_off()
    cluster.held_by("beta")
