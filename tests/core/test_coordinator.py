"""What scenarios cannot show: the table, purity, bounds, and that no order of inputs breaks the contract of ports.py.

`Rim` stands for everything around a coordinator. It collects what is asked for, answers when told to, and checks with
every output what must hold in every world.
"""

import ast
import json
import math
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import locum
from locum import ports
from locum.bus import decode
from locum.config import Config, parse
from locum.coordinator import COMMANDS_MOST, SENT_MOST, SPARE_BEAT_EVERY, SPARE_BEATS, TABLE, Coordinator, On
from locum.messages import (
    EPOCH_MOST,
    EVENTS,
    HOLDING,
    OF_NODES,
    Beat,
    Command,
    Event,
    Hand,
    NodeState,
    Role,
    ServiceState,
    Standing,
)
from locum.ports import Step
from tests.core.story import Machine, Story

settings.register_profile("busy", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("busy")

PACKAGE = Path(locum.__file__).parent
CORE = ("timing", "lease", "messages", "ports", "coordinator")


def config(tables: str = "", **web: str) -> Config:
    more = "\n".join(f'{key} = "{value}"' for key, value in web.items())
    return parse(
        'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n'
        '[nodes.alpha]\naddress = "10.0.0.1"\n[nodes.beta]\naddress = "10.0.0.2"\n'
        '[services.web]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n' + more + tables
    )


class Rim:
    """One coordinator for node alpha in a world that answers as it is told to."""

    def __init__(self, config: Config | None = None, seed: int = 1) -> None:
        self.now = 100.0
        self.node = Coordinator(config or globals()["config"](), "alpha", "alpha/1", now=self.now, rng=Random(seed))
        self.duty = self.node.duties["web"]
        self.out: list[ports.Output] = []
        """All outputs so far."""
        self.beats: list[Beat] = []
        """Our own beats that have not come back."""
        self.asked: list[ports.Run | ports.Probe | ports.AskEcho] = []
        """What was asked for and not answered."""
        self.role = Role.STANDBY
        self.address = False
        self.up = False
        self.stopped = False
        self.steps = 0

    def feed(self, event: ports.Input, later: float = 0.0) -> list[ports.Output]:
        """One input, `later` seconds after the last one; returns and checks what comes of it."""
        self.now += later
        self.steps += 1
        if isinstance(event, ports.BrokerUp | ports.BrokerDown):
            self.up = isinstance(event, ports.BrokerUp)
            self.beats.clear()
        out = self.node.step(self.now, event)
        self.check(out)
        self.out += out
        return out

    def check(self, out: list[ports.Output]) -> None:
        released_at = record_at = None
        for place, output in enumerate(out):
            match output:
                case ports.SendBeat(beat):
                    assert decode("beat", "alpha", beat.model_dump_json(exclude_defaults=True).encode()) == beat
                    if self.up:  # what cannot be sent at once is dropped
                        self.beats.append(beat)
                    if beat.services["web"].role not in HOLDING:
                        released_at = place
                case ports.PublishService(_, holder, epoch):
                    ServiceState(service="web", holder=holder, epoch=epoch)
                    assert math.isfinite(output.since)
                    if holder is None:
                        record_at = place
                    else:
                        assert holder == "alpha"
                        assert self.address, "it says that it holds what it has not"
                case ports.PublishNode(node, online, _):
                    NodeState(node=node, state="online" if online else "offline", reason=output.reason)
                case ports.Emit(subject, type_, data):
                    check_event(subject, type_, data)
                    if type_ in {role.value for role in Role} and subject == "web":
                        assert data["from"] == self.role.value
                        self.role = Role(type_)
                        assert self.role.value != data["from"]
                case ports.Run():
                    self.asked = [one for one in self.asked if not isinstance(one, ports.Run)] + [output]
                    if output.step is Step.TAKE:
                        assert self.duty.lease.ends_at() > self.now, "taken without a lease"
                        assert output.until > self.now
                        self.address = True
                    if output.step is Step.DROP:
                        self.address = False
                case ports.DropNow():
                    self.address = False
                case ports.Leave():
                    assert self.duty.hand.paused and self.duty.hand.keeper == "alpha"
                    self.address = False
                case ports.Hold(_, until, _):
                    assert self.address, "renewed, but not taken"
                    assert until > self.now
                case ports.Announce():
                    assert self.address, "announced, but not taken"
                case ports.Abort():
                    self.asked = [one for one in self.asked if not isinstance(one, ports.Run)]
                case ports.Probe() | ports.AskEcho():
                    self.asked.append(output)
                case ports.Stopped():
                    self.stopped = True
        assert self.role is self.duty.role, "a change of role that no event told of"
        if record_at is not None and released_at is not None:
            assert record_at < released_at, "the beat that releases it went before the record that says so"
        kinds = [type(output) for output in out]
        if ports.SendBeat in kinds and ports.Emit in kinds:
            assert kinds.index(ports.SendBeat) < kinds.index(ports.Emit), "told before it was so"
        drops = [place for place, one in enumerate(out) if isinstance(one, ports.DropNow)]
        drops += [place for place, one in enumerate(out) if isinstance(one, ports.Run) and one.step is Step.DROP]
        if drops and ports.SendBeat in kinds:
            assert max(drops) < kinds.index(ports.SendBeat), "the address goes first"
        if self.role in (Role.STANDBY, Role.FAULT, Role.PAUSED, Role.CLAIMING):
            assert not self.address or self.duty.found
        assert not math.isnan(self.node.next_at())

    def echo(self) -> None:
        """Our own beats come back from the broker."""
        beats, self.beats = self.beats, []
        for beat in beats:
            self.feed(ports.BeatHeard(0, beat))

    def answer(self, ok: bool = True, mac: str = "", echo: str = "10.0.0.2") -> None:
        """Everything that was asked for is answered."""
        asked, self.asked = self.asked, []
        for one in asked:
            match one:
                case ports.Run(service, number):
                    self.feed(ports.StepDone(service, number, ok, "" if ok else "exit status 1"))
                case ports.Probe(service):
                    self.feed(ports.Probed(service, self.now, mac, "10.0.0.100" if mac else ""))
                case ports.AskEcho():
                    self.feed(ports.Echoed(self.now, echo))

    def live(self, span: float, **answers: object) -> None:
        """Time passes in which everything works, and steps take 20 ms."""
        until = self.now + span
        while self.now < until:
            self.feed(ports.Tick(), 0.02)
            self.echo()
            self.answer(**answers)  # type: ignore[arg-type]

    def hear(
        self, role: Role, epoch: int = 0, seq: int = 0, node: str = "beta", boot: str = "beta/1", **more: object
    ) -> None:
        standing = Standing(role=role, epoch=epoch, **more)  # type: ignore[arg-type]
        beat = Beat(node=node, boot=boot, seq=seq or self.steps, every=0.5, services={"web": standing})
        self.feed(ports.BeatHeard(0, beat))


def check_event(subject: str, type_: str, data: dict[str, object]) -> None:
    """An event that others can read: described, and of plain JSON that holds no null and no number that is none."""
    assert type_ in EVENTS
    assert subject in ("web", "alpha", "beta")
    json.dumps(data, allow_nan=False)
    for key, value in data.items():
        assert value is not None, f"{type_} says {key}=null"
    event = Event(id="1", source="locum/shop/alpha", type=f"locum.service.{type_}", subject=subject, time="", data=data)
    assert decode("event", subject, event.model_dump_json().encode()) == event


def emitted(rim: Rim, type_: str) -> list[dict[str, object]]:
    return [output.data for output in rim.out if isinstance(output, ports.Emit) and output.type == type_]


def started(config: Config | None = None) -> Rim:
    rim = Rim(config)
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    return rim


def standby() -> Rim:
    rim = started()
    rim.hear(Role.ACTIVE, 5)
    return rim


def claiming() -> Rim:
    rim = started()
    while rim.role is not Role.CLAIMING:
        rim.echo()
        rim.feed(ports.Tick(), 0.02)
        rim.answer()
        assert rim.now < 110.0
    return rim


def acquiring() -> Rim:
    rim = claiming()
    rim.feed(ports.Tick(), 0.02)
    rim.answer()
    rim.echo()
    assert rim.role is Role.ACQUIRING
    return rim


def active(config: Config | None = None) -> Rim:
    rim = started(config)
    rim.live(4.0)
    assert rim.role is Role.ACTIVE
    return rim


def releasing() -> Rim:
    rim = active()
    rim.hear(Role.STANDBY, 0, ready=True)
    rim.feed(ports.CommandHeard(Command(id="c", command="switchover", service="web")))
    assert rim.role is Role.RELEASING
    return rim


def fault() -> Rim:
    rim = started()
    rim.feed(ports.LinkChanged("eth0", False))
    assert rim.role is Role.FAULT
    return rim


ROLES: dict[str, Callable[[], Rim]] = {
    "before the first broker": Rim,
    "standby": standby,
    "standby that listens": started,
    "claiming": claiming,
    "acquiring": acquiring,
    "active": active,
    "releasing": releasing,
    "fault": fault,
}


# -- the table ----------------------------------------------------------------------------------------------------


def test_every_action_of_the_table_exists() -> None:
    for action, _ in TABLE.values():
        assert callable(getattr(Coordinator, f"_{action}", None)), action


def test_every_role_is_reached_and_left_by_a_row() -> None:
    living = set(Role)
    reached = {Role.STANDBY}
    while True:
        more = {role for (before, _), (_, role) in TABLE.items() if before in reached} - reached
        if not more:
            break
        reached |= more
    assert reached == living
    assert {before for before, _ in TABLE} == living


def test_from_every_role_there_is_a_way_back_to_standby() -> None:
    home = {Role.STANDBY}
    for _ in Role:
        home |= {before for (before, _), (_, role) in TABLE.items() if role in home}
    assert home == set(Role)


def test_every_cause_is_one_of_some_row() -> None:
    assert {on for _, on in TABLE} == set(On)


def test_whoever_takes_or_holds_can_always_be_made_to_let_go() -> None:
    for role in (Role.ACQUIRING, Role.ACTIVE, Role.RELEASING):
        for on in (On.LOST, On.LINK_DOWN):
            assert TABLE[role, on] == ("let_go", Role.RELEASING)
    for role in (Role.CLAIMING, Role.ACQUIRING, Role.ACTIVE):
        assert (role, On.STOP) in TABLE


# -- purity -------------------------------------------------------------------------------------------------------

PURE = {
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "json",
    "math",
    "random",
    "re",
    "typing",
    "pydantic",
    "pydantic_core",
}
OF_TEXT = {"difflib", "decimal", "fractions", "hashlib", "ipaddress", "reprlib", "tomllib", "urllib"}
"""What config.py needs besides: all of it turns text into values."""


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each module that is imported, and what from it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative"
            yield from ((node.module or "", alias.name) for alias in node.names)


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def within(module: str) -> set[str]:
    """Modules of locum that a module imports, itself included, and theirs."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += [name.removeprefix("locum.") for name, _ in imports(tree_of(one)) if name.startswith("locum.")]
    return seen


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_nothing_that_touches_a_socket_a_clock_or_a_file(module: str) -> None:
    assert within(module) <= {*CORE, "config"}
    for one in within(module) - {"config"}:
        outside = {name.partition(".")[0] for name, _ in imports(tree_of(one)) if not name.startswith("locum.")}
        assert outside <= PURE, f"{one} imports {outside - PURE}"


@pytest.mark.parametrize("module", CORE)
def test_the_core_calls_nothing_of_the_kind_either(module: str) -> None:
    forbidden = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint", "Random", "load"}
    called = {
        node.func.id if isinstance(node.func, ast.Name) else ""
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Call)
    }
    assert not called & forbidden
    # Random is the type of an argument; the functions beside it have a seed of their own, from the clock.
    assert {what for name, what in imports(tree_of(module)) if name == "random"} <= {"Random"}


def test_the_configuration_touches_its_file_in_one_place_only() -> None:
    """The core takes its models from there. The file is read in `load`, which the core does not import."""
    tree = tree_of("config")
    outside = {name.partition(".")[0] for name, _ in imports(tree) if not name.startswith("locum.")}
    assert outside - PURE - OF_TEXT == {"pathlib"}
    opens = [
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and node.attr in {"open", "read_text", "read_bytes", "exists", "stat"}
    ]
    assert set(opens) == {"load"}
    for module in CORE:
        assert {what for name, what in imports(tree_of(module)) if name == "locum.config"} <= {"Config", "Service"}


# -- takeovers and releases ---------------------------------------------------------------------------------------


def test_the_record_is_cleared_before_the_beat_that_lets_others_claim() -> None:
    rim = releasing()
    rim.out.clear()
    rim.live(0.2)
    assert rim.role is Role.STANDBY
    order = [
        output
        for output in rim.out
        if isinstance(output, ports.PublishService)
        or (isinstance(output, ports.SendBeat) and output.beat.services["web"].role is Role.STANDBY)
    ]
    assert isinstance(order[0], ports.PublishService)
    assert order[0].holder is None
    assert isinstance(order[1], ports.SendBeat)
    assert order[1].beat.services["web"].clean


def test_a_hook_that_ends_after_the_lease_does_not_lead_to_the_address() -> None:
    """The agent was stopped while PreAcq ran, and the first thing it hears is that PreAcq is done."""
    rim = acquiring()
    while not (rim.asked and isinstance(rim.asked[-1], ports.Run) and rim.asked[-1].step is Step.PRE_ACQ):
        rim.answer()
    run = rim.asked[-1]
    assert isinstance(run, ports.Run)
    for late in (2.1, 10.0):
        out = rim.feed(ports.StepDone("web", run.number, True), late)
        assert not [one for one in out if isinstance(one, ports.Run) and one.step is Step.TAKE]
    assert rim.role is Role.RELEASING


def test_the_end_of_a_step_that_is_not_the_present_one_changes_nothing() -> None:
    for build in (acquiring, releasing):
        rim = build()
        run = next(one for one in rim.asked if isinstance(one, ports.Run))
        before = (rim.role, rim.duty.step, rim.duty.number)
        for number in (run.number - 1, run.number + 1, -1, 0):
            rim.feed(ports.StepDone("web", number, False, "late"))
        assert (rim.role, rim.duty.step, rim.duty.number) == before
        rim.feed(ports.StepDone("web", run.number, True))
        assert rim.duty.number == run.number + 1
        rim.feed(ports.StepDone("web", run.number, True))
        assert rim.duty.number == run.number + 1, "the same end twice"


def test_an_address_that_cannot_be_removed_keeps_the_service_from_others() -> None:
    """The released beat says that the address is gone. So it waits for that, and no longer than the kernel would."""
    rim = releasing()
    while not (rim.asked and isinstance(rim.asked[-1], ports.Run) and rim.asked[-1].step is Step.DROP):
        rim.answer()
    began = rim.now
    while rim.role is Role.RELEASING:
        rim.feed(ports.Tick(), 0.1)
        for one in [one for one in rim.asked if isinstance(one, ports.Run)]:
            rim.asked.remove(one)
            rim.feed(ports.StepDone("web", one.number, one.step is not Step.DROP, "Device or resource busy"))
        assert rim.now < began + 7.0
    assert rim.now > began + 1.0
    assert len(emitted(rim, "failed")) >= 5


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("ok", [True, False], ids=["hooks do", "hooks fail"])
def test_the_agent_ends_from_every_role(role: str, ok: bool) -> None:
    rim = ROLES[role]()
    rim.feed(ports.Stop())
    began = rim.now
    while not rim.stopped:
        rim.feed(ports.Tick(), 0.02)
        rim.echo()
        for one in [one for one in rim.asked if isinstance(one, ports.Run)]:
            rim.asked.remove(one)
            rim.feed(ports.StepDone("web", one.number, ok or one.step is Step.DROP, "exit status 1"))
        assert rim.now < began + 5.0, f"it is {rim.role.value}"
    assert not rim.address
    assert isinstance(rim.out[-1], ports.Stopped)
    assert rim.out[-2] == ports.PublishNode("alpha", online=False, reason="stopped")


@pytest.mark.parametrize("role", ROLES)
def test_a_second_signal_ends_it_at_once(role: str) -> None:
    rim = ROLES[role]()
    rim.feed(ports.Stop())
    if not rim.stopped:
        rim.feed(ports.Stop(at_once=True))
    assert rim.stopped
    assert not rim.address


def test_the_second_signal_also_ends_a_switchover_whose_hook_fails() -> None:
    rim = releasing()
    rim.feed(ports.Stop())
    rim.live(1.0, ok=True)
    assert rim.stopped


def test_a_release_says_nothing_about_an_older_epoch_over_a_newer_one() -> None:
    rim = active()
    newer = rim.duty.lease.epoch + 5
    rim.out.clear()
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder="beta", epoch=newer)))
    assert rim.role is Role.RELEASING
    rim.live(1.0)
    assert [output for output in rim.out if isinstance(output, ports.PublishService) and output.epoch < newer] == []


# -- what others say ----------------------------------------------------------------------------------------------


def test_an_epoch_at_the_end_of_its_range_does_not_stop_the_service_for_good() -> None:
    """A broken or evil message uses up all epochs at once. It is a lie: no claim was ever that high."""
    rim = started()
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder="beta", epoch=EPOCH_MOST)))
    rim.hear(Role.STANDBY, EPOCH_MOST)
    rim.live(6.0)
    assert rim.role is Role.ACTIVE


def test_epochs_that_are_high_but_possible_are_believed() -> None:
    rim = started()
    rim.hear(Role.STANDBY, 20_000_000_000)
    rim.live(6.0)
    assert rim.role is Role.ACTIVE
    assert rim.duty.lease.epoch > 20_000_000_000


def test_a_node_that_stopped_before_we_ever_heard_it_may_come_back() -> None:
    rim = started()
    rim.feed(ports.NodeHeard(0, NodeState(node="beta", state="offline", reason="stopped", boot="beta/0")))
    rim.hear(Role.STANDBY)
    rim.live(1.0)
    assert all(math.isfinite(float(str(data["seconds"]))) for data in emitted(rim, "back"))


def test_a_node_that_we_could_not_hear_is_not_called_silent() -> None:
    """No broker for ten seconds: that says something about the broker."""
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.feed(ports.BrokerDown(0))
    for _ in range(500):
        rim.feed(ports.Tick(), 0.02)
        rim.answer()
    rim.feed(ports.BrokerUp(0))
    rim.hear(Role.STANDBY, seq=100_000, ready=True)
    rim.live(1.0)
    assert emitted(rim, "silent") == []


def test_a_failback_delay_of_nothing_does_not_spin() -> None:
    story = Story()
    for command in ["cluster nodes=alpha,beta failback=auto failback_delay=0s", "start beta", "run 5s"]:
        story.play(command)
    story.play("hooks beta Test fails")
    story.play("start alpha")
    said = story.play("run 60s")
    refused = [line for line in said if "refused" in line]
    assert 1 <= len(refused) <= 15, f"asked {len(refused)} times in a minute"


# -- doubles, and the same again ----------------------------------------------------------------------------------


class Recorded(Story):
    """A story that notes what each agent was told, and what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[tuple[float, ports.Input]]] = {}

    def _feed(self, machine: Machine, event: ports.Input) -> None:
        if machine.agent is not None and not machine.paused:
            self.told.setdefault(machine.name, []).append((self.now + machine.offset, event))
        super()._feed(machine, event)


STORY = [
    "cluster nodes=alpha,beta",
    "start alpha beta",
    "run 5s",
    "switchover web",
    "run 3s",
    "crash beta",
    "run 6s",
]


def decisions(
    told: list[tuple[float, ports.Input]], config: Config, times: Callable[[ports.Input], int]
) -> list[ports.Output]:
    """What a node decides that is told all this, each input so many times."""
    born, _ = told[0]
    node = Coordinator(config, "alpha", "alpha/101", now=born, rng=Random("alpha 1"))
    return [output for now, event in told for _ in range(times(event)) for output in node.step(now, event)]


def test_the_same_inputs_give_the_same_outputs() -> None:
    story = Recorded()
    for command in STORY:
        story.play(command)
    told = story.told["alpha"]
    once = decisions(told, story.config, lambda _: 1)
    assert len(once) > 100
    assert decisions(told, story.config, lambda _: 1) == once


def test_what_is_heard_twice_counts_once() -> None:
    """QoS 1 is "at least once": beats, records, states and commands may come as doubles; so may a tick."""
    story = Recorded()
    for command in STORY:
        story.play(command)
    told = story.told["alpha"]
    doubles = (ports.BeatHeard, ports.ServiceHeard, ports.CommandHeard, ports.StepDone, ports.Tick, ports.LinkChanged)
    once = decisions(told, story.config, lambda _: 1)
    assert decisions(told, story.config, lambda event: 3 if isinstance(event, doubles) else 1) == once


def test_a_beat_that_was_overtaken_counts_no_more() -> None:
    """A client may send a beat again that was not confirmed, after a newer one. What it said has passed."""
    rim = standby()
    for number in range(1000, 1012):
        rim.hear(Role.ACTIVE, 5, seq=number)
        rim.live(0.3)
    rim.hear(Role.STANDBY, 5, seq=1010, clean=True)
    assert not rim.duty.lease.released(rim.now)
    rim.live(0.3)
    assert rim.role is Role.STANDBY


def test_with_release_nobody_is_asked_for_an_echo_and_none_would_help() -> None:
    rim = Rim(config().model_copy(update={"on_bus_loss": "release"}))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    rim.live(4.0)
    assert rim.role is Role.ACTIVE
    rim.feed(ports.BrokerDown(0))
    for _ in range(125):
        rim.feed(ports.Tick(), 0.02)
        rim.answer()
        rim.feed(ports.Echoed(rim.now, "10.0.0.2"))
    assert not [output for output in rim.out if isinstance(output, ports.AskEcho)]
    assert rim.role is not Role.ACTIVE


def test_an_address_that_is_not_confirmed_is_prolonged_and_never_set_again() -> None:
    rim = active()
    rim.feed(ports.BrokerDown(0))
    rim.out.clear()
    for _ in range(500):
        rim.feed(ports.Tick(), 0.02)
        rim.answer()
    assert rim.role is Role.ACTIVE
    held = [output for output in rim.out if isinstance(output, ports.Hold)]
    assert len(held) >= 10
    assert all(output.only_if_present for output in held)
    rim.out.clear()
    rim.feed(ports.BrokerUp(0))
    rim.echo()
    first = next(output for output in rim.out if isinstance(output, ports.Hold))
    assert first.only_if_present, "it may be gone since, and somebody else may have seen that"


def test_a_command_from_three_brokers_is_done_once() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    command = Command(id="c1", command="switchover", service="web")
    for _ in range(3):
        rim.feed(ports.CommandHeard(command))
    assert len(emitted(rim, "command")) == 1
    assert emitted(rim, "refused") == []


# -- bounds -------------------------------------------------------------------------------------------------------


def size(thing: object, seen: set[int]) -> int:
    """How many things a thing holds, however deep."""
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | Config | None):
        return 0
    seen.add(id(thing))
    match thing:
        case dict():
            inside = [*thing.keys(), *thing.values()]
        case list() | tuple() | set() | frozenset():
            inside = list(thing)
        case _ if hasattr(thing, "__iter__") and hasattr(thing, "__len__"):
            inside = list(thing)
        case _:
            names = [*getattr(type(thing), "__slots__", ()), *getattr(thing, "__dict__", {})]
            inside = [getattr(thing, name) for name in names if hasattr(thing, name)]
    return len(inside) + sum(size(one, seen) for one in inside)


def beat(number: int, node: str = "beta", boot: str = "beta/1", **services: Standing) -> ports.BeatHeard:
    return ports.BeatHeard(0, Beat(node=node, boot=boot, seq=number, every=0.5, services=services))


FLOODS: dict[str, Callable[[int], ports.Input]] = {
    "strangers": lambda n: beat(n, node=f"x{n}", boot=f"x{n}/1"),
    "strangers under a known name": lambda n: beat(n, boot=f"x{n}/1"),
    "boots": lambda n: beat(1, boot=f"beta/{n:x}", web=Standing(role=Role.STANDBY)),
    "boots that claim": lambda n: beat(1, boot=f"beta/{n:x}", web=Standing(role=Role.CLAIMING, epoch=n)),
    "boots of ours": lambda n: beat(1, node="alpha", boot=f"alpha/{n + 2:x}", web=Standing(role=Role.ACTIVE, epoch=n)),
    "services": lambda n: beat(n, **{f"s{n}": Standing(role=Role.ACTIVE)}),
    "configurations": lambda n: ports.BeatHeard(0, Beat(node="beta", boot="beta/1", seq=n, every=0.5, config=f"{n:x}")),
    "commands": lambda n: ports.CommandHeard(Command(id=f"{n}", command="switchover", service="web")),
    "commands for others": lambda n: ports.CommandHeard(Command(id=f"{n}", command="switchover", service=f"s{n}")),
    "records": lambda n: ports.ServiceHeard(0, ServiceState(service="web", holder=f"x{n}", epoch=n % 3)),
    "records of others": lambda n: ports.ServiceHeard(0, ServiceState(service=f"s{n}", holder="beta", epoch=n)),
    "states": lambda n: ports.NodeHeard(0, NodeState(node=f"x{n}", state="offline", reason="stopped")),
    "our own states": lambda n: ports.NodeHeard(
        0, NodeState(node="alpha", state="online" if n % 2 else "offline", boot=f"alpha/{n + 2:x}")
    ),
    "brokers that come and go": lambda n: ports.BrokerUp(0) if n % 2 else ports.BrokerDown(0),
    "links that come and go": lambda n: ports.LinkChanged(f"eth{n}", bool(n % 2)),
    "ends of steps": lambda n: ports.StepDone("web", n, False, "x" * 100),
    "silence": lambda n: ports.Probed("web", 100.0 + n),
    "strange answers": lambda n: ports.Probed("web", 100.0 + n, mac=f"02:00:00:00:{n // 256 % 256:02x}:{n % 256:02x}"),
}


@pytest.mark.parametrize("flood", [name for name in FLOODS if name != "links that come and go"])
@pytest.mark.parametrize("role", ["standby", "active"])
def test_a_flood_of_anything_fills_no_memory(flood: str, role: str) -> None:
    rim = ROLES[role]()
    node, now = rim.node, rim.now
    sizes = []
    for number in range(1, 3001):
        now += 0.001
        node.step(now, FLOODS[flood](number))
        if number in (1000, 3000):
            sizes.append(size(node, set()))
    assert sizes[1] <= sizes[0] + 2 * COMMANDS_MOST + SENT_MOST, sizes


@pytest.mark.parametrize("flood", ["strangers", "strangers under a known name", "boots", "states", "services"])
def test_a_flood_of_strangers_is_not_passed_on_as_a_flood_of_events(flood: str) -> None:
    rim = standby()
    events = 0
    for number in range(1, 3001):
        rim.now += 0.001
        events += sum(isinstance(output, ports.Emit) for output in rim.node.step(rim.now, FLOODS[flood](number)))
    assert events <= 100


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("answers", ["silence", "a stranger", "nothing"])
def test_nobody_runs_in_circles(role: str, answers: str) -> None:
    """Woken whenever it asks for it, for a minute: the clock must move, and not in steps of nothing."""
    rim = ROLES[role]()
    until = rim.now + 60.0
    steps = still = 0
    while rim.now < until:
        wanted = max(rim.node.next_at(), rim.now)
        still = still + 1 if wanted == rim.now else 0
        assert still <= 5, f"{rim.role.value} asks for the present moment again and again"
        rim.feed(ports.Tick(), wanted - rim.now)
        rim.echo()
        if answers != "nothing" and any(isinstance(one, ports.Probe) for one in rim.asked):
            rim.now += 0.04
            rim.answer(mac="02:00:00:00:00:99" if answers == "a stranger" else "")
        steps += 1
    assert steps <= 60 * 60
    assert steps >= 60 / rim.node.timing.beat - 1, "it must beat"


def test_many_changes_at_once_share_a_few_beats() -> None:
    """A hundred services that are taken over do not make hundreds of beats, and the last one tells of all."""
    tables = "".join(
        f'[services.s{number}]\naddresses = ["10.0.1.{number}/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'
        for number in range(1, 101)
    )
    node = Coordinator(config(tables), "alpha", "alpha/1", now=100.0, rng=Random(1))
    beats: list[tuple[float, Beat]] = []
    waiting: list[ports.Input] = [ports.LinkChanged("eth0", True), ports.BrokerUp(0)]
    probes: list[tuple[float, ports.Input]] = []
    now = 100.0

    def run(until: float) -> None:
        nonlocal now, probes
        while now < until:
            while waiting or node.next_at() <= now:
                for output in node.step(now, waiting.pop(0) if waiting else ports.Tick()):
                    match output:
                        case ports.SendBeat(beat):
                            beats.append((now, beat))
                            waiting.append(ports.BeatHeard(0, beat))
                        case ports.Run(service, number):
                            waiting.append(ports.StepDone(service, number, True))
                        case ports.Probe(service):
                            probes.append((now + 0.04, ports.Probed(service, now)))
                        case ports.Stopped():
                            return  # whatever is not said by now is never said
            now += 0.001
            waiting.extend(probed for at, probed in probes if at <= now)
            probes = [(at, probed) for at, probed in probes if at > now]

    run(106.0)
    assert all(duty.role is Role.ACTIVE for duty in node.duties.values())
    assert all(standing.role is Role.ACTIVE for standing in beats[-1][1].services.values())
    started_at = next(at for at, beat in beats if any(one.role is Role.CLAIMING for one in beat.services.values()))
    busy = [at for at, _ in beats if started_at <= at <= started_at + 1.0]
    assert 3 <= len(busy) <= SPARE_BEATS + 1 + 1.0 / SPARE_BEAT_EVERY + 2, "and two in their turn"
    beats.clear()
    waiting.append(ports.Stop(at_once=False))
    run(107.0)
    final = beats[-1][1].services.values()
    assert {standing.role for standing in final} == {Role.STANDBY} and all(one.clean for one in final)
    assert len(beats) <= SPARE_BEATS + 4


# -- whatever happens in whatever order ---------------------------------------------------------------------------

names = st.sampled_from(["alpha", "beta"])
epochs = st.sampled_from([0, 1, 2, 5, 30, 100, 2000, EPOCH_MOST])
roles = st.sampled_from(list(Role))
happenings = st.one_of(
    st.tuples(st.just("live"), st.sampled_from([0.1, 0.6, 3.0]), st.booleans()),
    st.tuples(st.just("live"), st.just(3.0), st.just(True)),
    st.tuples(st.just("echo")),
    st.tuples(
        st.just("answer"), st.booleans(), st.sampled_from(["", "02:00:00:00:00:99"]), st.sampled_from(["", "10.0.0.2"])
    ),
    st.tuples(st.just("peer"), roles, epochs, st.booleans(), st.sampled_from(["beta/1", "beta/2"])),
    st.tuples(st.just("twin"), roles, epochs),
    st.tuples(st.just("record"), st.none() | names, epochs),
    st.tuples(st.just("operator"), st.sampled_from(["pause", "resume", "release", "drain", "undrain", "reload"])),
    st.tuples(st.just("hand"), st.integers(0, 4), st.booleans(), st.none() | st.sampled_from(["alpha", "beta"])),
    st.tuples(st.just("found")),
    st.tuples(st.just("retire")),
    st.tuples(st.just("adopt")),
    st.tuples(
        st.just("state"), names, st.sampled_from(["online", "offline"]), st.sampled_from(["", "lost", "stopped"])
    ),
    st.tuples(st.just("command"), st.none() | st.sampled_from(["alpha", "beta", "gamma"])),
    st.tuples(st.just("link"), st.booleans()),
    st.tuples(st.just("broker"), st.booleans()),
    st.tuples(st.just("gone")),
    st.tuples(st.just("unasked"), st.integers(-1, 10), st.booleans()),
    st.tuples(st.just("wire fails")),
    st.tuples(st.just("stop"), st.booleans()),
)


@given(
    st.sampled_from(["hold", "release"]),
    st.sampled_from(["manual", "auto"]),
    st.lists(st.tuples(st.sampled_from([0.0, 0.0, 0.01, 0.3, 0.74, 2.0, 30.0]), happenings), max_size=30),
)
@example("hold", "manual", [(0.0, ("live", 3.0, True)), (2.0, ("record", None, 0)), (0.0, ("live", 3.0, True))])
@example(
    "hold",
    "manual",
    [(0.0, ("live", 3.0, True)), (2.0, ("echo",)), (0.0, ("record", None, 0)), (0.0, ("live", 3.0, True))],
)
@example("hold", "manual", [(0.0, ("live", 3.0, True)), (0.0, ("stop", False)), (0.3, ("answer", False, "", ""))])
@example(
    "hold",
    "manual",
    [(0.0, ("live", 3.0, True)), (0.0, ("twin", Role.CLAIMING, 30)), (0.0, ("hand", 1, True, "alpha"))],
)
@example(
    "release",
    "manual",
    [
        *[(0.0, ("live", 3.0, True)), (0.74, ("live", 3.0, True)), (0.74, ("retire",)), (0.0, ("gone",))],
        (0.3, ("answer", False, "", "")),
    ],
)
@settings(max_examples=150)
def test_no_order_of_inputs_breaks_the_contract(policy: str, failback: str, story: list) -> None:  # type: ignore[type-arg]
    """Rim.check looks at every output. This is only about what one node may say and do; that two never hold is shown in
    test_lease.py and in the simulation."""
    rim = Rim(config(failback=failback, failback_delay="5s").model_copy(update={"on_bus_loss": policy}))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    for number, (later, (what, *how)) in enumerate(story, 1):
        if rim.stopped:
            return
        rim.now += later
        match what:
            case "live":
                rim.live(how[0], ok=how[1])
            case "echo":
                rim.echo()
            case "answer":
                rim.answer(*how)
            case "peer":
                rim.hear(how[0], how[1], seq=number, ready=how[2], boot=how[3], successor="alpha" if how[2] else None)
            case "twin":
                rim.hear(how[0], how[1], seq=number, node="alpha", boot="alpha/2")
            case "record":
                rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder=how[0], epoch=how[1])))
            case "state":
                rim.feed(ports.NodeHeard(0, NodeState(node=how[0], state=how[1], reason=how[2])))
            case "command":
                rim.feed(ports.CommandHeard(Command(id=f"{number}", command="switchover", service="web", to=how[0])))
            case "operator":
                which = "node" if how[0] in OF_NODES else "service"
                of = {which: "alpha" if which == "node" else "web"}
                rim.feed(ports.CommandHeard(Command.model_validate({"id": f"{number}", "command": how[0], **of})))
            case "hand":
                hand = Hand(number=how[0], paused=how[1], keeper=how[2])
                rim.hear(Role.STANDBY, 0, seq=number, hand=hand)
            case "found":
                if not rim.address and rim.role in (Role.STANDBY, Role.FAULT, Role.PAUSED):
                    rim.address = True
                    rim.feed(ports.Found("web"))
            case "retire":
                rim.feed(ports.Retire(("web",)))
            case "adopt":
                if rim.node.at_rest:
                    rim.feed(ports.Adopt(rim.node.config))
            case "link":
                rim.feed(ports.LinkChanged("eth0", how[0]))
            case "broker":
                rim.feed(ports.BrokerUp(0) if how[0] else ports.BrokerDown(0))
            case "gone":
                rim.feed(ports.AddressGone("web", "10.0.0.100/24 is gone"))
            case "unasked":
                rim.feed(ports.StepDone("web", *how))
            case "wire fails":
                rim.feed(ports.Probed("web", rim.now, error="eth0: no carrier"))
            case "stop":
                rim.feed(ports.Stop(*how))
        rim.feed(ports.Tick())


# -- the picture --------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs"


def test_the_picture_of_the_states_shows_the_table() -> None:
    """If not: python docs/draw_states.py"""
    draw = runpy.run_path(str(DOCS / "draw_states.py"))
    page = (DOCS / "states.md").read_text(encoding="utf-8")
    assert draw["drawn"](page) == page
    for role in Role:
        assert f"| {role.value} |" in page
    arrows = [line for line in page.splitlines() if " --> " in line and "[*]" not in line]
    assert len(arrows) == len(TABLE)
