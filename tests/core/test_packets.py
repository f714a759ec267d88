"""Frames and lifetimes: what goes out is what the RFCs say, and what comes in may be anything."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locum.address import packets
from locum.address.lifetime import SLACK_SECONDS, kernel_seconds
from locum.address.netlink import addresses_request, links_request, messages

OURS, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
V4, V6 = IPv4Address("10.0.0.100"), IPv6Address("fd00::12:3456")

v4_addresses = st.ip_addresses(v=4).map(lambda ip: IPv4Address(str(ip)))
v6_addresses = st.ip_addresses(v=6).map(lambda ip: IPv6Address(str(ip)))
macs = st.binary(min_size=6, max_size=6)


def test_an_arp_probe_byte_for_byte() -> None:
    assert packets.arp_probe(OURS, V4).hex() == (
        "ffffffffffff" "020000000001" "0806"  # to everybody, from us, ARP
        "0001" "0800" "06" "04" "0001"  # Ethernet, IPv4, a request
        "020000000001" "00000000"  # from us, at no address
        "000000000000" "0a000064"
    )  # fmt: skip


def test_an_announcement_says_the_same_in_both_forms() -> None:
    request, reply = (packets.parse_arp(packets.arp_announcement(OURS, V4, reply=reply)) for reply in (False, True))
    assert request == packets.Arp(packets.ARP_REQUEST, OURS, V4, V4)
    assert reply == packets.Arp(packets.ARP_REPLY, OURS, V4, V4)


def test_a_neighbour_probe_comes_from_nobody_and_goes_to_the_solicited_node_group() -> None:
    frame = packets.neighbour_probe(OURS, V6)
    assert frame[:14].hex() == "3333ff123456" "020000000001" "86dd"  # fmt: skip
    assert frame[14:22].hex() == "60000000" "0018" "3a" "ff"  # 24 bytes: no option; hop limit 255  # fmt: skip
    assert frame[22:38] == bytes(16)
    assert IPv6Address(frame[38:54]) == IPv6Address("ff02::1:ff12:3456")
    assert packets.parse_solicitation(frame) == packets.Solicitation(IPv6Address("::"), V6, OURS)
    assert packets.parse_advertisement(frame) is None


@pytest.mark.parametrize(("router", "flags"), [(False, 0x20), (True, 0xA0)])
def test_an_announcement_of_an_ipv6_address_overrides_and_is_not_solicited(router: bool, flags: int) -> None:
    frame = packets.neighbour_announcement(OURS, V6, router)
    assert frame[:6].hex() == "333300000001"
    assert frame[58] == flags
    assert frame[-8:].hex() == "0201" + OURS.hex()
    assert packets.parse_advertisement(frame) == packets.Advertisement(V6, OURS)


def test_a_known_checksum() -> None:
    """An advertisement that tcpdump calls correct."""
    frame = packets.neighbour_announcement(OURS, IPv6Address("fd00::100"))
    words = frame[22:54] + (32).to_bytes(4) + (58).to_bytes(4) + frame[54:]
    total = sum(int.from_bytes(words[at : at + 2]) for at in range(0, len(words), 2))
    assert total % 0xFFFF == 0


def test_an_advertisement_that_does_not_name_a_mac_means_that_of_its_frame() -> None:
    frame = bytearray(packets.neighbour_announcement(OURS, V6)[:-8])
    frame[18:20] = (24).to_bytes(2)
    frame[56:58] = b"\0\0"
    frame[56:58] = packets._checksum(bytes(frame[22:38]), bytes(frame[38:54]), bytes(frame[54:])).to_bytes(2)
    assert packets.parse_advertisement(bytes(frame)) == packets.Advertisement(V6, OURS)


def test_what_comes_from_another_network_or_is_damaged_does_not_count() -> None:
    good = packets.neighbour_announcement(THEIRS, V6)
    for at, value in ((21, 64), (55, 1), (60, 7), (57, 0), (19, 31), (14, 0x40)):
        bad = bytearray(good)
        bad[at] ^= value or 0x55
        assert packets.parse_advertisement(bytes(bad)) is None, at


@given(v4_addresses, macs, st.binary(max_size=18))
def test_arp_comes_back_as_it_went_out_padded_or_not(address: IPv4Address, mac: bytes, padding: bytes) -> None:
    parsed = packets.parse_arp(packets.arp_probe(mac, address) + padding)
    assert parsed == packets.Arp(packets.ARP_REQUEST, mac, IPv4Address(0), address)


@given(v6_addresses, macs, st.booleans(), st.binary(max_size=18))
def test_neighbour_discovery_comes_back_as_it_went_out(
    address: IPv6Address, mac: bytes, router: bool, padding: bytes
) -> None:
    told = packets.neighbour_announcement(mac, address, router) + padding
    assert packets.parse_advertisement(told) == packets.Advertisement(address, mac)
    asked = packets.neighbour_probe(mac, address) + padding
    assert packets.parse_solicitation(asked) == packets.Solicitation(IPv6Address(0), address, mac)


@given(st.binary(max_size=200))
def test_garbage_is_nothing(frame: bytes) -> None:
    packets.parse_arp(frame)
    packets.parse_advertisement(frame)
    packets.parse_solicitation(frame)
    list(messages(frame))


@given(
    st.sampled_from(
        [packets.arp_probe(OURS, V4), packets.neighbour_announcement(OURS, V6), packets.neighbour_probe(OURS, V6)]
    ),
    st.integers(0, 100),
    st.binary(max_size=40),
)
def test_damaged_frames_raise_nothing(frame: bytes, at: int, damage: bytes) -> None:
    damaged = frame[:at] + damage + frame[at + len(damage) :]
    for changed in (damaged, frame[:at]):
        packets.parse_arp(changed)
        packets.parse_advertisement(changed)
        packets.parse_solicitation(changed)


@given(st.sampled_from([16, 17, 20, 21, 2, 3]), st.binary(max_size=120))
def test_netlink_garbage_in_a_good_header_raises_nothing(kind: int, body: bytes) -> None:
    header = (16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10)
    list(messages(header + body))
    list(messages(addresses_request(3) + links_request(0)))


times = st.floats(0, 1e9)


@given(times, st.floats(-10, 1e6))
def test_the_kernel_lets_go_before_anybody_else_may_act(now: float, left: float) -> None:
    until = now + left
    seconds = kernel_seconds(until, now)
    assert seconds >= 0
    if seconds > 0:
        assert now + seconds + SLACK_SECONDS <= until


@given(times, st.floats(-10, 1e6))
def test_and_not_a_second_sooner_than_it_must(now: float, left: float) -> None:
    until = now + left
    assert now + (kernel_seconds(until, now) + 1) + SLACK_SECONDS > until


@pytest.mark.parametrize(
    ("left", "seconds"), [(2.5, 2), (2.35, 2), (2.34, 1), (1.36, 1), (1.3, 0), (0.2, 0), (0.0, 0), (-5.0, 0)]
)
def test_lifetimes_at_the_edges(left: float, seconds: int) -> None:
    assert kernel_seconds(left, 0.0) == seconds


@pytest.mark.parametrize("strange", [float("inf"), float("nan")])
def test_a_lease_without_an_end_is_an_error(strange: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        kernel_seconds(strange, 0.0)
