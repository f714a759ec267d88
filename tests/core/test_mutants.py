"""What mutation testing found untested: each test here fails when one small thing in the core is changed.

See docs/mutants.md for how the changes are made, and for those that no test can tell from the original.
"""

from math import inf

import pytest

from locum import ports
from locum.config import parse
from locum.lease import HEARD_MOST, Lease
from locum.messages import Command, NodeState, Role, ServiceState
from locum.ports import Step
from locum.timing import Timing
from tests.core.story import Story
from tests.core.test_coordinator import Rim, acquiring, active, claiming, releasing, standby, started
from tests.core.test_lease import TIMING, A, B, W, claim, listening, quiet_at, released

# -- timing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beat", "lease", "expected"),
    [
        # 0.4 % of a lease of 2 s is less than the margin's least value; of a minute it is more.
        (0.5, 2.0, {"margin": 0.02, "guard": 0.5, "window": 2.5, "missed": 0.75, "stall": 0.75, "wire_rest": 0.25}),
        (0.1, 1.0, {"margin": 0.02, "guard": 0.5, "window": 1.5, "missed": 0.15, "stall": 0.15, "wire_rest": 0.05}),
        (5.0, 60.0, {"margin": 0.24, "guard": 0.72, "window": 60.72, "missed": 7.5, "stall": 7.5, "wire_rest": 0.25}),
    ],
    ids=["as it comes", "fast", "slow"],
)
def test_what_follows_from_the_beat_and_the_lease(beat: float, lease: float, expected: dict[str, float]) -> None:
    timing = Timing(beat=beat, lease=lease)
    assert {name: getattr(timing, name) for name in expected} == pytest.approx(expected)
    assert timing.claim_timeout == pytest.approx(0.384)
    assert timing.step == 0.05


# -- the lease: its first moments ---------------------------------------------------------------------------------


def test_the_first_claim_ever_has_epoch_one_and_nobody_is_above_it() -> None:
    lease = listening()
    assert not lease.superseded()
    assert lease.claim(10.0) == 1
    assert not lease.superseded()


# -- 2. quiet -----------------------------------------------------------------------------------------------------


def test_an_own_beat_that_comes_back_out_of_order_does_not_make_us_deaf() -> None:
    lease = listening()
    lease.hear(0, A, 0, False, 10.0, sent_at=9.9)
    lease.hear(0, A, 0, False, 10.0, sent_at=5.0)
    assert lease.quiet_at(10.0) == W
    lease.hear(0, A, 0, False, 10.0)  # one whose send time is forgotten
    assert lease.quiet_at(10.0) == W


def test_at_the_moment_from_which_on_it_is_quiet_it_is_quiet() -> None:
    lease = listening()
    claim(lease, W, range(1))
    assert lease.granted(W)


def test_a_beat_that_tells_nothing_of_the_addresses_is_no_release_in_good_order() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0, claim=True)
    lease.hear(0, B, 3, False, 4.2)
    assert not released(lease, 4.2)


def test_a_holder_whose_claim_we_did_not_hear_may_have_been_followed_by_another() -> None:
    """Its first beat that we hear may be an old one, of a connection that was stalled."""
    lease = listening()
    lease.hear(0, B, 3, True, 4.0)
    lease.hear(0, B, 3, False, 4.2, clean=True)
    assert not released(lease, 4.2)


def test_so_may_one_that_is_heard_on_before_and_after_we_connected_anew() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0, claim=True)
    lease.subscribed(0, 4.1)
    lease.hear(0, B, 3, True, 4.5)
    lease.hear(0, B, 3, False, 4.6, clean=True)
    assert not released(lease, 4.6)


def test_the_first_beat_counts_from_the_subscription_on_whenever_that_was() -> None:
    lease = listening(since=10.0)
    for beat in range(5):
        lease.hear(0, B, 3, True, 10.5 + beat * 0.5)
    lease.hear(0, B, 3, False, 12.6, clean=True)
    assert released(lease, 12.6)


def test_a_beat_is_missed_only_after_one_and_a_half_intervals() -> None:
    """One that comes just then was not missed: it leaves no gap, and the holder was heard for a window all the same."""
    assert TIMING.missed == 0.75
    lease = listening(since=0.0)
    for beat in range(4):
        lease.hear(0, B, 3, True, 0.75 + beat * 0.75)
    lease.hear(0, B, 3, False, 3.75, clean=True)
    assert released(lease, 3.75)
    lease = listening(since=0.0)
    for beat in range(3):
        lease.hear(0, B, 3, True, 0.75 + beat * 0.75)
    lease.hear(0, B, 3, False, W, clean=True)
    assert released(lease, W), "just a window after the subscription"


def test_the_release_of_a_holder_that_we_have_forgotten_is_borne() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0)
    for number in range(HEARD_MOST):
        lease.hear(0, f"gamma/{number:x}", 2, True, 9.0)
    lease.hear(0, B, 3, False, 9.1, clean=True)
    assert not released(lease, 9.1)


# -- a crowd ------------------------------------------------------------------------------------------------------


def test_the_oldest_of_a_crowd_is_the_one_that_is_no_longer_remembered() -> None:
    """Names sort the other way round than they came. All but one are remembered, and leave: that one still counts."""
    lease = listening()
    boots = [f"beta/{0xFF - number:x}" for number in range(HEARD_MOST + 1)]
    for number, boot in enumerate(boots):
        lease.hear(0, boot, 1, True, 10.0 + number / 100)
    for boot in boots[1:]:
        lease.hear(0, boot, 1, False, 11.0)
    assert quiet_at(lease) == 10.0 + W


def test_who_is_remembered_of_a_crowd_is_still_known_as_steady() -> None:
    """A holder beats on while many come and go; its release in good order counts as ever."""
    lease = listening()
    for beat in range(4):
        lease.hear(0, B, 3, True, 4.0 + beat * 0.5)
    crowd = [f"gamma/{number:x}" for number in range(2 * HEARD_MOST)]
    for number, boot in enumerate(crowd):
        if number % 8 == 0:
            lease.hear(0, B, 3, True, 5.6 + number / 1000)
        lease.hear(0, boot, 2, True, 5.6 + number / 1000)
    for boot in crowd:
        lease.hear(0, boot, 2, False, 5.7)
    for beat in range(6):
        lease.hear(0, B, 3, True, 6.0 + beat * 0.5)
    lease.hear(0, B, 3, False, 8.6, clean=True)
    assert released(lease, 8.6)


def test_a_crowd_that_was_there_before_we_connected_anew_is_borne() -> None:
    lease = listening()
    for number in range(HEARD_MOST):
        lease.hear(0, f"gamma/{number:x}", 1, True, 4.0)
    lease.subscribed(0, 4.1)
    lease.hear(0, B, 1, True, 4.2)
    assert quiet_at(lease) == 4.2 + W


def test_those_who_claim_and_let_go_leave_nothing_behind() -> None:
    lease = listening()
    for number in range(1000):
        boot = f"beta/{number:x}"
        lease.hear(0, boot, 1, True, 10.0 * number, claim=True)
        lease.hear(0, boot, 1, False, 10.0 * number + 1.0)
    assert not lease.views[0].heard
    assert not lease.views[0].steady


# -- 3. and 4. claim and grant ------------------------------------------------------------------------------------


def test_a_broker_that_is_lost_grants_nothing() -> None:
    lease = listening(brokers=3)
    claim(lease, 10.0, range(1))
    lease.unsubscribed(1)
    lease.unsubscribed(2)
    assert not lease.granted(10.1)


def test_a_claim_is_granted_up_to_the_end_of_its_time() -> None:
    lease = listening()
    claim(lease, 10.0, range(1))
    end = 10.0 + TIMING.claim_timeout
    assert lease.granted(end)


def test_a_node_is_attentive_when_a_majority_of_its_subscriptions_is_old_enough() -> None:
    lease = Lease(A, 3, TIMING)
    assert lease.attentive_at() == inf
    lease.subscribed(0, 1.0)
    assert lease.attentive_at() == inf
    lease.subscribed(1, 2.0)
    assert lease.attentive_at() == 2.0 + W
    lease.subscribed(2, 3.0)
    assert lease.attentive_at() == 2.0 + W


# -- the coordinator: what it tells -------------------------------------------------------------------------------


def events(rim: Rim, type_: str = "") -> list[ports.Emit]:
    return [one for one in rim.out if isinstance(one, ports.Emit) and type_ in ("", one.type)]


def of_three() -> Rim:
    """Node alpha of alpha, beta and gamma."""
    nodes = ["alpha", "beta", "gamma"]
    text = 'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n'
    for place, name in enumerate(nodes, 1):
        text += f'[nodes.{name}]\naddress = "10.0.0.{place + 10}"\n'
    text += f'[services.web]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = {nodes}\n'
    rim = Rim(parse(text))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    return rim


def ask(rim: Rim, to: str | None = None, id: str = "c1") -> None:
    rim.feed(ports.CommandHeard(Command(id=id, command="switchover", service="web", to=to, by="ops")))


def fails(rim: Rim, *steps: Step, span: float = 1.0) -> None:
    """Time passes, and these hooks fail."""
    until = rim.now + span
    while rim.now < until:
        rim.feed(ports.Tick(), 0.02)
        rim.echo()
        asked, rim.asked = rim.asked, []
        for one in asked:
            match one:
                case ports.Run(service, number):
                    rim.feed(ports.StepDone(service, number, one.step not in steps, "exit status 1"))
                case ports.Probe(service):
                    rim.feed(ports.Probed(service, rim.now))


def test_a_stranger_is_told_of_once_and_of_sixty_four_at_most() -> None:
    rim = standby()
    for _ in range(2):
        rim.hear(Role.STANDBY, node="gamma", boot="gamma/1")
    why = "its beats are ignored: it is not in the configuration"
    assert events(rim, "stranger") == [ports.Emit("alpha", "stranger", {"node": "gamma", "why": why})]
    for number in range(100):
        rim.hear(Role.STANDBY, node=f"x{number}", boot=f"x{number}/1")
    assert len(events(rim, "stranger")) == 64


def test_a_twin_is_told_of_at_its_fourth_beat_and_at_its_four_hundredth() -> None:
    rim = standby()
    told = []
    for number in range(1, 900):
        rim.hear(Role.STANDBY, node="alpha", boot="alpha/2", seq=number)
        if len(events(rim, "twin")) > len(told):
            told.append(number)
    assert told == [4, 400]
    why = "another machine runs as this node: give it its own name"
    assert events(rim, "twin")[0] == ports.Emit("alpha", "twin", {"boot": "alpha/2", "why": why})


def test_a_state_without_a_boot_is_nobodys_twin() -> None:
    """As a peer publishes it that has missed our beats."""
    rim = standby()
    for _ in range(10):
        rim.feed(ports.NodeHeard(0, NodeState(node="alpha", state="offline", reason="silent")))
    assert events(rim, "twin") == []


def test_a_command_that_cannot_be_done_is_refused_with_the_reason() -> None:
    for build, to, why in [
        (acquiring, "beta", "alpha is busy with Test: try again when that is over"),
        (releasing, "beta", "alpha is busy with Test: try again when that is over"),
        (active, "alpha", "alpha holds it already"),
        (active, "gamma", "gamma is not one of the service's nodes: alpha, beta"),
        (active, "beta", "beta cannot take it now: not heard, or not ready"),
        (active, None, "beta cannot take it now: not heard, or not ready"),
    ]:
        rim = build()
        rim.out.clear()
        ask(rim, to)
        said = {"way": "release", "why": why, "command": "c1", "by": "ops"}
        assert events(rim) == [ports.Emit("web", "refused", said)], f"{build.__name__} to {to}"


def test_of_three_the_one_that_was_asked_for_must_be_able_to_take_it() -> None:
    rim = of_three()
    rim.live(4.0)
    assert rim.role is Role.ACTIVE
    ask(rim, id="c1")
    assert events(rim, "refused")[-1].data["why"] == "beta and gamma cannot take it now: not heard, or not ready"
    rim.hear(Role.STANDBY, node="gamma", boot="gamma/1", ready=True)
    ask(rim, "beta", id="c2")
    assert rim.role is Role.ACTIVE
    assert events(rim, "refused")[-1].data["why"] == "beta cannot take it now: not heard, or not ready"
    ask(rim, id="c3")
    assert rim.role is Role.RELEASING
    told = events(rim, "releasing")[0].data
    assert (told["reason"], told["peer"], told["command"]) == ("switchover", "gamma", "c3")


def test_a_node_that_is_alone_in_its_service_has_nobody_to_move_it_to() -> None:
    rim = Rim(
        parse(
            'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n[nodes.alpha]\naddress = "10.0.0.1"\n'
            '[nodes.beta]\naddress = "10.0.0.2"\n'
            '[services.web]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = ["alpha"]\n'
        )
    )
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    rim.live(4.0)
    ask(rim)
    assert events(rim, "refused")[-1].data["why"] == "no other node cannot take it now: not heard, or not ready"


def test_no_switchover_while_the_brokers_do_not_confirm_the_lease() -> None:
    """Under `hold` it is still active; but nobody could claim."""
    rim = active()
    rim.feed(ports.BrokerDown(0))
    for _ in range(110):
        rim.feed(ports.Tick(), 0.02)
        rim.answer()
    rim.hear(Role.STANDBY, ready=True)
    assert rim.role is Role.ACTIVE
    ask(rim)
    assert rim.role is Role.ACTIVE
    why = "the brokers do not confirm the lease: nobody else could claim"
    assert events(rim, "refused")[-1].data["why"] == why


def test_sixty_four_commands_are_remembered_and_the_oldest_goes_first() -> None:
    rim = active()
    for number in range(64):
        ask(rim, "alpha", id=f"c{number}")
    assert len(events(rim, "refused")) == 64
    ask(rim, "alpha", id="c0")
    assert len(events(rim, "refused")) == 64, "a double of the first"
    ask(rim, "alpha", id="c64")
    ask(rim, "alpha", id="c64")
    assert len(events(rim, "refused")) == 65, "a double of the last"
    ask(rim, "alpha", id="c0")
    assert len(events(rim, "refused")) == 66, "forgotten by now: it is done once more"


# -- the coordinator: releases ------------------------------------------------------------------------------------


def test_a_test_that_refuses_the_move_is_told_of_and_nothing_is_started_again() -> None:
    rim = releasing()
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    fails(rim, Step.TEST, span=0.1)
    assert rim.role is Role.ACTIVE
    assert events(rim) == [
        ports.Emit(
            "web",
            "refused",
            {"step": "Test", "way": "release", "epoch": epoch, "why": "exit status 1", "command": "c"},
        ),
        ports.Emit(
            "web", "active", {"from": "releasing", "to": "active", "epoch": epoch, "reason": "test", "command": "c"}
        ),
    ]
    assert not [one for one in rim.out if isinstance(one, ports.Run)]


def test_a_prerel_that_refuses_it_lets_postacq_start_again_what_it_had_stopped() -> None:
    rim = releasing()
    rim.out.clear()
    while rim.role is Role.RELEASING:
        fails(rim, Step.PRE_REL, span=0.02)
    again = [one for one in rim.out if isinstance(one, ports.Run)][-1]
    assert (again.step, again.peer) == (Step.POST_ACQ, "")
    rim.hear(Role.STANDBY, ready=True)
    ask(rim, id="c2")
    assert events(rim, "refused")[-1].data["why"] == "alpha is busy with PostAcq: try again when that is over"
    rim.live(0.1)
    ask(rim, id="c3")
    assert rim.role is Role.RELEASING


def test_no_hook_stops_a_release_that_safety_demands() -> None:
    rim = active()
    rim.out.clear()
    rim.hear(Role.ACTIVE, rim.duty.lease.epoch + 1)
    assert isinstance(rim.out[0], ports.DropNow)
    fails(rim, Step.PRE_REL, Step.POST_REL)
    assert rim.role is Role.STANDBY
    runs = [one for one in rim.out if isinstance(one, ports.Run)]
    assert [(one.step, one.peer) for one in runs] == [(Step.DROP, ""), (Step.PRE_REL, ""), (Step.POST_REL, "")]
    assert "peer" not in events(rim, "releasing")[0].data
    assert [one.data["step"] for one in events(rim, "failed")] == ["PreRel", "PostRel"]


def test_a_stop_tells_who_is_to_take_over() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.out.clear()
    epoch = rim.duty.lease.epoch
    rim.feed(ports.Stop())
    told = {"from": "active", "to": "releasing", "epoch": epoch, "reason": "stop", "peer": "beta"}
    assert events(rim) == [ports.Emit("web", "releasing", told)]
    rim.live(0.2)
    last = [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert (last.successor, last.clean, last.reason) == ("beta", True, "stop")


def test_a_stop_with_nobody_to_take_over_names_nobody() -> None:
    rim = active()
    rim.out.clear()
    rim.feed(ports.Stop())
    assert "peer" not in events(rim, "releasing")[0].data
    rim.live(0.2)
    assert {one.peer for one in rim.out if isinstance(one, ports.Run)} == {""}
    assert [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1].successor is None


@pytest.mark.parametrize("end", ["a takeover that Test declines", "a release"])
def test_the_end_of_a_step_that_comes_twice_changes_nothing_once_it_is_a_standby(end: str) -> None:
    rim = releasing() if end == "a release" else acquiring()
    fails(rim, *(() if end == "a release" else (Step.TEST,)), span=0.2)
    assert rim.role is Role.STANDBY
    rim.out.clear()
    rim.feed(ports.StepDone("web", rim.duty.number, False, "late"))
    rim.feed(ports.StepDone("web", rim.duty.number, True))
    assert events(rim) == []


def test_a_named_successor_that_does_nothing_has_two_windows() -> None:
    rim = releasing()
    began = rim.now
    rim.live(0.2)
    assert rim.role is Role.STANDBY
    while rim.role is Role.STANDBY:
        rim.live(0.02)
        assert rim.now < began + 20.0
    assert 2 * W <= rim.now - began <= 2 * W + 0.5


def test_a_claim_that_came_to_nothing_gives_way_for_a_moment() -> None:
    rim = claiming()
    claimed = rim.now
    rim.beats.clear()  # ours does not come back in time
    rim.hear(Role.CLAIMING, 1)
    while rim.role is Role.CLAIMING:
        rim.feed(ports.Tick(), 0.01)
        rim.answer()
        if rim.now >= claimed + 0.3:
            rim.hear(Role.STANDBY, 1)
    denied = rim.now
    while rim.role is Role.STANDBY:
        rim.feed(ports.Tick(), 0.01)
        rim.echo()
        rim.answer()
        assert rim.now < denied + 1.0
    assert 0.05 <= rim.now - denied <= 0.2


def test_who_takes_over_at_once_and_hears_a_stranger_on_the_wire_lets_go_and_vouches_for_nothing() -> None:
    """The last holder had let go, so the wire was not asked before. Now somebody answers there."""
    rim = started()
    rim.hear(Role.CLAIMING, 5)
    for _ in range(6):
        rim.feed(ports.Tick(), 0.4)
        rim.echo()
        rim.hear(Role.ACTIVE, 5)
    rim.asked.clear()
    rim.hear(Role.STANDBY, 5, clean=True, reason="switchover")
    while rim.role is not Role.ACTIVE:
        rim.feed(ports.Tick(), 0.01)
        rim.echo()
        for one in [one for one in rim.asked if isinstance(one, ports.Run)]:
            rim.asked.remove(one)
            rim.feed(ports.StepDone("web", one.number, True))
    claimed = events(rim, "claiming")[0].data
    assert (claimed["reason"], claimed["peer"]) == ("switchover", "beta")
    rim.out.clear()
    rim.feed(ports.Probed("web", rim.now, "02:00:00:00:00:99", "10.0.0.100"))
    assert isinstance(rim.out[0], ports.DropNow)
    wire, let_go = events(rim)
    assert wire.data == {"mac": "02:00:00:00:00:99", "address": "10.0.0.100", "why": "somebody has it: not taken"}
    assert (let_go.type, let_go.data["reason"]) == ("releasing", "wire")
    assert let_go.data["why"] == "10.0.0.100 is answered by 02:00:00:00:00:99"
    rim.live(0.2)
    last = [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert (last.role, last.clean, last.reason) == (Role.STANDBY, False, "")


# -- the coordinator: somebody removes the address ----------------------------------------------------------------


def test_an_address_that_somebody_removes_is_set_again_but_nobody_is_raced() -> None:
    rim = active()
    rim.live(12.0)  # all announcements of the takeover are over
    until = rim.duty.lease.ends_at() + TIMING.guard - TIMING.margin
    gone = ports.AddressGone("web", "10.0.0.100/24 is gone")

    def seen(out: list[ports.Output]) -> list[ports.Output]:
        return [one for one in out if isinstance(one, ports.Hold | ports.Announce)]

    restored = [ports.Hold("web", until), ports.Announce("web")]
    assert seen(rim.feed(gone)) == restored
    assert rim.node.next_at() <= rim.now + 0.02 + 1e-6, "the neighbours are told again"
    assert seen(rim.feed(gone, 0.01)) == []
    assert seen(rim.feed(ports.Tick(), 0.005)) == []
    assert seen(rim.feed(ports.Tick(), 0.005 + 1e-6)) == [ports.Announce("web")]
    assert seen(rim.feed(gone, 0.01)) == restored


# -- the coordinator: what the brokers remember -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holder", "older", "wrong"),
    [("alpha", 0, False), (None, 0, True), ("beta", 0, True), ("alpha", 1, True), ("beta", 1, True)],
)
def test_a_record_that_is_wrong_is_corrected_and_one_that_is_right_is_not(
    holder: str | None, older: int, wrong: bool
) -> None:
    rim = active()
    rim.live(1.0)
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder=holder, epoch=epoch - older)))
    rim.live(2.0)
    said = [one for one in rim.out if isinstance(one, ports.PublishService)]
    assert [(one.holder, one.epoch) for one in said] == ([("alpha", epoch)] if wrong else [])


# -- the coordinator: failback ------------------------------------------------------------------------------------


def told_of(story: Story, type_: str) -> list[tuple[str, dict[str, object]]]:
    """Who told of it, and what."""
    return [(one.source.rpartition("/")[2], one.data) for one in story.events if one.type.endswith("." + type_)]


def play(*commands: str) -> Story:
    story = Story()
    for command in commands:
        story.play(command)
    return story


def test_it_is_handed_back_to_the_most_preferred_of_those_that_live() -> None:
    story = play(
        "cluster nodes=alpha,beta,gamma failback=auto failback_delay=3s",
        "start gamma",
        "run 5s",
        "start beta",
        "run 9s",
    )
    (who, data), *more = told_of(story, "releasing")
    assert (who, data["reason"], data["peer"], more) == ("gamma", "failback", "beta", [])
    assert [who for who, _ in told_of(story, "active")] == ["gamma", "beta"]
