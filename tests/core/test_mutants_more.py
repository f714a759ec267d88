"""The second part of test_mutants.py: what the run over the whole of coordinator.py found untested."""

from itertools import pairwise

import pytest

from locum import ports
from locum.coordinator import FAILBACK_MOST, WHY_MOST
from locum.messages import Hand, NodeState, Role
from locum.ports import Step
from tests.core.test_coordinator import Rim, acquiring, active, claiming, config, emitted, standby, started
from tests.core.test_mutants import ask, events, of_three

# -- what an event says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "told"), [(WHY_MOST - 1, WHY_MOST - 1), (WHY_MOST, WHY_MOST), (5_000, WHY_MOST)])
def test_a_long_explanation_is_cut_and_says_so(length: int, told: int) -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    ask(rim)
    rim.asked = [one for one in rim.asked if isinstance(one, ports.Run)]
    (run,) = rim.asked
    why = "".join(chr(ord("a") + number % 26) for number in range(length))
    rim.feed(ports.StepDone("web", run.number, False, why))
    said = events(rim, "refused")[-1].data["why"]
    assert said == (why if length <= WHY_MOST else why[: WHY_MOST - 3] + "...") and len(said) == told


# -- the kernel does not renew ------------------------------------------------------------------------------------


def holding_without_the_kernel(rim: Rim, span: float) -> None:
    """Beats come back, and every renewal fails."""
    until = rim.now + span
    while rim.now < until and rim.role is Role.ACTIVE:
        rim.feed(ports.Tick(), 0.02)
        rim.echo()
        for hold in [one for one in rim.out if isinstance(one, ports.Hold)]:
            if rim.role is Role.ACTIVE:
                rim.feed(ports.Held("web", hold.until, False, "the kernel says no"))
        rim.out = [one for one in rim.out if not isinstance(one, ports.Hold)]


def test_a_holder_whose_kernel_renews_nothing_lets_go_when_the_last_yes_is_over() -> None:
    rim = active()
    rim.live(0.1)
    held_until = rim.duty.held_until
    rim.out.clear()
    holding_without_the_kernel(rim, 10.0)
    assert held_until <= rim.now <= held_until + 0.6, "not before, and not long after"
    assert rim.role is Role.RELEASING
    (told,) = emitted(rim, "releasing")
    assert (told["reason"], told["why"]) == ("kernel", "the kernel says no")
    assert rim.duty.backoff == rim.node.timing.retry_first
    assert rim.duty.backoff_until == rim.now + rim.duty.backoff
    assert rim.duty.held_until == float("-inf") and rim.duty.gone == ""


def test_at_the_very_end_of_the_last_yes_it_is_over() -> None:
    rim = active()
    rim.live(0.1)
    rim.feed(ports.Held("web", rim.now + 0.5, True))
    until = rim.duty.held_until
    rim.now = until
    rim.node._held(rim.duty, until, until, False, "no")
    assert rim.duty.role is Role.RELEASING


def test_who_misses_an_address_and_cannot_set_it_again_lets_go_at_once() -> None:
    rim = active()
    rim.live(0.1)
    rim.feed(ports.AddressGone("web", "10.0.0.100 is gone"))
    assert rim.role is Role.ACTIVE and rim.duty.gone == "10.0.0.100 is gone"
    rim.feed(ports.Held("web", rim.now + 2, False, "no such device"), 0.01)
    assert rim.role is Role.RELEASING and emitted(rim, "releasing")[-1]["reason"] == "kernel"


def test_a_renewal_that_succeeds_is_remembered() -> None:
    rim = active()
    rim.feed(ports.Held("web", rim.now + 2.0, True))
    assert rim.duty.held_until == rim.now + 2.0
    rim.feed(ports.Held("web", rim.now + 1.0, True))
    assert rim.duty.held_until == rim.now + 2.0
    rim.feed(ports.Held("web", rim.now + 2.4, False, "not this time"))
    assert rim.role is Role.ACTIVE, "it has it still"


# -- handing back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was_active", "undone_before", "undone", "factor"),
    [(True, 3, 0, 1), (False, 0, 1, 2), (False, 1, 2, 4), (False, 2, 3, 8), (False, 60, 61, None)],
)
def test_a_failback_that_comes_to_nothing_is_tried_later_each_time(
    was_active: bool, undone_before: int, undone: int, factor: int | None
) -> None:
    rim = Rim(config(failback="auto", failback_delay="60s"))
    duty = rim.duty
    duty.failing_back, duty.active_elsewhere, duty.failbacks_undone = True, was_active, undone_before
    rim.node._settle(duty, 1000.0)
    assert duty.failbacks_undone == undone
    assert duty.failback_at == 1000.0 + (60.0 * factor if factor else FAILBACK_MOST)
    assert duty.failing_back is False


def test_one_that_was_not_handed_back_is_not_counted() -> None:
    rim = Rim(config(failback="auto"))
    rim.node._settle(rim.duty, 1000.0)
    assert (rim.duty.failbacks_undone, rim.duty.failback_at) == (0, float("-inf"))


def test_handing_back_is_noted_until_the_other_was_active() -> None:
    rim = Rim(config(failback="auto", failback_delay="1s"))
    rim.duty.service.nodes.reverse()  # beta is preferred
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    rim.live(5.0)
    assert rim.role is Role.ACTIVE
    rim.duty.active_elsewhere = True
    while rim.role is Role.ACTIVE:
        rim.hear(Role.STANDBY, ready=True)
        rim.live(0.1)
    assert emitted(rim, "releasing")[-1]["reason"] == "failback"
    assert (rim.duty.failing_back, rim.duty.active_elsewhere) == (True, False)
    epoch = rim.duty.lease.epoch
    rim.live(0.2)
    rim.hear(Role.CLAIMING, epoch + 1)
    rim.hear(Role.ACQUIRING, epoch + 1)
    assert rim.duty.active_elsewhere is False
    rim.hear(Role.ACTIVE, epoch + 1)
    assert rim.duty.active_elsewhere is True


# -- the wire -----------------------------------------------------------------------------------------------------


def test_a_wire_that_cannot_be_asked_is_told_of_once_and_asked_at_leisure() -> None:
    rim = standby()
    asked: list[float] = []
    for _ in range(400):
        rim.feed(ports.Tick(), 0.02)
        rim.echo()
        for one in [one for one in rim.asked if isinstance(one, ports.Probe)]:
            asked.append(rim.now)
            rim.asked.remove(one)
            rim.feed(ports.Probed("web", rim.now, error="no such device"))
    why = "it cannot be asked, so nothing is claimed: no such device"
    assert [event.data.get("why") for event in events(rim, "wire")] == [why]
    assert rim.duty.ears.failed is True and rim.role is Role.STANDBY
    rests = [later - earlier for earlier, later in pairwise(asked)]
    assert min(rests[3:]) >= rim.node.timing.wire_rest - 1e-9
    rim.feed(ports.Probed("web", rim.now, error="something else"))
    assert len(events(rim, "wire")) == 2
    rim.feed(ports.Probed("web", rim.now, mac="02:00:00:00:00:09", address="10.0.0.100"))
    assert rim.duty.ears.failed is False or rim.duty.ears.mac


def test_only_who_stands_by_tells_that_the_wire_cannot_be_asked() -> None:
    rim = active()
    rim.out.clear()
    rim.feed(ports.Probed("web", rim.now, error="no such device"))
    assert events(rim, "wire") == []


def test_an_answer_to_a_claim_is_a_pause_of_a_window_and_no_fault_of_ours() -> None:
    rim = claiming()
    rim.feed(ports.Probed("web", rim.now, mac="02:00:00:00:00:09", address="10.0.0.100"), 0.01)
    assert rim.role is Role.STANDBY
    assert rim.duty.give_way_until == rim.now + rim.node.timing.window
    assert rim.duty.backoff == 0.0


def test_a_claim_asks_the_wire_once_at_a_time() -> None:
    rim = claiming()
    rim.duty.ears.pending_since, rim.duty.ears.silent_to = None, -1.0
    for _ in range(3):
        rim.node._press_claim(rim.duty, rim.now)
    assert len([one for one in rim.node._later if isinstance(one, ports.Probe)]) == 1
    assert rim.duty.ears.pending_since == rim.now


def test_who_slept_during_a_claim_asks_the_wire_anew() -> None:
    rim = claiming()
    rim.feed(ports.Tick(), rim.node.timing.stall + 0.01)
    assert rim.duty.ears.silent_to == float("-inf") and rim.duty.ears.silent_from == float("inf")


# -- nothing is claimed, or offered, by who cannot ----------------------------------------------------------------


def test_who_knows_nothing_of_its_interface_claims_nothing_and_says_that_it_is_not_ready() -> None:
    rim = Rim()
    rim.feed(ports.BrokerUp(0))
    rim.live(10.0)
    assert rim.role is Role.STANDBY
    beats = [one.beat for one in rim.out if isinstance(one, ports.SendBeat)]
    assert not any(beat.services["web"].ready for beat in beats)


def test_who_stops_is_not_ready_for_anything_else() -> None:
    rim = Rim()
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    assert rim.node._claimable(rim.duty)
    rim.node.stopping = True
    assert not rim.node._claimable(rim.duty)


def test_another_claim_is_waited_for_until_its_time_is_over() -> None:
    """It may be granted still: who claimed now would depose it."""
    rim = standby()
    rim.live(1.0, mac="")
    claimant = rim.duty.lease
    rim.duty.lease.claimant = ("beta/1", rim.now + 50.0)
    rim.live(5.0)
    assert rim.role is Role.STANDBY, "beta's claim is undecided"
    assert claimant.undecided_until() > rim.now


# -- beats, peers, order ------------------------------------------------------------------------------------------


def test_after_a_pause_the_rhythm_goes_on_and_nothing_is_made_up_for() -> None:
    rim = started()
    rim.live(1.0)
    rim.feed(ports.Tick(), 20.0)
    rim.out.clear()
    for _ in range(4):
        rim.feed(ports.Tick(), 0.01)
    assert [one for one in rim.out if isinstance(one, ports.SendBeat)] == []
    assert rim.node._beat_at >= rim.now + 0.2


def test_who_hears_others_but_not_itself_calls_nobody_silent() -> None:
    """The beats of another one have the same numbers as ours: they are not ours that come back."""
    rim = of_three()
    rim.beats.clear()
    rim.hear(Role.STANDBY, node="beta", boot="beta/1", seq=1)
    for _ in range(200):
        rim.feed(ports.Tick(), 0.05)
        if rim.beats:
            rim.hear(Role.STANDBY, node="gamma", boot="gamma/1", seq=rim.beats[-1].seq)
        rim.beats.clear()
    assert rim.node._seq > 10 and rim.node.peers["gamma"].heard_at > rim.now - 1.0
    assert events(rim, "silent") == []


def test_a_peer_that_started_anew_is_fit_from_then_on_and_not_from_before() -> None:
    rim = active()
    rim.hear(Role.STANDBY, boot="beta/1", ready=True)
    first = rim.node.peers["beta"].fit_since["web"]
    rim.live(1.0)
    rim.hear(Role.STANDBY, boot="beta/1", ready=True)
    assert rim.node.peers["beta"].fit_since["web"] == first
    rim.hear(Role.STANDBY, boot="beta/2", ready=True)
    assert rim.node.peers["beta"].fit_since["web"] == rim.now > first
    rim.hear(Role.STANDBY, boot="beta/2", ready=False)
    assert "web" not in rim.node.peers["beta"].fit_since


def test_only_the_last_holder_can_name_who_is_to_follow_it() -> None:
    rim = of_three()
    rim.hear(Role.ACTIVE, 5, node="beta", boot="beta/1")
    before = rim.duty.give_way_until
    rim.hear(Role.STANDBY, 5, node="gamma", boot="gamma/1", successor="beta")
    assert rim.duty.give_way_until == before
    rim.hear(Role.STANDBY, 4, node="beta", boot="beta/1", successor="gamma")
    assert rim.duty.give_way_until == before


def test_every_living_node_that_is_preferred_has_its_turn_before() -> None:
    rim = of_three()
    rim.duty.service.nodes.reverse()  # gamma, beta, alpha
    for name in ("beta", "gamma"):
        rim.hear(Role.STANDBY, node=name, boot=f"{name}/1", ready=True)
    assert rim.node._rank(rim.duty, rim.now) == 2


def test_what_is_retained_of_our_name_is_our_own_past_and_no_twin() -> None:
    rim = standby()
    for _ in range(10):
        state = NodeState(node="alpha", state="online", boot="alpha/77")
        rim.feed(ports.NodeHeard(0, state, retained=True))
    assert events(rim, "twin") == []


def test_a_release_under_way_is_not_begun_twice_when_the_lease_is_lost() -> None:
    """Hooks of a service run one at a time: the next step waits for the one that runs."""
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    ask(rim)
    while not any(isinstance(one, ports.Run) and one.step is Step.PRE_REL for one in rim.asked):
        rim.live(0.02)
    rim.out.clear()
    rim.feed(ports.LinkChanged("eth0", False))
    assert [type(one) for one in rim.out][:1] == [ports.DropNow]
    assert not [one for one in rim.out if isinstance(one, ports.Run)]


# -- fit or not ---------------------------------------------------------------------------------------------------


def unfit(rim: Rim, why: str = "page: refused") -> None:
    rim.feed(ports.Fitness("web", False, why))


def test_an_unfit_holder_hands_over_once_the_other_is_ready_and_asks_again_after_a_while() -> None:
    rim = active()
    rim.out.clear()
    unfit(rim)
    assert rim.role is Role.ACTIVE
    (told,) = emitted(rim, "unfit")
    assert told == {"epoch": rim.duty.lease.epoch, "why": "page: refused; no other node could take it: kept"}
    rim.live(1.0)
    assert len(emitted(rim, "unfit")) == 1, "told once"
    rim.hear(Role.STANDBY, ready=True)
    assert rim.role is Role.RELEASING
    told = emitted(rim, "releasing")[-1]
    assert (told["reason"], told["peer"]) == ("check", "beta")
    assert "command" not in told, "nobody has asked for it"
    assert rim.duty.yield_at == rim.now + rim.node.timing.retry_first
    assert rim.duty.forced, "no hook keeps it where it is ill"
    rim.live(0.3)
    assert rim.role is Role.FAULT
    beat = [one.beat for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert (beat.services["web"].successor, beat.services["web"].ready) == ("beta", False)
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.STANDBY and rim.duty.unfit == ""


def test_an_unfit_holder_keeps_it_while_nobody_could_claim_or_it_is_too_early() -> None:
    rim = active()
    unfit(rim)
    rim.duty.yield_at = rim.now + 0.1
    rim.hear(Role.STANDBY, ready=True)
    assert rim.role is Role.ACTIVE
    rim.now = rim.duty.yield_at
    rim.hear(Role.STANDBY, ready=True, seq=9_000)
    assert rim.role is Role.RELEASING
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    for unconfirmed, step in ((True, None), (False, Step.POST_ACQ), (True, Step.POST_ACQ)):
        rim.duty.unconfirmed, rim.duty.step = unconfirmed, step
        rim.node._yield(rim.duty, rim.now)
        assert rim.duty.role is Role.ACTIVE and rim.node._later == []


def test_an_unfit_holder_without_a_link_lets_go_like_any_other() -> None:
    rim = active()
    unfit(rim)
    rim.feed(ports.LinkChanged("eth0", False))
    assert rim.role is Role.RELEASING and emitted(rim, "releasing")[-1]["reason"] == "link"


def test_who_is_unfit_is_told_anew_when_it_becomes_so_anew() -> None:
    rim = active()
    unfit(rim)
    rim.feed(ports.Fitness("web", True))
    unfit(rim, "disk: full")
    assert [told["why"].partition(";")[0] for told in emitted(rim, "unfit")] == ["page: refused", "disk: full"]


def test_an_unfit_standby_is_in_fault_and_a_beat_says_so_at_once() -> None:
    rim = standby()
    rim.out.clear()
    unfit(rim)
    assert rim.role is Role.FAULT
    told = emitted(rim, "fault")[-1]
    assert (told["reason"], told["why"]) == ("check", "page: refused")
    beats = [one.beat for one in rim.out if isinstance(one, ports.SendBeat)]
    assert beats and beats[-1].services["web"].role is Role.FAULT
    rim.out.clear()
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.STANDBY
    assert any(isinstance(one, ports.SendBeat) for one in rim.out)
    assert emitted(rim, "standby")[-1]["reason"] == "check"


def test_a_claim_under_way_goes_on_whatever_the_checks_say() -> None:
    """Perhaps another node has just handed over to us: if we stepped back, nobody would hold the service."""
    rim = claiming()
    unfit(rim)
    assert rim.role is Role.CLAIMING
    rim.live(0.5)
    assert rim.role is Role.ACTIVE


def test_an_unfit_holder_waits_until_the_others_have_noticed_too() -> None:
    checks = """
[services.web.checks]
page = { tcp = "10.0.0.200:80", interval = "10s", fall = 3 }
quick = { tcp = "10.0.0.200:81", interval = "1s" }
mine = { tcp = "10.0.0.200:82", interval = "60s", when = "active" }
"""
    patience = 10 * (1 + 0.05 + 2 * 0.05 * 3)
    rim = active(config(checks))
    assert rim.duty.patience == pytest.approx(patience)
    unfit(rim)
    rim.out.clear()
    at = rim.now + rim.duty.patience
    assert rim.node._yield(rim.duty, at - 0.001) == at, "it looks again by itself"
    assert rim.node._keep(rim.duty, rim.now) <= at
    assert rim.node._later == [] and not rim.duty.yield_told
    assert rim.node._yield(rim.duty, at) == float("inf")
    assert rim.duty.yield_told, "nobody could take it"
    rim = active(config(checks))
    unfit(rim)
    rim.live(patience - 0.1)
    rim.hear(Role.STANDBY, ready=True)
    assert rim.role is Role.ACTIVE
    rim.live(0.15)
    assert emitted(rim, "releasing")[-1]["reason"] == "check"
    # It is well again in between, and the time begins anew.
    rim = active(config(checks))
    unfit(rim)
    first = rim.duty.unfit_since
    rim.now += 1
    rim.feed(ports.Fitness("web", True))
    assert rim.duty.unfit_since == float("inf")
    unfit(rim)
    assert rim.duty.unfit_since == first + 1


def test_a_fault_has_two_causes_and_ends_when_both_have() -> None:
    rim = standby()
    unfit(rim)
    rim.feed(ports.LinkChanged("eth0", False))
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.FAULT, "no link"
    unfit(rim)
    rim.out.clear()
    rim.feed(ports.LinkChanged("eth0", True))
    assert rim.role is Role.FAULT, "unfit"
    assert emitted(rim, "standby") == []
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.STANDBY
    assert emitted(rim, "standby")[-1]["reason"] == "check"
    rim = Rim()  # nothing is known of the interface yet
    rim.feed(ports.BrokerUp(0))
    unfit(rim)
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.FAULT
    rim.feed(ports.LinkChanged("eth0", True))
    assert rim.role is Role.STANDBY


# -- what the rim may ask -----------------------------------------------------------------------------------------


def test_who_is_not_heard() -> None:
    rim = of_three()
    assert rim.node.unheard("web", rim.now) == ("beta", "gamma")
    rim.hear(Role.STANDBY, node="beta", boot="beta/1")
    assert rim.node.unheard("web", rim.now) == ("gamma",)
    window = rim.node.timing.window
    assert rim.node.unheard("web", rim.now + window) == ("gamma",)
    assert rim.node.unheard("web", rim.now + window + 0.01) == ("beta", "gamma")


def test_who_is_followed() -> None:
    rim = of_three()
    assert rim.node.followed("web", rim.now) == ""
    rim.hear(Role.ACQUIRING, 5, node="beta", boot="beta/1")
    assert rim.node.followed("web", rim.now) == ""
    rim.hear(Role.ACTIVE, 5, node="beta", boot="beta/1", seq=500)
    assert rim.node.followed("web", rim.now) == "beta"
    missed = rim.node.timing.missed
    assert rim.node.followed("web", rim.now + missed) == "beta"
    assert rim.node.followed("web", rim.now + missed + 0.01) == ""
    rim.hear(Role.ACTIVE, 4, node="gamma", boot="gamma/1", seq=500)
    assert rim.node.followed("web", rim.now) == "", "two: none of them is to be believed"
    rim.hear(Role.STANDBY, 4, node="gamma", boot="gamma/1", seq=501)
    assert rim.node.followed("web", rim.now) == "beta"
    rim.node.stopping = True
    assert rim.node.followed("web", rim.now) == ""
    assert active().node.followed("web", 200.0) == ""


# -- a release that nothing stops ---------------------------------------------------------------------------------


def test_the_next_holder_is_not_told_a_reason_by_who_could_not_undo_all() -> None:
    for failing, reason in ((None, "stop"), (Step.PRE_REL, ""), (Step.POST_REL, "")):
        rim = active()
        rim.feed(ports.Stop())
        forced = []
        while not rim.stopped:
            rim.feed(ports.Tick(), 0.02)
            rim.echo()
            asked, rim.asked = rim.asked, []
            for one in asked:
                if isinstance(one, ports.Run):
                    forced.append(one.forced)
                    rim.feed(ports.StepDone("web", one.number, one.step is not failing, "no"))
        assert all(forced), "a hook that fails must not keep those after it from running"
        last = [one.beat.services["web"] for one in rim.out if isinstance(one, ports.SendBeat)][-1]
        assert (last.reason, last.clean) == (reason, True)


def test_what_was_refused_or_done_before_does_not_count_against_the_next_release() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    ask(rim)
    while rim.role is Role.RELEASING:
        rim.feed(ports.Tick(), 0.02)
        rim.echo()
        asked, rim.asked = rim.asked, []
        for one in asked:
            if isinstance(one, ports.Run):
                assert not one.forced
                rim.feed(ports.StepDone("web", one.number, one.step is not Step.PRE_REL, "no"))
    assert rim.role is Role.ACTIVE and rim.duty.undone is True
    rim.duty.undone = False
    rim.node._acquire(rim.duty, rim.now)
    assert rim.duty.undone is True and rim.duty.forced is False


def test_a_kernel_that_cannot_be_asked_after_a_sleep_has_a_whole_window_to_end_it() -> None:
    """Its timers stood still with the machine: that the lease was over long ago says nothing of the address."""
    rim = active()
    rim.feed(ports.Tick(), 1000.0)
    woke = rim.now
    assert rim.role is Role.RELEASING
    again = woke + 1.0
    while not emitted(rim, "dropped"):
        rim.answer(ok=False)
        rim.feed(ports.Tick(), 0.1)
        if again and rim.now >= again:
            rim.feed(ports.Tick(), 10.0)  # it sleeps again: from the start
            woke, again = rim.now, 0.0
        assert rim.now < woke + 10.0
    timing = rim.node.timing
    ended = woke + 2 * timing.window + timing.guard
    assert ended <= rim.now <= ended + 0.5
    assert len(emitted(rim, "failed")) > 10


def test_a_kernel_that_refuses_in_the_middle_of_a_move_has_a_whole_window_too() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    ask(rim)
    for _ in range(100):  # the hook before it takes five seconds
        rim.feed(ports.Tick(), 0.05)
        rim.echo()
    while rim.duty.step is not Step.DROP:
        rim.answer()
    began = rim.now
    while not emitted(rim, "dropped"):
        rim.answer(ok=False)
        rim.feed(ports.Tick(), 0.05)
        rim.echo()
        assert rim.now < began + 10.0
    timing = rim.node.timing
    assert rim.now >= began + 2 * timing.window + timing.guard


def test_a_postacq_that_failed_is_no_reason_to_hide_why_it_is_released_later() -> None:
    rim = acquiring()
    while rim.role is Role.ACQUIRING:
        rim.answer(ok=rim.duty.step is not Step.POST_ACQ)
        rim.echo()
    assert emitted(rim, "failed")[-1]["step"] == "PostAcq"
    rim.hear(Role.STANDBY, ready=True)
    ask(rim)
    rim.live(0.5)
    beat = [one.beat for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert beat.services["web"].reason == "switchover"


def test_an_unfit_holder_that_nobody_confirms_moves_nothing() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.duty.unconfirmed = True
    rim.duty.fit, rim.duty.unfit_since = False, rim.now - 100.0
    assert rim.node._heir(rim.duty, rim.now) == "beta"
    rim.node._yield(rim.duty, rim.now)
    assert rim.duty.role is Role.ACTIVE
    rim.duty.unconfirmed, rim.duty.step = False, Step.POST_ACQ
    rim.node._yield(rim.duty, rim.now)
    assert rim.duty.role is Role.ACTIVE


def test_the_first_beat_of_a_node_that_was_said_to_have_stopped_tells_no_time() -> None:
    rim = started()
    rim.feed(ports.NodeHeard(0, NodeState(node="beta", state="offline", reason="stopped")))
    rim.hear(Role.STANDBY)
    assert emitted(rim, "back") == [{}]


def test_a_takeover_under_way_is_not_handed_back_before_it_is_through() -> None:
    text = config(failback="auto", failback_delay="1s").model_copy(deep=True)
    text.services["web"].nodes.reverse()
    rim = started(text)
    rim.duty.lease.claim(rim.now)
    rim.duty.role, rim.duty.role_since, rim.duty.step = Role.ACQUIRING, rim.now - 10.0, Step.PRE_ACQ
    rim.role = Role.ACQUIRING
    rim.node.peers["beta"].fit_since["web"] = rim.now - 10.0
    rim.hear(Role.STANDBY, ready=True)
    rim.node._keep(rim.duty, rim.now)
    assert rim.duty.peer == "" and not rim.duty.failing_back


# -- why, and when ------------------------------------------------------------------------------------------------


def test_a_beat_that_had_to_wait_for_its_turn_is_asked_for() -> None:
    rim = standby()
    rim.node._spare_beat_at = rim.now + 0.015
    rim.node._changed = True
    assert rim.node.next_at() <= rim.now + 0.015


def test_a_claim_that_an_operator_stops_says_why() -> None:
    rim = claiming()
    rim.hear(Role.STANDBY, hand=Hand(number=3, paused=True))
    rim.feed(ports.Tick(), 0.01)
    assert emitted(rim, "paused")[-1]["reason"] == "pause"


def test_what_is_retired_is_paused_for_a_reload() -> None:
    rim = standby()
    rim.feed(ports.Retire(("web",)))
    rim.feed(ports.Tick(), 0.01)
    assert emitted(rim, "paused")[-1]["reason"] == "reload"


def test_a_standby_passes_on_what_it_heard_of_an_operator() -> None:
    rim = standby()
    hand = Hand(number=3)
    rim.hear(Role.STANDBY, hand=hand)
    rim.live(1.0)
    beat = [one.beat for one in rim.out if isinstance(one, ports.SendBeat)][-1]
    assert (beat.services["web"].role, beat.services["web"].hand) == (Role.STANDBY, hand)


def test_a_service_that_is_new_where_the_interface_is_down_says_so() -> None:
    rim = Rim()
    rim.feed(ports.LinkChanged("eth0", False))
    node, now = rim.node, rim.now
    more = '\n[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["alpha"]\n'
    out = [*node.step(now, ports.Adopt(config(more))), *node.step(now, ports.Tick())]
    (told,) = [one.data for one in out if isinstance(one, ports.Emit) and (one.subject, one.type) == ("mail", "fault")]
    assert told["reason"] == "link"


def test_an_address_that_goes_where_it_was_not_held_is_nothing() -> None:
    rim = standby()
    rim.out.clear()
    assert rim.feed(ports.AddressGone("web", "10.0.0.100 is gone")) == []


def test_another_hosts_answer_does_not_prolong_a_takeover_whose_address_is_not_set_yet() -> None:
    """An agent that stood still in between would wake up as a holder that never had it."""
    rim = Rim(config().model_copy(update={"on_bus_loss": "hold"}))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    while rim.duty.step is not Step.TAKE:
        rim.live(0.02)
    confirmed_at = rim.duty.lease.confirmed_at()
    rim.node._echo_at = rim.now + 1.0
    assert rim.node._base(rim.duty) == confirmed_at
    rim.duty.step = Step.POST_ACQ
    assert rim.node._base(rim.duty) == rim.now + 1.0
