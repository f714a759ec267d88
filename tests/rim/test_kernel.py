"""Addresses in the kernel: held for a time, gone by themselves, never revived; and what is seen of it. On uvloop.

Run with -s to see the figures.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

import pytest
import uvloop

from locum import clock
from locum.address import AddressChanged, Change, Interface, Kernel, LinkChanged, State, look, watch
from locum.address import kernel as kernel_module
from locum.demo.lab import Host, Lab
from tests.namespaces import NEEDS_NAMESPACES

V4, V4B, V6 = IPv4Interface("10.0.0.100/24"), IPv4Interface("10.0.0.101/24"), IPv6Interface("fd00::100/64")

pytestmark = NEEDS_NAMESPACES


@pytest.fixture
def host() -> Iterator[Host]:
    with Lab() as lab:
        yield lab.host("alpha", ["10.0.0.1/24", "fd00::1/64"])


def on(host: Host, body: Callable[[], Awaitable[None]]) -> None:
    """Runs the body on uvloop, in a thread that lives in the host."""

    async def main() -> None:
        async with asyncio.timeout(20):
            await body()

    host.inside(lambda: uvloop.run(main()))


def shown(host: Host, address: Interface) -> dict[str, Any] | None:
    """The address as `ip` shows it."""
    links = json.loads(host.run(["ip", "-j", "addr", "show", "dev", "eth0"]).stdout)
    for entry in links[0]["addr_info"]:
        if (entry["local"], entry["prefixlen"]) == (str(address.ip), address.network.prefixlen):
            return dict(entry)
    return None


class Seen:
    """The changes that were told, each with its time."""

    def __init__(self) -> None:
        self.changes: list[tuple[float, Change]] = []
        self._more = asyncio.Event()

    def __call__(self, change: Change) -> None:
        self.changes.append((clock.now(), change))
        self._more.set()

    async def first(self, change: Change, after: float = 0.0) -> float:
        """When the change was told for the first time after that moment."""
        async with asyncio.timeout(5):
            while True:
                for at, told in self.changes:
                    if told == change and at >= after:
                        return at
                self._more.clear()
                await self._more.wait()


class Jumps:
    """A clock that stands still and jumps ahead at its n-th reading: the process was stopped just then."""

    def __init__(self, at: int, by: float) -> None:
        self._start, self._at, self._by, self._readings = clock.now(), at, by, 0

    def __call__(self) -> float:
        self._readings += 1
        return self._start + (self._by if self._readings >= self._at else 0.0)


def test_an_address_is_held_renewed_and_goes_by_itself(host: Host) -> None:
    async def body() -> None:
        seen = Seen()
        async with Kernel(["eth0"], seen) as kernel:
            outcome = await kernel.hold("eth0", [V4, V6], clock.now() + 60.5)
            assert outcome.held and [result.seconds for result in outcome.results] == [60, 60]
            v4, v6 = shown(host, V4), shown(host, V6)
            assert v4 is not None and v6 is not None
            assert 59 <= v4["valid_life_time"] <= 60 and 59 <= v4["preferred_life_time"] <= 60
            assert 59 <= v6["valid_life_time"] <= 60 and v6["preferred_life_time"] == 0
            assert "tentative" not in v6 and v6["nodad"]

            until = clock.now() + 2.0
            outcome = await kernel.hold("eth0", [V4, V6], until, only_if_present=True)
            assert outcome.held and [result.seconds for result in outcome.results] == [1, 1]
            assert await kernel.present("eth0", [V6, V4, V4B]) == {V4, V6}

            # Nobody renews. The kernel is up to a second late, more on a busy machine (docs/guarantees.md).
            for address in (V4, V6):
                assert await seen.first(AddressChanged("eth0", address, present=False)) < until + 2
            assert await kernel.present("eth0", [V4, V6]) == set()
            told = [change for _, change in seen.changes]
            assert told[:2] == [AddressChanged("eth0", V4, True), AddressChanged("eth0", V6, True)]
            assert len(told) == 4, "a renewal is no change"

    on(host, body)


def test_prolonging_adds_nothing(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            await kernel.hold("eth0", [V4, V6], clock.now() + 10)
            host.run(["ip", "addr", "del", str(V4), "dev", "eth0"])
            outcome = await kernel.hold("eth0", [V4, V6], clock.now() + 10, only_if_present=True)
            assert [result.state for result in outcome.results] == [State.GONE, State.HELD]
            assert outcome.which(State.GONE) == (V4,) and not outcome.held
            assert "not on eth0 any more" in str(outcome)
            assert shown(host, V4) is None

    on(host, body)


@pytest.mark.parametrize("address", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("prolong", [False, True], ids=["taking", "prolonging"])
def test_what_was_set_after_the_lease_is_deleted_again(host: Host, address: Interface, prolong: bool) -> None:
    """The process is stopped between the look at the clock and the call, for longer than the lease."""

    async def body() -> None:
        async with Kernel() as kernel:
            await kernel.hold("eth0", [address], clock.now() + 10)
        jumps = Jumps(at=3, by=100.0)  # its turn in the queue, the look before, the look after
        async with Kernel(clock=jumps) as kernel:
            outcome = await kernel.hold("eth0", [address], clock.now() + 10, only_if_present=prolong)
            assert [result.state for result in outcome.results] == [State.LATE]
        assert shown(host, address) is None

    on(host, body)


def test_a_slow_call_gets_a_shorter_lifetime(host: Host) -> None:
    """Stopped for less than the lease: what the kernel began to count too late would end too late."""

    async def body() -> None:
        async with Kernel(clock=Jumps(at=3, by=4.0)) as kernel:
            outcome = await kernel.hold("eth0", [V4], clock.now() + 10.5)
            assert [(result.state, result.seconds) for result in outcome.results] == [(State.HELD, 6)]
            entry = shown(host, V4)
            assert entry is not None and entry["valid_life_time"] <= 6

    on(host, body)


def test_a_hold_that_waited_too_long_is_not_done_but_a_removal_is(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "REQUEST_SECONDS", 0.1)

    async def body() -> None:
        async with Kernel() as kernel:
            await kernel.hold("eth0", [V4], clock.now() + 10)
            stuck = asyncio.ensure_future(kernel._ask(lambda until: time.sleep(0.3), float("inf")))
            await asyncio.sleep(0)
            hold = asyncio.ensure_future(kernel.hold("eth0", [V6], clock.now() + 10))
            remove = asyncio.ensure_future(kernel.remove("eth0", [V4]))
            with pytest.raises(OSError, match=r"did not answer within 0\.1 s"):
                await stuck
            for waited in (await hold, await remove):
                assert [result.state for result in waited.results] == [State.ERROR]
                assert "the kernel did not answer within 0.1 s" in str(waited)
            await asyncio.sleep(0.3)
            assert await kernel.present("eth0", [V4, V6]) == set()

    on(host, body)


def test_what_is_asked_again_and_again_of_a_slow_kernel_waits_once(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            stuck = asyncio.ensure_future(kernel._ask(lambda until: time.sleep(0.5), float("inf")))
            await asyncio.sleep(0.1)
            asked: list[asyncio.Future[kernel_module.Outcome]] = []
            for number in range(400):
                asked.append(asyncio.ensure_future(kernel.hold("eth0", [V4], clock.now() + 5 + number / 100)))
                asked.append(asyncio.ensure_future(kernel.hold("eth0", [V6], clock.now() + 5)))
                await asyncio.sleep(0)
            for _ in range(400):
                asked.append(asyncio.ensure_future(kernel.remove("eth0", [V6])))
                await asyncio.sleep(0)
            assert kernel._queue.qsize() == 3
            await stuck
            outcomes = await asyncio.gather(*asked)
            assert all(outcome.held for outcome in outcomes[:800])
            assert all(outcome.gone for outcome in outcomes[800:])
            assert outcomes[0].results[0].seconds >= 7, "the latest time that was asked for"
            assert await kernel.present("eth0", [V4, V6]) == {V4}, "in the order in which they were asked for"

    on(host, body)


def test_the_end_comes_also_where_the_kernel_is_too_late(host: Host) -> None:
    """Nobody prolongs it, and the kernel would keep it: the thread deletes it, without the loop."""

    async def body() -> None:
        async with Kernel() as kernel:
            until = clock.now() + 1.5
            await kernel.hold("eth0", [V4, V6], until)
            for address in (V4, V6):
                host.run(["ip", "addr", "replace", str(address), "dev", "eth0"])
            time.sleep(until - clock.now() - 0.1)  # noqa: ASYNC251
            assert shown(host, V4) and shown(host, V6)
            time.sleep(0.3)  # noqa: ASYNC251
            assert not shown(host, V4) and not shown(host, V6)

    on(host, body)


def test_too_little_time_sets_nothing_and_leaves_what_is_there(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            assert not (await kernel.hold("eth0", [V4], clock.now() + 1.2)).held
            assert shown(host, V4) is None
            await kernel.hold("eth0", [V4], clock.now() + 10)
            outcome = await kernel.hold("eth0", [V4], clock.now() + 1.2, only_if_present=True)
            assert outcome.results[0].state is State.LATE
            assert shown(host, V4) is not None
            await kernel.hold("eth0", [V4], clock.now() - 1, only_if_present=True)
            assert shown(host, V4) is not None, "its turn came too late: not done"

    on(host, body)


def test_removing_what_is_not_there_is_done(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            await kernel.hold("eth0", [V4, V6], clock.now() + 10)
            assert (await kernel.remove("eth0", [V4, V6])).gone
            again = await kernel.remove("eth0", [V4, V6])
            assert again.gone and "it was not there" in str(again)
            nowhere = await kernel.remove("eth9", [V4])
            assert nowhere.gone and "interface eth9 does not exist" in str(nowhere)

    on(host, body)


def test_errors_are_one_clear_line(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            outcome = await kernel.hold("eth9", [V4, V6], clock.now() + 10)
            assert [result.note for result in outcome.results] == ["interface eth9 does not exist"] * 2
            assert not (await kernel.link("eth9")).exists
            assert await kernel.present("eth9", [V4]) == set()

            host.run(["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"])
            outcome = await kernel.hold("eth0", [V4, V6, V4B], clock.now() + 10)
            assert [result.state for result in outcome.results] == [State.HELD, State.ERROR, State.HELD]
            assert outcome.results[1].note == "IPv6 is off on eth0: see the sysctl disable_ipv6"
            assert shown(host, V4B) is not None, "one that fails keeps no other from being set"

            outcome = await kernel.hold("eth0", [IPv4Interface("10.0.0.1/16")], clock.now() + 10)
            assert outcome.held or "prefix length" in str(outcome)

    on(host, body)


def test_a_hundred_addresses_are_set_and_removed_and_each_is_answered_for(host: Host) -> None:
    many = [IPv4Interface(f"10.7.0.{number}/24") for number in range(1, 101)]
    many += [IPv6Interface(f"fd00:7::{number}/64") for number in range(1, 101)]

    async def body() -> None:
        async with Kernel() as kernel:
            outcome = await kernel.hold("eth0", many, clock.now() + 10)
            assert outcome.held
            assert [result.address for result in outcome.results] == many
            assert await kernel.present("eth0", many) == set(many)

            gone = [many[3], many[90], many[150]]
            for address in gone:
                host.run(["ip", "addr", "del", str(address), "dev", "eth0"])
            outcome = await kernel.hold("eth0", many, clock.now() + 10, only_if_present=True)
            assert list(outcome.which(State.GONE)) == gone
            assert len(outcome.which(State.HELD)) == 197
            outcome = await kernel.remove("eth0", many)
            assert outcome.gone
            assert [result.address for result in outcome.results if result.note] == gone
            assert await kernel.present("eth0", many) == set()

            host.run(["ip", "addr", "add", "10.7.0.64/25", "dev", "eth0"])  # as if set by hand, beside ours
            host.run(["sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1"])
            outcome = await kernel.hold("eth0", many, clock.now() + 10)
            assert outcome.which(State.HELD) == tuple(many[:100])
            assert outcome.which(State.ERROR) == tuple(many[100:])

    on(host, body)


def test_the_interface_as_it_is(host: Host) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            link = await kernel.link("eth0")
            assert (link.exists, link.up, link.carrier, link.mtu) == (True, True, True, 1500)
            assert link.mac == host.mac() and link.index > 0
            host.cut()
            assert not (await kernel.link("eth0")).carrier
            host.run(["ip", "link", "set", "eth0", "down"])
            assert not (await kernel.link("eth0")).up

    on(host, body)


def test_what_others_do_is_seen_at_once(host: Host) -> None:
    async def body() -> None:
        seen = Seen()
        async with Kernel(["eth0"], seen) as kernel:
            await kernel.hold("eth0", [V4, V6], clock.now() + 10)
            for address in (V4, V6):
                before = clock.now()
                host.run(["ip", "addr", "del", str(address), "dev", "eth0"])
                after = clock.now()
                at = await seen.first(AddressChanged("eth0", address, present=False), before)
                print(f"\ndeleted by hand, seen {1000 * max(0.0, at - after):.2f} ms after ip had ended")
            before = clock.now()
            host.run(["ip", "addr", "add", str(V4B), "dev", "eth0"])
            await seen.first(AddressChanged("eth0", V4B, present=True), before)

            before = clock.now()
            host.cut()
            lost = await seen.first(LinkChanged("eth0", exists=True, carrier=False), before)
            back = clock.now()
            host.mend()
            found = await seen.first(LinkChanged("eth0", exists=True, carrier=True), back)
            print(f"carrier lost, seen after {lost - before:.3f} s; back, seen after {found - back:.3f} s")

    on(host, body)


def test_an_interface_that_is_made_again_goes_on(host: Host) -> None:
    async def body() -> None:
        make = ["ip", "link", "add", "vip0", "type", "veth", "peer", "name", "vip1"]
        seen = Seen()
        async with Kernel(["vip0"], seen) as kernel:
            host.run(make)
            host.run(["ip", "link", "set", "vip1", "up"])
            host.run(["ip", "link", "set", "vip0", "up"])
            await seen.first(LinkChanged("vip0", exists=True, carrier=True))
            assert (await kernel.hold("vip0", [V4], clock.now() + 10)).held
            first = (await kernel.link("vip0")).index
            await seen.first(AddressChanged("vip0", V4, present=True))

            gone = clock.now()
            host.run(["ip", "link", "del", "vip0"])
            await seen.first(AddressChanged("vip0", V4, present=False), gone)
            await seen.first(LinkChanged("vip0", exists=False, carrier=False), gone)
            outcome = await kernel.hold("vip0", [V4], clock.now() + 10, only_if_present=True)
            assert outcome.results[0].state is State.GONE

            again = clock.now()
            host.run(make)
            host.run(["ip", "link", "set", "vip1", "up"])
            host.run(["ip", "link", "set", "vip0", "up"])
            await seen.first(LinkChanged("vip0", exists=True, carrier=True), again)
            assert (await kernel.link("vip0")).index != first
            assert (await kernel.hold("vip0", [V4], clock.now() + 10)).held
            await seen.first(AddressChanged("vip0", V4, present=True), again)

    on(host, body)


def test_a_storm_of_events_ends_with_the_truth(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop does not keep up, the kernel throws events away, and yet the last word is right."""
    monkeypatch.setattr(watch, "MAX_PENDING", 8)
    monkeypatch.setattr(watch, "RECEIVE_BYTES", 4096)
    opened: list[float] = []
    look_again = watch.Watch._open

    def counted(self: watch.Watch) -> None:
        opened.append(time.monotonic())
        look_again(self)

    monkeypatch.setattr(watch.Watch, "_open", counted)

    async def body() -> None:
        seen = Seen()
        index = look.index_of("eth0")
        assert index is not None
        there_before = {message.address for message in look.addresses(index)}
        async with Kernel(["eth0"], seen) as kernel:
            lines = [f"addr add 10.1.{n // 200}.{n % 200 + 1}/32 dev eth0\n" for n in range(400)]
            lines += [f"addr del 10.1.{n // 200}.{n % 200 + 1}/32 dev eth0\n" for n in range(0, 400, 2)]
            storm = host.popen(["ip", "-batch", "-"], stdin=-1, text=True)
            storm.communicate("".join(lines))  # the loop stands still meanwhile
            storm.wait()
            await kernel.hold("eth0", [V4], clock.now() + 10)
            await seen.first(AddressChanged("eth0", V4, present=True))
            await asyncio.sleep(0.2)
            known: set[Interface] = set()
            for _, change in seen.changes:
                assert isinstance(change, AddressChanged)
                (known.add if change.present else known.discard)(change.address)
            now_there = {message.address for message in look.addresses(index)}
            assert known == now_there - there_before
            assert len(opened) > 1, "no event was lost: the test tests nothing"

    on(host, body)


def test_the_host_does_not_speak_from_the_moving_address(host: Host) -> None:
    """The source that the kernel chooses for the host's own connections is the host's own."""
    beta = host.lab.host("beta", ["10.0.0.2/24", "fd00::2/64"])

    def source(to: str) -> str:
        return str(json.loads(host.run(["ip", "-j", "route", "get", to]).stdout)[0]["prefsrc"])

    async def body() -> None:
        async with Kernel() as kernel:
            # Close to the destination: without preferred_lft 0 the longest prefix (RFC 6724, rule 8) would choose it.
            near = IPv6Interface("fd00::3/64")
            await kernel.hold("eth0", [V4, near], clock.now() + 10)
            assert source("10.0.0.2") == "10.0.0.1"
            assert source("fd00::2") == "fd00::1"
            for address in (V4, near):
                assert beta.run(["ping", "-c1", "-W1", str(address.ip)]).returncode == 0, address

    on(host, body)


def test_the_hosts_own_network_stays_when_the_address_goes(host: Host) -> None:
    """An address with a lifetime (as by SLAAC), and ours in its network: the route keeps the host's lifetime."""

    def route() -> str:
        return host.run(["ip", "-6", "route", "show", "fd00:5::/64"]).stdout

    async def body() -> None:
        own = ["ip", "addr", "add", "fd00:5::1/64", "dev", "eth0", "valid_lft", "1000", "preferred_lft", "900"]
        host.run([*own, "nodad"])
        async with Kernel() as kernel:
            for _ in range(2):
                assert (await kernel.hold("eth0", [IPv6Interface("fd00:5::100/64")], clock.now() + 3)).held
            assert "expires 1000sec" in route() or "expires 999sec" in route()
            # With no address of the host's own there, the route comes with ours.
            assert (await kernel.hold("eth0", [IPv6Interface("fd00:6::100/64")], clock.now() + 3)).held
            assert "fd00:6::/64" in host.run(["ip", "-6", "route"]).stdout

    on(host, body)


def test_it_works_where_uvloop_is_the_policy(host: Host) -> None:
    """pyroute2 would take its loop from there, and fail."""
    policy = asyncio.get_event_loop_policy()

    async def body() -> None:
        async with Kernel() as kernel:
            assert (await kernel.hold("eth0", [V4], clock.now() + 10)).held

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        host.inside(lambda: asyncio.run(body()))
    finally:
        asyncio.set_event_loop_policy(policy)


def set_for_a_second(host: Host) -> float:
    """Sets both addresses by hand, and tells when."""
    host.run(["ip", "addr", "add", str(V4), "dev", "eth0", "valid_lft", "1", "preferred_lft", "1"])
    host.run(["ip", "addr", "add", str(V6), "dev", "eth0", "valid_lft", "1", "preferred_lft", "0", "nodad"])
    return clock.now()


def test_figures(host: Host) -> None:
    """How late Linux is, how fast a renewal is. Printed, not judged."""

    async def body() -> None:
        seen = Seen()
        async with Kernel(["eth0"], seen) as kernel:
            times: list[float] = []
            for _ in range(300):
                start = time.perf_counter()
                await kernel.hold("eth0", [V4], clock.now() + 10, only_if_present=bool(times))
                times.append(1000 * (time.perf_counter() - start))
            print(f"\nhold() of one address: median {statistics.median(times):.2f} ms, worst {max(times):.2f} ms")

            # Set by hand, so that nobody but Linux removes it.
            late: dict[int, list[float]] = {4: [], 6: []}
            await kernel.remove("eth0", [V4])
            for pause in (0.0, 0.3, 0.6):
                await asyncio.sleep(pause)
                at = set_for_a_second(host)
                for address in (V4, V6):
                    gone = await seen.first(AddressChanged("eth0", address, present=False), at)
                    late[address.version].append(gone - at - 1)
            for version, samples in late.items():
                print(f"IPv{version} removed late by " + ", ".join(f"{1000 * value:.0f}" for value in samples) + " ms")

            at = set_for_a_second(host)
            await asyncio.sleep(at + 0.9 - clock.now())
            host.run(["ip", "addr", "add", "10.8.0.1/24", "dev", "eth0"])
            host.run(["ip", "addr", "add", "fd00:8::1/64", "dev", "eth0"])
            for address in (V4, V6):
                gone = await seen.first(AddressChanged("eth0", address, present=False), at)
                print(f"IPv{address.version}, another address added 0.1 s before: late by {gone - at - 1:.2f} s")

    on(host, body)
