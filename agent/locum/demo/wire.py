"""Links, bridges and addresses over netlink, so that a machine without iproute2 can have a lab too.

Every function here acts in the network namespace of the calling thread: run it by Namespace.inside.
"""

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_IFA_F_NODAD = 0x02
_SCOPE_LINK = 253
_ROOT = 0xFFFF_FFFF  # TC_H_ROOT


def prepare_host() -> None:
    """Loopback up; an IPv6 address works at once (no duplicate address detection), and nobody asks for a router."""
    _sysctl("net/ipv6/conf/all/accept_dad", 0)  # the kernel takes the larger of all and the interface
    _sysctl("net/ipv6/conf/default/accept_dad", 0)
    _sysctl("net/ipv6/conf/default/router_solicitations", 0)
    set_up("lo")


def prepare_switch() -> None:
    """A switch has no addresses of its own, and passes frames without a look from the packet filters above."""
    _sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    for family in ("iptables", "ip6tables", "arptables"):
        _sysctl(f"net/bridge/bridge-nf-call-{family}", 0)


def make_bridge(name: str) -> None:
    """A bridge that forwards from the first frame on: no spanning tree, no delay, no multicast snooping."""
    with _netlink() as netlink:
        netlink.link(
            "add", ifname=name, kind="bridge", br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0, state="up"
        )


def plug(port: str, bridge: str, interface: str, mac: str, namespace: int) -> None:
    """A cable: port on the bridge, and interface with that MAC in the namespace behind the descriptor."""
    with _netlink() as netlink:
        far_end = {"ifname": interface, "address": mac, "net_ns_fd": namespace}
        netlink.link("add", ifname=port, kind="veth", peer=far_end)
        netlink.link("set", index=_index(netlink, port), master=_index(netlink, bridge), state="up")


def attach(port: str, bridge: str | None) -> None:
    """Attach the port to the bridge, or to none; its carrier stays as it is."""
    with _netlink() as netlink:
        netlink.link("set", index=_index(netlink, port), master=_index(netlink, bridge) if bridge else 0)


def set_up(interface: str, up: bool = True) -> None:
    """Set the interface up or down; down, the other end of the cable loses its carrier."""
    with _netlink() as netlink:
        netlink.link("set", index=_index(netlink, interface), state="up" if up else "down")


def add_addresses(interface: str, addresses: Iterable[str]) -> None:
    """Add addresses such as 10.0.0.1/24 and fd00::1/64, for ever."""
    with _netlink() as netlink:
        index = _index(netlink, interface)
        for text in addresses:
            address = ipaddress.ip_interface(text)
            flags = {"flags": _IFA_F_NODAD} if address.version == 6 else {}
            netlink.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)


def remove_addresses(interface: str) -> None:
    """Remove every address but the link-local one."""
    with _netlink() as netlink:
        index = _index(netlink, interface)
        # A second address of a subnet goes with the first one: it may be gone when its turn comes.
        for _, text in _addresses(netlink, index):
            address = ipaddress.ip_interface(text)
            with contextlib.suppress(NetlinkError):
                netlink.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)


def addresses(interface: str) -> list[str]:
    """The addresses of the interface, in the kernel's order, IPv4 first; without the link-local one."""
    with _netlink() as netlink:
        return [text for _, text in _addresses(netlink, _index(netlink, interface))]


def all_addresses() -> list[tuple[int, str]]:
    """(interface index, address/prefix) of every interface; without link-local and loopback addresses."""
    with _netlink() as netlink:
        return _addresses(netlink)


def mac(interface: str) -> str:
    """The interface's hardware address, such as 02:00:00:00:00:01."""
    with _netlink() as netlink:
        (link,) = netlink.get_links(_index(netlink, interface))
        return str(link.get_attr("IFLA_ADDRESS"))


def carrier(interface: str) -> bool:
    """Whether the interface is up and has a carrier."""
    with _netlink() as netlink:
        (link,) = netlink.get_links(_index(netlink, interface))
        return bool(link.get_attr("IFLA_CARRIER"))


def shape(interface: str, bits_per_second: int | None) -> None:
    """Let that much leave by the interface (token bucket, 50 ms of queue); None lifts the limit."""
    with _netlink() as netlink:
        index = _index(netlink, interface)
        if bits_per_second is None:
            with contextlib.suppress(NetlinkError):  # there was none
                netlink.tc("del", index=index, handle="1:", parent=_ROOT)
            return
        rate = bits_per_second // 8
        burst = max(rate // 100, 3_200)  # 10 ms, and at least two frames
        netlink.tc("replace", "tbf", index, "1:", rate=rate, burst=burst, latency="50ms")


@contextlib.contextmanager
def _netlink() -> Iterator[Any]:
    with IPRoute() as netlink:
        yield netlink


def _index(netlink: Any, name: str) -> int:
    found = netlink.link_lookup(ifname=name)
    if not found:
        raise ValueError(f"no interface {name} here")
    return int(found[0])


def _addresses(netlink: Any, index: int | None = None) -> list[tuple[int, str]]:
    return [
        (message["index"], f"{message.get('local') or message.get('address')}/{message['prefixlen']}")
        for message in netlink.get_addr()
        if message["scope"] < _SCOPE_LINK and index in (None, message["index"])
    ]


def _sysctl(name: str, value: int) -> None:
    # /proc/sys is read-only in some containers. The addresses that the lab adds are without detection in any case.
    with contextlib.suppress(OSError):
        Path("/proc/sys", name).write_text(f"{value}")
