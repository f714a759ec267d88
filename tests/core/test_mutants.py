"""What mutation testing found untested: each test here fails when one small thing in the core is changed.

See docs/mutants.md for how the changes are made, and for those that no test can tell from the original.
"""

from itertools import pairwise
from math import inf

import pytest

from locum import ports
from locum.config import parse
from locum.lease import HEARD_MOST, Lease
from locum.messages import Beat, Command, NodeState, Role, ServiceState, Standing
from locum.ports import Step
from locum.timing import Timing
from tests.core.story import Story
from tests.core.test_coordinator import Rim, acquiring, active, claiming, config, releasing, standby, started
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


def standby_of_beta() -> Rim:
    """Beta's claim was heard, and its beats for a window."""
    rim = started()
    rim.hear(Role.CLAIMING, 5)
    for _ in range(6):
        rim.feed(ports.Tick(), 0.4)
        rim.echo()
        rim.hear(Role.ACTIVE, 5)
    rim.asked.clear()
    return rim


@pytest.mark.parametrize(("said", "told"), [("stop", "stop"), ("", "released")])
def test_who_takes_over_at_once_gives_the_reason_of_the_one_that_let_go(said: str, told: str) -> None:
    rim = standby_of_beta()
    rim.hear(Role.STANDBY, 5, clean=True, reason=said)
    rim.live(0.2)
    assert events(rim, "claiming")[0].data["reason"] == told


def test_who_takes_over_at_once_and_hears_a_stranger_on_the_wire_lets_go_and_vouches_for_nothing() -> None:
    """The last holder had let go, so the wire was not asked before. Now somebody answers there."""
    rim = standby_of_beta()
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


def test_nothing_is_handed_back_where_nobody_asked_for_it() -> None:
    story = play("cluster nodes=alpha,beta failback=manual failback_delay=1s", "start beta", "run 5s", "start alpha")
    story.play("run 60s")
    assert told_of(story, "releasing") == []


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


def test_a_prerel_that_refuses_a_failback_is_asked_again_later() -> None:
    story = play(
        "cluster nodes=alpha,beta failback=auto failback_delay=3s",
        "start beta",
        "run 5s",
        "hooks beta PreRel fails",
        "start alpha",
        "run 30s",
        "hooks beta PreRel ok",
        "run 30s",
        "status",
    )
    assert story.lines[:2] == ["beta: web standby", "alpha: web active, has 10.0.0.100/24"]
    assert 2 <= len(told_of(story, "refused")) <= 10


# -- the coordinator: takeovers -----------------------------------------------------------------------------------


def test_a_takeover_from_its_first_step_to_its_last() -> None:
    rim = started()
    while rim.role is not Role.ACTIVE:
        rim.live(0.02)
    epoch = rim.duty.lease.epoch
    runs = [one for one in rim.out if isinstance(one, ports.Run)]
    assert [one.step for one in runs] == [Step.TEST, Step.PRE_ACQ, Step.TAKE, Step.POST_ACQ]
    assert {(one.service, one.epoch, one.peer, one.reason) for one in runs} == {("web", epoch, "", "start")}
    assert [one.until for one in runs if one.step is not Step.TAKE] == [0.0, 0.0, 0.0]
    claimed = next(one for one in rim.out if isinstance(one, ports.SendBeat) and one.beat.services["web"].epoch)
    assert claimed.beat.services["web"].role is Role.CLAIMING
    taken = {"epoch": epoch, "addresses": ["10.0.0.100/24"]}
    assert events(rim, "taken") == [ports.Emit("web", "taken", taken)]
    begun = {"from": "standby", "to": "claiming", "epoch": epoch, "reason": "start"}
    assert events(rim)[0] == ports.Emit("web", "claiming", begun)
    rim.out.clear()
    ask(rim, "beta")
    rim.feed(ports.Stop())
    rim.live(0.2)
    assert events(rim, "dropped") == [ports.Emit("web", "dropped", taken)]


def test_the_kernel_keeps_the_address_until_the_margin_before_another_may_have_it() -> None:
    """From the send time of what the lease rests on: a window less the margin."""
    rim = acquiring()
    taken = None
    while taken is None:
        rim.feed(ports.Tick(), 0.005)
        rim.answer()
        taken = next((one for one in rim.out if isinstance(one, ports.Run) and one.step is Step.TAKE), None)
    assert taken.until == pytest.approx(rim.duty.lease.ends_at() - TIMING.lease + W - TIMING.margin)
    rim.live(2.0)
    held = [one for one in rim.out if isinstance(one, ports.Hold)][-1]
    assert not held.only_if_present, "under a good lease, what somebody removed is set again"
    assert held.until == pytest.approx(rim.duty.lease.ends_at() - TIMING.lease + W - TIMING.margin)


def test_the_neighbours_are_told_at_once_and_again_and_again() -> None:
    rim = started()
    took = None
    told = []
    while took is None or rim.now < took + 12.0:
        before = len(rim.out)
        rim.live(0.02)
        if took is None and events(rim, "taken"):
            took = rim.now
        told += [rim.now for one in rim.out[before:] if isinstance(one, ports.Announce)]
        assert None not in rim.out
    assert took is not None
    assert [at - took for at in told] == pytest.approx([0.0, 0.02, 0.1, 0.5, 2.0, 5.0, 10.0], abs=0.05)


@pytest.mark.parametrize("step", [Step.TEST, Step.PRE_ACQ])
def test_a_takeover_that_is_lost_in_a_hook_ends_the_hook_and_its_late_end_counts_for_nothing(step: Step) -> None:
    rim = acquiring()
    while not (rim.asked and isinstance(rim.asked[-1], ports.Run) and rim.asked[-1].step is step):
        rim.answer()
    run = rim.asked[-1]
    rim.out.clear()
    rim.hear(Role.ACTIVE, rim.duty.lease.epoch + 1)
    assert rim.out[0] == ports.Abort("web")
    drop = next(one for one in rim.out if isinstance(one, ports.Run))
    assert (drop.step, drop.number > run.number) == (Step.DROP, True)
    rim.feed(ports.StepDone("web", run.number, True))
    assert [one.step for one in rim.out if isinstance(one, ports.Run)] == [Step.DROP]
    fails(rim)
    assert rim.role is Role.STANDBY
    last = [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert not last.clean


def test_who_is_deposed_does_not_vouch_for_the_address() -> None:
    """It has removed the address; but that its lease had some time left says nothing about who came after it."""
    rim = active()
    rim.hear(Role.ACTIVE, rim.duty.lease.epoch + 1)
    rim.live(0.5)
    assert rim.role is Role.STANDBY
    last = [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert (last.clean, last.reason) == (False, "")


def test_a_service_whose_link_was_down_is_taken_again() -> None:
    rim = active()
    rim.out.clear()
    rim.feed(ports.LinkChanged("eth0", False))
    rim.live(1.0)
    assert rim.role in (Role.STANDBY, Role.FAULT)
    rim.feed(ports.LinkChanged("eth0", True))
    rim.live(6.0)
    assert rim.role is Role.ACTIVE
    told = events(rim, "claiming")[0].data
    assert (told["reason"], "peer" in told) == ("failover", False)


def test_an_address_that_cannot_be_removed_is_tried_again_until_the_kernel_must_have_let_it_go() -> None:
    rim = releasing()
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    dropping = None
    while rim.role is Role.RELEASING:
        rim.feed(ports.Tick(), 0.01)
        for one in [one for one in rim.asked if isinstance(one, ports.Run)]:
            rim.asked.remove(one)
            dropping = dropping or (rim.now if one.step is Step.DROP else None)
            rim.feed(ports.StepDone("web", one.number, one.step is not Step.DROP, "Device or resource busy"))
    assert dropping is not None
    # Also if a call that set it was under way: for a window, and then it had it for one more.
    assert rim.now == pytest.approx(dropping + 2 * TIMING.window + TIMING.guard, abs=0.25)
    failed = events(rim, "failed")
    assert failed[0].data == {"step": "drop", "epoch": epoch, "why": "Device or resource busy"}
    assert len(failed) == pytest.approx((rim.now - dropping) / 0.2, abs=2)


def test_a_hook_that_fails_is_told_of() -> None:
    rim = acquiring()
    epoch = rim.duty.lease.epoch
    fails(rim, Step.PRE_ACQ)
    failed = {"step": "PreAcq", "epoch": epoch, "why": "exit status 1"}
    assert events(rim, "failed") == [ports.Emit("web", "failed", failed)]
    told = {"from": "acquiring", "to": "releasing", "epoch": epoch, "reason": "failed", "why": "exit status 1"}
    assert events(rim, "releasing") == [ports.Emit("web", "releasing", told)]


def test_a_test_that_declines_a_takeover_is_told_of() -> None:
    rim = acquiring()
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    declined = rim.now
    fails(rim, Step.TEST, span=0.1)
    refused = {"step": "Test", "way": "acquire", "epoch": epoch, "why": "exit status 1"}
    told = {"from": "acquiring", "to": "standby", "epoch": epoch, "reason": "test"}
    assert events(rim) == [ports.Emit("web", "refused", refused), ports.Emit("web", "standby", told)]
    while rim.role is Role.STANDBY:
        rim.live(0.02)
    assert 5.0 <= rim.now - declined <= 5.3, "the first pause"


def test_an_address_that_was_set_again_is_told_of() -> None:
    story = play("cluster nodes=alpha,beta", "start alpha beta", "run 20s", "delete alpha web", "run 2s")
    assert told_of(story, "restored") == [("alpha", {"epoch": 26, "why": "10.0.0.100/24 is gone"})]


def test_pauses_after_refused_takeovers_double_up_to_a_minute() -> None:
    rim = acquiring()
    declined: list[float] = []
    while len(declined) < 6:
        before = len(events(rim, "refused"))
        fails(rim, Step.TEST, span=0.02)
        if len(events(rim, "refused")) > before:
            declined.append(rim.now)
    assert [later - earlier for earlier, later in pairwise(declined)] == pytest.approx([5, 10, 20, 40, 60], abs=0.4)


# -- the coordinator: the second opinion --------------------------------------------------------------------------


def test_one_echo_at_a_time_is_asked_for() -> None:
    rim = active()
    rim.feed(ports.BrokerDown(0))
    rim.out.clear()

    def asked() -> int:
        return sum(isinstance(one, ports.AskEcho) for one in rim.out)

    def wait(span: float) -> None:
        until = rim.now + span
        while rim.now < until:
            rim.feed(ports.Tick(), 0.01)

    while not asked():
        wait(0.01)
    for _ in range(10):
        wait(0.1)
        rim.feed(ports.LinkChanged("eth0", True))  # whatever else it hears
    assert asked() == 1, "one is on its way"
    rim.feed(ports.Echoed(rim.now, "10.0.0.2"))
    assert asked() == 2, "it came, and a beat's time has passed"
    assert rim.role is Role.ACTIVE


def test_an_echo_that_nobody_answers_for_is_asked_for_again_after_two_seconds() -> None:
    text = 'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n[timing]\nlease = "6s"\n'
    text += '[nodes.alpha]\naddress = "10.0.0.1"\n[nodes.beta]\naddress = "10.0.0.2"\n'
    text += '[services.web]\naddresses = ["10.0.0.100/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'
    rim = Rim(parse(text))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    rim.live(9.0)
    assert rim.role is Role.ACTIVE
    rim.feed(ports.BrokerDown(0))
    rim.out.clear()
    asked = []
    for _ in range(250):
        out = rim.feed(ports.Tick(), 0.02)
        asked += [rim.now for one in out if isinstance(one, ports.AskEcho)]
    assert [later - earlier for earlier, later in pairwise(asked)] == pytest.approx([2.0, 2.0], abs=0.03)


def test_a_holder_tells_that_it_holds_without_the_brokers_and_that_they_are_back() -> None:
    rim = active()
    epoch = rim.duty.lease.epoch
    rim.feed(ports.BrokerDown(0))
    rim.out.clear()
    asked = []
    for _ in range(250):
        before = len(rim.out)
        rim.feed(ports.Tick(), 0.02)
        asked += [rim.now for one in rim.out[before:] if isinstance(one, ports.AskEcho)]
        rim.answer()
    assert all(later - earlier == pytest.approx(0.5, abs=0.03) for earlier, later in pairwise(asked))
    rim.feed(ports.BrokerUp(0))
    rim.live(1.0)
    assert events(rim, "holding") == [ports.Emit("web", "holding", {"epoch": epoch, "echo": "10.0.0.2"})]
    assert events(rim, "confirmed") == [ports.Emit("web", "confirmed", {"epoch": epoch})]


# -- the coordinator: what it makes of others ---------------------------------------------------------------------


def test_the_whole_tale_of_a_failover() -> None:
    story = play("cluster nodes=alpha,beta", "start alpha beta", "run 5s", "crash alpha", "run 6s", "start alpha")
    story.play("run 5s")
    begun = {"epoch": 26, "reason": "start"}
    taken = {"epoch": 76, "reason": "failover", "peer": "alpha"}
    assert [(one.source[12:], one.type[6:], one.subject, one.data) for one in story.events] == [
        ("alpha", "service.claiming", "web", {"from": "standby", "to": "claiming", **begun}),
        ("alpha", "service.acquiring", "web", {"from": "claiming", "to": "acquiring", **begun}),
        ("alpha", "service.taken", "web", {"epoch": 26, "addresses": ["10.0.0.100/24"]}),
        ("alpha", "service.active", "web", {"from": "acquiring", "to": "active", **begun}),
        ("beta", "service.silent", "web", {"node": "alpha", "seconds": 0.75}),
        ("beta", "node.silent", "alpha", {"seconds": 2.0}),
        ("beta", "service.vacant", "web", {"node": "alpha", "epoch": 26}),
        ("beta", "service.claiming", "web", {"from": "standby", "to": "claiming", **taken}),
        ("beta", "service.acquiring", "web", {"from": "claiming", "to": "acquiring", **taken}),
        ("beta", "service.taken", "web", {"epoch": 76, "addresses": ["10.0.0.100/24"]}),
        ("beta", "service.active", "web", {"from": "acquiring", "to": "active", **taken}),
        ("beta", "node.back", "alpha", {"seconds": 6.001}),
    ]


def test_a_node_whose_configuration_differs_is_told_of_once_for_each_that_it_has() -> None:
    rim = standby()
    ours = next(one.beat for one in rim.out if isinstance(one, ports.SendBeat)).config
    seq = 1000
    for theirs in [ours, "", "one", "one", "two", ours, "two"]:
        seq += 1
        rim.feed(ports.BeatHeard(0, Beat(node="beta", boot="beta/1", seq=seq, every=0.5, config=theirs)))
    assert events(rim, "config-differs") == [
        ports.Emit("beta", "config-differs", {"theirs": theirs, "ours": ours}) for theirs in ["one", "two", "two"]
    ]


def test_a_node_that_falls_silent_is_told_of_and_its_state_set_to_offline_until_it_is_back() -> None:
    rim = active()
    rim.hear(Role.STANDBY)
    heard = rim.now
    rim.out.clear()
    while not events(rim, "silent"):
        rim.live(0.02)
    assert rim.now - heard == pytest.approx(TIMING.lease, abs=0.05)
    silent = events(rim, "silent")[0]
    assert (silent.subject, list(silent.data)) == ("beta", ["seconds"])
    assert silent.data["seconds"] == pytest.approx(rim.now - heard, abs=0.001)
    states = [one for one in rim.out if isinstance(one, ports.PublishNode)]
    assert states == [ports.PublishNode("beta", online=False, reason="silent")]
    rim.live(5.0)
    assert len(events(rim, "silent")) == 1
    rim.hear(Role.STANDBY)
    back = events(rim, "back")[0]
    assert (back.subject, back.data) == ("beta", {"seconds": pytest.approx(rim.now - heard, abs=0.001)})
    rim.live(1.0)
    rim.hear(Role.STANDBY)
    assert len(events(rim, "back")) == 1


def test_a_node_that_has_said_that_it_stops_is_not_called_silent() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.feed(ports.NodeHeard(0, NodeState(node="beta", state="offline", reason="stopped", boot="beta/1")))
    rim.live(5.0)
    assert events(rim, "silent") == []


def test_our_own_state_is_set_right_when_somebody_says_that_we_are_offline() -> None:
    rim = active()
    rim.out.clear()
    rim.feed(ports.NodeHeard(0, NodeState(node="alpha", state="offline", reason="lost", boot="alpha/1")))
    rim.feed(ports.NodeHeard(0, NodeState(node="alpha", state="online", boot="alpha/1")))
    rim.feed(ports.NodeHeard(0, NodeState(node="beta", state="offline", reason="lost", boot="beta/1")))
    states = [one for one in rim.out if isinstance(one, ports.PublishNode)]
    assert states == [ports.PublishNode("alpha", online=True)]


def test_a_record_of_an_earlier_life_is_cleared() -> None:
    rim = started()
    rim.out.clear()
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder="alpha", epoch=7)))
    said = [one for one in rim.out if isinstance(one, ports.PublishService)]
    assert said == [ports.PublishService("web", None, 7, rim.now)]


def test_a_beat_says_who_we_are_and_comes_every_interval() -> None:
    rim = active()
    rim.out.clear()
    sent = []
    for _ in range(1000):
        before = len(rim.out)
        rim.live(0.01)
        sent += [(rim.now, one.beat) for one in rim.out[before:] if isinstance(one, ports.SendBeat)]
    assert all(later[0] - earlier[0] == pytest.approx(0.5, abs=0.021) for earlier, later in pairwise(sent))
    assert sent[-1][0] - sent[0][0] == pytest.approx(0.5 * (len(sent) - 1), abs=0.021), "in the long run too"
    assert [beat.seq for _, beat in sent] == list(range(sent[0][1].seq, sent[0][1].seq + len(sent)))
    beat = sent[0][1]
    assert (beat.node, beat.boot, beat.every, beat.config) == ("alpha", "alpha/1", 0.5, config().digest())
    first = next(one.beat for one in started().out if isinstance(one, ports.SendBeat))
    assert first.seq == 1


def test_a_node_says_that_it_is_ready_when_it_could_claim_at_once() -> None:
    def ready(rim: Rim) -> bool:
        return [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1].ready

    rim = started()
    connected = rim.now
    number = 1000
    while not ready(rim):
        number += 1
        rim.hear(Role.ACTIVE, 5, seq=number)
        rim.live(0.02)
        assert rim.now < connected + 5.0
    assert W <= rim.now - connected <= W + 0.6
    rim.feed(ports.LinkChanged("eth0", False))
    assert not ready(rim)
    rim.feed(ports.LinkChanged("eth0", True))
    assert ready(rim)
    rim = acquiring()
    fails(rim, Step.TEST, span=0.1)
    assert not ready(rim), "for as long as the pause after a takeover that was refused"
    rim.hear(Role.ACTIVE, 500)
    rim.live(4.0)
    assert not ready(rim)
    rim.live(1.6)
    assert ready(rim) or rim.role is not Role.STANDBY


# -- the coordinator: claims that come to nothing -----------------------------------------------------------------


def test_a_claim_that_somebody_answers_on_the_wire_is_withdrawn() -> None:
    rim = claiming()
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    rim.feed(ports.Probed("web", rim.now, "02:00:00:00:00:99", "10.0.0.100"))
    wire = {"mac": "02:00:00:00:00:99", "address": "10.0.0.100", "why": "somebody has it: not taken"}
    denied = {"from": "claiming", "to": "standby", "epoch": epoch, "reason": "wire"}
    denied["why"] = "10.0.0.100 is answered by 02:00:00:00:00:99"
    assert events(rim) == [ports.Emit("web", "wire", wire), ports.Emit("web", "standby", denied)]


def test_a_claim_that_a_higher_one_passes_is_withdrawn_at_once() -> None:
    rim = claiming()
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    rim.hear(Role.CLAIMING, epoch + 1)
    denied = {"from": "claiming", "to": "standby", "epoch": epoch, "reason": "superseded"}
    assert events(rim) == [ports.Emit("web", "standby", denied)]
    assert rim.duty.lease.ends_at() == -inf


def test_a_claim_that_does_not_come_back_is_withdrawn_in_time() -> None:
    rim = claiming()
    epoch, claimed = rim.duty.lease.epoch, rim.now
    rim.out.clear()
    while rim.role is Role.CLAIMING:
        rim.feed(ports.Tick(), 0.01)
        rim.answer()
    assert rim.now - claimed == pytest.approx(TIMING.claim_timeout, abs=0.021)
    denied = {"from": "claiming", "to": "standby", "epoch": epoch, "reason": "not-granted"}
    assert events(rim) == [ports.Emit("web", "standby", denied)]


def test_who_was_not_named_gives_way_to_the_named_successor_for_a_window() -> None:
    """Beta lets go in favour of gamma, which does nothing. Alpha is more preferred, and takes it a window later."""
    rim = of_three()
    rim.hear(Role.CLAIMING, 5)
    for _ in range(6):
        rim.feed(ports.Tick(), 0.4)
        rim.echo()
        rim.hear(Role.ACTIVE, 5)
    rim.hear(Role.STANDBY, 5, clean=True, reason="switchover", successor="gamma")
    let_go = rim.now
    while rim.role is Role.STANDBY:
        rim.live(0.02)
        assert rim.now < let_go + 10.0
    assert W <= rim.now - let_go <= W + 0.5


# -- the coordinator: beats that are not as they should be --------------------------------------------------------


def test_a_service_that_we_know_nothing_of_does_not_hide_the_others_of_a_beat() -> None:
    rim = started()
    standings = {"mail": Standing(role=Role.ACTIVE, epoch=9), "web": Standing(role=Role.ACTIVE, epoch=7)}
    rim.feed(ports.BeatHeard(0, Beat(node="beta", boot="beta/1", seq=1, every=0.5, services=standings)))
    rim.live(2.0)
    assert rim.duty.lease.quiet_at(rim.now) == 100.0 + W
    assert (rim.duty.lease.top, rim.duty.last_holder) == (7, "beta")


def test_a_beat_that_was_overtaken_counts_no_more_however_many_others_came_between() -> None:
    rim = started()
    rim.live(1.0)
    rim.hear(Role.CLAIMING, 5, seq=9)
    rim.hear(Role.ACTIVE, 5, seq=10)
    for number in range(2, 8):
        rim.hear(Role.STANDBY, boot=f"beta/{number}", seq=1)
    rim.echo()
    rim.hear(Role.STANDBY, 5, seq=9, clean=True)
    assert not rim.duty.lease.released(rim.now)
    assert rim.duty.lease.quiet_at(rim.now) == rim.now + W


def test_a_beat_in_our_name_that_we_never_sent_confirms_nothing() -> None:
    rim = active()
    ends_at, epoch = rim.duty.lease.ends_at(), rim.duty.lease.epoch
    rim.hear(Role.ACTIVE, epoch, seq=1_000_000, node="alpha", boot="alpha/1")
    assert rim.duty.lease.ends_at() == ends_at


def test_a_node_that_fell_silent_is_not_fit_for_that_the_broker_was_away_since() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.live(5.0)
    assert len(events(rim, "silent")) == 1
    rim.feed(ports.BrokerDown(0))
    rim.feed(ports.BrokerUp(0))
    rim.live(0.2)
    ask(rim)
    assert rim.role is Role.ACTIVE
    assert events(rim, "refused")[-1].data["why"] == "beta cannot take it now: not heard, or not ready"


def test_an_impossible_epoch_in_one_service_does_not_hide_the_others_of_a_beat() -> None:
    text = 'cluster = "shop"\nbrokers = ["mqtt://10.0.0.3"]\n'
    text += '[nodes.alpha]\naddress = "10.0.0.1"\n[nodes.beta]\naddress = "10.0.0.2"\n'
    for place, name in enumerate(["mail", "web"], 100):
        text += f'[services.{name}]\naddresses = ["10.0.0.{place}/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'
    rim = Rim(parse(text))
    standings = {"mail": Standing(role=Role.ACTIVE, epoch=2**53), "web": Standing(role=Role.ACTIVE, epoch=7)}
    rim.feed(ports.BeatHeard(0, Beat(node="beta", boot="beta/1", seq=1, every=0.5, services=standings)))
    assert [duty.lease.top for duty in rim.node.duties.values()] == [0, 7]


def test_a_broker_that_was_away_is_told_again_who_holds() -> None:
    """It may have lost what it remembered."""
    rim = active()
    epoch = rim.duty.lease.epoch
    rim.feed(ports.BrokerDown(0))
    rim.out.clear()
    rim.feed(ports.BrokerUp(0))
    rim.live(2.0)
    said = [(one.holder, one.epoch) for one in rim.out if isinstance(one, ports.PublishService)]
    assert said == [("alpha", epoch)]


def test_nothing_is_handed_back_while_nobody_could_claim() -> None:
    story = play(
        "cluster nodes=alpha,beta failback=auto failback_delay=10s",
        "start beta",
        "run 5s",
        "start alpha",
        "run 5s",
        "crash broker",
        "run 30s",
    )
    assert told_of(story, "releasing") == []
    story.play("status")
    assert story.lines[:2] == ["beta: web active, has 10.0.0.100/24", "alpha: web standby"], story.lines
