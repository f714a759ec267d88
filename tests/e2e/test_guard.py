"""Somebody else's hand on an address: the holder keeps it, and nobody else has it."""

import sys
import time
from ipaddress import IPv4Address, IPv6Address

from locum.address import packets
from locum.demo.lab import Host, Lab
from tests.e2e.cluster import ADDRESS, Cluster, kind, wait
from tests.namespaces import NEEDS_NAMESPACES

pytestmark = NEEDS_NAMESPACES

V6 = "fd00::100"
SHOUT = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind(("eth0", 0))
    for frame in sys.argv[1:]:
        wire.send(bytes.fromhex(frame))
"""


def mac_of(host: Host) -> str:
    return host.run(["ip", "-br", "link", "show", "eth0"]).stdout.split()[2]


def neighbour(host: Host, address: str) -> str:
    """Whose MAC the host believes to have the address."""
    words = host.run(["ip", "neigh", "show", address]).stdout.split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def test_an_address_set_on_the_other_host_is_removed_there_and_told_of(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster(addresses=[f"{ADDRESS}/24", f"{V6}/64"])
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    with cluster.asking() as asking:
        for written, seconds in ((f"{ADDRESS}/24", 1), (f"{V6}/64", 2), (f"{ADDRESS}/32", 3)):
            before = len(cluster.watch.timeline)
            option = ["nodad"] if ":" in written else []
            cluster.nodes["beta"].run(["ip", "address", "add", written, "dev", "eth0", *option])
            address = written.partition("/")[0]
            cluster.watch.wait(
                lambda before=before, address=address: (
                    [
                        change.present
                        for change in cluster.watch.timeline[before:]
                        if change.host == "beta" and change.address == address
                    ]
                    == [True, False]
                ),
                5,
            )
            came, went = [change.at for change in cluster.watch.timeline[before:] if change.host == "beta"]
            print(f"figure: {written} set on a standby is removed after {(went - came) * 1000:.1f} ms")
            subscriber.wait(lambda seconds=seconds: subscriber.kinds().count("beta stray") == seconds)
        lost = asking.stop().lost()
    assert lost == 0
    assert all("was set on eth0 by somebody else" in event["data"]["why"] for event in subscriber.events("web")
               if kind(event) == "stray")  # fmt: skip
    assert cluster.watch.held_by(ADDRESS) == ("alpha",) and cluster.watch.held_by(V6) == ("alpha",)


def test_after_a_conflict_the_holder_announces_its_addresses_again(make_cluster) -> None:  # type: ignore[no-untyped-def]
    cluster: Cluster = make_cluster(addresses=[f"{ADDRESS}/24", f"{V6}/64"])
    stranger = cluster.lab.host("stranger", ["10.0.0.66/24", "fd00::66/64"])
    subscriber = cluster.subscriber("event/#")
    cluster.up()
    time.sleep(11)  # its own announcements after the takeover are over
    holder, other = mac_of(cluster.nodes["alpha"]), mac_of(stranger)
    mac = bytes.fromhex(other.replace(":", ""))
    lies = [
        packets.arp_announcement(mac, IPv4Address(ADDRESS)),
        packets.arp_announcement(mac, IPv4Address(ADDRESS), reply=True),
        packets.neighbour_announcement(mac, IPv6Address(V6), False),
    ]
    for address in (ADDRESS, V6):
        assert cluster.client.run(["ping", "-c1", "-W2", address]).returncode == 0
        assert neighbour(cluster.client, address) == holder
    for _ in range(3):
        said = stranger.run([sys.executable, "-c", SHOUT, *(frame.hex() for frame in lies)])
        assert said.returncode == 0, said.stderr
        for address in (ADDRESS, V6):
            wait(lambda address=address: neighbour(cluster.client, address) == holder, 3)
        time.sleep(1.1)
    told = [event["data"] for event in subscriber.events("web") if kind(event) == "conflict"]
    assert {one["mac"] for one in told} == {other} and len(told) == 1, "told of once"
    assert cluster.moves() == ["alpha"]


def test_the_client_is_misled_where_nobody_defends() -> None:
    """That the test above can fail: a lie is believed."""
    with Lab() as lab:
        client, stranger = lab.host("client", ["10.0.0.9/24"]), lab.host("stranger", ["10.0.0.66/24"])
        alpha = lab.host("alpha", ["10.0.0.1/24"])
        assert client.run(["ping", "-c1", "-W2", "10.0.0.1"]).returncode == 0
        assert neighbour(client, "10.0.0.1") == mac_of(alpha)
        mac = bytes.fromhex(mac_of(stranger).replace(":", ""))
        lie = packets.arp_announcement(mac, IPv4Address("10.0.0.1"), reply=True)
        wait(
            lambda: (
                stranger.run([sys.executable, "-c", SHOUT, lie.hex()])
                and neighbour(client, "10.0.0.1") == mac_of(stranger)
            ),
            5,
        )
