"""The agent: the asyncio loop that feeds the coordinator and carries out what it returns. It decides nothing.

Everything that happens becomes an input (`feed`), every input may bring outputs, and each output is carried out in its
turn: at once where that cannot block (beats, events, announcements), as a task of its own where it takes time (netlink,
probes, echoes, hooks), whose end is an input again.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from locum import __version__, access, clock, echo, ports
from locum.address import (
    AddressChanged,
    Answer,
    Change,
    Interface,
    Kernel,
    KernelError,
    Outcome,
    State,
    Wire,
    WireError,
)
from locum.address.lifetime import FOUND_WINDOWS
from locum.aside import aside
from locum.bus import Bus
from locum.checks import Checks
from locum.config import Config, ConfigError, Service
from locum.coordinator import Coordinator
from locum.hooks import ready
from locum.hooks.attendant import Attendant
from locum.hooks.text import one_line
from locum.messages import Beat, Command, Event, Message, NodeState, ServiceState
from locum.notify import Notifier
from locum.ports import Step
from locum.replay import new_boot
from locum.signing import Keys
from locum.timing import EPOCHS_PER_SECOND
from locum.watchdog import Watchdog

log = logging.getLogger(__name__)

INPUTS_MOST = 10_000
"""Inputs that may wait while one is being carried out. More than these is a fault of ours."""
FLUSH_SECONDS = 1.0
"""How long the last messages may take on the way out."""
READ_SECONDS = 10.0
"""How long reading the configuration may take."""
CHANGE_SECONDS = 600.0
"""How long a reload or a restart in place waits for hooks to end."""
RESTART_LEASE_LEAST = 2.0
"""Until the new program beats half a second to a second passes (measured): shorter leases would be lost meanwhile."""
FIXED = ("cluster", "brokers", "timing", "on_bus_loss")
"""Keys in which all agents must agree at every moment: they are the protocol."""
WHY_MOST = 500
CAP_NET_ADMIN, CAP_NET_RAW = 12, 13


def missing_rights() -> str:
    """What the agent may not do here, in one line; empty if it may do all that it needs (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    line = next((line for line in status.splitlines() if line.startswith("CapEff:")), "CapEff: 0")
    effective = int(line.split()[1], 16)
    wanted = (("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_NET_RAW", CAP_NET_RAW))
    missing = [name for name, bit in wanted if not effective >> bit & 1]
    return f"needs {' and '.join(missing)}: run it as root, or give the service these capabilities" if missing else ""


def wall(at: float | None = None) -> str:
    """A moment of the agent's clock (now by default) as RFC 3339 by the wall clock."""
    ago = 0.0 if at is None else clock.now() - at
    return datetime.fromtimestamp(time.time() - ago, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Agent:
    """One node's agent, from start to a release in good order."""

    def __init__(
        self, config: Config, node: str, notifier: Notifier | None = None, memory: Mapping[str, Any] | None = None
    ) -> None:
        """`memory`: what the agent knew in whose place this one is started (see `memory` below)."""
        self.notifier = notifier or Notifier()
        self.config = config
        self.node = node
        self.boot = memory["boot"] if memory else new_boot(node, time.time())
        self.services = config.services_of(node)
        self.coordinator = Coordinator(
            config,
            node,
            self.boot,
            now=clock.now(),
            rng=Random(),
            floor=int(time.time() * EPOCHS_PER_SECOND),
            memory=memory,
        )
        self.started = wall()
        self.bus = Bus(
            config,
            node,
            self.boot,
            self._node_state(node, online=False, reason="lost"),
            keys=access.signing_keys(config),
            on_up=lambda broker: self.feed(ports.BrokerUp(broker)),
            on_down=lambda broker: self.feed(ports.BrokerDown(broker)),
            on_message=self._take_in,
            tell_loss=lambda count: self._event(node, "events-lost", {"count": count}),
        )
        interfaces = _interfaces(self.services)
        self.kernel = Kernel(interfaces, self._link_or_address)
        self.wires = {interface: Wire(interface) for interface in interfaces}
        self.attendant = Attendant(
            config,
            node,
            tell=self._tell,
            on_progress=self._tell_state,
            unheard=self._unheard,
            followed=lambda service: self.coordinator.followed(service, clock.now()),
        )
        self.checks = self._checks(config)
        self.watchdog: Watchdog | None = None
        self.memory: dict[str, Any] | None = None
        """After `run`, if another program is to take this one's place: what it must know to go on."""
        self._started_anew = memory is not None
        self._changing: asyncio.Task[None] | None = None
        self._left: set[str] = set()
        """Paused services whose addresses stay when the agent has ended."""
        self._said_stopped: dict[tuple[int, str], bool] = {}
        self._inputs: deque[ports.Input] = deque()
        self._feeding = True
        """An input is being carried out: others wait. In the beginning they wait until everything is open."""
        self._timer: asyncio.TimerHandle | None = None
        self._steps: dict[str, asyncio.Task[None]] = {}
        self._events = memory["events"] if memory else 0
        for connection in self.bus.connections if memory else []:
            connection.inherit(memory["undelivered"].get(connection.url, []) if memory else [])
        self._stopped = asyncio.Event()
        self._fault: Exception | None = None
        self._tasks: asyncio.TaskGroup

    async def run(self) -> None:
        """Runs until a signal has stopped it and everything is released."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_complain)
        async with self.kernel, contextlib.AsyncExitStack() as stack:
            stack.callback(self._close_wires)
            await self._look_around(self.services)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._asked_to_stop, signal.Signals(number).name)
            loop.add_signal_handler(signal.SIGHUP, self._begin_change, self._reload)
            loop.add_signal_handler(signal.SIGUSR2, self._begin_change, self._restart)
            try:
                async with self.bus.open(), asyncio.TaskGroup() as self._tasks:
                    self.attendant.start()
                    self.checks.start(self._fit())
                    minding = self._start(self._mind_watchdog())
                    self._feeding = False
                    self.feed(ports.Tick())
                    for interface in self.wires:
                        self._guard(interface)
                    if self._started_anew:
                        self._tell(self.node, "restarted", {"version": __version__})
                    self.notifier.ready(f"{self.node} of {self.config.cluster}")
                    log.info("%s of cluster %s started (%s)", self.node, self.config.cluster, __version__)
                    await self._stopped.wait()
                    if self._fault is not None:
                        raise self._fault
                    await self.checks.close()
                    await self.attendant.close()
                    # Whoever is to go on must beat again soon.
                    await self.bus.flush(FLUSH_SECONDS if self.memory is None else self.coordinator.timing.beat / 2)
                    if self.memory is not None:
                        self.memory |= {
                            "events": self._events,
                            "undelivered": {one.url: one.undelivered() for one in self.bus.connections},
                        }
                    if self.memory is not None or not self._used():
                        self._disarm()
                    for task in [minding, *self._steps.values(), *([self._changing] if self._changing else [])]:
                        task.cancel()
            finally:
                if self._timer is not None:
                    self._timer.cancel()
                for name, service in self.services.items():  # whatever is thought to be there: nothing must stay
                    if self.memory is not None and self.coordinator.duties[name].has_address:
                        continue
                    if name in self._left:
                        await self._leave(name)
                    else:
                        await self.kernel.remove(service.interface, service.addresses)
        log.info("%s %s", self.node, "stopped" if self.memory is None else "makes room for the program as it is now")

    def _close_wires(self) -> None:
        for wire in self.wires.values():
            wire.close()

    async def _look_around(self, services: Mapping[str, Service]) -> None:
        """What this host has before the first beat: a service's address here belongs to nobody's lease."""
        for name, service in services.items():
            if self.coordinator.duties[name].has_address:
                continue  # an earlier process of this boot held it, and we go on
            with contextlib.suppress(KernelError):
                found = await self.kernel.leftovers(service.interface, service.addresses)
                if found and await self._found(name, service):
                    continue
                for address in found:
                    outcome = await self.kernel.remove(service.interface, [address])
                    log.warning("%s: %s was on %s without a lease: %s", name, address, service.interface, outcome)
        for interface in _interfaces(services):
            try:
                link = await self.kernel.link(interface)
            except KernelError as error:
                log.error("%s: %s", interface, error)
                self.feed(ports.LinkChanged(interface, up=False))
                continue
            if not link.exists:
                users = ", ".join(name for name, service in services.items() if service.interface == interface)
                log.error("interface %s (of %s) does not exist: nothing is claimed until it does", interface, users)
            self.feed(ports.LinkChanged(interface, link.exists and link.carrier))

    def _asked_to_stop(self, name: str) -> None:
        again = self.coordinator.stopping
        self.notifier.stopping()
        log.info("%s: releasing %s", name, "at once" if again else "in order")
        self.feed(ports.Stop(at_once=again))

    # -- the watchdog -------------------------------------------------------------------------------------------------

    def _used(self) -> list[float]:
        """Until when this node may use the services that have a watchdog, those that it uses now."""
        watched = (name for name, service in self.services.items() if service.watchdog is not None)
        untils = (self.coordinator.usable_until(name) for name in watched if name in self.coordinator.duties)
        return [until for until in untils if until is not None]

    def _arm(self, device: Path) -> None:
        """Raises OSError."""
        if self.watchdog is None or not self.watchdog.armed:
            self.watchdog = Watchdog(device, self.coordinator.timing.watchdog)
            self.watchdog.arm()
            log.info("watchdog %s armed: %d s", device, self.watchdog.seconds)

    def _disarm(self) -> None:
        if self.watchdog is not None and self.watchdog.armed:
            self.watchdog.disarm()
            log.info("watchdog %s disarmed", self.watchdog.path)

    async def _mind_watchdog(self) -> None:
        """Feeds the device while a watched service is used here, and only as long as the lease outlasts the feeding.

        From this loop and no thread: one that hangs must not be fed.
        """
        told = ""
        while True:
            used = self._used()
            devices = [service.watchdog for service in self.services.values() if service.watchdog is not None]
            try:
                if used and devices:
                    self._arm(devices[0])  # it may be used from before: a reload, or a start in place
                    assert self.watchdog is not None
                    if clock.now() + self.watchdog.seconds <= min(used):
                        self.watchdog.feed()
                else:
                    self._disarm()
                told = ""
            except OSError as error:
                if str(error) != told:
                    told = str(error)
                    log.error("%s", error)
            await asyncio.sleep(self.coordinator.timing.watchdog / 8)

    # -- another configuration, another program -----------------------------------------------------------------------

    def _begin_change(self, change: Callable[[str], Coroutine[Any, Any, None]], command: str = "") -> None:
        if self._changing is not None or self.coordinator.stopping:
            self._refuse(change.__name__.strip("_"), "the agent is busy with another one, or stopping", command)
            return
        self._changing = self._start(self._change(change, command))

    async def _change(self, change: Callable[[str], Coroutine[Any, Any, None]], command: str) -> None:
        self.notifier.reloading()
        try:
            async with asyncio.timeout(CHANGE_SECONDS):
                await change(command)
        except (ConfigError, TimeoutError, OSError) as error:
            # Nothing has changed: what was released for it may be claimed again.
            for problem in error.problems if isinstance(error, ConfigError) else [str(error) or "it took too long"]:
                log.error("%s: %s", change.__name__.strip("_"), problem)
            self.feed(ports.Adopt(self.config))
            self._refuse(change.__name__.strip("_"), one_line(str(error) or "it took too long", most=WHY_MOST), command)
        finally:
            self._changing = None
            self.notifier.ready(f"{self.node} of {self.config.cluster}")

    def _refuse(self, way: str, why: str, command: str) -> None:
        self._tell(self.node, "refused", {"way": way, "why": why, "command": command})

    async def _rest(self) -> None:
        """Until no service is on its way up or down: the caller sets the bound."""
        while not self.coordinator.at_rest:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _reload(self, command: str) -> None:
        """Reads the file again, and works by it if all of it is valid. Raises ConfigError."""
        path = self.config.path
        config = await aside(lambda: ready.read(path), timeout=READ_SECONDS)
        config.require_node(self.node)
        await aside(lambda: access.require(config), timeout=READ_SECONDS)
        keys = await aside(lambda: access.signing_keys(config), timeout=READ_SECONDS)
        fixed = [key for key in FIXED if getattr(config, key) != getattr(self.config, key)]
        if fixed:
            why = "cannot change while agents run; stop them on all nodes, and start them with it"
            raise ConfigError([f"{path}: {key}: {why}" for key in fixed])
        new = config.services_of(self.node)
        going = [name for name, service in self.services.items() if _moved(service, new.get(name))]
        self.feed(ports.Retire(tuple(going)))
        await self._rest()
        changed = sorted(name for name in self.services.keys() | new if self.services.get(name) != new.get(name))
        await self._adopt(config, keys)
        self._tell(
            self.node, "reloaded", {"changed": ", ".join(changed), "config": config.digest(), "command": command}
        )

    async def _adopt(self, config: Config, keys: Keys | None) -> None:
        before, watched = self.services, _interfaces(self.services)
        self.config, self.services = config, config.services_of(self.node)
        self.bus.config = config
        self.bus.keys = keys
        interfaces = _interfaces(self.services)
        for interface in watched - interfaces:
            self.wires.pop(interface).close()
        self.wires |= {interface: Wire(interface) for interface in interfaces - watched}
        if interfaces != watched:
            await self.kernel.watch(interfaces)
        await self.checks.close()
        self.attendant.adopt(config)
        self.feed(ports.Adopt(config))
        new = {name: service for name, service in self.services.items() if _moved(service, before.get(name))}
        await self._look_around(new)
        old, self.checks = self.checks, self._checks(config)
        self.checks.inherit(old)
        self.checks.start(self._fit())
        for name, fit in self._fit().items():
            if not fit and not self.services[name].checks:
                self.feed(ports.Fitness(name, True))

    async def _restart(self, command: str) -> None:
        """Ends, so that the program, perhaps a newer one, can be started in its place and go on."""
        if self.coordinator.timing.lease < RESTART_LEASE_LEAST:
            raise ConfigError([f"it takes a second: too long for leases of {self.coordinator.timing.lease:g} s; pause"])
        await self._rest()
        await self.checks.close()
        await self.attendant.close()
        await self._rest()
        self.memory = self.coordinator.memory(clock.now())
        self._stopped.set()

    def _checks(self, config: Config) -> Checks:
        return Checks(
            config,
            self.node,
            role=lambda service: self.coordinator.duties[service].role,
            on_fitness=lambda service, fit, why: self.feed(ports.Fitness(service, fit, why)),
            tell=self._tell,
            on_failing=self._tell_state,
            run=self.attendant.check,
        )

    def _fit(self) -> dict[str, bool]:
        return {name: duty.own_fit for name, duty in self.coordinator.duties.items()}

    # -- inputs -------------------------------------------------------------------------------------------------------

    def feed(self, event: ports.Input) -> None:
        """Gives the coordinator an input and carries out what comes of it, one input after the other."""
        assert len(self._inputs) < INPUTS_MOST
        if getattr(event, "service", "") not in self.coordinator.duties and hasattr(event, "service"):
            return  # of a service that this node does not serve any more
        self._inputs.append(event)
        if self._feeding or self._stopped.is_set():
            return
        self._feeding = True
        try:
            while self._inputs and not self._stopped.is_set():
                outputs = self.coordinator.step(clock.now(), self._inputs.popleft())
                for same, some in groupby(outputs, _renewal):
                    if same is None:
                        for output in some:
                            self._carry_out(output)
                    else:
                        self._start(self._hold(*same, [hold.service for hold in some if isinstance(hold, ports.Hold)]))
        except Exception as error:
            # Also from a timer or a callback, where nobody else would hear of it: an agent that cannot decide must end.
            self._fault = error
            self._stopped.set()
        finally:
            self._feeding = False
        if not self._stopped.is_set():
            self.notifier.alive()  # it has decided, and what it decided is carried out
            self._wake_at(self.coordinator.next_at())

    def _wake_at(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = min(max(0.0, at - clock.now()), self.coordinator.timing.beat, self.notifier.patience)
        self._timer = asyncio.get_running_loop().call_later(delay, self.feed, ports.Tick())

    def _take_in(self, broker: int, message: Message, retained: bool) -> bool:
        match message:
            case Beat():
                self.feed(ports.BeatHeard(broker, message))
                return message.boot == self.boot
            case ServiceState():
                self.feed(ports.ServiceHeard(broker, message))
            case NodeState():
                if message.node in self.config.nodes:
                    stopped = message.state == "offline" and message.reason == "stopped"
                    # Signed once, it may be an old one; of two mistakes, a machine that is fenced is the smaller one.
                    stopped = stopped and (self.bus.keys is None or self.bus.replays.believed(message))
                    self._said_stopped[broker, message.node] = stopped
                self.feed(ports.NodeHeard(broker, message, retained))
            case Command():
                self.feed(ports.CommandHeard(message))
        return False

    def _unheard(self, service: str) -> tuple[str, ...]:
        """The service's other nodes that are not heard, without those that stopped in good order and said so."""

        def stopped(node: str) -> bool:
            said = [stopped for (_, name), stopped in self._said_stopped.items() if name == node]
            return bool(said) and all(said)

        return tuple(node for node in self.coordinator.unheard(service, clock.now()) if not stopped(node))

    def _link_or_address(self, change: Change) -> None:
        if isinstance(change, AddressChanged):
            if not change.present:
                self._gone(change)
            elif self._stray(change.interface, change.address):
                self._start(self._appeared(change))
            return
        up = change.exists and change.carrier
        log.info("interface %s: %s", change.interface, "up" if up else "no carrier" if change.exists else "gone")
        self.feed(ports.LinkChanged(change.interface, up))

    def _gone(self, change: AddressChanged) -> None:
        """An address went from an interface; if it is one that we hold, it was not we who removed it."""
        for name, service in self.services.items():
            if service.interface == change.interface and change.address in service.addresses:
                self.feed(ports.AddressGone(name, f"{change.address} is gone from {change.interface}"))

    def _stray(self, interface: str, address: Interface) -> str:
        """The service whose address it is, if that is not to be on this host now; empty otherwise."""
        for name, service in self.services.items():
            duty = self.coordinator.duties[name]
            wanted = duty.has_address or duty.found or name in self._left
            # With whatever prefix length.
            ours = address.ip in {one.ip for one in service.addresses}
            if service.interface == interface and ours and not wanted:
                return name
        return ""

    async def _appeared(self, change: AddressChanged) -> None:
        """Unless it is our own address that was taken and dropped before the kernel's word of it came."""
        with contextlib.suppress(KernelError):
            there = change.address in await self.kernel.leftovers(change.interface, [change.address])
            name = self._stray(change.interface, change.address) if there else ""
            if name:
                self.feed(ports.Appeared(name, f"{change.address} was set on {change.interface} by somebody else"))

    def _guard(self, interface: str) -> None:
        """Listens for others that say that what is held here is theirs."""
        held = {
            address: name
            for name, service in self.services.items()
            if service.interface == interface and self.coordinator.duties[name].has_address
            for address in service.addresses
        }

        def contested(answer: Answer) -> None:
            self.feed(ports.Contested(held[answer.address], answer.mac, str(answer.address.ip)))

        try:
            self.wires[interface].guard(held, contested)
        except OSError as error:
            log.warning("%s: conflicts on it cannot be heard: %s", interface, error)

    # -- outputs ------------------------------------------------------------------------------------------------------

    def _carry_out(self, output: ports.Output) -> None:
        match output:
            case ports.SendBeat(beat):
                if self.bus.keys is not None:
                    beat = beat.model_copy(update={"heard": self.bus.replays.heard()})
                self.bus.beat(beat.model_dump_json(exclude_defaults=True).encode())
            case ports.PublishService(service, holder, epoch, since, hand):
                state = ServiceState(
                    service=service, holder=holder, epoch=epoch, since=wall(since), by=self.node, hand=hand
                )
                self.bus.publish(self.bus.topics.service(service), state.model_dump_json().encode(), retain=True)
            case ports.PublishNode(node, online, reason):
                self.bus.publish(self.bus.topics.node(node), self._node_state(node, online, reason), retain=True)
            case ports.Emit(subject, type_, data):
                self._tell(subject, type_, data)
            case ports.Run():
                previous = self._steps.get(output.service)
                self._steps[output.service] = self._start(self._step(output, previous))
            case ports.Abort(service):
                if service in self._steps:
                    self._steps[service].cancel()
            case ports.DropNow(service):
                self._start(self._remove(service))
            case ports.Leave(service):
                self._left.add(service)
                self._start(self._leave(service))
            case ports.Announce(service):
                wanted = self.services[service]
                self.wires[wanted.interface].announce(wanted.addresses, router=_forwards(wanted.interface))
            case ports.Probe(service):
                self._start(self._probe(service))
            case ports.AskEcho():
                self._start(self._ask_echo())
            case ports.Obey(command):
                self._begin_change(self._reload if command.command == "reload" else self._restart, command.id)
            case ports.Stopped():
                self._stopped.set()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._tasks.create_task(work)

    def _node_state(self, node: str, online: bool, reason: str) -> bytes:
        ours = node == self.node
        return (
            NodeState(
                node=node,
                state="online" if online else "offline",
                reason=reason,
                boot=self.boot if ours else "",
                version=__version__ if ours else "",
                since=self.started if online else wall(),
                hooks=self.attendant.running() if ours and online else [],
                checks=self.checks.failing() if ours and online else [],
                drained=ours and online and self.coordinator.drained,
            )
            .model_dump_json()
            .encode()
        )

    def _tell_state(self) -> None:
        if not self._stopped.is_set():
            self._carry_out(ports.PublishNode(self.node, online=True))

    def _tell(self, subject: str, type_: str, data: dict[str, Any]) -> None:
        """An event, on the bus and in the log."""
        self.bus.event(self._event(subject, type_, data))
        told = " ".join(f"{key}={value}" for key, value in data.items() if value not in ("", None))
        log.info("%s %s: %s", subject, type_, told)

    def _event(self, subject: str, type_: str, data: dict[str, Any]) -> Event:
        self._events += 1
        kind = "service" if subject in self.config.services else "node"
        return Event(
            id=f"{self.boot.replace('/', '-')}-{self._events}",
            source=f"locum/{self.config.cluster}/{self.node}",
            type=f"locum.{kind}.{type_}",
            subject=subject,
            time=wall(),
            data=data,
        )

    async def _hold(self, until: float, only_if_present: bool, names: list[str]) -> None:
        """Renews the addresses of these services, in as few calls as there are interfaces."""
        by_interface: dict[str, list[str]] = {}
        for name in (name for name in names if name in self.services):
            by_interface.setdefault(self.services[name].interface, []).append(name)
        for interface, some in by_interface.items():
            addresses = [address for name in some for address in self.services[name].addresses]
            outcome = await self.kernel.hold(interface, addresses, until, only_if_present)
            for name in some:
                # By now it may be served differently (a reload); then this was not about it.
                mine = outcome.of(self.services[name].addresses) if name in self.services else None
                if mine is not None:
                    self._renewed(name, until, only_if_present, mine)

    def _renewed(self, name: str, until: float, only_if_present: bool, outcome: Outcome) -> None:
        if only_if_present and outcome.which(State.GONE):
            self.feed(ports.AddressGone(name, str(outcome)))
            return
        if outcome.which(State.ERROR):
            log.error("%s: %s", name, outcome)
        self.feed(ports.Held(name, until, outcome.held, str(outcome)))

    async def _leave(self, name: str) -> None:
        """The service is paused: the kernel keeps its addresses while no agent runs."""
        service = self.services[name]
        outcome = await self.kernel.leave(service.interface, service.addresses)
        log.log(logging.INFO if outcome.held else logging.ERROR, "%s is paused: left here: %s", name, outcome)

    async def _found(self, name: str, service: Service) -> bool:
        """Whether the addresses were left here by `_leave`: then they stay for as long as a claim takes."""
        if not await self.kernel.left(service.interface, service.addresses):
            return False
        until = clock.now() + FOUND_WINDOWS * self.coordinator.timing.window
        outcome = await self.kernel.hold(service.interface, service.addresses, until, only_if_present=True)
        log.info("%s was left here while it was paused: %s", name, outcome)
        if outcome.held:
            self.feed(ports.Found(name))
        return outcome.held

    async def _remove(self, name: str) -> None:
        service = self.services[name]
        outcome = await self.kernel.remove(service.interface, service.addresses)
        if not outcome.gone:
            log.error("%s: %s", name, outcome)
        with contextlib.suppress(KernelError):
            # Set by hand, with another prefix length.
            for address in await self.kernel.leftovers(service.interface, service.addresses):
                log.warning("%s: %s", name, await self.kernel.remove(service.interface, [address]))

    async def _probe(self, name: str) -> None:
        service = self.services[name]
        asked_at = clock.now()
        try:
            answer = await self.wires[service.interface].probe(service.addresses)
        except WireError as error:
            self.feed(ports.Probed(name, asked_at, error=str(error)))
            return
        if answer is None:
            self.feed(ports.Probed(name, asked_at))
        else:
            self.feed(ports.Probed(name, asked_at, mac=answer.mac, address=str(answer.address.ip)))

    async def _ask_echo(self) -> None:
        asked_at = clock.now()
        hosts = [other.address for name, other in self.config.nodes.items() if name != self.node]
        hosts += [self.config.gateway] if self.config.gateway else []
        by = await echo.first_answer(hosts, min(self.coordinator.timing.beat, 1.0))
        self.feed(ports.Echoed(asked_at, by))

    # -- steps --------------------------------------------------------------------------------------------------------

    async def _step(self, run: ports.Run, previous: asyncio.Task[None] | None) -> None:
        """One step of a takeover or a release, after the last one has ended."""
        if previous is not None:
            await asyncio.wait((previous,))
        service = self.services[run.service]
        try:
            match run.step:
                case Step.TAKE:
                    outcome = await self.kernel.hold(service.interface, service.addresses, run.until)
                    ok, detail = outcome.held, str(outcome)
                case Step.DROP:
                    outcome = await self.kernel.remove(service.interface, service.addresses)
                    ok, detail = outcome.gone, str(outcome)
                case Step.PRE_ACQ if service.watchdog is not None:
                    self._arm(service.watchdog)  # what could not be released for certain is not taken
                    ok, detail = await self.attendant.phase(run)
                case _:
                    ok, detail = await self.attendant.phase(run)
        except OSError as error:
            log.error("%s: %s: %s", run.service, run.step.value, error)
            ok, detail = False, str(error)
        except Exception as error:  # a fault of ours must not leave a service half way
            log.exception("%s: %s", run.service, run.step.value)
            ok, detail = False, f"{type(error).__name__}: {error}"
        self.feed(ports.StepDone(run.service, run.number, ok, detail))
        if run.step in (Step.TAKE, Step.DROP) and service.interface in self.wires:
            self._guard(service.interface)


def _renewal(output: ports.Output) -> tuple[float, bool] | None:
    """What renewals that stand side by side have in common: these become one request."""
    return (output.until, output.only_if_present) if isinstance(output, ports.Hold) else None


def _interfaces(services: Mapping[str, Service]) -> set[str]:
    return {service.interface for service in services.values()}


def _moved(service: Service, other: Service | None) -> bool:
    """Whether what is held for the one is not what the other wants."""
    return other is None or (service.addresses, service.interface) != (other.addresses, other.interface)


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong in a library's callback is one line: paho's own, on a socket that was just closed, for one."""
    log.warning("%s: %s", context.get("message", "in a callback"), context.get("exception", ""))


def _forwards(interface: str) -> bool:
    """Whether this host is a router for IPv6 on the interface, which its advertisements must say (RFC 4861, 4.4)."""
    try:
        text = Path(f"/proc/sys/net/ipv6/conf/{interface}/forwarding").read_text(encoding="ascii")
    except OSError:
        return False
    return text.strip() != "0"
