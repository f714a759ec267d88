"""Several hosts on one machine: network namespaces on virtual switches, with cables to cut and packets to lose.

    with Lab() as lab:
        alpha = lab.host("alpha", ["10.0.0.1/24", "fd00::1/64"])
        beta = lab.host("beta", ["10.0.0.2/24", "fd00::2/64"])
        assert alpha.run(["ping", "-c1", "10.0.0.2"]).returncode == 0
        alpha.cut()

All switches are bridges in one namespace of their own; a host's namespace holds eth0, eth1, ... in the order of its
networks. Nothing of it shows outside of these namespaces, and nothing is left: at the end of the `with`, or of the
process (SIGKILL too), the processes in the hosts are killed and the namespaces go.

It is synchronous, and may be used from a running event loop: netlink calls run in short-lived threads.

A host shares files and process ids with this machine. /sys is the machine's, too: /sys/class/net does not show the
host's interfaces, netlink does. (/proc/net and /proc/sys/net do show the host's.)
"""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from locum.demo import namespace, rules, wire
from locum.demo.guard import Guard
from locum.demo.namespace import Namespace

T = TypeVar("T")
Direction = Literal["in", "out", "both"]

LAN = "lan"  # the network that is there from the start

_LONGEST_NAME = 10  # of a host: with ".eth0" it names a port, for which the kernel has 15 characters


class LabError(Exception):
    """The lab cannot be had, or was asked for what it does not have. One line that says what to do."""


@dataclass(frozen=True)
class _Cable:
    """One interface of one host, and the switch port that it is plugged in to."""

    network: str
    interface: str
    port: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class _Fault:
    """What block and lose ask for: frames to drop between a host and a peer, or anybody (None)."""

    peer: "Host | None"
    chance: float
    direction: Direction
    neighbours: bool
    network: str | None


class Lab:
    """The switches, and the hosts on them. Use it as a context manager, or close it."""

    def __init__(self) -> None:
        """Raises LabError when this process may not make namespaces."""
        self.hosts: dict[str, Host] = {}
        self.networks: list[str] = []
        self.switch = _new_namespace()
        self._guard: Guard | None = Guard()
        try:
            self.switch.inside(wire.prepare_switch)
            self.network(LAN)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill every process in the hosts and let the namespaces go. A second call does nothing."""
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        hosts = list(self.hosts.values())
        try:
            namespace.end_residents({host.namespace.inode for host in hosts})
            for host in hosts:
                host._reap()
        finally:
            guard.close()
            for host in hosts:
                host.namespace.close()
            self.switch.close()

    def network(self, name: str) -> str:
        """Make a network (a switch) beside "lan", of at most 15 characters; hosts are plugged in by its name."""
        if name not in self.networks:
            self.switch.inside(lambda: wire.make_bridge(name))
            self.networks.append(name)
        return name

    def host(self, name: str, addresses: Sequence[str] | Mapping[str, Sequence[str]]) -> "Host":
        """Make a host with these addresses on "lan", or {network: addresses} for an interface on each.

        A name has at most 10 characters. Raises LabError for one that is too long or taken, or an unknown network.
        """
        if not 0 < len(name) <= _LONGEST_NAME or name in self.hosts:
            raise LabError(f"host {name!r}: a name has 1 to {_LONGEST_NAME} characters, and each is used once")
        networks = addresses if isinstance(addresses, Mapping) else {LAN: addresses}
        if unknown := [network for network in networks if network not in self.networks]:
            raise LabError(f"host {name}: no network {unknown[0]!r}: lab.network({unknown[0]!r}) makes it")
        assert self._guard is not None, "the lab is closed"
        cables = [
            _Cable(network, f"eth{index}", f"{name}.eth{index}", tuple(networks[network]))
            for index, network in enumerate(networks)
        ]
        host = Host(self, name, _new_namespace(), cables)
        self.hosts[name] = host
        self._guard.watch(host.namespace.inode)
        host._plug_in(number=len(self.hosts))
        return host

    def _set_rules(self) -> None:
        """Have the switch drop what the hosts' blocks and losses say, all of them in one step."""
        nft = shutil.which("nft", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if nft is None:
            raise LabError("blocking and losing packets needs nft: install the package nftables")
        text = rules.ruleset(drop for host in self.hosts.values() for drop in host._drops())
        done = self.switch.inside(lambda: subprocess.run([nft, "-f", "-"], input=text, capture_output=True, text=True))
        if done.returncode != 0:
            raise LabError(f"nft: {done.stderr.strip()}")


@dataclass(eq=False)
class Host:
    """One host. Where a method takes a network, None means all of its networks."""

    lab: Lab
    name: str
    namespace: Namespace
    _cables: list[_Cable]
    _processes: list["subprocess.Popen[Any]"] = field(default_factory=list)
    _blocks: list[_Fault] = field(default_factory=list)
    _losses: list[_Fault] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<host {self.name}: nsenter --net={self.namespace.path}>"

    # --- what runs there

    def inside(self, work: Callable[[], T]) -> T:
        """Run work in a thread in this host's namespace and give its result: a socket made there stays there.

        So does a process. An IPRoute of pyroute2 does not: used by another thread it opens a socket where that thread
        is, so use it up in work. Raises what work raises. It blocks the caller, so it is for short work.
        """
        return self.namespace.inside(work)

    def popen(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[Any]":
        """Start a command here, in a session of its own: os.killpg(process.pid, signum) reaches all of it.

        Options are those of subprocess.Popen. What still runs when the lab ends is killed.
        """
        options.setdefault("start_new_session", True)
        process: subprocess.Popen[Any] = self.inside(lambda: subprocess.Popen(command, **options))
        self._processes = [running for running in self._processes if running.returncode is None]
        self._processes.append(process)
        return process

    def run(self, command: Sequence[str], timeout: float = 10.0) -> "subprocess.CompletedProcess[str]":
        """Run a command here to its end, its output as text in the result; any exit status will do.

        Raises subprocess.TimeoutExpired after that many seconds, with the command and its children killed.
        """
        process = self.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    # --- what it has

    def mac(self, interface: str = "eth0") -> str:
        """The hardware address of an interface: 02:00:00:00:<network>:<host>, both counted in order of making."""
        return self.inside(lambda: wire.mac(interface))

    def addresses(self, interface: str = "eth0") -> list[str]:
        """What the kernel has on an interface now, as 10.0.0.1/24, IPv4 first; without the link-local address."""
        return self.inside(lambda: wire.addresses(interface))

    def carrier(self, interface: str = "eth0") -> bool:
        """Whether the interface has a carrier now."""
        return self.inside(lambda: wire.carrier(interface))

    def add_addresses(self, addresses: Sequence[str], interface: str = "eth0") -> None:
        """Add addresses by hand, for ever."""
        self.inside(lambda: wire.add_addresses(interface, addresses))

    # --- what goes wrong

    def cut(self, network: str | None = None, *, silent: bool = False) -> None:
        """Cut the cable: the switch port goes down and this host loses its carrier.

        silent: the port leaves the switch, so that no frame passes while every carrier stays up.
        """
        for cable in self._on(network):
            if silent:
                self._at_switch(wire.attach, cable.port, None)
            else:
                self._at_switch(wire.set_up, cable.port, False)

    def mend(self, network: str | None = None) -> None:
        """Undo cut, of either kind."""
        for cable in self._on(network):
            self._at_switch(wire.attach, cable.port, cable.network)
            self._at_switch(wire.set_up, cable.port, True)

    def power_off(self) -> None:
        """The plug is pulled: nothing gets out any more, every process here is killed, every address is gone."""
        self.cut()
        namespace.end_residents({self.namespace.inode})
        self._reap()
        for cable in self._cables:
            self._here(wire.remove_addresses, cable.interface)
            self._here(wire.set_up, cable.interface, False)

    def power_on(self) -> None:
        """After power_off: the addresses that the host was made with, its cables in, and nothing running."""
        for cable in self._cables:
            self._here(wire.set_up, cable.interface, True)
            self._here(wire.add_addresses, cable.interface, cable.addresses)
        self.mend()

    def block(self, peer: "Host", direction: Direction = "both", network: str | None = None) -> None:
        """Drop every frame between this host and the peer, ARP too: "out" is from this host, "in" is to it.

        Others still reach both. Raises LabError without nft.
        """
        self._blocks.append(_Fault(peer, 1.0, direction, True, network))
        self.lab._set_rules()

    def unblock(self, peer: "Host | None" = None) -> None:
        """Undo every block of this host's, or those of the peer; not those that the peer made itself."""
        self._blocks = [block for block in self._blocks if peer is not None and block.peer is not peer]
        self.lab._set_rules()

    def lose(
        self,
        percent: float,
        peer: "Host | None" = None,
        direction: Direction = "both",
        *,
        arp: bool = False,
        network: str | None = None,
    ) -> None:
        """Drop each IP packet with this chance, in each direction; with a peer, only of what goes between the two.

        It takes the place of the loss set before with the same peer (or with None); 0 ends that. arp: ARP and IPv6
        neighbour discovery too, which otherwise pass. Raises LabError without nft.
        """
        self._losses = [loss for loss in self._losses if loss.peer is not peer]
        if percent > 0:
            self._losses.append(_Fault(peer, percent / 100, direction, arp, network))
        self.lab._set_rules()

    def limit(self, bits_per_second: int | None, network: str | None = None) -> None:
        """Let no more than that pass the cable in each direction, with 50 ms of queue; None lifts the limit."""
        for cable in self._on(network):
            self._here(wire.shape, cable.interface, bits_per_second)
            self._at_switch(wire.shape, cable.port, bits_per_second)

    # --- how

    def _plug_in(self, number: int) -> None:
        self.inside(wire.prepare_host)
        for cable in self._cables:
            mac = f"02:00:00:00:{self.lab.networks.index(cable.network):02x}:{number:02x}"
            self._at_switch(wire.plug, cable.port, cable.network, cable.interface, mac, self.namespace.descriptor)
            self._here(wire.set_up, cable.interface, True)
            self._here(wire.add_addresses, cable.interface, cable.addresses)

    def _drops(self) -> list[rules.Drop]:
        drops = []
        for loss in [*self._blocks, *self._losses]:
            for cable in self._on(loss.network):
                ports = [far.port for far in loss.peer._cables if far.network == cable.network] if loss.peer else [None]
                for port in ports:
                    if loss.direction != "in":
                        drops.append(rules.Drop(cable.port, port, loss.chance, loss.neighbours))
                    if loss.direction != "out":
                        drops.append(rules.Drop(port, cable.port, loss.chance, loss.neighbours))
        return drops

    def _on(self, network: str | None) -> list[_Cable]:
        cables = [cable for cable in self._cables if network in (None, cable.network)]
        if not cables:
            raise LabError(f"host {self.name} is not on a network {network!r}")
        return cables

    def _here(self, work: Callable[..., None], *arguments: Any) -> None:
        self.inside(lambda: work(*arguments))

    def _at_switch(self, work: Callable[..., None], *arguments: Any) -> None:
        self.lab.switch.inside(lambda: work(*arguments))

    def _reap(self) -> None:
        for process in self._processes:
            process.wait(timeout=5)
        self._processes.clear()


def why_no_lab() -> str | None:
    """Why this process cannot have a lab, in one line; None if it can."""
    try:
        _new_namespace().close()
    except LabError as error:
        return str(error)
    return None


def _new_namespace() -> Namespace:
    try:
        return Namespace()
    except OSError as error:
        raise LabError(
            f"this process may not make network namespaces ({error.strerror}): run it as root, "
            "or under `unshare --map-root-user --net --mount --pid --fork --mount-proc`"
        ) from error
