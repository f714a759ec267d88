"""The wire is asked, and answers; neighbours believe an announcement. Hosts on a virtual switch, on uvloop."""

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Interface, IPv6Interface

import pytest
import uvloop

from locum.address import Answer, Interface, Wire, WireError, packets, wire
from locum.demo.lab import Host, Lab
from tests.namespaces import NEEDS_NAMESPACES

V4, V6 = IPv4Interface("10.0.0.100/24"), IPv6Interface("fd00::100/64")

pytestmark = NEEDS_NAMESPACES


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.host("alpha", ["10.0.0.1/24", "fd00::1/64"])
        lab.host("beta", ["10.0.0.2/24", "fd00::2/64"])
        yield lab


def on(host: Host, body: Callable[[], Awaitable[None]]) -> None:
    """Runs the body on uvloop, in a thread that lives in the host."""

    async def main() -> None:
        async with asyncio.timeout(15):
            await body()

    host.inside(lambda: uvloop.run(main()))


def known_mac(host: Host, address: Interface) -> str | None:
    """The MAC that a host has in its neighbour cache."""
    entries = json.loads(host.run(["ip", "-j", "neigh", "show", str(address.ip)]).stdout or "[]")
    return entries[0].get("lladdr") if entries else None


def sender(host: Host) -> socket.socket:
    """A packet socket in a host."""

    def opened() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.bind(("eth0", 0))
        return made

    return host.inside(opened)


def test_silence_takes_its_time_and_an_answer_does_not(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]

    async def body() -> None:
        with Wire("eth0") as asked:
            for address in (V4, V6):
                start = time.perf_counter()
                assert await asked.probe([address]) is None
                silence = time.perf_counter() - start
                assert silence >= wire.LISTEN_SECONDS - 0.001

                beta.add_addresses([str(address)])
                start = time.perf_counter()
                assert await asked.probe([address]) == Answer(address, beta.mac())
                print(
                    f"\nIPv{address.version}: silence after {1000 * silence:.1f} ms,"
                    f" an answer after {1000 * (time.perf_counter() - start):.2f} ms"
                )
            assert await asked.probe([]) is None

    on(alpha, body)


def test_one_user_among_several_addresses_is_found(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    beta.add_addresses([str(V6)])

    async def body() -> None:
        with Wire("eth0") as asked:
            assert await asked.probe([V4, V6]) == Answer(V6, beta.mac())
            # And several at once on one wire do not get in each other's way.
            several = await asyncio.gather(asked.probe([V4]), asked.probe([V6]), asked.probe([V4, V6]))
            assert list(several) == [None, Answer(V6, beta.mac()), Answer(V6, beta.mac())]

    on(alpha, body)


def test_a_probe_is_bounded_and_goes_round(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    many = [IPv4Interface(f"10.0.0.{100 + n}/24") for n in range(20)]
    beta.add_addresses([str(many[17])])

    async def body() -> None:
        with Wire("eth0") as asked:
            frames = 0
            send = asked._send

            def counted(ethertype: int, frame: bytes) -> None:
                nonlocal frames
                frames += 1
                send(ethertype, frame)

            asked._send = counted  # type: ignore[method-assign]
            answers = [await asked.probe(many) for _ in range(2)]
            assert answers == [None, None] and frames == 2 * wire.MAX_FRAMES
            assert await asked.probe(many) == Answer(many[17], beta.mac())

    on(alpha, body)


def test_who_counts_as_a_user(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    ours, theirs = (bytes.fromhex(host.mac().replace(":", "")) for host in (alpha, beta))
    speaker = sender(beta)
    v4, v6 = V4.ip, V6.ip
    solicitation_from_v6 = packets._neighbour(
        theirs, packets.SOLICITATION, v6, packets.solicited_node(IPv6Interface("fd00::1").ip), 0,
        IPv6Interface("fd00::1").ip, b"",
    )  # fmt: skip
    uses = [
        packets.arp_announcement(theirs, v4),
        packets.arp_announcement(theirs, v4, reply=True),
        packets.neighbour_announcement(theirs, v6),
        solicitation_from_v6,
    ]
    asks = [
        packets.arp_probe(theirs, v4),
        packets.neighbour_probe(theirs, v6),
        packets.arp_announcement(ours, v4),  # our own, that came back
        packets.neighbour_announcement(ours, v6),
        packets.arp_announcement(theirs, IPv4Interface("10.0.0.99").ip),  # another address
        b"\xff" * 60,
    ]

    async def hear(frame: bytes) -> Answer | None:
        with Wire("eth0") as asked:
            probe = asyncio.ensure_future(asked.probe([V4, V6]))
            await asyncio.sleep(0.005)
            speaker.send(frame)
            return await probe

    async def body() -> None:
        for frame in uses:
            answer = await hear(frame)
            assert answer is not None and answer.mac == beta.mac(), frame.hex()
        for frame in asks:
            assert await hear(frame) is None, frame.hex()

    with speaker:
        on(alpha, body)


def test_what_came_before_the_probe_is_no_answer(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    theirs = bytes.fromhex(beta.mac().replace(":", ""))

    async def body() -> None:
        with sender(beta) as speaker, Wire("eth0") as asked:
            assert await asked.probe([V4, V6]) is None
            speaker.send(packets.arp_announcement(theirs, V4.ip))
            speaker.send(packets.neighbour_announcement(theirs, V6.ip))
            await asyncio.sleep(0.005)
            assert await asked.probe([V4, V6]) is None

    on(alpha, body)


def test_an_answer_counts_that_came_while_the_process_stood_still(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    beta.add_addresses([str(V4), str(V6)])

    async def body() -> None:
        with Wire("eth0") as asked:
            for address in (V4, V6):
                probe = asyncio.ensure_future(asked.probe([address]))
                await asyncio.sleep(0)
                time.sleep(0.1)  # noqa: ASYNC251
                assert await probe == Answer(address, beta.mac())

    on(alpha, body)


def test_the_wakeups_of_a_busy_interface(lab: Lab) -> None:
    """The filter lets neighbours' talk pass and nothing else."""
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    theirs = bytes.fromhex(beta.mac().replace(":", ""))
    discovery = packets.neighbour_probe(theirs, V6.ip)
    told = packets.neighbour_announcement(theirs, V6.ip)
    arp = packets.arp_probe(theirs, V4.ip)
    echo = discovery[:54] + b"\x80" + discovery[55:]
    udp6 = discovery[:20] + b"\x11" + discovery[21:]
    ipv4 = arp[:12] + b"\x08\x00" + b"E" + bytes(60)
    frames = [arp, discovery, told, echo, udp6, ipv4, arp[:20], discovery[:30]]

    def heard(program: tuple[tuple[int, int, int, int], ...]) -> list[bytes]:
        def opened() -> socket.socket:
            every = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            wire.attach_filter(every, program)
            every.bind(("eth0", 3))  # ETH_P_ALL
            every.settimeout(0.05)
            return every

        with alpha.inside(opened) as every, sender(beta) as speaker:
            for frame in frames:
                speaker.send(frame)
            got = []
            try:
                while True:
                    frame = every.recv(2048)
                    if frame[6:12] == theirs:
                        got.append(frame)
            except TimeoutError:
                return got

    assert [frame for frame in heard(wire.NEIGHBOURS) if frame in frames] == [arp, discovery, told, arp[:20]]
    assert heard(wire.NOTHING) == []


def test_neighbours_follow_an_announcement(lab: Lab) -> None:
    alpha, beta = lab.hosts["alpha"], lab.hosts["beta"]
    client = lab.host("client", ["10.0.0.3/24", "fd00::3/64"])
    for address in (V4, V6):
        beta.add_addresses([str(address)])
        assert client.run(["ping", "-c1", "-W1", str(address.ip)]).returncode == 0
        assert known_mac(client, address) == beta.mac()
        beta.run(["ip", "addr", "del", str(address), "dev", "eth0"])
        alpha.add_addresses([str(address)])
    assert {known_mac(client, address) for address in (V4, V6)} == {beta.mac()}

    async def body() -> None:
        with Wire("eth0") as told:
            start = time.perf_counter()
            told.announce([V4, V6])
            print(f"\nannouncing two addresses took {1000 * (time.perf_counter() - start):.2f} ms")
            for _ in range(100):
                if {known_mac(client, address) for address in (V4, V6)} == {alpha.mac()}:
                    break
                await asyncio.sleep(0.01)
            assert {known_mac(client, address) for address in (V4, V6)} == {alpha.mac()}

    on(alpha, body)
    for address in (V4, V6):
        assert client.run(["ping", "-c1", "-W1", str(address.ip)]).returncode == 0


def test_a_wire_that_cannot_be_asked_is_no_silence(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    alpha = lab.hosts["alpha"]

    async def body() -> None:
        with Wire("eth9") as nowhere:
            with pytest.raises(WireError, match=r"^interface eth9 does not exist$"):
                await nowhere.probe([V4])
            nowhere.announce([V4])
            assert "interface eth9 does not exist" in caplog.text
        with Wire("lo") as loopback, pytest.raises(WireError, match="lo is no Ethernet interface"):
            await loopback.probe([V4])

        with Wire("eth0") as asked:
            assert await asked.probe([V4, V6]) is None
            alpha.cut()
            with pytest.raises(WireError, match=r"^interface eth0 has no carrier$"):
                await asked.probe([V4, V6])
            alpha.mend()
            alpha.run(["ip", "link", "set", "eth0", "down"])
            with pytest.raises(WireError, match=r"^interface eth0 is down$"):
                await asked.probe([V4, V6])
            alpha.run(["ip", "link", "set", "eth0", "up"])
            assert await asked.probe([V4, V6]) is None

            probes = [asyncio.ensure_future(asked.probe([address])) for address in (V4, V6)]
            await asyncio.sleep(0.005)
            alpha.cut()
            for probe in probes:
                with pytest.raises(WireError):
                    await probe
            alpha.mend()
            probe = asyncio.ensure_future(asked.probe([V4]))
            await asyncio.sleep(0.005)
            asked.close()
            with pytest.raises(WireError, match="closed"):
                await probe

    on(alpha, body)


def test_an_interface_that_is_made_again_is_asked_again(lab: Lab) -> None:
    alpha = lab.hosts["alpha"]

    def make() -> None:
        alpha.run(["ip", "link", "add", "vip0", "type", "veth", "peer", "name", "vip1"])
        alpha.run(["ip", "link", "set", "vip1", "up"])
        alpha.run(["ip", "link", "set", "vip0", "up"])

    async def body() -> None:
        with Wire("vip0") as asked:
            make()
            assert await asked.probe([V4, V6]) is None
            probe = asyncio.ensure_future(asked.probe([V4, V6]))
            await asyncio.sleep(0.005)
            alpha.run(["ip", "link", "del", "vip0"])
            with pytest.raises(WireError):
                await probe
            with pytest.raises(WireError, match="does not exist"):
                await asked.probe([V4])
            make()
            assert await asked.probe([V4, V6]) is None
            alpha.run(["ip", "link", "del", "vip0"])
            make()  # nobody looked meanwhile
            assert await asked.probe([V4, V6]) is None

    on(alpha, body)


def test_a_cancelled_probe_leaves_nothing_behind(lab: Lab) -> None:
    async def body() -> None:
        with Wire("eth0") as asked:
            probe = asyncio.ensure_future(asked.probe([V4, V6]))
            await asyncio.sleep(0.005)
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
            assert not asked._listeners and not asked._reading
            assert await asked.probe([V4, V6]) is None

    on(lab.hosts["alpha"], body)
