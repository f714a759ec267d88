"""Decides what one node does in every service. Pure: inputs and a time go in, outputs come out (see ports.py).

A node has one role in each service, and TABLE says what may happen in which role. What can be decided is decided here;
the rim carries it out and tells how it went. Rules that hold throughout:

- A role is left only through a row of TABLE, and each change of role is one event, sent by the node itself.
- The address is taken only under a granted lease, is renewed only under a good one (or under `hold`, and then only if
  the kernel still has it), and is the first thing to go when the lease is lost.
- What releases a service is sent before what tells of it: the retained record, then the beat, then the events.
- Every wait has an end that is asked for in `next_at`.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from random import Random
from typing import Any

from locum.config import Config, Service
from locum.lease import Lease
from locum.messages import HOLDING, Beat, Command, Hand, NodeState, Role, ServiceState, Standing
from locum.ports import (
    Abort,
    AddressGone,
    Adopt,
    Announce,
    Appeared,
    AskEcho,
    BeatHeard,
    BrokerDown,
    BrokerUp,
    CommandHeard,
    Contested,
    DropNow,
    Echoed,
    Emit,
    Fitness,
    Found,
    Held,
    Hold,
    Input,
    Leave,
    LinkChanged,
    NodeHeard,
    Obey,
    Output,
    Probe,
    Probed,
    PublishNode,
    PublishService,
    Retire,
    Run,
    SendBeat,
    ServiceHeard,
    Step,
    StepDone,
    Stop,
    Stopped,
    Tick,
)
from locum.timing import EPOCHS_AHEAD, EPOCHS_PER_SECOND, WIRE_PACE, WIRE_SILENCE

SENT_MOST = 256
"""Own beats whose send time is remembered; one that comes back later than that many beats confirms nothing."""
SPARE_BEATS = 8
"""Beats that may go out of turn, one upon the other, each for a change: more than one service needs for its move."""
SPARE_BEAT_EVERY = 0.02
"""Seconds between them after that: a node that takes over a hundred services tells of many of them in each beat."""
FAILBACK_MOST = 86_400.0
"""The longest pause, in seconds, before a service is offered again to a node that could not keep it."""
ORDERLY = ("switchover", "failback", "drain", "together", "apart")
"""Why a service is handed over where nothing forces it: a hook may refuse."""
COMMANDS_MOST = 64
"""Commands whose number is remembered, so that one heard from several brokers is done once."""
WHY_MOST = 1_000
"""Characters of an event's explanation."""
REMEMBERED = ("reason", "held_since", "renewed_for", "kernel_until", "held_until", "own_fit", "own_unfit",
              "fit", "unfit", "unfit_since", "failbacks_undone", "failback_at")  # fmt: skip
"""What of a holder's duty outlives the process, when it is started anew in place."""
PROBES_LEAST = 4
"""Unanswered probes in a row that make silence."""
PROBE_BOUND = 2.0
"""Seconds after which a probe that was never answered for by the rim is asked again."""
DROP_RETRY = 0.2
"""Seconds between attempts to remove an address that the kernel would not remove."""
RESTORE_LEAST = 0.02
"""Seconds between two attempts to set an address again that somebody else removes."""
DEFEND_LEAST = 1.0
"""Seconds between two announcements because of conflicts."""
CONFLICT_AGAIN = 60.0
"""Seconds after which a conflict with the same machine is told of again."""
ANNOUNCE_AFTER = (0.02, 0.1, 0.5, 2.0, 5.0, 10.0)
"""Seconds after a takeover at which the neighbours are told again: a frame, or a switch that was just learning, may
have missed the first."""


class On(StrEnum):
    """What makes a role change."""

    TURN = "its turn to claim"
    GRANTED = "a majority granted the claim"
    DENIED = "the claim was not granted"
    ACQUIRED = "the last step of the takeover is done"
    DECLINED = "Test said no"
    FAILED = "a step of the takeover failed"
    MOVE = "the service is to move to another node"
    STOP = "the agent is to stop"
    LOST = "the lease is lost"
    KEPT = "a hook stopped the move"
    RELEASED = "the last step of the release is done"
    LINK_DOWN = "the interface is down or away"
    LINK_UP = "the interface is up"
    UNFIT = "a check fails"
    FIT = "the checks pass"
    PAUSE = "an operator's hand keeps it from claiming"
    RESUME = "no hand is on it any more"
    LEAVE = "the agent is to stop, and the service to stay"


S, C, A, H, R = Role.STANDBY, Role.CLAIMING, Role.ACQUIRING, Role.ACTIVE, Role.RELEASING
F, P = Role.FAULT, Role.PAUSED

TABLE: dict[tuple[Role, On], tuple[str, Role]] = {
    # in this role, when     the coordinator does  and the role becomes
    (S, On.TURN): ("claim", C),
    (S, On.LINK_DOWN): ("nothing", F),
    (S, On.UNFIT): ("nothing", F),
    (S, On.PAUSE): ("nothing", P),
    (F, On.LINK_UP): ("nothing", S),
    (F, On.FIT): ("nothing", S),
    (P, On.RESUME): ("nothing", S),
    (P, On.LINK_DOWN): ("nothing", F),
    (P, On.UNFIT): ("nothing", F),
    (C, On.GRANTED): ("acquire", A),
    (C, On.DENIED): ("withdraw", S),
    (C, On.STOP): ("withdraw", S),
    (C, On.LINK_DOWN): ("withdraw", F),
    (C, On.PAUSE): ("withdraw", P),
    (A, On.ACQUIRED): ("settle", H),
    (A, On.DECLINED): ("withdraw", S),
    (A, On.FAILED): ("undo", R),
    (A, On.STOP): ("undo", R),
    (A, On.LOST): ("let_go", R),
    (A, On.LINK_DOWN): ("let_go", R),
    (H, On.MOVE): ("hand_over", R),
    (H, On.STOP): ("hand_over", R),
    (H, On.LEAVE): ("leave", P),
    (H, On.LOST): ("let_go", R),
    (H, On.LINK_DOWN): ("let_go", R),
    (R, On.KEPT): ("stay", H),
    (R, On.LOST): ("let_go", R),
    (R, On.LINK_DOWN): ("let_go", R),
    (R, On.RELEASED): ("rest", S),
}
"""Everything that can happen to a role. What is not here does not happen: it is ignored in that role."""

NO_HAND = Hand()
TAKEOVER = (Step.TEST, Step.PRE_ACQ, Step.TAKE, Step.POST_ACQ)
RELEASE = (Step.PRE_REL, Step.DROP, Step.POST_REL)
LETTING_GO = (Step.DROP, Step.PRE_REL, Step.POST_REL)


@dataclass(slots=True)
class Ears:
    """What the wire has said about a service's addresses since the first missed beat."""

    pending_since: float | None = None
    done_at: float = -inf
    """When the last probe ended."""
    failed: bool = False
    silent_from: float = inf
    silent_to: float = -inf
    silent_count: int = 0
    mac: str = ""
    address: str = ""
    told: str = ""
    """The answer that an event has told of already."""

    def forget(self) -> None:
        self.failed = False
        self.silent_from, self.silent_to, self.silent_count = inf, -inf, 0
        self.mac = self.address = self.told = ""

    def pending(self, now: float) -> bool:
        return self.pending_since is not None and now < self.pending_since + PROBE_BOUND

    def silent(self, now: float, fresh: float) -> bool:
        """Nobody answered for long enough, and this was asked not longer than `fresh` seconds ago."""
        return (
            self.silent_count >= PROBES_LEAST
            and self.silent_to - self.silent_from >= WIRE_SILENCE
            and now - self.silent_to <= fresh
        )


@dataclass(slots=True, eq=False)
class Duty:
    """This node's part in one service."""

    name: str
    service: Service
    lease: Lease
    role: Role = Role.STANDBY
    role_since: float = -inf
    due: float = -inf
    """When this duty next has something to do of its own accord."""
    # The takeover or release under way.
    plan: deque[Step] = field(default_factory=deque)
    step: Step | None = None
    number: int = 0
    reason: str = ""
    peer: str = ""
    asked_by: str = ""
    """The number of the command that is being carried out."""
    forced: bool = False
    """The release is demanded by safety: no hook can stop it."""
    retry_at: float = inf
    """When DROP is tried again."""
    dropping_since: float = -inf
    """Since when the kernel has been asked to remove the addresses, without a pause of this process."""
    # The address.
    has_address: bool = False
    held_since: float = -inf
    renewed_for: float = -inf
    """The send time (of a beat or an echo request) on which the kernel's present lifetime rests."""
    kernel_until: float = -inf
    published: bool = False
    """The bus was told that we hold it."""
    announce_at: deque[float] = field(default_factory=deque)
    restored_at: float = -inf
    defended_at: float = -inf
    contested_by: str = ""
    """The other machine of the latest conflict that an event has told of, and when."""
    contested_at: float = -inf
    gone: str = ""
    """An address was removed by somebody else: which. Until the kernel has set it again."""
    held_until: float = -inf
    """Until when the kernel has the addresses, by its latest yes."""
    unconfirmed: bool = False
    """A beat is overdue at the brokers: a second opinion is asked for."""
    holding_told: bool = False
    found: bool = False
    """The addresses were left on this host while the service was paused; they are not held yet."""
    # The operator.
    hand: Hand = NO_HAND
    retired: bool = False
    """The configuration is about to change: it is released, and not claimed."""
    # The checks.
    own_fit: bool = True
    own_unfit: str = ""
    """Which of its checks fail, and how."""
    fit: bool = True
    """Its checks pass, and those of the services that must be together with it."""
    unfit: str = ""
    unfit_since: float = inf
    yield_at: float = -inf
    """An unfit holder does not offer the service again before."""
    yield_told: bool = False
    # The next claim.
    ears: Ears = field(default_factory=Ears)
    wire_error: str = ""
    """Why the wire could not be asked, as an event has told."""
    ready_at: float | None = None
    turn: float = 0.0
    waives_wire: bool = False
    """The present claim follows a release: the wire is asked beside it, not before it."""
    backoff_until: float = -inf
    backoff: float = 0.0
    give_way_until: float = -inf
    gave_way_to: tuple[str, int, str | None] | None = None
    failing_back: bool = False
    active_elsewhere: bool = False
    """The node to which it was handed back did become active."""
    failbacks_undone: int = 0
    """How often in a row the service came back after a failback."""
    failback_at: float = -inf
    """The service is not offered to a more preferred node before."""
    successor: str | None = None
    silence_told: bool = False
    clean: bool = False
    """The service was held, and the addresses were removed under a lease that was good all the time."""
    clean_until: float = -inf
    """The end of the lease, as it was when the addresses began to go."""
    undone: bool = True
    """All hooks of the release succeeded: what the service had here is not in use any more."""
    # Its place beside other services.
    leader: "Duty | None" = None
    """The service with which this one must be together."""
    followers: "list[Duty]" = field(default_factory=list)
    strangers: "list[Duty]" = field(default_factory=list)
    """The services from which this one must be apart, in the order of the configuration."""
    strangers_before: int = 0
    """So many of them stand before it there."""
    # What others say.
    last_holder: str = ""
    record: ServiceState | None = None
    record_wrong: bool = False
    corrected_at: float = -inf

    @property
    def holds(self) -> bool:
        return self.role in HOLDING

    @property
    def patience(self) -> float:
        """Seconds within which the others notice what we noticed: all make the same checks."""
        services = [self.service, *(follower.service for follower in self.followers)]
        checks = (check for service in services for check in service.checks.values())
        return max((check.apart for check in checks if not check.only_active), default=0.0)


@dataclass(slots=True)
class Peer:
    """What another node's beats say."""

    heard_at: float = -inf
    boot: str = ""
    standings: dict[str, Standing] = field(default_factory=dict)
    fit_since: dict[str, float] = field(default_factory=dict)
    """Since when it has been a standby, for each service."""
    silent: bool = False
    config: str = ""


class Coordinator:
    """One node's decisions. Not thread-safe; `step` is called from one place."""

    def __init__(
        self,
        config: Config,
        node: str,
        boot: str,
        *,
        now: float,
        rng: Random,
        floor: int = 0,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        """`boot`: this start of the agent, as in Beat. `floor`: an epoch to stay above, as of `now`; it grows by
        EPOCHS_PER_SECOND. With the time since 1970 in that unit, epochs go on growing also when all who knew the last
        one have died or forgotten it. `memory`: of this boot, before it was started anew in place (`memory()`)."""
        self.config = config
        self.node = node
        self.boot = boot
        self.timing = config.durations()
        self._rng = rng
        self._floor = floor
        self._born = now
        self._digest = config.digest()
        self.duties = {
            name: Duty(name, service, Lease(boot, len(config.brokers), self.timing))
            for name, service in config.services_of(node).items()
        }
        self._duties = list(self.duties.values())
        self._arrange()
        self.peers = {name: Peer() for name in config.nodes if name != node}
        self._last = now
        self._beat_at = now
        self._spare_beat_at = -inf
        """A change waits until then for its beat: many at once are told of together."""
        self._seq = 0
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._heard_seq: list[dict[str, int]] = [{} for _ in config.brokers]
        self._up = [False] * len(config.brokers)
        self._links: dict[str, bool] = {}
        self._commands: OrderedDict[str, None] = OrderedDict()
        self._strangers: set[str] = set()
        self._echoed_at = -inf
        self._twin_beats = 0
        self._twin_at = -inf
        self._echo_at = -inf
        self._echo_by = ""
        self._echo_pending_since: float | None = None
        self._echo_next_at = -inf
        self._watch_peers_at = now + self.timing.window
        self.drained = False
        """An operator wants this node to be empty."""
        self.stopping = False
        self._stopped = False
        self._changed = False
        self._urgent: list[Output] = []
        self._later: list[Output] = []
        if memory is not None:
            self._recall(memory)

    # -- the way in and out -----------------------------------------------------------------------------------------

    def step(self, now: float, event: Input) -> list[Output]:
        """Takes one input at a time not before the last one's; returns what is to be done, in order."""
        if now - self._last > self.timing.stall:
            self._doubt(now)
        self._last = now
        for duty in self._take_in(now, event):
            self._advance(duty, now)
        if now >= self._watch_peers_at:
            self._watch_peers(now)
        self._finish_stop()
        if now >= self._beat_at or (self._changed and (now >= self._spare_beat_at or self._stopped)):
            self._urgent.append(SendBeat(self._beat(now)))
        outputs = self._urgent + self._later
        if self._stopped:
            outputs += [PublishNode(self.node, online=False, reason="stopped"), Stopped()]
        self._urgent, self._later = [], []
        return outputs

    def _doubt(self, now: float) -> None:
        """We were stopped or starved. That we heard nothing says something about us, and nothing about the others."""
        for duty in self._duties:
            duty.lease.doubt(now)
            duty.ears.forget()
            duty.dropping_since = now
        self._forgive_peers(now)

    def _forgive_peers(self, now: float) -> None:
        """We could not hear, so nobody was silent: each gets its full time again."""
        for peer in self.peers.values():
            if peer.boot and not peer.silent:
                peer.heard_at = max(peer.heard_at, now - self.timing.beat)

    def next_at(self) -> float:
        """When `step` wants to be called with a Tick, if nothing happens before."""
        due = min(self._beat_at, self._watch_peers_at, self._spare_beat_at if self._changed else inf)
        for duty in self._duties:
            if duty.due < due:
                due = duty.due
        return due

    def unheard(self, service: str, now: float) -> tuple[str, ...]:
        """The service's other nodes of which no beat was heard within the window."""
        others = (name for name in self.duties[service].service.nodes if name != self.node)
        return tuple(name for name in others if now - self.peers[name].heard_at > self.timing.window)

    def followed(self, service: str, now: float) -> str:
        """The node that holds the service, as its beats say just now, while this one stands by; empty: none."""
        duty = self.duties[service]
        if duty.role not in (Role.STANDBY, Role.PAUSED) or self.stopping:
            return ""
        holders = [
            name
            for name, peer in self.peers.items()
            if now - peer.heard_at <= self.timing.missed
            and service in peer.standings
            and peer.standings[service].role is Role.ACTIVE
        ]
        return holders[0] if len(holders) == 1 else ""

    def _take_in(self, now: float, event: Input) -> list[Duty]:
        """Notes the input; returns the duties that it may concern."""
        match event:
            case Tick():
                return [duty for duty in self._duties if duty.due <= now]
            case BeatHeard(broker, beat):
                return self._hear(now, broker, beat)
            case StepDone(service, number, ok, detail):
                duty = self.duties[service]
                self._advance(duty, now)  # the lease may be over: then the step no longer counts
                if number == duty.number and duty.step is not None:
                    self._step_done(duty, now, ok, detail)
                return [duty]
            case Probed():
                return self._hear_wire(now, event)
            case Echoed(asked_at, by):
                self._echo_pending_since = None
                if by and asked_at > self._echo_at:
                    self._echo_at, self._echo_by = asked_at, by
                return [duty for duty in self._duties if duty.unconfirmed]
            case BrokerUp(broker):
                if not any(self._up):
                    self._forgive_peers(now)
                self._up[broker] = True
                for duty in self._duties:
                    duty.lease.subscribed(broker, now)
                    if duty.published:
                        # Not at once: first the broker may have to say that somebody else holds it by now.
                        duty.record_wrong, duty.corrected_at = True, now
                self._urgent.append(PublishNode(self.node, online=True))
                self._changed = True  # a holder's beat is worth most just after a broker came back
                return self._duties
            case BrokerDown(broker):
                self._up[broker] = False
                for duty in self._duties:
                    duty.lease.unsubscribed(broker)
                return self._duties
            case ServiceHeard(_, state):
                return self._hear_record(now, state)
            case NodeHeard(_, state, retained):
                return self._hear_state(now, state, retained)
            case CommandHeard(command):
                return self._obey(now, command)
            case LinkChanged(interface, up):
                return self._link(now, interface, up)
            case Fitness(service, fit, why):
                return self._check(now, self.duties[service], fit, why)
            case Held(service, until, ok, detail):
                duty = self.duties[service]
                if duty.has_address:
                    self._held(duty, now, until, ok, detail)
                return [duty]
            case AddressGone(service, detail):
                duty = self.duties[service]
                if duty.has_address and duty.step is not Step.TAKE:
                    self._address_gone(duty, now, detail)
                elif duty.found and not duty.has_address:
                    self._lose_found(duty, now)
                return [duty]
            case Appeared(service, detail):
                duty = self.duties[service]
                if not (duty.has_address or duty.found):
                    self._urgent.append(DropNow(service))
                    self._emit(service, "stray", why=detail)
                return []
            case Contested(service, mac, address):
                self._defend(self.duties[service], now, mac, address)
                return [self.duties[service]]
            case Found(service):
                self.duties[service].found = True
                self._emit(service, "found", addresses=self._addresses(self.duties[service]))
                return []
            case Retire(services):
                for name in services:
                    self.duties[name].retired = True
                return [self.duties[name] for name in services]
            case Adopt(config):
                self._adopt(now, config)
                return self._duties
            case Stop(at_once):
                self._stop(now, at_once)
                return self._duties
        raise AssertionError(event)

    # -- roles --------------------------------------------------------------------------------------------------------

    def _fire(self, duty: Duty, on: On, now: float, reason: str = "", why: str = "") -> bool:
        """Goes through the row of TABLE for the duty's role, if there is one."""
        row = TABLE.get((duty.role, on))
        if row is None:
            return False
        action, role = row
        before = duty.role
        if reason:
            duty.reason = reason
        duty.role = role
        if role is not before:
            duty.role_since = now
        getattr(self, f"_{action}")(duty, now)
        if role is not before:
            self._changed = True
            data = {"from": before.value, "to": role.value, "epoch": duty.lease.epoch, "reason": duty.reason}
            if duty.peer:
                data["peer"] = duty.peer
            if duty.asked_by:
                data["command"] = duty.asked_by
            if why:
                data["why"] = why
            self._emit(duty.name, role.value, **data)
            if role is not Role.RELEASING:
                duty.asked_by = ""
            for other in (*duty.followers, *duty.strangers):
                other.due = now  # whether it may come here, or stay, may have changed
        if duty.plan and duty.step is None:
            self._proceed(duty, now)
        elif duty.step is None and role is Role.RELEASING:
            self._fire(duty, On.RELEASED, now)
        return True

    def _nothing(self, duty: Duty, now: float) -> None:
        """Only the role changes."""

    def _claim(self, duty: Duty, now: float) -> None:
        duty.waives_wire = duty.lease.released(now)
        if duty.waives_wire:
            released = self._last_standing(duty)
            duty.reason = (released and released.reason) or "released"
        else:
            duty.reason = "failover" if duty.last_holder else "start"
        duty.peer = duty.last_holder if duty.last_holder != self.node else ""
        duty.asked_by = ""
        duty.successor = None
        duty.clean = False
        duty.ready_at = None
        if not duty.waives_wire:
            # We may have missed a claim. After a release that we heard, the next number is above all that were granted.
            duty.lease.learn(self._floor + int((now - self._born) * EPOCHS_PER_SECOND))
        duty.lease.claim(now)
        duty.ears.mac = ""
        if not duty.ears.pending(now):
            self._probe(duty, now)

    def _withdraw(self, duty: Duty, now: float) -> None:
        """A claim that came to nothing: the release beat lets others try at once."""
        duty.lease.release()
        duty.ready_at = None
        duty.plan.clear()
        duty.step = None
        if self._claimable(duty):
            duty.give_way_until = max(duty.give_way_until, now + self._rng.uniform(1, 3) * self.timing.step)

    def _acquire(self, duty: Duty, now: float) -> None:
        duty.forced = False
        duty.undone = True
        # What was found here was never stopped: nothing is to be started again.
        duty.plan = deque((Step.TAKE,) if duty.found else TAKEOVER)
        duty.step = None

    def _settle(self, duty: Duty, now: float) -> None:
        duty.backoff = 0.0
        duty.backoff_until = -inf
        duty.give_way_until = -inf
        if duty.failing_back:
            duty.failbacks_undone = 0 if duty.active_elsewhere else duty.failbacks_undone + 1
            wait = max(duty.service.failback_delay, self.timing.retry_first) * 2.0 ** min(duty.failbacks_undone, 20)
            duty.failback_at = now + min(wait, FAILBACK_MOST)
            duty.failing_back = False
        duty.last_holder = self.node

    def _undo(self, duty: Duty, now: float) -> None:
        """A takeover that did not succeed. What its hooks did, the hooks of the release undo."""
        self._abort(duty)
        duty.forced = True
        duty.plan = deque(RELEASE)

    def _hand_over(self, duty: Duty, now: float) -> None:
        """An orderly release. `Test` may refuse it only where nothing forces it."""
        self._abort(duty)
        orderly = duty.reason in ORDERLY
        duty.forced = not orderly
        duty.successor = duty.peer or None
        duty.plan = deque(((Step.TEST,) if orderly else ()) + RELEASE)

    def _leave(self, duty: Duty, now: float) -> None:
        """Nobody may take it but us: its addresses stay where they are until we are back."""
        self._urgent.append(Leave(duty.name))
        self._emit(duty.name, "left", epoch=duty.lease.epoch, addresses=self._addresses(duty))
        self._no_address(duty)
        duty.published = False
        duty.lease.release()

    def _lose_found(self, duty: Duty, now: float) -> None:
        """What was left here is gone, or has to go: the service is elsewhere, or may be."""
        duty.found = False
        self._urgent.append(DropNow(duty.name))
        if duty.record is not None:
            self._hear_record(now, duty.record)

    def _let_go(self, duty: Duty, now: float) -> None:
        """The lease is lost: the address goes first, and nothing can stop it."""
        if duty.has_address:
            self._urgent.append(DropNow(duty.name))
            self._no_address(duty)
        duty.forced = True
        duty.successor = None
        if duty.step in RELEASE:
            return  # the release that runs goes on; its hooks are not run twice
        self._abort(duty)
        duty.peer = ""
        duty.plan = deque(LETTING_GO)

    def _stay(self, duty: Duty, now: float) -> None:
        """A hook stopped the move. What PreRel had stopped already, PostAcq starts again."""
        again = duty.step is Step.PRE_REL
        duty.plan = deque((Step.POST_ACQ,) if again else ())
        duty.step = None
        duty.undone = True
        duty.successor = None
        duty.peer = ""

    def _rest(self, duty: Duty, now: float) -> None:
        duty.lease.release()
        duty.clean = duty.clean and duty.reason != "wire"
        duty.step = None
        duty.plan.clear()
        duty.ready_at = None
        if duty.successor:
            duty.give_way_until = now + 2 * self.timing.window

    def _abort(self, duty: Duty) -> None:
        if duty.step is not None:
            unsent = [output for output in self._later if isinstance(output, Run) and output.service == duty.name]
            if unsent:
                self._later = [output for output in self._later if output not in unsent]
            else:
                self._urgent.append(Abort(duty.name))
            duty.step = None
            duty.number += 1
        duty.plan.clear()

    # -- steps of a takeover or a release ---------------------------------------------------------------------------

    def _proceed(self, duty: Duty, now: float) -> None:
        """Starts the next step of the plan, or says that it is through."""
        if not duty.plan:
            duty.step = None
            if duty.role is Role.ACQUIRING:
                self._fire(duty, On.ACQUIRED, now)
            elif duty.role is Role.RELEASING:
                self._fire(duty, On.RELEASED, now)
            return
        step = duty.plan.popleft()
        if step is Step.DROP and duty.step is not Step.DROP:
            duty.dropping_since = now
        duty.step = step
        duty.number += 1
        until = 0.0
        if step is Step.TAKE:
            duty.has_address = True
            duty.held_since = now
            duty.renewed_for = duty.lease.confirmed_at()
            duty.kernel_until = until = duty.renewed_for + self.timing.window - self.timing.margin
        elif step is Step.DROP:
            self._no_address(duty)
            duty.retry_at = inf
        forced = duty.forced and duty.role is Role.RELEASING
        run = Run(duty.name, duty.number, step, duty.lease.epoch, duty.peer, duty.reason, until, forced)
        (self._urgent if step is Step.DROP else self._later).append(run)

    def _no_address(self, duty: Duty) -> None:
        if duty.has_address:
            # A lease that was over in between, and is confirmed again before the addresses are gone, says nothing of
            # who has held the service meanwhile.
            duty.clean_until = duty.lease.ends_at()
        duty.has_address = duty.record_wrong = False
        duty.found = False
        duty.gone, duty.held_until = "", -inf
        duty.announce_at.clear()
        # What is due in this very step came before what made the address go.
        self._later = [output for output in self._later if output != Announce(duty.name)]
        duty.unconfirmed = duty.holding_told = False

    def _step_done(self, duty: Duty, now: float, ok: bool, detail: str) -> None:
        step = duty.step
        taking = duty.role is Role.ACQUIRING
        match step:
            case Step.TAKE if ok:
                duty.found = False
                duty.held_until = max(duty.held_until, duty.kernel_until)
                duty.announce_at = deque(now + after for after in ANNOUNCE_AFTER)
                self._later.append(Announce(duty.name))
                self._publish_record(duty, now)
                self._emit(duty.name, "taken", epoch=duty.lease.epoch, addresses=self._addresses(duty))
            # If the kernel cannot be asked, its timers end it: but these stand still while the machine is suspended.
            case Step.DROP if ok or now >= self._lapsed_at(duty):
                if duty.published:
                    duty.published = duty.record_wrong = False
                    duty.clean = now < duty.clean_until and not duty.lease.superseded()
                    if duty.record is None or duty.record.epoch <= duty.lease.epoch:
                        self._record(duty, None, duty.lease.epoch, now)
                    self._emit(duty.name, "dropped", epoch=duty.lease.epoch, addresses=self._addresses(duty))
            case Step.DROP:
                duty.retry_at = now + DROP_RETRY
                self._emit(duty.name, "failed", step=step.value, epoch=duty.lease.epoch, why=detail)
                return
            case Step.TEST if not ok and (taking or not duty.forced):
                self._refuse(duty, step, "acquire" if taking else "release", detail)
                if taking:
                    self._back_off(duty, now)
                    self._fire(duty, On.DECLINED, now, reason="test")
                else:
                    self._fire(duty, On.KEPT, now, reason="test")
                return
            case _ if not ok:
                assert step is not None
                duty.undone = duty.undone and step not in (Step.PRE_REL, Step.POST_REL)
                self._emit(duty.name, "failed", step=step.value, epoch=duty.lease.epoch, why=detail)
                if taking and step is not Step.POST_ACQ:
                    self._back_off(duty, now)
                    self._fire(duty, On.FAILED, now, reason="failed", why=detail)
                    return
                if step is Step.PRE_REL and not duty.forced:
                    self._refuse(duty, step, "release", detail)
                    self._fire(duty, On.KEPT, now, reason="hook", why=detail)
                    return
        self._proceed(duty, now)

    def _refuse(self, duty: Duty, step: Step, way: str, why: str) -> None:
        asked = {"command": duty.asked_by} if duty.asked_by else {}
        self._emit(duty.name, "refused", step=step.value, way=way, epoch=duty.lease.epoch, why=why, **asked)

    def _held(self, duty: Duty, now: float, until: float, ok: bool, detail: str) -> None:
        """The kernel has renewed the addresses, or could not. A holder without them must not say that it is active."""
        if ok:
            duty.held_until = max(duty.held_until, until)
            if duty.gone:
                self._emit(duty.name, "restored", epoch=duty.lease.epoch, why=duty.gone)
                duty.gone = ""
        elif now >= duty.held_until or duty.gone:
            self._back_off(duty, now)
            self._fire(duty, On.LOST, now, reason="kernel", why=detail)

    def _address_gone(self, duty: Duty, now: float, detail: str) -> None:
        """Somebody removed it, or it lapsed. Under a lease that is good it is set again; else it must stay lost."""
        confirmed_at = duty.lease.confirmed_at()
        if now >= confirmed_at + self.timing.lease or duty.lease.superseded():
            self._fire(duty, On.LOST, now, reason="address-gone", why=detail)
            return
        if now < duty.restored_at + RESTORE_LEAST:
            return  # somebody goes on removing it: the next confirmed beat sets it again, this does not race with him
        duty.kernel_until = confirmed_at + self.timing.window - self.timing.margin
        self._urgent.append(Hold(duty.name, duty.kernel_until))
        self._later.append(Announce(duty.name))
        duty.announce_at.appendleft(now + ANNOUNCE_AFTER[0])
        duty.gone = detail
        duty.restored_at = now

    def _defend(self, duty: Duty, now: float, mac: str, address: str) -> None:
        """The neighbours were told that the address is elsewhere. The lease says that it is here: tell them again.

        RFC 5227, section 2.4 (c), and as seldom as it demands where the other one does not give in: ours once a second,
        for a service that is not reached for longer is one that has failed.
        """
        if not duty.has_address or now < duty.defended_at + DEFEND_LEAST:
            return
        duty.defended_at = now
        self._later.append(Announce(duty.name))
        duty.announce_at.appendleft(now + ANNOUNCE_AFTER[0])
        if duty.contested_by != mac or now >= duty.contested_at + CONFLICT_AGAIN:
            duty.contested_by, duty.contested_at = mac, now
            self._emit(duty.name, "conflict", mac=mac, address=address, epoch=duty.lease.epoch)

    def _back_off(self, duty: Duty, now: float) -> None:
        duty.backoff = min(max(duty.backoff * 2, self.timing.retry_first), self.timing.retry_most)
        duty.backoff_until = now + duty.backoff

    # -- what each role does as time passes ---------------------------------------------------------------------------

    def _advance(self, duty: Duty, now: float) -> None:
        """Does what is due for the duty and notes when it will next be."""
        for _ in range(8):  # a change of role may make another one due at once; more than a few in a row cannot be
            before = duty.role
            match before:
                case Role.STANDBY | Role.FAULT | Role.PAUSED:
                    duty.due = self._stand_by(duty, now)
                case Role.CLAIMING:
                    duty.due = self._press_claim(duty, now)
                case _:
                    duty.due = self._keep(duty, now)
            if duty.role is before:
                return

    def _stand_by(self, duty: Duty, now: float) -> float:
        if not self._links.get(duty.service.interface, False):
            if duty.service.interface in self._links:
                self._fire(duty, On.LINK_DOWN, now, reason="link")
            return inf
        if self.stopping:
            return inf
        barred = self._barred(duty)
        if barred and duty.found:
            self._lose_found(duty, now)
        if not (duty.fit or duty.found):
            self._fire(duty, On.UNFIT, now, reason="check", why=duty.unfit)
        else:
            self._fire(duty, On.PAUSE if barred else On.RESUME, now, reason=barred or "resume")
        idle = not self._claimable(duty)
        if idle and (duty.record is None or duty.record.holder is None):
            return inf  # it may not claim; all that is left to do is to clear the record of a holder that is lost
        timing, ears = self.timing, duty.ears
        quiet_at = duty.lease.quiet_at(now)
        if quiet_at == inf:  # no majority of brokers is heard: nothing that we do not hear means anything
            ears.forget()
            duty.ready_at = None
            return inf
        listen_at = quiet_at - timing.window + timing.missed
        if now < listen_at:  # the holder is heard
            ears.forget()
            duty.ready_at = None
            return listen_at
        released = duty.lease.released(now)
        if not released:
            self._tell_silence(duty, now, quiet_at)
        not_before = max(quiet_at, duty.backoff_until, duty.give_way_until, duty.lease.undecided_until())
        # Asked one after the other where a claim waits for the answer, and at leisure where none does: long before, or
        # when somebody has gone on answering (a kernel whose agent is dead is late at times, but not for a window).
        at_leisure = ears.failed or idle or not_before - now >= 2 * WIRE_SILENCE
        at_leisure = at_leisure or (bool(ears.mac) and now > quiet_at + timing.window)
        ask_at = ears.done_at + (timing.wire_rest if at_leisure else WIRE_PACE if ears.mac else 0.0)
        if not ears.pending(now) and now >= ask_at:
            self._probe(duty, now)
        silent = ears.silent(now, 2 * timing.wire_rest)
        if silent and now >= quiet_at - timing.guard:
            self._vacate(duty, now)
        if now >= quiet_at and not released and not barred:
            self._tell_wire(duty)
        due = ears.pending_since + PROBE_BOUND if ears.pending_since is not None else ask_at
        if idle:
            return due
        if now < not_before:
            duty.ready_at = None
            return min(due, not_before)
        if not (silent or released):
            duty.ready_at = None
            return due
        if duty.ready_at is None:
            rank = self._rank(duty, now)
            duty.ready_at = now
            haste = rank == 0 and released
            duty.turn = rank * timing.step + (0.0 if haste else self._rng.uniform(0, timing.step / 2))
        if now < duty.ready_at + duty.turn:
            return min(due, duty.ready_at + duty.turn)
        self._fire(duty, On.TURN, now)
        return now

    def _tell_silence(self, duty: Duty, now: float, quiet_at: float) -> None:
        holder = duty.last_holder
        if duty.silence_told or not holder or holder == self.node:
            return
        duty.silence_told = True
        last = quiet_at - self.timing.window
        self._emit(duty.name, "silent", node=holder, seconds=round(now - last, 3))

    def _tell_wire(self, duty: Duty) -> None:
        ears = duty.ears
        if ears.mac and ears.told != ears.mac:
            ears.told = ears.mac
            self._emit(duty.name, "wire", mac=ears.mac, address=ears.address, why="somebody has it: not taken")

    def _vacate(self, duty: Duty, now: float) -> None:
        """The holder's lease is over and its address does not answer: its retained record must not outlive it."""
        record = duty.record
        if record is None or record.holder is None or duty.found:
            return
        duty.record = record.model_copy(update={"holder": None})
        self._record(duty, None, record.epoch, now)
        self._emit(duty.name, "vacant", node=record.holder, epoch=record.epoch)

    def _press_claim(self, duty: Duty, now: float) -> float:
        lease, ears = duty.lease, duty.ears
        claimed_at = lease.claimed_at
        assert claimed_at is not None
        ends_at = claimed_at + self.timing.claim_timeout
        barred, misplaced = self._barred(duty), self._misplaced(duty)
        if barred:
            self._fire(duty, On.PAUSE, now, reason=barred)
        elif misplaced:
            self._fire(duty, On.DENIED, now, reason=misplaced)
        elif ears.mac:
            self._tell_wire(duty)
            duty.give_way_until = max(duty.give_way_until, now + self.timing.window)
            self._fire(duty, On.DENIED, now, reason="wire", why=f"{ears.address} is answered by {ears.mac}")
        elif lease.superseded():
            self._fire(duty, On.DENIED, now, reason="superseded")
        elif lease.granted(now) and (duty.waives_wire or ears.silent_to >= claimed_at):
            self._fire(duty, On.GRANTED, now)
        elif now >= ends_at:
            self._fire(duty, On.DENIED, now, reason="not-granted")
        elif not ears.pending(now) and ears.silent_to < claimed_at:
            self._probe(duty, now)
        return ends_at

    def _keep(self, duty: Duty, now: float) -> float:
        """A holder's watch over its lease."""
        due = inf
        if duty.role is Role.RELEASING and duty.step is Step.DROP and duty.retry_at <= now:
            duty.plan.appendleft(Step.DROP)
            self._proceed(duty, now)
        if duty.role is Role.RELEASING:
            due = duty.retry_at
            if not duty.has_address:
                return due
        lease, timing = duty.lease, self.timing
        confirmed_at = lease.confirmed_at()
        base = self._base(duty)
        echoed = base > confirmed_at
        if lease.superseded():
            self._fire(duty, On.LOST, now, reason="superseded")
            return now
        if now >= base + timing.lease:
            self._fire(duty, On.LOST, now, reason="lease")
            return now
        if duty.has_address:
            if base > duty.renewed_for:
                duty.renewed_for = base
                duty.kernel_until = base + timing.window - timing.margin
                # After a time without confirmation too, what the kernel has lost meanwhile stays lost.
                prolonged = echoed or duty.holding_told
                self._urgent.append(Hold(duty.name, duty.kernel_until, only_if_present=prolonged))
            due = min(due, self._second_opinion(duty, now, confirmed_at))
            if duty.announce_at and duty.announce_at[0] <= now:
                while duty.announce_at and duty.announce_at[0] <= now:
                    duty.announce_at.popleft()
                self._later.append(Announce(duty.name))
            if duty.announce_at:
                due = min(due, duty.announce_at[0])
            if duty.record_wrong:
                if now >= duty.corrected_at + timing.beat:
                    duty.corrected_at = now
                    self._publish_record(duty, now)
                due = min(due, duty.corrected_at + timing.beat)
        if duty.role is Role.ACTIVE and not self.stopping:
            if duty.retired or (duty.hand.paused and duty.hand.keeper != self.node):
                if duty.step is None:
                    duty.peer = self._heir(duty, now) if duty.retired else ""
                    self._fire(duty, On.MOVE, now, reason="reload" if duty.retired else "release")
                    return now
            elif duty.leader is not None:
                due = min(due, self._rejoin(duty, duty.leader, now))
            elif any(other.holds for other in duty.strangers[: duty.strangers_before]):
                due = min(due, self._part(duty, now))
            elif not duty.fit:
                due = min(due, self._yield(duty, now))
            elif duty.service.failback == "auto":
                due = min(due, self._fail_back(duty, now))
        return min(due, base + timing.lease)

    def _lapsed_at(self, duty: Duty) -> float:
        """When the kernel has ended by itself what it does not let us remove: also what a call that was under way when
        the removal began has set, up to a window later, for a window."""
        return max(duty.kernel_until, duty.dropping_since + 2 * self.timing.window) + self.timing.guard

    def _base(self, duty: Duty) -> float:
        """The moment on which the right to the service rests: when what was confirmed last was sent.

        Another host's answer prolongs what the kernel has, and not what it may never come to have: a takeover whose
        address is not set yet ends with the lease.
        """
        confirmed_at = duty.lease.confirmed_at()
        has_it = duty.has_address and duty.step is not Step.TAKE
        return max(confirmed_at, self._echo_at) if self.config.holds and has_it else confirmed_at

    def usable_until(self, service: str) -> float | None:
        """Until when this node may use the service by what is known now; None if it does not use it.

        It uses it from the first hook of the takeover to the last one of the release.
        """
        duty = self.duties[service]
        if duty.role not in (Role.ACQUIRING, Role.ACTIVE, Role.RELEASING):
            return None
        return -inf if duty.lease.superseded() else self._base(duty) + self.timing.window - self.timing.margin

    def _second_opinion(self, duty: Duty, now: float, confirmed_at: float) -> float:
        """Under `hold`: asks for an echo while the brokers do not confirm. Returns when to look again."""
        if now < confirmed_at + self.timing.missed:
            if duty.holding_told:
                self._emit(duty.name, "confirmed", epoch=duty.lease.epoch)
            duty.unconfirmed = duty.holding_told = False
            return confirmed_at + self.timing.missed
        duty.unconfirmed = True
        if not self.config.holds:
            return inf
        if now >= confirmed_at + self.timing.lease and not duty.holding_told:
            duty.holding_told = True
            self._emit(duty.name, "holding", epoch=duty.lease.epoch, echo=self._echo_by)
        if self._echo_pending_since is not None and now >= self._echo_pending_since + PROBE_BOUND:
            self._echo_pending_since = None
        if self._echo_pending_since is None and now >= self._echo_next_at:
            self._echo_pending_since = now
            self._echo_next_at = now + self.timing.beat
            self._later.append(AskEcho())
        if self._echo_pending_since is not None:
            return self._echo_pending_since + PROBE_BOUND
        return self._echo_next_at

    def _fail_back(self, duty: Duty, now: float) -> float:
        """With `failback = "auto"`: hands over to a more preferred node that has been fit for long enough."""
        due = inf
        if duty.unconfirmed:
            return due  # who gives it away now gives it to nobody: no claim could be granted
        for name in duty.service.nodes:
            if name == self.node:
                break
            since = self.peers[name].fit_since.get(duty.name)
            if since is None or not self._fit(name, duty.name, now):
                continue
            at = max(since, duty.role_since) + duty.service.failback_delay
            if now >= at and now >= duty.failback_at:
                # A refusal is not asked again at once.
                duty.failback_at = now + max(duty.service.failback_delay, self.timing.retry_first)
                duty.failing_back, duty.active_elsewhere = True, False
                self._move(duty, now, name, "failback", "")
                return now
            due = min(due, max(at, duty.failback_at))
        return due

    def _yield(self, duty: Duty, now: float) -> float:
        """An unfit holder hands over to a fit node; where there is none it keeps the service, and says so.

        What ails all nodes, such as a gateway that is down, shows at each of them in its own time. So it waits first,
        for as long as that may take: else it would hand over to a node that is fit for a moment longer, and nobody
        would be left to hold the service. Returns when to look again.
        """
        at = max(duty.unfit_since + duty.patience, duty.yield_at)
        if now < at:
            return at
        if duty.unconfirmed or duty.step is not None:
            return inf
        heir = self._heir(duty, now)
        if heir:
            duty.yield_at = now + self.timing.retry_first
            self._move(duty, now, heir, "check", "")
        elif not duty.yield_told:
            duty.yield_told = True
            self._emit(
                duty.name, "unfit", epoch=duty.lease.epoch, why=f"{duty.unfit}; no other node could take it: kept"
            )
        return inf

    def _rejoin(self, duty: Duty, leader: Duty, now: float) -> float:
        """Hands over to the node to which the service has gone with which this one must be together."""
        if leader.holds or duty.unconfirmed or duty.step is not None:
            return inf
        if now < duty.yield_at:
            return duty.yield_at
        for name, peer in self.peers.items():
            standing = peer.standings.get(leader.name)
            there = standing is not None and standing.role is Role.ACTIVE
            if there and now - peer.heard_at <= self.timing.missed and self._fit(name, duty.name, now):
                duty.yield_at = now + self.timing.retry_first
                self._move(duty, now, name, "together", "")
                break
        return inf

    def _part(self, duty: Duty, now: float) -> float:
        """Only after a reload: this node has two services that must be apart now. The second goes, if it can."""
        if now < duty.yield_at:
            return duty.yield_at
        heir = self._heir(duty, now)
        if heir and not duty.unconfirmed and duty.step is None:
            duty.yield_at = now + self.timing.retry_first
            self._move(duty, now, heir, "apart", "")
        return inf

    # -- the wire, the links, the peers -------------------------------------------------------------------------------

    def _probe(self, duty: Duty, now: float) -> None:
        duty.ears.pending_since = now
        self._later.append(Probe(duty.name))

    def _hear_wire(self, now: float, probed: Probed) -> list[Duty]:
        duty = self.duties[probed.service]
        ears = duty.ears
        ears.pending_since = None
        ears.done_at = now
        claimed_at = duty.lease.claimed_at
        if duty.waives_wire and claimed_at is not None and probed.asked_at < claimed_at:
            return [duty]  # asked while the one that has let go still had the address
        if probed.error:
            ears.forget()
            ears.failed = True
            if duty.role is Role.STANDBY and duty.wire_error != probed.error:
                duty.wire_error = probed.error
                self._emit(duty.name, "wire", why=f"it cannot be asked, so nothing is claimed: {probed.error}")
        elif probed.mac:
            ears.silent_from, ears.silent_to, ears.silent_count = inf, -inf, 0
            ears.mac, ears.address = probed.mac, probed.address
            if duty.role in (Role.ACQUIRING, Role.ACTIVE) and claimed_at is not None:
                # This answer was not waited for, since the holder itself had let go: a third has the address.
                self._tell_wire(duty)
                self._back_off(duty, now)
                self._fire(duty, On.LOST, now, reason="wire", why=f"{probed.address} is answered by {probed.mac}")
        else:
            ears.failed = False
            ears.mac = ears.address = ""
            ears.silent_from = min(ears.silent_from, probed.asked_at)
            ears.silent_to = probed.asked_at
            ears.silent_count += 1
        return [duty]

    def _link(self, now: float, interface: str, up: bool) -> list[Duty]:
        self._links[interface] = up
        concerned = [duty for duty in self._duties if duty.service.interface == interface]
        for duty in concerned:
            if duty.fit or not up:
                self._fire(duty, On.LINK_UP if up else On.LINK_DOWN, now, reason="link")
            if duty.leader is not None:
                self._weigh(now, duty.leader)
        return concerned + [duty.leader for duty in concerned if duty.leader is not None]

    def _check(self, now: float, duty: Duty, fit: bool, why: str) -> list[Duty]:
        duty.own_fit, duty.own_unfit = fit, why
        concerned = [duty] if duty.leader is None else [duty, duty.leader]
        for one in concerned:
            self._weigh(now, one)
        return concerned

    def _weigh(self, now: float, duty: Duty) -> None:
        """Whether the node is fit for the service and for those that must be together with it."""
        failing = [] if duty.own_fit else [duty.own_unfit]
        for other in duty.followers:
            if not other.own_fit:
                failing.append(f"{other.name}: {other.own_unfit}")
            elif not self._links.get(other.service.interface, True):
                failing.append(f"{other.name}: {other.service.interface} is down")
        fit, why = not failing, "; ".join(failing)
        if (fit, why) == (duty.fit, duty.unfit):
            return
        duty.unfit_since = inf if fit else min(duty.unfit_since, now)
        duty.fit, duty.unfit = fit, why
        duty.yield_told = False
        if not (fit or duty.found):
            self._fire(duty, On.UNFIT, now, reason="check", why=why)
        elif self._links.get(duty.service.interface, False):
            self._fire(duty, On.FIT, now, reason="check")
        self._changed = True  # whether it is ready is in the beat

    def _fit(self, node: str, service: str, now: float) -> bool:
        """Whether another node could take the service at once: it beats, and says so."""
        peer = self.peers[node]
        standing = peer.standings.get(service)
        return now - peer.heard_at <= self.timing.window and standing is not None and standing.ready

    def _heir(self, duty: Duty, now: float) -> str:
        """The first other node in order that could take the service; empty if there is none."""
        others = (name for name in duty.service.nodes if name != self.node)
        return next((name for name in others if self._fit(name, duty.name, now)), "")

    def _rank(self, duty: Duty, now: float) -> int:
        """How many living nodes are preferred to this one. A successor that was named comes first of all."""
        if duty.leader is not None:
            return 0  # where that is, and nowhere else
        released = self._last_standing(duty)
        if released is not None and released.successor == self.node:
            return 0
        rank = 0
        for name in duty.service.nodes:
            if name == self.node:
                break
            standing = self.peers[name].standings.get(duty.name)
            alive = now - self.peers[name].heard_at <= self.timing.window
            # Also one that was not ready when it beat: by now it may be.
            rank += alive and standing is not None and standing.role is Role.STANDBY and name != duty.last_holder
        return rank

    def _last_standing(self, duty: Duty) -> Standing | None:
        """What the last holder, if it was another node, says of the service now."""
        peer = self.peers.get(duty.last_holder)
        return peer.standings.get(duty.name) if peer is not None else None

    def _claimable(self, duty: Duty) -> bool:
        able = (duty.fit or duty.found) and self._links.get(duty.service.interface, False)
        return able and not self.stopping and not self._barred(duty) and not self._misplaced(duty)

    def _misplaced(self, duty: Duty) -> str:
        """Why other services keep this node from taking this one; empty if none does."""
        if duty.leader is not None and duty.leader.role not in (Role.ACQUIRING, Role.ACTIVE):
            return "together"
        return "apart" if any(other.holds for other in duty.strangers) else ""

    def _barred(self, duty: Duty) -> str:
        """Why an operator's hand keeps this node from taking the service; empty if none does."""
        if duty.retired:
            return "reload"
        if duty.hand.paused and duty.hand.keeper != self.node:
            return "pause"
        released = self._last_standing(duty)
        # Asked to take what another drained node has let go of: else nobody would have it.
        named = released is not None and released.successor == self.node
        return "drain" if self.drained and not named else ""

    def _watch_peers(self, now: float) -> None:
        """Tells of nodes that have fallen silent, and sees to it that their retained state does not outlive them."""
        lease = self.timing.lease
        self._watch_peers_at = now + lease
        if now > self._echoed_at + self.timing.missed:
            self._forgive_peers(now)  # no broker returns our own beats: it is we who do not hear
        for name, peer in self.peers.items():
            if not peer.boot or peer.silent:
                continue
            if now < peer.heard_at + lease:
                self._watch_peers_at = min(self._watch_peers_at, peer.heard_at + lease)
            elif any(self._up):
                peer.silent = True
                peer.fit_since.clear()
                self._later.append(PublishNode(name, online=False, reason="silent"))
                self._emit(name, "silent", seconds=round(now - peer.heard_at, 3))

    # -- what the bus says --------------------------------------------------------------------------------------------

    def _hear(self, now: float, broker: int, beat: Beat) -> list[Duty]:
        if not beat.consistent or beat.node not in self.config.nodes:
            self._tell_stranger(beat.node)
            return []
        seqs = self._heard_seq[broker]
        if seqs.get(beat.boot, -1) >= beat.seq:
            return []  # a double, or one that was overtaken: its sender has said something newer here
        if len(seqs) >= 4 * len(self.config.nodes) + 8:
            seqs.clear()
        seqs[beat.boot] = beat.seq
        mine = beat.boot == self.boot
        sent_at = self._sent.get(beat.seq, -inf) if mine else -inf
        self._echoed_at = max(self._echoed_at, sent_at)
        concerned = []
        for name, standing in beat.services.items():
            duty = self.duties.get(name)
            if duty is None or beat.node not in duty.service.nodes:
                continue
            if standing.epoch > duty.lease.top + EPOCHS_AHEAD:
                continue
            concerned.append(duty)
            holding = standing.role in HOLDING
            claim = standing.role is Role.CLAIMING
            duty.lease.hear(broker, beat.boot, standing.epoch, holding, now, sent_at, claim, standing.clean)
            if not mine and holding:
                duty.active_elsewhere = duty.active_elsewhere or standing.role is Role.ACTIVE
                if not claim:
                    duty.give_way_until = -inf
                    duty.silence_told = False
                    duty.last_holder = beat.node
                    if duty.found and not duty.has_address:
                        self._lose_found(duty, now)
            elif beat.node == duty.last_holder:
                duty.silence_told = True  # it has spoken: it does not hold it any more
            if standing.hand is not None:
                self._heed(duty, now, standing.hand)
        if not mine:
            if beat.node == self.node:
                self._tell_twin(now, beat.boot)
            else:
                self._note_peer(now, beat)
        return concerned

    def _note_peer(self, now: float, beat: Beat) -> None:
        peer = self.peers[beat.node]
        if peer.silent:
            peer.silent = False
            away = {"seconds": round(now - peer.heard_at, 3)} if peer.boot else {}
            self._emit(beat.node, "back", **away)
        if beat.config and beat.config not in (peer.config, self._digest):
            self._emit(beat.node, "config-differs", theirs=beat.config, ours=self._digest)
        restarted = beat.boot != peer.boot
        peer.config = beat.config
        peer.heard_at = now
        peer.boot = beat.boot
        peer.standings = beat.services
        for name in self.duties:
            standing = beat.services.get(name)
            if standing is None or not standing.ready:
                peer.fit_since.pop(name, None)
            elif restarted or name not in peer.fit_since:
                peer.fit_since[name] = now
            if standing is not None and standing.successor not in (None, self.node):
                duty = self.duties[name]
                if standing.epoch == duty.lease.top and duty.last_holder == beat.node:
                    # Somebody else was asked to take it; should it not, our turn comes after a window, counted once.
                    asked = beat.boot, standing.epoch, standing.successor
                    if duty.gave_way_to != asked:
                        duty.gave_way_to = asked
                        duty.give_way_until = max(duty.give_way_until, now + self.timing.window)

    def _tell_twin(self, now: float, boot: str) -> None:
        """Our name with another boot: our own earlier life for a moment; when it goes on, a second machine."""
        self._twin_beats += 1
        self._twin_at = now
        if self._twin_beats in (4, 400):
            self._emit(self.node, "twin", boot=boot, why="another machine runs as this node: give it its own name")

    def _tell_stranger(self, node: str) -> None:
        if node not in self._strangers and len(self._strangers) < 64:
            self._strangers.add(node)
            self._emit(self.node, "stranger", node=node, why="its beats are ignored: it is not in the configuration")

    def _hear_record(self, now: float, state: ServiceState) -> list[Duty]:
        duty = self.duties.get(state.service)
        if duty is None or state.epoch > duty.lease.top + EPOCHS_AHEAD:
            return []
        duty.lease.learn(state.epoch, held=state.holder not in (None, self.node))
        duty.record = state
        if state.hand is not None:
            self._heed(duty, now, state.hand)
        known = state.hand or NO_HAND
        if duty.published and (
            state.holder != self.node or state.epoch != duty.lease.epoch or known.order != duty.hand.order
        ):
            duty.record_wrong = True  # on that broker; what another one says right does not mend it
        ours = duty.published or duty.found
        if state.holder == self.node and not ours and now - self._twin_at > self.timing.window:
            # Left by an earlier life of this node, or by a release that the broker did not hear of.
            self._record(duty, None, state.epoch, now)
        return [duty]

    def _hear_state(self, now: float, state: NodeState, retained: bool) -> list[Duty]:
        if state.node == self.node and state.boot not in ("", self.boot) and not retained:
            # Two machines with one name end each other's connections, so they hardly hear each other's beats.
            self._tell_twin(now, state.boot)
        if state.node == self.node and state.state == "offline" and not self.stopping:
            self._later.append(PublishNode(self.node, online=True))  # a will of an earlier life, or a peer's mistake
        elif state.node in self.peers and state.reason == "stopped":
            peer = self.peers[state.node]
            if peer.boot == state.boot:
                peer.silent = True  # it said so itself: no event of its silence
                peer.fit_since.clear()
        return []

    # -- operators ----------------------------------------------------------------------------------------------------

    def _obey(self, now: float, command: Command) -> list[Duty]:
        duty = self.duties.get(command.service or "")
        if (duty is None and command.node != self.node) or command.id in self._commands:
            return []
        self._commands[command.id] = None
        while len(self._commands) > COMMANDS_MOST:
            self._commands.popitem(last=False)
        if duty is None:
            if command.command in ("drain", "undrain"):
                self._drain(now, command)
            else:
                self._later.append(Obey(command))
            return self._duties
        if command.command != "switchover":
            self._lay_hand(duty, now, command)
            return [duty]
        if duty.role not in (Role.ACQUIRING, Role.ACTIVE, Role.RELEASING):
            return []
        why = self._why_not(duty, now, command.to)
        if why:
            self._emit(duty.name, "refused", way="release", why=why, command=command.id, by=command.by)
            return []
        to = command.to or self._heir(duty, now)
        self._emit(duty.name, "command", command=command.id, what=command.command, to=to, by=command.by)
        self._move(duty, now, to, "switchover", command.id)
        return [duty]

    def _why_not(self, duty: Duty, now: float, to: str | None) -> str:
        """Why a switchover cannot be done; empty if it can."""
        if duty.role is not Role.ACTIVE or duty.step is not None or self.stopping:
            busy = f"is {duty.role.value}" if duty.step is None else f"is busy with {duty.step.value}"
            return f"{self.node} {busy}: try again when that is over"
        if duty.hand.paused:
            return "it is paused: resume it first"
        if duty.leader is not None:
            return f"it goes where {duty.leader.name} goes: move that"
        if to == self.node:
            return f"{self.node} holds it already"
        if to is not None and to not in duty.service.nodes:
            return f"{to} is not one of the service's nodes: {', '.join(duty.service.nodes)}"
        candidates = [to] if to is not None else [name for name in duty.service.nodes if name != self.node]
        for other in duty.strangers:
            if to is not None and self._has(to, other.name):
                return f"{to} has {other.name}, which must be apart from it"
        if not any(self._fit(name, duty.name, now) for name in candidates):
            return f"{' and '.join(candidates) or 'no other node'} cannot take it now: not heard, or not ready"
        if duty.unconfirmed:
            return "the brokers do not confirm the lease: nobody else could claim"
        return ""

    def _has(self, node: str, service: str) -> bool:
        standing = self.peers[node].standings.get(service)
        return standing is not None and standing.role in HOLDING

    def _lay_hand(self, duty: Duty, now: float, command: Command) -> None:
        """Pause, resume, release: one node does it, and its beat tells the others."""
        if not self._speaks_for(duty, now):
            return
        if duty.role in (Role.CLAIMING, Role.ACQUIRING, Role.RELEASING) or self.stopping:
            why = f"{self.node} is {duty.role.value}: try again when that is over"
            self._emit(duty.name, "refused", way=command.command, why=why, command=command.id, by=command.by)
            return
        paused = command.command != "resume"
        keeper = self.node if command.command == "pause" and duty.role is Role.ACTIVE else None
        data = {"to": keeper} if keeper else {}
        self._emit(duty.name, "command", command=command.id, what=command.command, by=command.by, **data)
        if duty.role is Role.ACTIVE and command.command == "release":
            duty.asked_by = command.id
        self._heed(duty, now, Hand(number=duty.hand.number + 1, paused=paused, keeper=keeper))

    def _speaks_for(self, duty: Duty, now: float) -> bool:
        """Whether this node does what an operator wants of the service: its holder does, or the first that lives."""
        if duty.holds:
            return True
        alive = {name for name, peer in self.peers.items() if now - peer.heard_at <= self.timing.window}
        standings = (self.peers[name].standings.get(duty.name) for name in alive)
        if any(standing is not None and standing.role in HOLDING for standing in standings):
            return False
        return next(name for name in duty.service.nodes if name == self.node or name in alive) == self.node

    def _heed(self, duty: Duty, now: float, hand: Hand) -> None:
        """The newest word of an operator's counts, however it came here."""
        if hand.order <= duty.hand.order or hand.number > duty.hand.number + EPOCHS_AHEAD:
            return
        duty.hand = hand
        self._changed = True
        if duty.published:
            # By the watch over the lease, in this very step: only if the address is not on its way down.
            duty.record_wrong, duty.corrected_at = True, -inf
        elif duty.record is None or duty.record.holder is None:
            self._record(duty, None, duty.lease.top if duty.record is None else duty.record.epoch, now)

    def _drain(self, now: float, command: Command) -> None:
        """Drain and undrain, of this node."""
        wanted = command.command == "drain"
        # What must be together with another goes when that has gone.
        held = [duty for duty in self._duties if duty.holds and duty.leader is None] if wanted else []
        for duty in held:
            why = self._why_not(duty, now, None)
            if why:
                why = f"{duty.name}: {why}"
                self._emit(self.node, "refused", way=command.command, why=why, command=command.id, by=command.by)
                return
        self.drained = wanted
        self._changed = True
        self._later.append(PublishNode(self.node, online=True))
        self._emit(self.node, "command", command=command.id, what=command.command, by=command.by)
        for duty in held:
            self._move(duty, now, self._heir(duty, now), "drain", command.id)

    # -- the place of services beside each other ---------------------------------------------------------------------

    def _arrange(self) -> None:
        for name, duty in self.duties.items():
            duty.leader = self.duties.get(duty.service.together_with or "")
            duty.followers = [self.duties[other] for other in self.config.followers(name) if other in self.duties]
            duty.strangers = [self.duties[other] for other in self.config.strangers(name) if other in self.duties]
            before = self._duties[: self._duties.index(duty)]
            duty.strangers_before = sum(other in before for other in duty.strangers)

    # -- another configuration, another process -----------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """Whether no service is on its way up or down here."""
        return not self.stopping and not any(
            duty.role in (Role.CLAIMING, Role.ACQUIRING, Role.RELEASING)
            or (duty.role is Role.ACTIVE and (duty.step is not None or duty.retired))
            for duty in self._duties
        )

    def _adopt(self, now: float, config: Config) -> None:
        """Services that are in both configurations go on as they are."""
        self.config = config
        self._digest = config.digest()
        before, self.duties = self.duties, {}
        for name, service in config.services_of(self.node).items():
            duty = before.get(name)
            if duty is None:
                duty = Duty(name, service, Lease(self.boot, len(config.brokers), self.timing))
                for broker, up in enumerate(self._up):
                    if up:
                        duty.lease.subscribed(broker, now)
            duty.service, duty.retired, duty.due = service, False, -inf
            self.duties[name] = duty
        self._duties = list(self.duties.values())
        self._arrange()
        for duty in self._duties:
            self._weigh(now, duty)
        others = [name for name in config.nodes if name != self.node]
        self.peers = {name: self.peers.get(name) or Peer() for name in others}
        self._changed = True

    def memory(self, now: float) -> dict[str, Any]:
        """What this boot knows and a newer program must know to go on in its place: plain enough for JSON."""
        return {
            "boot": self.boot,
            "at": now,
            "seq": self._seq,
            "echo": [self._echo_at, self._echo_by],
            "drained": self.drained,
            "commands": list(self._commands),
            "services": {
                duty.name: {
                    "addresses": self._addresses(duty),
                    "interface": duty.service.interface,
                    "holds": duty.role is Role.ACTIVE,
                    "lease": [duty.lease.epoch, duty.lease.top, duty.lease.rival, duty.lease.remember()],
                    "hand": list(duty.hand.order),
                    **{field: getattr(duty, field) for field in REMEMBERED},
                }
                for duty in self._duties
            },
        }

    def _recall(self, memory: Mapping[str, Any]) -> None:
        self._last, self._seq = memory["at"], memory["seq"]
        self._echo_at, self._echo_by = memory["echo"]
        self.drained = memory["drained"]
        self._commands.update(dict.fromkeys(memory["commands"]))
        for name, known in memory["services"].items():
            duty = self.duties.get(name)
            if duty is None:
                continue
            number, paused, keeper = known["hand"]
            duty.hand = Hand(number=number, paused=paused, keeper=keeper or None)
            same = known["addresses"] == self._addresses(duty) and known["interface"] == duty.service.interface
            epoch, top, rival, views = known["lease"]
            duty.lease.recall(epoch, top, rival, views if same and len(views) == len(duty.lease.views) else [])
            if same and known["holds"]:
                for field in REMEMBERED:
                    setattr(duty, field, known[field])
                duty.role = Role.ACTIVE
                duty.lease.claimed_at = duty.lease.confirmed_at()
                duty.has_address = duty.published = True
                duty.last_holder = self.node

    def _move(self, duty: Duty, now: float, to: str, reason: str, command: str) -> None:
        duty.peer = to
        duty.asked_by = command
        self._fire(duty, On.MOVE, now, reason=reason)

    def _stop(self, now: float, at_once: bool) -> None:
        self.stopping = True
        for duty in self._duties:
            if duty.found and not duty.has_address:
                if self._stays(duty) and not at_once:
                    self._urgent.append(Leave(duty.name))
                else:
                    self._lose_found(duty, now)
            if duty.role is Role.ACTIVE:
                duty.peer = self._heir(duty, now)
                duty.asked_by = ""
                if self._stays(duty) and not at_once:
                    duty.peer = ""
                    self._fire(duty, On.LEAVE, now, reason="pause")
            elif duty.role is Role.RELEASING:
                duty.forced = True  # what was a wish of an operator's can no longer be refused by a hook
            self._fire(duty, On.LOST if at_once else On.STOP, now, reason="stop")
            if at_once and duty.published:
                duty.published = False
                self._record(duty, None, duty.lease.epoch, now)
        if at_once:
            self._stopped = True

    def _stays(self, duty: Duty) -> bool:
        """Whether the addresses stay on this host when the agent stops: only where the wire guards them meanwhile."""
        return duty.hand.paused and duty.hand.keeper == self.node and self.config.holds and duty.step is None

    def _finish_stop(self) -> None:
        if self.stopping and not any(duty.holds for duty in self._duties):
            self._stopped = True

    # -- saying things ------------------------------------------------------------------------------------------------

    def _beat(self, now: float) -> Beat:
        self._changed = False
        self._seq += 1
        self._spare_beat_at = max(self._spare_beat_at, now - SPARE_BEATS * SPARE_BEAT_EVERY) + SPARE_BEAT_EVERY
        if now >= self._beat_at:
            # Keeps the rhythm unless a beat or more was missed.
            self._beat_at = max(self._beat_at + self.timing.beat, now + self.timing.beat / 2)
        self._sent[self._seq] = now
        while len(self._sent) > SENT_MOST:
            self._sent.popitem(last=False)
        return Beat.model_construct(
            node=self.node,
            boot=self.boot,
            seq=self._seq,
            every=self.timing.beat,
            config=self._digest,
            services={duty.name: self._standing(duty, now) for duty in self._duties},
        )

    def _standing(self, duty: Duty, now: float) -> Standing:
        hand = duty.hand if duty.hand.number else None
        if duty.holds:
            return Standing.model_construct(role=duty.role, epoch=duty.lease.epoch, hand=hand)
        ready = (
            duty.role is Role.STANDBY
            and self._claimable(duty)
            and now >= max(duty.lease.attentive_at(), duty.backoff_until)
        )
        return Standing.model_construct(
            role=duty.role,
            epoch=duty.lease.epoch,
            successor=duty.successor,
            ready=ready,
            reason=duty.reason if duty.clean and duty.undone else "",
            clean=duty.clean,
            hand=hand,
        )

    def _publish_record(self, duty: Duty, now: float) -> None:
        duty.published = True
        duty.record_wrong = False
        duty.corrected_at = now
        self._record(duty, self.node, duty.lease.epoch, duty.held_since)
        duty.record = ServiceState.model_construct(service=duty.name, holder=self.node, epoch=duty.lease.epoch)

    def _record(self, duty: Duty, holder: str | None, epoch: int, since: float) -> None:
        hand = duty.hand if duty.hand.number else None
        self._urgent.append(PublishService(duty.name, holder, epoch, since, hand))

    def _addresses(self, duty: Duty) -> list[str]:
        return [str(address) for address in duty.service.addresses]

    def _emit(self, subject: str, type_: str, **data: object) -> None:
        why = data.get("why")
        if isinstance(why, str) and len(why) > WHY_MOST:
            data["why"] = why[: WHY_MOST - 3] + "..."
        self._later.append(Emit(subject, type_, data))
