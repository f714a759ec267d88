"""A model of the rim of the agent (`locum/agent.py`, `locum/bus.py`) around the real coordinator.

It does what they do, in their order: outputs one after the other; beats and retained states at once to the brokers
that are there, or not at all; the steps of a service one after the other; an abort ends the one that runs. While the
process stands still, whatever comes waits, and afterwards the coordinator gets it from its several sources in any
order, each source's in its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from random import Random
from typing import TYPE_CHECKING, Any

from locum import ports
from locum.address.lifetime import FOUND_WINDOWS, LEFT_LEAST, LEFT_SECONDS
from locum.messages import NodeState, ServiceState
from locum.ports import BeatHeard, Step
from tests.sim.broker import Conn
from tests.sim.netlink import GONE, HELD, Job, Netlink
from tests.sim.shape import config_of

if TYPE_CHECKING:
    from tests.sim.host import Host

TICK = ports.Tick()
TIMER_LATE = 0.0001
"""Seconds by which a timer is late at the least."""
SECOND_ASK, LISTEN = 0.02, 0.04
"""Seconds after which a probe asks again, and is over."""
FLUSH_SECONDS = 1.0
WAITING_MOST = 50_000
MOMENT = 0.0002

Act = Callable[[Any, Any], None]


class Task:
    """A step of a takeover or a release."""

    __slots__ = ("done", "job", "next", "run", "running")

    def __init__(self, run: ports.Run) -> None:
        self.run = run
        self.running = False
        self.done = False
        self.next: Task | None = None
        self.job: Job | None = None


class Agent:
    """One life of the agent's process."""

    def __init__(self, host: Host) -> None:
        world = host.world
        shape = world.shape
        self.host = host
        self.world = world
        self.name = host.name
        self.boot = f"{host.name}/{host.index:x}{host.lives:04x}"
        self.rng = Random(f"{world.plan.seed}/agent/{host.index}/{host.lives}")
        self.core = world.rules.coordinator(
            config_of(shape.nodes, shape.brokers, shape.services, shape),
            host.name,
            self.boot,
            now=host.now(),
            rng=Random(f"{world.plan.seed}/core/{host.index}/{host.lives}"),
            floor=host.floor(),
        )
        self.core.timing = shape.timing
        for duty in self.core.duties.values():
            duty.lease.timing = self.core.timing
        self.step = self.core.step
        self.next_at = self.core.next_at
        self.beat_seconds = shape.beat / host.rate
        self.dead = False
        self.stopped = False
        # Standing still, and what waits meanwhile. Sources: the brokers, then what comes from the agent's own work.
        self.runs = True
        self.awake = True
        """It runs, and nothing waits."""
        self.paused_until = 0.0
        self.ran_since = world.t
        self.late = False
        """The step under way rests on a look at the clock from before a pause."""
        self.inside = shape.brokers
        self.waiting: list[deque[tuple[Act, Any, Any]]] = [deque() for _ in range(shape.brokers + 1)]
        self.continuations: list[tuple[Act, Any, Any]] = []
        """Of the kernel's thread, which stands still too."""
        self.half: list[ports.Output] = []
        """Outputs that a pause came before."""
        self.half_step: tuple[float, ports.Input] | None = None
        """A step whose look at the clock a pause came after."""
        # The timer.
        self.wake_at = inf
        self.wake_set = inf
        self.wake_due = False
        self.conns: list[Conn | None] = [None] * shape.brokers
        self.up: list[Conn] = []
        self.netlink = Netlink(self)
        self.tasks: dict[str, Task] = {}
        self.left: set[str] = set()
        """Paused services whose addresses stay when the agent has ended."""
        self.do: dict[type, Callable[[Any], None]] = {
            ports.SendBeat: self._send_beat,
            ports.PublishService: self._publish_service,
            ports.PublishNode: self._publish_node,
            ports.Emit: self._emit,
            ports.Run: self._run,
            ports.Abort: self._abort,
            ports.DropNow: self._drop_now,
            ports.Hold: self._hold,
            ports.Leave: self._leave,
            ports.Announce: lambda _: None,
            ports.Probe: self._probe,
            ports.AskEcho: self._ask_echo,
            ports.Stopped: self._stop,
        }

    def begin(self) -> None:
        left = []
        for name in self.core.duties:
            address = self.host.kernel.has.get(name)
            if address is not None and LEFT_LEAST < address.expires_at - self.world.t <= LEFT_SECONDS + 1:
                self.host.kernel.set(name, int(FOUND_WINDOWS * self.core.timing.window))
                left.append(name)
            else:
                self.host.kernel.remove(name, "was here at the start")
        self.world.referee.born(self)
        for name in left:
            self.feed(ports.Found(name))
        self.feed(ports.LinkChanged("eth0", self.host.carrier))
        for service, until in self.host.unfit_until.items():
            if service in self.core.duties and until > self.world.t:
                self.feed(ports.Fitness(service, False, "a check fails"))
        for broker in range(len(self.conns)):
            self.world.at(self.world.t + 0.001, self._connect, broker)
        self.post(self.inside, self._fed, TICK)

    def die(self) -> None:
        self.dead = True
        self.runs = self.awake = False
        for queue in self.waiting:
            queue.clear()
        self.world.referee.died(self)

    # -- inputs --------------------------------------------------------------------------------------------------------

    def feed(self, event: ports.Input) -> None:
        if self.stopped or self.dead:
            return
        host = self.host
        now = host.base + host.rate * self.world.t
        if host.trap and self._trapped(now, event):
            return
        outputs = self.step(now, event)
        self.world.referee.stepped(self, event, outputs)
        if outputs:
            if host.trap:
                self._carry_out_trapped(outputs)
            else:
                do = self.do
                for output in outputs:
                    do[output.__class__](output)
        if not self.stopped and not self.half and not self.dead:
            self._wake()

    def _wake(self) -> None:
        host, world = self.host, self.world
        at = (self.next_at() - host.base) / host.rate
        now = world.t
        if at < now:
            at = now
        elif at > now + self.beat_seconds:
            at = now + self.beat_seconds
        at += TIMER_LATE
        self.wake_at = at
        self.wake_due = False
        if at < self.wake_set:
            self.wake_set = at
            world.at(at, self._timer, at)

    def _timer(self, set_for: float, _: object) -> None:
        if self.dead or set_for != self.wake_set:
            return
        if self.world.t < self.wake_at:
            self.wake_set = self.wake_at
            self.world.at(self.wake_at, self._timer, self.wake_at)
            return
        self.wake_set = inf
        if self.awake:
            self.feed(TICK)
        else:
            self.wake_due = True

    def arrived(self, conn: Conn, event: ports.Input) -> None:
        """A message has come to this host."""
        if self.awake:
            self._take_in(conn, event)
        elif not self.dead:
            self.waiting[conn.broker.index].append((self._take_in, conn, event))

    def _take_in(self, conn: Conn, event: ports.Input) -> None:
        if conn.closed:
            return
        self.feed(event)
        if event.__class__ is BeatHeard and event.beat.boot == self.boot:
            conn.echoed_at = self.host.now()

    def post(self, source: int, act: Act, a: Any = None, b: Any = None) -> None:
        """Something for the loop to do: now, or when it comes to it."""
        if self.awake:
            act(a, b)
        elif not self.dead:
            self.waiting[source].append((act, a, b))
            assert len(self.waiting[source]) < WAITING_MOST

    def checked(self, service: str, fit: bool) -> None:
        if service in self.core.duties:
            self.post(self.inside, lambda *_: self.feed(ports.Fitness(service, fit, "" if fit else "a check fails")))

    def link_changed(self, up: bool, _: object) -> None:
        self.post(self.inside, lambda *_: self.feed(ports.LinkChanged("eth0", up)))

    def address_gone(self, service: str, why: str) -> None:
        """The kernel tells of every address that goes, whoever removed it."""
        self.world.at(self.world.t + MOMENT, self._address_gone, ports.AddressGone(service, why))

    def _address_gone(self, event: ports.Input, _: object) -> None:
        self.post(self.inside, self._fed, event)

    def stop(self, at_once: bool) -> None:
        self.post(self.inside, lambda *_: self.feed(ports.Stop(at_once)))

    # -- standing still ------------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """SIGSTOP; SIGCONT so many seconds later."""
        if self.dead:
            return
        world = self.world
        until = world.t + seconds
        self.runs = self.awake = False
        if until > self.paused_until:
            self.paused_until = until
            world.at(until, self.resume)
            if seconds > world.shape.keepalive:
                for conn in self.conns:
                    if conn is not None:
                        world.at(world.t + world.shape.keepalive, conn.broker.expire, conn, world.t + 0.1)

    def resume(self, *_: object) -> None:
        if self.dead or self.runs or self.world.t < self.paused_until or self.host.asleep:
            return
        world = self.world
        self.runs = True
        self.ran_since = world.t
        world.referee.resumed(self)
        for act, a, b in self.continuations:
            world.at(world.t + self.rng.random() * 10 * MOMENT, act, a, b)
        self.continuations.clear()
        world.at(world.t + self.rng.random() * 10 * MOMENT, self.netlink.go_on)
        world.at(world.t + self.rng.random() * 10 * MOMENT, self._catch_up, self.ran_since)

    def stands(self, act: Act, a: Any, b: Any = None) -> bool:
        """For the kernel's thread: whether the process stands still; then `act` goes on with it."""
        if self.dead:
            return True
        if not self.runs:
            self.continuations.append((act, a, b))
            return True
        return False

    def _catch_up(self, since: float, _: object) -> None:
        """One of the things that have waited, from any source."""
        if not self.runs or self.ran_since != since:
            return
        if self.half_step is not None:
            (now, event), self.half_step = self.half_step, None
            self._step_late(now, event)
        elif self.half:
            outputs, self.half = self.half, []
            for output in outputs:
                self.do[output.__class__](output)
            if not self.stopped:
                self._wake()
        else:
            sources = [queue for queue in self.waiting if queue]
            pick = int(self.rng.random() * (len(sources) + self.wake_due))
            if pick < len(sources):
                act, a, b = sources[pick].popleft()
                act(a, b)
            elif self.wake_due:
                self.wake_due = False
                self.feed(TICK)
        if not self.runs or self.dead:
            return
        if self.half or self.half_step or self.wake_due or any(self.waiting):
            self.world.at(self.world.t + self.rng.random() * MOMENT, self._catch_up, since)
        else:
            self.awake = True

    def sprung(self) -> None:
        """The process is at a trap: it stops here, or ends."""
        host = self.host
        host.trap, seconds = "", host.trap_seconds
        if self.world.tracing:
            self.world.tell(f"{self.name} the trap: {'killed' if seconds < 0 else f'paused {seconds:.3f} s'}")
        if seconds < 0:
            host.kill()
            host.start_in(-seconds)
        else:
            self.pause(seconds)

    def _trapped(self, now: float, event: ports.Input) -> bool:
        host = self.host
        if host.trap == "step":
            host.trap_count -= 1
            if host.trap_count <= 0:
                self.half_step = (now, event)
                self.sprung()
                return True
        return False

    def _step_late(self, now: float, event: ports.Input) -> None:
        if self.stopped:
            return
        self.late = True
        outputs = self.step(now, event)
        self.world.referee.stepped(self, event, outputs)
        self.late = False
        for output in outputs:
            self.do[output.__class__](output)
        if not self.stopped:
            self._wake()

    def _carry_out_trapped(self, outputs: list[ports.Output]) -> None:
        host = self.host
        for index, output in enumerate(outputs):
            if host.trap == "output" and not isinstance(output, ports.Emit):
                host.trap_count -= 1
                if host.trap_count <= 0:
                    self.half = outputs[index:]
                    self.sprung()
                    return
            self.do[output.__class__](output)

    # -- the connections -----------------------------------------------------------------------------------------------

    def _connect(self, broker: int, _: object = None) -> None:
        self.post(self.inside, self._try, broker)

    def _try(self, broker: int, _: object) -> None:
        if self.stopped or self.conns[broker] is not None:
            return
        world, host = self.world, self.host
        link = world.links[host.index][broker]
        server = world.brokers[broker]
        if world.t < link.blocked or server.down:
            wait = self.rng.choice((0.002, world.shape.patience)) + self._rest()
            world.at(world.t + wait, self._connect, broker)
            return
        conn = Conn(self, server, link)
        self.conns[broker] = conn
        # The handshake of TCP is a way up and a way down before the first byte.
        conn.up_last = world.t + link.delay(world.t) + link.delay(world.t)
        conn.send(server.connect, None)
        world.at(world.t + 2 * world.shape.patience, self._impatient, conn)

    def _rest(self) -> float:
        return min(self.world.shape.beat / 2, 0.25) / self.host.rate

    def connected(self, conn: Conn, _: object) -> None:
        if not self.dead:
            self.post(conn.broker.index, self._connected, conn)

    def _connected(self, conn: Conn, _: object) -> None:
        if not conn.closed:
            conn.send(conn.broker.subscribe, None)

    def subscribed(self, conn: Conn, _: object) -> None:
        if not self.dead:
            self.post(conn.broker.index, self._subscribed, conn)

    def _subscribed(self, conn: Conn, _: object) -> None:
        if conn.closed or self.stopped:
            return
        conn.up = True
        conn.echoed_at = self.host.now()
        self.up.append(conn)
        self.feed(ports.BrokerUp(conn.broker.index))
        self.world.at(self.world.t + self._watch_seconds(), self._watch, conn)

    def _watch_seconds(self) -> float:
        """From the last echo on, at most so long until the connection is given up."""
        shape = self.world.shape
        return (shape.lease + shape.beat * (1.0 + self.rng.random())) / self.host.rate

    def _watch(self, conn: Conn, _: object) -> None:
        if not self.dead and not conn.closed:
            self.post(self.inside, self._look_at_echo, conn)

    def _look_at_echo(self, conn: Conn, _: object) -> None:
        if conn.closed or self.stopped:
            return
        shape = self.world.shape
        due = conn.echoed_at + shape.lease + shape.beat
        if self.host.now() > due:
            self._close(conn)
        else:
            wait = (due - self.host.now() + shape.beat * self.rng.random()) / self.host.rate
            self.world.at(self.world.t + wait + MOMENT, self._watch, conn)

    def _impatient(self, conn: Conn, _: object) -> None:
        if not self.dead and not conn.up and not conn.closed:
            self.post(self.inside, self._give_up, conn)

    def _give_up(self, conn: Conn, _: object) -> None:
        if not conn.up:
            self._close(conn)

    def refused(self, conn: Conn, _: object) -> None:
        """The broker's side is gone, and says so."""
        if not self.dead and not conn.closed:
            self.post(conn.broker.index, self._close, conn)

    def _close(self, conn: Conn, _: object = None) -> None:
        if conn.closed:
            return
        conn.closed = True
        broker = conn.broker.index
        assert self.conns[broker] is conn
        self.conns[broker] = None
        conn.send(conn.broker.fin, False)
        if conn.up:
            self.up.remove(conn)
            self.feed(ports.BrokerDown(broker))
        if not self.stopped:
            self.world.at(self.world.t + self._rest(), self._connect, broker)

    # -- outputs -------------------------------------------------------------------------------------------------------

    def _publish(self, message: Any) -> None:
        for conn in self.up:
            link = conn.link
            if link.lose > 0:
                link.lose -= 1
                continue
            conn.send(conn.broker.publish, message)
            if link.dup > 0:
                link.dup -= 1
                conn.send(conn.broker.publish, message)
                if link.random() < 0.5:  # long after
                    self.world.at(self.world.t + link.random() * self.world.shape.lease, conn.broker.publish, conn,
                                  message)  # fmt: skip

    def _send_beat(self, output: ports.SendBeat) -> None:
        self._publish(output.beat)

    def _publish_service(self, output: ports.PublishService) -> None:
        self._publish(
            ServiceState.model_construct(
                service=output.service,
                holder=output.holder,
                epoch=output.epoch,
                by=self.name,
                since="",
                hand=output.hand,
            )
        )

    def _publish_node(self, output: ports.PublishNode) -> None:
        state = "online" if output.online else "offline"
        boot = self.boot if output.node == self.name else ""
        self._publish(NodeState.model_construct(node=output.node, state=state, reason=output.reason, boot=boot))

    def _emit(self, output: ports.Emit) -> None:
        if self.world.tracing:
            self.world.tell(f"{self.name} {output.subject} {output.type} {output.data}")

    def _hold(self, output: ports.Hold) -> None:
        service, until = output.service, output.until
        only_if_present = output.only_if_present and self.world.rules.only_if_present

        def answer(how: str) -> None:
            if how == GONE and only_if_present:
                self.feed(ports.AddressGone(service, how))
            else:
                self.feed(ports.Held(service, until, how == HELD, how))

        self.netlink.ask(Job(service, until, only_if_present, answer))

    def _drop_now(self, output: ports.DropNow) -> None:
        self.netlink.ask(Job(output.service, inf, False, None))

    def _leave(self, output: ports.Leave) -> None:
        self.left.add(output.service)
        self.netlink.ask(Job(output.service, self.host.now() + LEFT_SECONDS + 0.5, False, None))

    # -- the wire ------------------------------------------------------------------------------------------------------

    def _probe(self, output: ports.Probe) -> None:
        asked_at = self.host.now()
        service = output.service
        if not self.host.carrier:
            self.world.at(self.world.t + MOMENT, self._probed, ports.Probed(service, asked_at, error="no carrier"))
            return
        other = self.world.wire.probe(self.host, service)
        if other is not None:
            answer = ports.Probed(service, asked_at, mac=other.name, address="10.0.1.1")
            self.world.at(self.world.t + 2 * MOMENT, self._probed, answer)
        else:
            self.world.at(self.world.t + SECOND_ASK, self._ask_again, service, asked_at)

    def _ask_again(self, service: str, asked_at: float) -> None:
        if self.stands(self._ask_again, service, asked_at):
            return
        other = self.world.wire.probe(self.host, service)
        if other is not None:
            answer = ports.Probed(service, asked_at, mac=other.name, address="10.0.1.1")
            self.world.at(self.world.t + 2 * MOMENT, self._probed, answer)
        else:
            error = "" if self.host.carrier else "no carrier"
            self.world.at(
                self.world.t + LISTEN - SECOND_ASK, self._probed, ports.Probed(service, asked_at, error=error)
            )

    def _probed(self, answer: ports.Probed, _: object) -> None:
        self.post(self.inside, self._fed, answer)

    def _fed(self, event: ports.Input, _: object) -> None:
        self.feed(event)

    def _ask_echo(self, output: ports.AskEcho) -> None:
        asked_at = self.host.now()
        by = self.world.wire.echo(self.host)
        wait = 2 * MOMENT if by else min(self.world.shape.beat, 1.0)
        self.world.at(self.world.t + wait, self._echoed, ports.Echoed(asked_at, by))

    def _echoed(self, answer: ports.Echoed, _: object) -> None:
        self.post(self.inside, self._fed, answer)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _run(self, output: ports.Run) -> None:
        task = Task(output)
        previous = self.tasks.get(output.service)
        self.tasks[output.service] = task
        if previous is not None and not previous.done:
            previous.next = task
        else:
            self._begin(task)

    def _begin(self, task: Task) -> None:
        run = task.run
        if self.dead:
            return
        task.running = True
        if run.step is Step.TAKE:
            task.job = Job(run.service, run.until, False, lambda how: self._ended(task, how == HELD))
            self.netlink.ask(task.job)
        elif run.step is Step.DROP:
            task.job = Job(run.service, inf, False, lambda how: self._ended(task, how == GONE))
            self.netlink.ask(task.job)
        else:
            seconds, ok = self.host.hook(run.step.value)
            self.world.referee.hook_begins(self, run)
            self.world.at(self.world.t + seconds, self._hook_ends, task, ok)

    def _hook_ends(self, task: Task, ok: bool) -> None:
        """Its process has ended, whether or not the agent runs."""
        if task.done or self.dead:
            return
        self.world.referee.hook_ends(self, task.run)
        self.post(self.inside, self._ended, task, ok)

    def _ended(self, task: Task, ok: bool) -> None:
        if task.done:
            return
        run = task.run
        self.feed(ports.StepDone(run.service, run.number, ok, "" if ok else "it failed"))
        self._over(task)

    def _over(self, task: Task) -> None:
        if not task.done:
            task.done = True
            if task.next is not None and not self.stopped and not self.dead:
                self._begin(task.next)

    def _abort(self, output: ports.Abort) -> None:
        task = self.tasks.get(output.service)
        if task is None or task.done:
            return
        if task.job is not None:
            task.job.left = True
            self._over(task)
        elif task.running:
            self.world.referee.hook_ends(self, task.run)
            self.world.at(self.world.t + self.rng.random() * 0.02, self._killed, task)
        else:
            self._over(task)

    def _killed(self, task: Task, _: object) -> None:
        if not self.dead:
            self.post(self.inside, lambda *_: self._over(task))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _stop(self, output: ports.Stopped) -> None:
        self.stopped = True
        self.world.at(self.world.t + self.rng.random() * FLUSH_SECONDS, self._flushed)

    def _flushed(self, *_: object) -> None:
        if not self.dead:
            self.post(self.inside, self._end)

    def _end(self, *_: object) -> None:
        for conn in self.conns:
            if conn is not None:
                conn.closed = True
                conn.send(conn.broker.fin, True)
        for name in self.core.duties:
            if name not in self.left:
                self.host.kernel.remove(name, "at the end")
        self.die()
        self.host.agent = None

    @property
    def clean(self) -> bool:
        """Nothing of its own is under way."""
        return self.awake and not self.stopped and all(task.done for task in self.tasks.values())
