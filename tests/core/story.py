"""Plays a scenario: real coordinators on machines, a wire and brokers that exist only here, and a clock that we turn.

A scenario is a text file that reads as the story of a failover: commands, then `----`, then what came of them.

    crash alpha
    run 4s
    ----
    14.567 beta: web standby -> claiming (failover, epoch 2)
    ...

Lines that start with # tell the reader what happens and why. Times are seconds since the story began; everybody's own
clock shows something else. Beats, probes, renewals and announcements are left out, unless `verbose on` asks for them.

    cluster nodes=alpha,beta [brokers=3] [on_bus_loss=release] [services=web,mail] [beat=500ms] [lease=2s] [gateway=yes]
            [failback=auto] [failback_delay=60s] [checked=1s] [together=mail:web] [apart=mail:web]
    start NAME... [node=NODE]        a machine starts, under its own name or another's; or a broker
    run 3s                           time passes
    crash NAME                       a host, or a broker, is gone at once
    kill NAME                        only the agent is: its host and its kernel live on
    pause NAME, resume NAME          the agent does not run for a while
    stop NAME [at_once=yes]          the agent is told to end
    isolate NAME, rejoin NAME        its switch drops every frame, but the carrier stays: connections hang for a while,
                                     and what was sent on them arrives when it rejoins
    cut NAME NAME, mend NAME NAME    between a node and a broker, another node or the gateway; noticed at once
    link NAME down|up                the node's interface
    checks NAME fail|pass [service=web]     what the service's checks say of the node
    hooks NAME STEP ok|fails [takes=3s]    what this hook will do from now on: Test, PreAcq, PostAcq, PreRel, PostRel
    delete NAME SERVICE              somebody removes the service's address by hand
    slow NAME 100ms                  every message between a node and the brokers takes that much longer
    switchover SERVICE [to=NODE] [by=WHO]
    operator pause|resume|release SERVICE, operator drain|undrain NODE
    record SERVICE holder=NODE epoch=N     what a broker remembers of earlier days
    wire answers SERVICE mac=MAC, wire silent SERVICE      a stranger has the service's address
    status                           who is what, and who has what

Run as a script it prints what it plays; with --rewrite it writes the outcome into the file.

How the world works: a message takes a millisecond to a broker and another one from it, in one order for all; the
kernel takes a millisecond, and keeps an address for whole seconds as the real one does; a probe that nobody answers
takes as long as the real one. A hook that was not set is not there.
"""

import heapq
import inspect
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from random import Random

from locum import ports
from locum.address.lifetime import FOUND_WINDOWS, LEFT_LEAST, LEFT_SECONDS, kernel_seconds
from locum.bus import decode
from locum.config import parse, seconds
from locum.coordinator import Coordinator
from locum.messages import EVENTS, Beat, Command, Event, Hand, NodeState, Role, ServiceState, Topics
from locum.ports import Step
from locum.timing import EPOCHS_PER_SECOND

HOP = 0.001
"""Seconds: to a broker, from a broker, into the kernel, to a neighbour and back."""
LISTEN = 0.040
"""Seconds for which a probe waits."""
RECONNECT = 0.25
STEPS_MOST = 500
"""Inputs that one coordinator may get in a second of a story before it counts as running in circles."""
QUIET_EVENTS = frozenset({"taken", "dropped"})
"""Events that only repeat what a machine was seen doing."""


ROLES = frozenset(role.value for role in Role)


class StoryError(Exception):
    """The scenario cannot be played: a command that is none, or a coordinator that breaks its contract."""


@dataclass(slots=True, eq=False)
class Session:
    """One machine's connection to one broker."""

    machine: "Machine"
    life: int
    boot: str
    broker: "Broker"
    open: bool = True
    hangs: bool = False
    left: bool = False
    """The agent has given it up; the broker does not know yet."""
    up: list[tuple[str, bytes, str]] = field(default_factory=list)
    down: list[ports.Input] = field(default_factory=list)
    """What waits in either direction while it hangs."""
    sent_at: float = 0.0
    handed_at: float = 0.0
    """When the latest message in either direction arrives: none overtakes another."""


@dataclass(slots=True, eq=False)
class Broker:
    """Hands every subscriber the same messages in the same order; keeps what is retained, also while it is down."""

    name: str
    number: int
    up: bool = True
    retained: dict[str, bytes] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Machine:
    """A host: its kernel's addresses, and an agent that may or may not run."""

    name: str
    node: str
    mac: str
    offset: float
    """What its clock shows more than the story's."""
    boot: str = ""
    life: int = 0
    """Counts the starts of the agent; what was meant for an earlier one is void."""
    alive: bool = True
    agent: Coordinator | None = None
    paused: bool = False
    inbox: deque[ports.Input] = field(default_factory=deque)
    link: bool = True
    isolated: bool = False
    delay: float = 0.0
    hooks: dict[Step, tuple[bool, float]] = field(default_factory=dict)
    lapses: dict[str, float] = field(default_factory=dict)
    """Services whose addresses the kernel has, and until when."""
    busy_until: dict[str, float] = field(default_factory=dict)
    running: dict[str, int] = field(default_factory=dict)
    """The number of the step that runs for a service."""
    roles: dict[str, str] = field(default_factory=dict)
    """Its roles, as its events tell them."""
    wake: int = 0
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_MOST))


class Story:
    """One world, from its beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self.verbose = False
        self.lines: list[str] = []
        self.overlaps: list[str] = []
        """Who had one address together."""
        self.events: list[Event] = []
        self.machines: dict[str, Machine] = {}
        self.brokers: list[Broker] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._cuts: set[frozenset[str]] = set()
        self._strangers: dict[str, str] = {}
        self._commands = 0
        self._recorded: dict[str, str] = {}
        """What was last said to be remembered, for each topic."""

    # -- the script -----------------------------------------------------------------------------------------------

    def play(self, line: str) -> list[str]:
        """Carries out one command; returns what there was to see."""
        verb, *words = line.split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        names = [word for word in words if "=" not in word]
        does = getattr(self, f"do_{verb}", None)
        if does is None:
            raise StoryError(f"there is no command {verb!r}")
        if verb != "cluster" and not self.brokers:
            raise StoryError("a story begins with: cluster nodes=alpha,beta")
        self.lines = []
        try:
            inspect.signature(does).bind(*names, **options)
        except TypeError as error:
            raise StoryError(f"{line!r} cannot be played: {error}") from None
        does(*names, **options)
        return self.lines

    def do_cluster(
        self,
        nodes: str,
        brokers: str = "1",
        on_bus_loss: str = "hold",
        services: str = "web",
        beat: str = "500ms",
        lease: str = "2s",
        gateway: str = "",
        checked: str = "",
        together: str = "",
        apart: str = "",
        **service: str,
    ) -> None:
        names, count = nodes.split(","), int(brokers)
        text = [
            'cluster = "story"',
            f"brokers = {[f'mqtt://10.0.1.{number + 1}' for number in range(count)]}",
            f'on_bus_loss = "{on_bus_loss}"',
            'gateway = "10.0.0.254"' if gateway else "",
            f'[timing]\nbeat = "{beat}"\nlease = "{lease}"',
        ]
        text += [f'[nodes.{name}]\naddress = "10.0.0.{place}"' for place, name in enumerate(names, 1)]
        for place, name in enumerate(services.split(","), 100):
            text.append(f'[services.{name}]\naddresses = ["10.0.0.{place}/24"]\ninterface = "eth0"\nnodes = {names}')
            text += [f'{key} = "{value}"' for key, value in service.items()]
            for key, said in (("together_with", together), ("apart_from", apart)):
                one, _, other = said.partition(":")
                if name == one:
                    text.append(f"{key} = " + (f'"{other}"' if key == "together_with" else f'["{other}"]'))
            if checked:
                text.append(f'[services.{name}.checks]\npage = {{ tcp = "10.0.0.200:80", interval = "{checked}" }}')
        self.config = parse("\n".join(text))
        self.topics = Topics(self.config.cluster)
        self.timing = self.config.durations()
        self.brokers = [Broker("broker" if count == 1 else f"broker{number + 1}", number) for number in range(count)]

    def do_start(self, *names: str, node: str = "") -> None:
        for name in names:
            broker = self._broker(name)
            if broker is not None:
                broker.up = True
                self._say(name, "starts")
                continue
            machine = self.machines.get(name)
            if machine is None:
                place = len(self.machines) + 1
                machine = Machine(name, node or name, f"02:00:00:00:00:{place:02x}", 1000.0 * place)
                self.machines[name] = machine
            if machine.agent is not None:
                raise StoryError(f"{name} runs already")
            self._start_agent(machine)

    def do_run(self, span: str) -> None:
        until = round(self.now + seconds(span), 6)
        while self._queue and self._queue[0][0] <= until:
            self.now, _, act = heapq.heappop(self._queue)
            act()
        self.now = until

    def do_crash(self, name: str) -> None:
        broker = self._broker(name)
        if broker is not None:
            broker.up = False
            self._say(name, "is gone")
            for session in list(broker.sessions):
                self._lose(session, will=False)
            return
        machine = self.machines[name]
        self._say(name, "is gone")
        self._end_agent(machine)
        machine.alive = False
        machine.lapses.clear()
        self._notice_later(machine)

    def do_kill(self, name: str) -> None:
        machine = self.machines[name]
        self._say(name, "its agent is killed")
        self._end_agent(machine)
        for session in self._sessions(machine):
            self._lose(session, will=True)

    def do_pause(self, name: str) -> None:
        self._say(name, "its agent is stopped in the middle of everything")
        self.machines[name].paused = True
        self._notice_later(self.machines[name])

    def do_resume(self, name: str) -> None:
        machine = self.machines[name]
        self._say(name, "its agent goes on")
        machine.paused = False
        waiting = list(machine.inbox)
        machine.inbox.clear()
        for event in [*waiting, ports.Tick()]:
            self._feed(machine, event)

    def do_stop(self, name: str, at_once: str = "") -> None:
        self._say(name, "is told to stop" + (" at once" if at_once else ""))
        self._feed(self.machines[name], ports.Stop(at_once=bool(at_once)))

    def do_cut(self, one: str, other: str) -> None:
        self._cuts.add(frozenset((one, other)))
        for broker in self.brokers:
            for session in list(broker.sessions):
                if self._is_cut(session.machine.name, broker.name):
                    self._lose(session, will=True)

    def do_mend(self, one: str, other: str) -> None:
        self._cuts.remove(frozenset((one, other)))

    def do_isolate(self, name: str) -> None:
        machine = self.machines[name]
        machine.isolated = True
        self._say(name, "nothing goes out or comes in any more")
        for session in self._sessions(machine):
            session.hangs = True
            self._at(self.timing.lease + self.timing.beat, self._give_up, session)
            self._at(self._keepalive(), self._expire, session)

    def do_rejoin(self, name: str) -> None:
        machine = self.machines[name]
        machine.isolated = False
        self._say(name, "is heard again")
        for session in self._sessions(machine):
            session.hangs = False
            for said in session.up:
                self._send_on(session, *said)
            for heard in session.down:
                self._deliver(session, heard)
            session.up, session.down = [], []
            if session.left:
                self._at(2 * HOP, self._expire, session, True)

    def do_link(self, name: str, way: str) -> None:
        machine = self.machines[name]
        machine.link = {"up": True, "down": False}[way]
        self._say(name, f"eth0 is {way}")
        if machine.agent is not None:
            self._feed(machine, ports.LinkChanged("eth0", machine.link))

    def do_checks(self, name: str, what: str, service: str = "web") -> None:
        machine = self.machines[name]
        fit = {"pass": True, "fail": False}[what]
        self._say(name, f"its checks of {service} {what}")
        if machine.agent is not None:
            self._feed(machine, ports.Fitness(service, fit, "" if fit else "page: connection refused"))

    def do_delete(self, name: str, service: str) -> None:
        machine = self.machines[name]
        self._remove(machine, service, "somebody deletes")
        self._feed(machine, ports.AddressGone(service, f"{self._addresses(service)} is gone"))

    def do_slow(self, name: str, delay: str) -> None:
        self.machines[name].delay = seconds(delay)

    def do_hooks(self, name: str, *words: str, takes: str = "10ms") -> None:
        *steps, outcome = words
        for step in steps:
            self.machines[name].hooks[Step(step)] = ({"ok": True, "fails": False}[outcome], seconds(takes))

    def do_switchover(self, service: str, to: str | None = None, by: str = "ops") -> None:
        self._ask(by, f"asks to move {service}" + (f" to {to}" if to else ""), "switchover", service=service, to=to)

    def do_operator(self, verb: str, subject: str) -> None:
        which = "node" if verb in ("drain", "undrain") else "service"
        self._ask("ops", f"asks to {verb} {subject}", verb, **{which: subject})

    def _ask(self, by: str, said: str, command: str, **of: str | None) -> None:
        self._commands += 1
        asked = Command.model_validate({"id": f"c{self._commands}", "command": command, "by": by, **of})
        self._say(by, said)
        topic, payload = self.topics.command(asked.subject), asked.model_dump_json().encode()
        for broker in self.brokers:
            self._at(HOP, self._arrive, broker, topic, payload, False)

    def do_record(self, service: str, holder: str, epoch: str) -> None:
        state = ServiceState(service=service, holder=holder, epoch=int(epoch))
        self._recorded[self.topics.service(service)] = _told(service, holder, state.epoch)
        for broker in self.brokers:
            broker.retained[self.topics.service(service)] = state.model_dump_json().encode()

    def do_wire(self, what: str, service: str, mac: str = "") -> None:
        if what == "answers":
            self._strangers[service] = mac
        else:
            del self._strangers[service]

    def do_verbose(self, way: str) -> None:
        self.verbose = {"on": True, "off": False}[way]

    def do_status(self) -> None:
        services = list(self.config.services)
        for name, machine in self.machines.items():
            for service in services:
                if not machine.alive:
                    said = "is down"
                elif machine.agent is None:
                    said = "has no agent"
                else:
                    said = f"{service} {machine.agent.duties[service].role.value}"
                has = self._addresses(service) if service in machine.lapses else ""
                self.lines.append(f"{name}: {said}" + (f", has {has}" if has else ""))
        self.lines += [
            f"record: {line}"
            for line in sorted({self._record_of(b, s) for s in services for b in self.brokers if b.up})
        ]

    # -- time -----------------------------------------------------------------------------------------------------

    def _at(self, delay: float, act: Callable[..., None], *arguments: object) -> None:
        self._count += 1
        at = round(self.now + delay, 6)
        heapq.heappush(self._queue, (at, self._count, lambda: act(*arguments)))

    def _say(self, who: str, what: str) -> None:
        self.lines.append(f"{self.now:.3f} {who}: {what}")

    def _murmur(self, who: str, what: str) -> None:
        if self.verbose:
            self._say(who, what)

    # -- agents ---------------------------------------------------------------------------------------------------

    def _start_agent(self, machine: Machine) -> None:
        machine.alive = True
        machine.life += 1
        machine.paused = False
        machine.inbox.clear()
        machine.busy_until.clear()
        machine.running.clear()
        self._say(machine.name, "starts" if machine.name == machine.node else f"starts as {machine.node}")
        left = [service for service, lapses in machine.lapses.items() if lapses - self.now > LEFT_LEAST]
        for service in list(machine.lapses):
            if service not in left:
                self._remove(machine, service, "drops", "that nobody's lease covers")
        machine.boot = f"{machine.node}/{machine.life:x}{machine.mac[-2:]}"
        rng = Random(f"{machine.name} {machine.life}")
        floor = int(self.now * EPOCHS_PER_SECOND)
        machine.agent = Coordinator(
            self.config, machine.node, machine.boot, now=self.now + machine.offset, rng=rng, floor=floor
        )
        machine.roles = dict.fromkeys(machine.agent.duties, Role.STANDBY.value)
        self._feed(machine, ports.LinkChanged("eth0", machine.link))
        for service in left:
            self._set(machine, service, self.now + machine.offset + FOUND_WINDOWS * self.timing.window)
            self._feed(machine, ports.Found(service))
        for broker in self.brokers:
            self._connect(machine, machine.life, broker)

    def _end_agent(self, machine: Machine) -> None:
        machine.agent = None
        machine.life += 1
        machine.paused = False

    def _feed(self, machine: Machine, event: ports.Input) -> None:
        """Gives the agent an input, or keeps it until the agent runs again, and carries out what comes of it."""
        if machine.agent is None:
            return
        if machine.paused:
            machine.inbox.append(event)
            return
        machine.steps.append(self.now)
        if len(machine.steps) == STEPS_MOST and self.now - machine.steps[0] < 1.0:
            raise StoryError(f"{machine.name} runs in circles at {self.now:.3f}: {STEPS_MOST} steps in a second")
        agent = machine.agent
        for output in agent.step(self.now + machine.offset, event):
            self._carry_out(machine, output)
        for duty in agent.duties.values():
            if machine.roles[duty.name] != duty.role.value:
                raise StoryError(f"{machine.name} is {duty.role.value} in {duty.name} and did not tell")
        if machine.agent is not None:
            machine.wake += 1
            delay = machine.agent.next_at() - machine.offset - self.now
            self._at(min(max(delay, 0.0001), self.timing.beat), self._tick, machine, machine.wake)

    def _tick(self, machine: Machine, wake: int) -> None:
        if wake == machine.wake:
            self._feed(machine, ports.Tick())

    def _later(self, machine: Machine, delay: float, event: ports.Input) -> None:
        """An input for this life of the agent."""
        life = machine.life
        self._at(delay, lambda: self._feed(machine, event) if machine.life == life else None)

    # -- outputs --------------------------------------------------------------------------------------------------

    def _carry_out(self, machine: Machine, output: ports.Output) -> None:
        match output:
            case ports.SendBeat(beat):
                self._murmur(machine.name, f"beat {beat.seq}: {_standings(beat)}")
                self._send(machine, self.topics.beat(machine.node), beat.model_dump_json(exclude_defaults=True))
            case ports.PublishService(service, holder, epoch, _, hand):
                state = ServiceState(service=service, holder=holder, epoch=epoch, by=machine.node, hand=hand)
                told = _told(service, holder, epoch, hand)
                self._send(machine, self.topics.service(service), state.model_dump_json(), told)
            case ports.PublishNode(node, online, reason):
                self._tell_node(machine, node, online, reason)
            case ports.Emit(subject, type_, data):
                self._tell(machine, subject, type_, data)
            case ports.Run():
                self._run(machine, output)
            case ports.Abort(service):
                if machine.running.get(service, 0):
                    self._murmur(machine.name, f"{service}: ends the step that runs")
                machine.running[service] = 0
                machine.busy_until[service] = self.now
            case ports.DropNow(service):
                self._remove(machine, service, "drops", "at once")
            case ports.Hold(service, until, only_if_present):
                self._at(HOP, self._hold, machine, machine.life, service, until, only_if_present)
            case ports.Leave(service):
                self._set(machine, service, self.now + machine.offset + LEFT_SECONDS + 0.5)
            case ports.Announce(service):
                self._murmur(machine.name, f"announces {self._addresses(service)}")
            case ports.Probe(service):
                self._probe(machine, service)
            case ports.AskEcho():
                self._echo(machine)
            case ports.Stopped():
                self._say(machine.name, "has stopped")
                self._end_agent(machine)
                for session in self._sessions(machine):
                    self._lose(session, will=False)

    def _tell(self, machine: Machine, subject: str, type_: str, data: dict[str, object]) -> None:
        kind = "service" if subject in self.config.services else "node"
        event = Event(
            id=f"{machine.name}-{len(self.events)}",
            source=f"locum/story/{machine.node}",
            type=f"locum.{kind}.{type_}",
            subject=subject,
            time=f"{self.now:.3f}",
            data=data,
        )
        if type_ not in EVENTS:
            raise StoryError(f"{machine.name} tells of {type_!r}, an event that is not described")
        if decode("event", subject, event.model_dump_json().encode()) != event:
            raise StoryError(f"{machine.name}'s event does not survive its way over the bus: {event}")
        self.events.append(event)
        if type_ in QUIET_EVENTS:
            return
        if type_ in ROLES:
            if (machine.roles[subject], type_) != (data["from"], data["to"]):
                raise StoryError(f"{machine.name} was {machine.roles[subject]} in {subject}, and tells {data}")
            machine.roles[subject] = type_
            change = f"{subject} {data['from']} -> {data['to']}"
            why = [str(data["reason"])]
            why += [f"epoch {data['epoch']}"] if type_ == Role.CLAIMING else []
            why += [str(data["why"])] if data.get("why") else []
            self._say(machine.name, f"{change} ({', '.join(why)})")
            return
        told = ", ".join(f"{key}={value}" for key, value in data.items() if value not in ("", None) and key != "epoch")
        self._say(machine.name, f"{subject} {type_}" + (f" ({told})" if told else ""))

    def _tell_node(self, machine: Machine, node: str, online: bool, reason: str) -> None:
        told = f"{node} is " + ("online" if online else f"offline ({reason})")
        boot = machine.boot if node == machine.node else ""
        state = NodeState(node=node, state="online" if online else "offline", reason=reason, boot=boot)
        topic = self.topics.node(node)
        if online:
            self._recorded.setdefault(topic, told)  # at a first start it goes without saying
        self._send(machine, topic, state.model_dump_json(), told)

    # -- hooks and the kernel -------------------------------------------------------------------------------------

    def _run(self, machine: Machine, run: ports.Run) -> None:
        """A step begins when the one before it has ended."""
        wait = max(0.0, machine.busy_until.get(run.service, 0.0) - self.now)
        machine.running[run.service] = run.number
        hook = machine.hooks.get(run.step)
        takes = HOP if run.step in (Step.TAKE, Step.DROP) else hook[1] if hook else 0.0
        machine.busy_until[run.service] = self.now + wait + takes
        if hook:
            self._at(wait, self._begin, machine, machine.life, run)
        self._at(wait + takes, self._finish, machine, machine.life, run, takes)

    def _runs(self, machine: Machine, life: int, run: ports.Run) -> bool:
        return machine.life == life and machine.running.get(run.service) == run.number

    def _begin(self, machine: Machine, life: int, run: ports.Run) -> None:
        if self._runs(machine, life, run):
            self._say(machine.name, f"runs {run.step.value}")

    def _finish(self, machine: Machine, life: int, run: ports.Run, takes: float) -> None:
        if not self._runs(machine, life, run):
            return
        machine.running[run.service] = 0
        ok, detail = True, ""
        if run.step is Step.TAKE:
            ok, detail = self._set(machine, run.service, run.until), ""
        elif run.step is Step.DROP:
            self._remove(machine, run.service, "drops")
        elif run.step in machine.hooks:
            ok = machine.hooks[run.step][0]
            detail = "" if ok else f"{run.step.value}: exit status 1"
            if not ok or takes >= 0.1:
                self._say(machine.name, f"{run.step.value} {'is done' if ok else 'fails'}")
        self._feed(machine, ports.StepDone(run.service, run.number, ok, detail))

    def _set(self, machine: Machine, service: str, until: float) -> bool:
        lifetime = kernel_seconds(until, self.now + machine.offset)
        if lifetime == 0:
            return False
        if service not in machine.lapses:
            self._say(machine.name, f"takes {self._addresses(service)}")
        machine.lapses[service] = self.now + lifetime
        self._at(lifetime, self._lapse, machine, service)
        self._look_for_two(service)
        return True

    def _hold(self, machine: Machine, life: int, service: str, until: float, only_if_present: bool) -> None:
        if machine.life != life or machine.paused:
            return
        if only_if_present and service not in machine.lapses:
            self._feed(machine, ports.AddressGone(service, f"{self._addresses(service)} is gone"))
        else:
            held = self._set(machine, service, until)
            if held:
                self._murmur(machine.name, f"renews {self._addresses(service)}")
            self._feed(machine, ports.Held(service, until, held, "" if held else "too late"))

    def _remove(self, machine: Machine, service: str, does: str, how: str = "") -> None:
        if machine.lapses.pop(service, None) is not None:
            self._say(machine.name, f"{does} {self._addresses(service)} {how}".rstrip())

    def _lapse(self, machine: Machine, service: str) -> None:
        if machine.lapses.get(service, self.now + 1.0) <= self.now:
            self._remove(machine, service, "its kernel removes", "whose lifetime is over")
            self._feed(machine, ports.AddressGone(service, f"{self._addresses(service)} is gone"))

    def _look_for_two(self, service: str) -> None:
        have = [machine.name for machine in self.machines.values() if service in machine.lapses]
        told = f"{self._addresses(service)} is on {' and on '.join(have)}"
        if len(have) > 1 and told not in self.overlaps:
            self.overlaps.append(told)
            self._say("!!!", told)

    # -- the wire -------------------------------------------------------------------------------------------------

    def _is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self._cuts

    def _neighbours(self, machine: Machine) -> Iterator[Machine]:
        for other in self.machines.values():
            if other is machine or not other.alive or not other.link or machine.isolated or other.isolated:
                continue
            if not self._is_cut(machine.name, other.name):
                yield other

    def _probe(self, machine: Machine, service: str) -> None:
        """Asks, and asks once more; waits for as long as it takes to be sure."""
        asked_at = self.now + machine.offset
        if not machine.link:
            self._later(machine, 0.0, ports.Probed(service, asked_at, error="eth0: no carrier"))
            return
        life = machine.life
        address = self._addresses(service).partition("/")[0]

        def answered() -> str:
            users = [other.mac for other in self._neighbours(machine) if service in other.lapses]
            stranger = "" if machine.isolated else self._strangers.get(service, "")
            return stranger or (users[0] if users else "")

        def tell(mac: str) -> None:
            if machine.life == life:
                self._murmur(machine.name, f"asks the wire for {address}: {mac or 'silence'}")
                self._feed(machine, ports.Probed(service, asked_at, mac, address if mac else ""))

        def ask_again() -> None:
            mac = answered()
            self._at(HOP if mac else LISTEN / 2, tell, mac)

        mac = answered()
        if mac:
            self._at(HOP, tell, mac)
        else:
            self._at(LISTEN / 2, ask_again)

    def _echo(self, machine: Machine) -> None:
        asked_at = self.now + machine.offset
        by = ""
        if machine.link:
            by = next((self.config.nodes[other.node].address for other in self._neighbours(machine)), "")
            if not by and self.config.gateway and not machine.isolated and not self._is_cut(machine.name, "gateway"):
                by = self.config.gateway
        self._murmur(machine.name, f"asks for an echo: {by or 'nobody answers'}")
        self._later(machine, HOP if by else min(self.timing.beat, 1.0), ports.Echoed(asked_at, by))

    # -- the brokers ----------------------------------------------------------------------------------------------

    def _broker(self, name: str) -> Broker | None:
        return next((broker for broker in self.brokers if broker.name == name), None)

    def _sessions(self, machine: Machine) -> list[Session]:
        return [session for broker in self.brokers for session in broker.sessions if session.machine is machine]

    def _connect(self, machine: Machine, life: int, broker: Broker) -> None:
        """Connects, or tries again until it does."""
        if machine.life != life:
            return
        if machine.paused or machine.isolated or not broker.up or self._is_cut(machine.name, broker.name):
            self._at(RECONNECT, self._connect, machine, life, broker)
            return
        for old in [old for old in broker.sessions if old.machine.node == machine.node]:
            self._lose(old, will=True)  # one name, one connection
        session = Session(machine, life, machine.boot, broker)
        broker.sessions.append(session)
        self._deliver(session, ports.BrokerUp(broker.number))
        for topic, payload in broker.retained.items():
            self._deliver_message(session, topic, payload)

    def _lose(self, session: Session, will: bool) -> None:
        """A connection ends, and its agent knows it; `will`: not in good order, as the broker sees it."""
        machine, broker = session.machine, session.broker
        session.open = False
        broker.sessions.remove(session)
        if machine.life == session.life and not session.left:
            self._later(machine, HOP, ports.BrokerDown(broker.number))
            self._at(RECONNECT, self._connect, machine, session.life, broker)
        if will and broker.up:
            topic, told = self.topics.node(machine.node), f"{machine.node} is offline (lost)"
            if self._recorded.get(topic) != told:
                self._recorded[topic] = told
                self._say(broker.name, f"records: {told}")
            lost = NodeState(node=machine.node, state="offline", reason="lost", boot=session.boot)
            self._arrive(broker, topic, lost.model_dump_json().encode(), True)

    def _keepalive(self) -> float:
        """Seconds of silence after which a broker gives up a client: one and a half times the keepalive."""
        return 1.5 * max(2, ceil(self.timing.lease))

    def _notice_later(self, machine: Machine) -> None:
        """A host that says nothing more is noticed when its keepalive is over."""

        def notice(session: Session, life: int) -> None:
            if session.open and (machine.life != session.life or machine.paused) and machine.life == life:
                self._lose(session, will=True)

        for session in self._sessions(machine):
            self._at(self._keepalive(), notice, session, machine.life)

    def _give_up(self, session: Session) -> None:
        """An agent whose own beats do not come back makes its connection anew."""
        machine = session.machine
        if session.open and session.hangs and machine.life == session.life:
            session.left = True
            self._later(machine, 0.0, ports.BrokerDown(session.broker.number))
            self._at(RECONNECT, self._connect, machine, session.life, session.broker)

    def _expire(self, session: Session, left: bool = False) -> None:
        """The broker finds that a connection is dead: nothing came for too long, or its client has left it."""
        if session.open and (session.hangs or left):
            self._lose(session, will=True)

    def _send(self, machine: Machine, topic: str, payload: str, told: str = "") -> None:
        """To every broker that is there; what cannot be sent at once is lost. `told`: it is retained, and says this."""
        for session in self._sessions(machine):
            if session.life == machine.life and not session.left:
                self._send_on(session, topic, payload.encode(), told)

    def _send_on(self, session: Session, topic: str, payload: bytes, told: str) -> None:
        if session.hangs:
            session.up.append((topic, payload, told))
            return
        if told and self._recorded.get(topic) != told:
            self._recorded[topic] = told
            self._say(session.machine.name, f"records: {told}")
        session.sent_at = max(session.sent_at, self.now + HOP + session.machine.delay)
        self._at(session.sent_at - self.now, self._arrive, session.broker, topic, payload, bool(told))

    def _arrive(self, broker: Broker, topic: str, payload: bytes, retain: bool) -> None:
        if not broker.up:
            return
        if retain:
            broker.retained[topic] = payload
        for session in broker.sessions:
            self._deliver_message(session, topic, payload)

    def _deliver_message(self, session: Session, topic: str, payload: bytes) -> None:
        """What an agent subscribes to, as it understands it."""
        parsed = self.topics.parse(topic)
        if parsed is None:
            raise StoryError(f"{topic} is no topic of this cluster")
        kind, name = parsed
        message = decode(kind, name, payload)
        broker = session.broker.number
        match message:
            case Beat():
                self._deliver(session, ports.BeatHeard(broker, message))
            case ServiceState():
                self._deliver(session, ports.ServiceHeard(broker, message))
            case NodeState():
                self._deliver(session, ports.NodeHeard(broker, message))
            case Command():
                self._deliver(session, ports.CommandHeard(message))

    def _deliver(self, session: Session, event: ports.Input) -> None:
        if session.hangs:
            session.down.append(event)
            return

        def give() -> None:
            if session.open and not session.left and session.machine.life == session.life:
                self._feed(session.machine, event)

        session.handed_at = max(session.handed_at, self.now + HOP + session.machine.delay)
        self._at(session.handed_at - self.now, give)

    def _record_of(self, broker: Broker, service: str) -> str:
        payload = broker.retained.get(self.topics.service(service))
        if payload is None:
            return f"nothing of {service}"
        state = ServiceState.model_validate_json(payload)
        return _told(service, state.holder, state.epoch)

    def _addresses(self, service: str) -> str:
        return ", ".join(str(address) for address in self.config.services[service].addresses)


def _told(service: str, holder: str | None, epoch: int, hand: Hand | None = None) -> str:
    where = f"{service} is at {holder}, epoch {epoch}" if holder else f"nobody has {service}, epoch {epoch}"
    kept = f"paused for {hand.keeper or 'nobody'}" if hand and hand.paused else "not paused"
    return f"{where}, {kept}" if hand else where


def _standings(beat: Beat) -> str:
    return ", ".join(f"{name} {standing.role.value}/{standing.epoch}" for name, standing in beat.services.items())


# -- scenario files -----------------------------------------------------------------------------------------------


def perform(text: str) -> tuple[str, Story]:
    """Plays a scenario's text; returns it with what really came of each block, and the world at its end."""
    story = Story()
    out: list[str] = []
    commands: list[str] = []
    lines: Iterable[str] = iter([*text.splitlines(), ""])
    for line in lines:
        if line == "----":
            out.append(line)
            told = [said for command in commands for said in story.play(command)]
            out += told or ["nothing to see"]
            commands = []
            for _ in iter(lambda: next(lines, ""), ""):
                pass  # what was written there before
            out.append("")
        else:
            out.append(line)
            if line and not line.startswith("#"):
                commands.append(line)
    if commands:
        raise StoryError(f"no ---- after {commands}")
    return "\n".join(out).rstrip("\n") + "\n", story


def wants_rewrite() -> bool:
    return os.environ.get("REWRITE", "") not in ("", "0")


def main(arguments: list[str]) -> None:
    rewrite = "--rewrite" in arguments or wants_rewrite()
    for path in (Path(argument) for argument in arguments if argument != "--rewrite"):
        played, story = perform(path.read_text())
        if rewrite:
            path.write_text(played)
        else:
            print(played, end="")
        if story.overlaps:
            print(f"{path}: two machines had one address: {story.overlaps}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
