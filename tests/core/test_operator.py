"""What an operator's hand does to one node: pause, resume, release, drain; another configuration, another process."""

import json
from random import Random

import pytest

from locum import ports
from locum.coordinator import EPOCHS_AHEAD, Coordinator
from locum.messages import Command, Hand, Role, ServiceState
from locum.ports import Step
from tests.core.test_coordinator import Rim, acquiring, active, claiming, config, emitted, fault, releasing, standby
from tests.core.test_mutants import ask, of_three


def order(rim: Rim, verb: str, id: str = "c1", node: str = "alpha") -> None:
    which = {"node": node} if verb in ("drain", "undrain", "reload", "restart") else {"service": "web"}
    rim.feed(ports.CommandHeard(Command.model_validate({"id": id, "command": verb, "by": "ops@desk", **which})))


def lay(rim: Rim, number: int, paused: bool = True, keeper: str | None = None) -> None:
    """Another node's beat tells of it."""
    rim.hear(Role.STANDBY, hand=Hand(number=number, paused=paused, keeper=keeper))


def last_beat(rim: Rim) -> ports.SendBeat:
    return [one for one in rim.out if isinstance(one, ports.SendBeat)][-1]


def records(rim: Rim) -> list[tuple[str | None, Hand | None]]:
    return [(one.holder, one.hand) for one in rim.out if isinstance(one, ports.PublishService)]


# -- pause --------------------------------------------------------------------------------------------------------


def test_a_holder_that_is_paused_says_so_and_goes_on() -> None:
    rim = active()
    assert last_beat(rim).beat.services["web"].hand is None
    rim.out.clear()
    order(rim, "pause")
    hand = Hand(number=1, paused=True, keeper="alpha")
    assert rim.role is Role.ACTIVE and rim.duty.hand == hand
    assert last_beat(rim).beat.services["web"].hand == hand
    assert records(rim) == [("alpha", hand)]
    assert emitted(rim, "command") == [{"command": "c1", "what": "pause", "by": "ops@desk", "to": "alpha"}]
    rim.live(5.0)
    assert rim.role is Role.ACTIVE
    rim.hear(Role.STANDBY, ready=True)
    ask(rim, id="c2")
    assert emitted(rim, "refused")[-1]["why"] == "it is paused: resume it first"
    rim.out.clear()
    order(rim, "resume", id="c3")
    resumed = Hand(number=2, paused=False, keeper=None)
    assert rim.duty.hand == resumed and records(rim) == [("alpha", resumed)]
    assert emitted(rim, "command") == [{"command": "c3", "what": "resume", "by": "ops@desk"}]
    rim.hear(Role.STANDBY, ready=True)
    ask(rim, id="c4")
    assert rim.role is Role.RELEASING


def test_an_unfit_holder_that_is_paused_stays() -> None:
    rim = active()
    order(rim, "pause")
    rim.feed(ports.Fitness("web", False, "page: refused"))
    rim.hear(Role.PAUSED)
    rim.live(3.0)
    assert rim.role is Role.ACTIVE and len(emitted(rim, "unfit")) == 1


@pytest.mark.parametrize("build", [claiming, acquiring, releasing])
def test_who_is_on_the_way_up_or_down_refuses(build) -> None:  # type: ignore[no-untyped-def]
    rim = build()
    for number, verb in enumerate(("pause", "release", "resume")):
        rim.out.clear()
        order(rim, verb, id=f"x{number}")
        (told,) = emitted(rim, "refused")
        assert told["way"] == verb and told["command"] == f"x{number}" and told["by"] == "ops@desk"
        assert f"alpha is {rim.role.value}" in str(told["why"])
        assert rim.duty.hand == Hand()


def test_a_standby_hears_of_it_from_a_beat_or_a_record_and_claims_nothing() -> None:
    for tell in (
        lambda rim: lay(rim, 3, keeper="beta"),
        lambda rim: rim.feed(
            ports.ServiceHeard(
                0,
                ServiceState(service="web", holder="beta", epoch=5, hand=Hand(number=3, paused=True, keeper="beta")),
            )
        ),
    ):
        rim = standby()
        rim.out.clear()
        tell(rim)
        assert rim.role is Role.PAUSED and emitted(rim, "paused")[-1]["reason"] == "pause"
        assert last_beat(rim).beat.services["web"].ready is False
        rim.live(20.0)
        assert rim.role is Role.PAUSED, "however long nobody is heard"
        lay(rim, 4, paused=False)
        assert rim.role is Role.STANDBY and emitted(rim, "standby")[-1]["reason"] == "resume"
        rim.live(5.0)
        assert rim.role is Role.ACTIVE


def test_the_keeper_may_take_it_again_and_nobody_else() -> None:
    rim = standby()
    lay(rim, 1, keeper="alpha")
    assert rim.role is Role.STANDBY
    rim.live(8.0)
    assert rim.role is Role.ACTIVE


def test_the_newest_word_counts_and_of_two_with_one_number_the_same_everywhere() -> None:
    words = [
        Hand(number=2, paused=True, keeper="beta"),
        Hand(number=2, paused=False),
        Hand(number=2, paused=True),
        Hand(number=1, paused=True, keeper="alpha"),
    ]
    for seed in range(10):
        Random(seed).shuffle(words)
        rim = standby()
        for word in words:
            rim.hear(Role.STANDBY, hand=word)
        assert rim.duty.hand == Hand(number=2, paused=True, keeper="beta")
    rim = standby()
    lay(rim, EPOCHS_AHEAD + 1)
    assert rim.duty.hand == Hand(), "far ahead of all that is known is a mistake, or worse"
    lay(rim, EPOCHS_AHEAD)
    assert rim.duty.hand.number == EPOCHS_AHEAD


def test_one_node_speaks_where_nobody_holds_it() -> None:
    rim = of_three()  # alpha is the first
    rim.hear(Role.STANDBY)
    order(rim, "pause")
    assert rim.duty.hand == Hand(number=1, paused=True, keeper=None)
    assert rim.role is Role.PAUSED
    rim = of_three()
    rim.hear(Role.ACTIVE, 7, node="gamma", boot="gamma/1")
    order(rim, "pause")
    assert rim.duty.hand == Hand(), "its holder does"
    rim.node.peers["gamma"].heard_at -= rim.node.timing.window + 0.01
    order(rim, "pause", id="c2")
    assert rim.duty.hand.paused, "its holder is silent"
    behind = Rim(config().model_copy(update={"services": {"web": config().services["web"].model_copy(
        update={"nodes": ["beta", "alpha"]})}}))  # fmt: skip
    behind.hear(Role.STANDBY)
    order(behind, "pause")
    assert behind.duty.hand == Hand(), "beta, which lives, comes first"


def test_a_command_is_followed_once() -> None:
    rim = active()
    order(rim, "pause")
    order(rim, "resume", id="c2")
    order(rim, "pause")
    assert rim.duty.hand.number == 2 and not rim.duty.hand.paused


# -- release ------------------------------------------------------------------------------------------------------


def test_a_release_is_forced_and_nobody_takes_it_before_it_is_resumed() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.out.clear()
    order(rim, "release")
    assert rim.role is Role.RELEASING
    told = emitted(rim, "releasing")[-1]
    assert (told["reason"], told["command"]) == ("release", "c1") and "peer" not in told
    (run,) = [one for one in rim.out if isinstance(one, ports.Run)]
    assert run.step is Step.PRE_REL and run.forced, "Test is not asked"
    rim.live(0.5)
    assert rim.role is Role.PAUSED and records(rim)[-1] == (None, Hand(number=1, paused=True, keeper=None))
    rim.live(10.0)
    assert rim.role is Role.PAUSED
    order(rim, "resume", id="c2")
    rim.live(5.0)
    assert rim.role is Role.ACTIVE


def test_a_holder_that_hears_late_of_a_release_lets_go_when_its_step_is_done() -> None:
    rim = active()
    lay(rim, 1)
    assert rim.role is Role.RELEASING and emitted(rim, "releasing")[-1]["reason"] == "release"
    rim = acquiring()
    lay(rim, 1)
    assert rim.role is Role.ACQUIRING
    rim.live(1.0)
    assert rim.role is Role.PAUSED
    rim = claiming()
    lay(rim, 1)
    assert rim.role is Role.PAUSED and rim.duty.lease.claimed_at is None


def test_a_node_in_fault_is_in_fault_and_then_paused() -> None:
    rim = fault()
    lay(rim, 1)
    assert rim.role is Role.FAULT
    rim.feed(ports.LinkChanged("eth0", True))
    assert rim.role is Role.PAUSED
    rim.feed(ports.Fitness("web", False, "page: refused"))
    assert rim.role is Role.FAULT
    rim.feed(ports.Fitness("web", True))
    assert rim.role is Role.PAUSED
    rim.feed(ports.LinkChanged("eth0", False))
    assert rim.role is Role.FAULT


# -- drain --------------------------------------------------------------------------------------------------------


def test_a_drained_node_hands_over_and_takes_nothing() -> None:
    rim = active()
    rim.hear(Role.STANDBY, ready=True)
    rim.out.clear()
    order(rim, "drain")
    assert rim.node.drained and rim.role is Role.RELEASING
    told = emitted(rim, "releasing")[-1]
    assert (told["reason"], told["peer"], told["command"]) == ("drain", "beta", "c1")
    assert ports.PublishNode("alpha", online=True) in rim.out
    (run,) = [one for one in rim.out if isinstance(one, ports.Run)]
    assert run.step is Step.TEST and not run.forced, "a hook may refuse"
    rim.live(15.0)
    assert rim.role is Role.PAUSED
    rim.out.clear()
    order(rim, "undrain", id="c2")
    assert not rim.node.drained and rim.role is Role.STANDBY
    assert ports.PublishNode("alpha", online=True) in rim.out


def test_a_node_whose_service_nobody_could_take_is_not_drained() -> None:
    rim = active()
    order(rim, "drain")
    assert not rim.node.drained and rim.role is Role.ACTIVE
    (told,) = [one for one in rim.out if isinstance(one, ports.Emit) and one.type == "refused"]
    assert told.subject == "alpha" and told.data["way"] == "drain"
    assert told.data["why"] == "web: beta cannot take it now: not heard, or not ready"


def test_another_nodes_drain_is_not_ours() -> None:
    rim = active()
    order(rim, "drain", node="beta")
    assert not rim.node.drained and emitted(rim, "command") == []


def test_a_drained_node_takes_what_another_has_just_handed_to_it() -> None:
    """Two nodes drained at one moment: better there than nowhere."""
    rim = standby()
    order(rim, "drain")
    assert rim.role is Role.PAUSED
    rim.hear(Role.STANDBY, 5, successor="alpha", clean=True)
    rim.live(8.0)
    assert rim.role is Role.ACTIVE


# -- the agent ends while the service is paused -------------------------------------------------------------------


def test_what_is_paused_stays_on_the_host_under_hold_only() -> None:
    for policy, stays in (("hold", True), ("release", False)):
        rim = active(config().model_copy(update={"on_bus_loss": policy}))
        order(rim, "pause")
        rim.out.clear()
        rim.feed(ports.Stop())
        assert (ports.Leave("web") in rim.out) is stays
        assert rim.stopped is stays
        if stays:
            assert records(rim) == [], "the record says still where it is"
            assert emitted(rim, "left") and not [one for one in rim.out if isinstance(one, ports.Run)]
        else:
            assert rim.role is Role.RELEASING
    rim = active()
    order(rim, "pause")
    rim.out.clear()
    rim.feed(ports.Stop(at_once=True))
    assert ports.Leave("web") not in rim.out and ports.DropNow("web") in rim.out


def found(keeper: str | None = "alpha") -> Rim:
    rim = Rim()
    rim.feed(ports.LinkChanged("eth0", True))
    rim.address = True
    rim.feed(ports.Found("web"))
    rim.feed(ports.BrokerUp(0))
    hand = Hand(number=4, paused=True, keeper=keeper)
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder="alpha", epoch=7, hand=hand)))
    return rim


def test_what_was_left_here_is_claimed_and_no_hook_runs() -> None:
    rim = found()
    assert emitted(rim, "found") and records(rim) == [], "it is still where the record says"
    rim.live(5.0)
    assert rim.role is Role.ACTIVE and not rim.duty.found
    assert [one.step for one in rim.out if isinstance(one, ports.Run)] == [Step.TAKE]
    assert rim.duty.lease.epoch > 7


def test_also_by_a_node_that_has_become_unfit_meanwhile() -> None:
    rim = found()
    rim.feed(ports.Fitness("web", False, "page: refused"))
    rim.live(5.0)
    assert rim.role is Role.ACTIVE


@pytest.mark.parametrize("how", ["held", "released", "gone", "stop"])
def test_what_was_left_here_goes_when_it_is_not_ours_any_more(how: str) -> None:
    rim = found()
    rim.out.clear()
    match how:
        case "held":
            rim.hear(Role.ACTIVE, 9)
        case "released":
            lay(rim, 5)
        case "gone":
            rim.feed(ports.AddressGone("web", "10.0.0.100 is gone"))
        case "stop":
            lay(rim, 5, paused=False)
            rim.feed(ports.Stop())
    assert ports.DropNow("web") in rim.out and not rim.duty.found
    assert records(rim)[-1][0] is None, "and the record does not say that we have it"


def test_an_agent_that_ends_again_before_it_has_claimed_leaves_it_again() -> None:
    rim = found()
    rim.out.clear()
    rim.feed(ports.Stop())
    assert ports.Leave("web") in rim.out and ports.DropNow("web") not in rim.out and rim.stopped


# -- another configuration ----------------------------------------------------------------------------------------


def test_a_retired_service_is_released_in_order_and_not_claimed_before_the_new_configuration() -> None:
    rim = active()
    assert rim.node.at_rest
    rim.hear(Role.STANDBY, ready=True)
    rim.feed(ports.Retire(("web",)))
    assert rim.role is Role.RELEASING and not rim.node.at_rest
    told = emitted(rim, "releasing")[-1]
    assert (told["reason"], told["peer"]) == ("reload", "beta")
    rim.live(0.5)
    assert rim.role is Role.PAUSED and rim.node.at_rest
    rim.live(10.0)
    assert rim.role is Role.PAUSED
    rim.feed(ports.Adopt(rim.node.config))
    assert rim.role is Role.STANDBY
    rim.live(6.0)
    assert rim.role is Role.ACTIVE


MAIL = '[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["alpha", "beta"]\n'


def test_what_is_in_both_configurations_goes_on_and_what_is_new_listens_first() -> None:
    rim = active()
    web = rim.duty
    before = last_beat(rim).beat.config
    new = config(MAIL)
    rim.out.clear()
    rim.feed(ports.Adopt(new))
    assert rim.node.duties["web"] is web and web.service is new.services["web"]
    assert rim.role is Role.ACTIVE
    beat = last_beat(rim).beat
    assert beat.config != before and list(beat.services) == ["web", "mail"]
    mail = rim.node.duties["mail"]
    assert mail.lease.attentive_at() == rim.now + rim.node.timing.window
    rim.feed(ports.Adopt(config()))
    assert list(rim.node.duties) == ["web"]
    rim.feed(ports.Tick())
    assert list(last_beat(rim).beat.services) in (["web"], ["web", "mail"])


def test_nodes_come_and_go_with_the_configuration() -> None:
    rim = of_three()
    rim.hear(Role.STANDBY, ready=True)
    beta = rim.node.peers["beta"]
    rim.feed(ports.Adopt(config()))
    assert rim.node.peers == {"beta": beta}
    rim.feed(ports.Adopt(of_three().node.config))
    assert set(rim.node.peers) == {"beta", "gamma"} and rim.node.peers["beta"] is beta


@pytest.mark.parametrize("build", [claiming, acquiring, releasing])
def test_who_is_on_the_way_up_or_down_is_not_at_rest(build) -> None:  # type: ignore[no-untyped-def]
    assert not build().node.at_rest


def test_who_stops_is_not_at_rest() -> None:
    rim = standby()
    assert rim.node.at_rest
    rim.node.stopping = True
    assert not rim.node.at_rest


# -- another process ----------------------------------------------------------------------------------------------


def anew(rim: Rim, later: float = 0.5, **changes: object) -> Rim:
    """The program is started anew in place: only what goes through JSON is known."""
    memory = json.loads(json.dumps(rim.node.memory(rim.now)))
    memory.update(changes)
    next_ = Rim(rim.node.config)
    next_.now = rim.now + later
    next_.node = Coordinator(
        rim.node.config, "alpha", memory["boot"], now=next_.now, rng=Random(2), floor=3, memory=memory
    )
    next_.duty = next_.node.duties["web"]
    next_.role, next_.address = next_.duty.role, rim.address and next_.duty.has_address
    next_.feed(ports.LinkChanged("eth0", True))
    return next_


def test_a_holder_that_is_started_anew_goes_on_and_nobody_is_told_of_a_change() -> None:
    rim = active()
    rim.live(0.3)
    epoch, boot, sent = rim.duty.lease.epoch, rim.node.boot, last_beat(rim).beat.seq
    again = anew(rim)
    assert again.role is Role.ACTIVE and again.duty.lease.epoch == epoch
    again.feed(ports.BrokerUp(0))
    beat = last_beat(again).beat
    assert (beat.boot, beat.services["web"].role, beat.services["web"].epoch) == (boot, Role.ACTIVE, epoch)
    assert beat.seq > sent, "else its beats were doubles"
    again.live(10.0)
    assert again.role is Role.ACTIVE
    assert not [one for one in again.out if isinstance(one, ports.Run)]
    assert next(one for one in again.out if isinstance(one, ports.Hold)).only_if_present is False
    again.hear(Role.STANDBY, ready=True)
    ask(again)
    assert again.role is Role.RELEASING


def test_one_that_comes_too_late_lets_go_at_once() -> None:
    rim = active()
    base = rim.duty.lease.confirmed_at()
    for later, role in ((-0.01, Role.ACTIVE), (0.0, Role.RELEASING)):
        again = anew(rim, later=base + rim.node.timing.lease - rim.now + later)
        assert again.role is role
    assert ports.DropNow("web") in again.out
    assert emitted(again, "releasing")[-1]["reason"] == "lease"


def test_one_whose_register_was_taken_meanwhile_is_not_confirmed_there() -> None:
    rim = active()
    rim.node.duties["web"].lease.views[0].epoch += 1
    rim.node.duties["web"].lease.views[0].holder = "beta/1"
    again = anew(rim)
    again.feed(ports.BrokerUp(0))
    before = again.duty.lease.confirmed_at()
    again.echo()
    assert again.duty.lease.confirmed_at() == before


def test_what_an_operator_said_and_what_others_did_is_not_forgotten() -> None:
    rim = standby()
    lay(rim, 3, keeper="beta")
    order(rim, "drain")
    again = anew(rim)
    assert again.duty.hand == Hand(number=3, paused=True, keeper="beta") and again.node.drained
    order(again, "undrain", id="c1")
    assert again.node.drained, "that command was followed already"
    assert again.duty.lease.top == rim.duty.lease.top == 5
    assert again.duty.lease.rival == 5
    assert not again.duty.has_address and again.role is Role.PAUSED


def test_a_service_whose_addresses_have_changed_meanwhile_is_not_held_on() -> None:
    rim = active()
    for key, value in (("addresses", ["10.0.0.99/24"]), ("interface", "eth1")):
        services = json.loads(json.dumps(rim.node.memory(rim.now)["services"]))
        services["web"][key] = value
        again = anew(rim, services=services)
        assert again.role is Role.STANDBY and not again.duty.has_address
        assert again.duty.lease.confirmed_at() == float("-inf")
    services["mail"] = services["web"]
    assert anew(rim, services=services).role is Role.STANDBY


# -- somebody else's hand on the address --------------------------------------------------------------------------


def test_what_somebody_sets_where_it_is_not_held_is_removed() -> None:
    for rim in (standby(), claiming(), fault()):
        rim.out.clear()
        rim.feed(ports.Appeared("web", "10.0.0.100/24 was set"))
        assert ports.DropNow("web") in rim.out
        assert emitted(rim, "stray") == [{"why": "10.0.0.100/24 was set"}]
    for rim in (acquiring(), active(), found()):
        rim.live(0.2)
        rim.out.clear()
        if rim.duty.has_address or rim.duty.found:
            rim.feed(ports.Appeared("web", "10.0.0.100/24 was set"))
            assert ports.DropNow("web") not in rim.out and emitted(rim, "stray") == []


def test_a_holder_that_is_contested_announces_again_once_a_second_at_most() -> None:
    rim = active()
    rim.live(12.0)  # the announcements after the takeover are over
    rim.out.clear()

    def contest(later: float, mac: str = "02:00:00:00:00:99") -> int:
        rim.out.clear()
        rim.now += later
        rim.feed(ports.Contested("web", mac, "10.0.0.100"))
        return rim.out.count(ports.Announce("web"))

    assert contest(0.0) == 1
    assert emitted(rim, "conflict") == [
        {"mac": "02:00:00:00:00:99", "address": "10.0.0.100", "epoch": rim.duty.lease.epoch}
    ]
    rim.out.clear()
    rim.live(0.06)
    assert rim.out.count(ports.Announce("web")) == 1, "and once more"
    assert contest(0.4) == 0
    rim.live(0.5)
    assert contest(0.04) == 1
    assert emitted(rim, "conflict") == [], "told of already"
    rim.live(1.1)
    assert contest(0.0, "02:00:00:00:00:98") == 1 and len(emitted(rim, "conflict")) == 1
    rim.live(60.0)
    assert contest(0.0, "02:00:00:00:00:98") == 1 and len(emitted(rim, "conflict")) == 1


def test_who_does_not_hold_it_defends_nothing() -> None:
    rim = standby()
    rim.out.clear()
    rim.feed(ports.Contested("web", "02:00:00:00:00:99", "10.0.0.100"))
    assert ports.Announce("web") not in rim.out and emitted(rim, "conflict") == []


# -- what a run of mutants found untested -------------------------------------------------------------------------


def test_a_paused_holder_that_stops_tells_its_epoch_and_holds_nothing_any_more() -> None:
    rim = active(config().model_copy(update={"on_bus_loss": "hold"}))
    order(rim, "pause")
    epoch = rim.duty.lease.epoch
    rim.out.clear()
    rim.feed(ports.Stop(at_once=False))
    (left,) = emitted(rim, "left")
    assert left["epoch"] == epoch and not rim.duty.published
    (told,) = emitted(rim, "paused")
    assert "peer" not in told and told["reason"] == "pause"


def test_a_drained_holders_next_beat_goes_at_once() -> None:
    rim = standby()
    rim.live(1.0)
    rim.out.clear()
    order(rim, "drain", node="alpha")
    assert any(isinstance(one, ports.SendBeat) for one in rim.out)


def test_a_release_is_about_the_record_that_is_known() -> None:
    rim = standby()
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder=None, epoch=3)))
    rim.duty.lease.learn(70)
    rim.out.clear()
    lay(rim, 1)
    (record,) = [one for one in rim.out if isinstance(one, ports.PublishService)]
    assert (record.holder, record.epoch) == (None, 3)


def test_one_that_is_paused_by_command_carries_no_number_of_it_into_its_release() -> None:
    rim = active()
    order(rim, "pause", id="c1")
    assert rim.duty.asked_by == ""
    order(rim, "resume", id="c2")
    order(rim, "release", id="c3")
    assert emitted(rim, "releasing")[-1]["command"] == "c3"


def test_a_service_that_is_new_in_a_configuration_can_be_taken() -> None:
    rim = Rim(config('\n[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["beta"]\n'))
    rim.feed(ports.LinkChanged("eth0", True))
    rim.feed(ports.BrokerUp(0))
    more = '\n[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth0"\nnodes = ["alpha"]\n'
    rim.feed(ports.Adopt(config(more)))
    mail = rim.node.duties["mail"]
    assert mail.service is rim.node.config.services["mail"] and mail.lease.me == "alpha/1"


def test_a_program_that_serves_less_than_the_one_before_goes_on_with_the_rest() -> None:
    rim = active()
    memory = json.loads(json.dumps(rim.node.memory(rim.now)))
    memory["services"] = {"gone": memory["services"]["web"], **memory["services"]}
    node = Coordinator(rim.node.config, "alpha", memory["boot"], now=rim.now, rng=Random(2), floor=3, memory=memory)
    assert node.duties["web"].role is Role.ACTIVE and node.duties["web"].last_holder == "alpha"


def test_a_standby_that_is_started_anew_owns_no_register() -> None:
    rim = standby()
    rim.live(1.0)
    next_ = anew(rim)
    assert all(view.holder != next_.node.boot for view in next_.duty.lease.views)


def test_who_holds_nothing_removes_nothing_when_it_stops() -> None:
    rim = standby()
    rim.live(1.0)
    rim.out.clear()
    rim.feed(ports.Stop(at_once=False))
    assert not any(isinstance(one, ports.DropNow) for one in rim.out)


def test_an_end_of_a_drain_is_never_refused() -> None:
    rim = active()
    order(rim, "undrain", node="alpha")
    assert not emitted(rim, "refused") and not rim.node.drained


def test_what_a_record_tells_of_a_hand_is_passed_on_with_the_time() -> None:
    rim = standby()
    rim.out.clear()
    hand = Hand(number=1, paused=True, keeper=None)
    rim.feed(ports.ServiceHeard(0, ServiceState(service="web", holder=None, epoch=3, hand=hand)))
    (record,) = [one for one in rim.out if isinstance(one, ports.PublishService)]
    assert record.since == rim.now and record.hand == hand
