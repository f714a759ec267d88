"""Two services on one node: together, apart, and what a watchdog is told of them."""

import math
from random import Random

import pytest

from locum import ports
from locum.config import Config
from locum.coordinator import Coordinator
from locum.messages import Beat, Command, Role, Standing
from tests.core.test_coordinator import Rim, acquiring, active, claiming, config, emitted, fault, releasing, standby

SECOND = '\n[services.mail]\naddresses = ["10.0.0.101/24"]\ninterface = "eth1"\nnodes = ["alpha", "beta"]\n'
TOGETHER, APART = SECOND + 'together_with = "web"\n', SECOND + 'apart_from = ["web"]\n'


class Two:
    """alpha, with web and mail; everything works at once, and beats come back when `hears` is set."""

    def __init__(self, placing: str, policy: str = "release") -> None:
        self.config: Config = config(placing).model_copy(update={"on_bus_loss": policy})
        self.now = 100.0
        self.node = Coordinator(self.config, "alpha", "alpha/1", now=self.now, rng=Random(1))
        self.hears = True
        self.holds_back = False
        """Steps are not answered."""
        self.out: list[ports.Output] = []
        self.asked: list[str] = []
        """The services of which the wire was asked."""
        self._seq = 0
        for interface in ("eth0", "eth1"):
            self.feed(ports.LinkChanged(interface, True))
        self.feed(ports.BrokerUp(0))

    def feed(self, event: ports.Input) -> list[ports.Output]:
        waiting, all_ = [event], []
        while waiting:
            out = self.node.step(self.now, waiting.pop(0))
            all_ += out
            for one in out:
                match one:
                    case ports.SendBeat(beat) if self.hears:
                        waiting.append(ports.BeatHeard(0, beat))
                    case ports.Probe(service):
                        self.asked.append(service)
                    case ports.Run(service, number) if not self.holds_back:
                        waiting.append(ports.StepDone(service, number, True))
        self.out += all_
        return all_

    def live(self, span: float) -> None:
        """Time passes, and nobody answers on the wire."""
        until = self.now + span
        while self.now < until:
            self.now += 0.02
            self.feed(ports.Tick())
            asked, self.asked = self.asked, []
            for service in asked:
                self.feed(ports.Probed(service, self.now - 0.01))

    def beta(self, later: float = 0.0, **standings: Standing) -> None:
        self.now += later
        self._seq += 1
        self.feed(ports.BeatHeard(0, Beat(node="beta", boot="beta/1", seq=self._seq, every=0.5, services=standings)))

    def ask(self, verb: str = "switchover", **more: str) -> None:
        of = more if "node" in more else {"service": "web", **more}
        self.feed(ports.CommandHeard(Command.model_validate({"id": f"c{self._seq}-{verb}", "command": verb, **of})))

    def role(self, service: str) -> Role:
        return self.node.duties[service].role

    def told(self, service: str, type_: str) -> list[dict[str, object]]:
        return [
            one.data for one in self.out if isinstance(one, ports.Emit) and (one.subject, one.type) == (service, type_)
        ]

    def standing(self, service: str) -> Standing:
        return [one for one in self.out if isinstance(one, ports.SendBeat)][-1].beat.services[service]


READY = Standing(role=Role.STANDBY, ready=True)
NOT_READY = Standing(role=Role.STANDBY)


def holding_both(placing: str = TOGETHER) -> Two:
    two = Two(placing)
    two.live(4.0)
    assert two.role("web") is Role.ACTIVE and two.role("mail") is Role.ACTIVE
    return two


def gone_to_beta(mail: Standing) -> Two:
    """web was moved to beta, and beta says that of mail."""
    two = holding_both()
    two.beta(web=READY, mail=NOT_READY)
    two.ask(to="beta")
    assert two.role("web") is Role.STANDBY and two.role("mail") is Role.ACTIVE
    two.out.clear()
    epoch = two.node.duties["web"].lease.top + 1
    two.beta(0.01, web=Standing(role=Role.CLAIMING, epoch=epoch), mail=NOT_READY)
    two.beta(0.01, web=Standing(role=Role.ACTIVE, epoch=epoch), mail=mail)
    return two


# -- together ------------------------------------------------------------------------------------------------------


def test_the_one_that_leads_is_taken_first_and_alone_if_need_be() -> None:
    two = Two(TOGETHER)
    two.feed(ports.LinkChanged("eth1", False))
    two.live(4.0)
    assert (two.role("web"), two.role("mail")) == (Role.FAULT, Role.FAULT), "not fit for one, not fit for both"
    two.feed(ports.LinkChanged("eth1", True))
    two.live(4.0)
    taken = [one.subject for one in two.out if isinstance(one, ports.Emit) and one.type == "taken"]
    assert taken == ["web", "mail"]


def test_it_goes_after_the_one_with_which_it_must_be_together() -> None:
    two = gone_to_beta(READY)
    assert two.role("mail") is Role.STANDBY
    (told,) = two.told("mail", "releasing")
    assert told["reason"] == "together" and told["peer"] == "beta" and "command" not in told
    assert two.standing("mail").successor == "beta" and two.standing("mail").clean
    assert two.node.duties["mail"].role_since == two.now


def test_why_it_may_not_be_claimed_here() -> None:
    two = gone_to_beta(NOT_READY)
    mail = two.node.duties["mail"]
    assert two.node._misplaced(mail) == "together"


def test_it_stays_until_the_other_node_is_ready_for_it() -> None:
    two = gone_to_beta(NOT_READY)
    assert two.role("mail") is Role.ACTIVE
    epoch = two.node.duties["web"].lease.top
    two.beta(0.1, web=Standing(role=Role.ACTIVE, epoch=epoch), mail=READY)
    assert two.role("mail") is Role.STANDBY


def test_it_does_not_go_while_nobody_could_claim_it() -> None:
    two = holding_both()
    two.node.duties["mail"].unconfirmed = True
    two.beta(web=READY, mail=NOT_READY)
    two.ask(to="beta")
    two.node.duties["mail"].unconfirmed = True
    leader = two.node.duties["web"]
    assert two.node._rejoin(two.node.duties["mail"], leader, two.now) == math.inf
    two.node.duties["mail"].unconfirmed = False
    two.node.peers["beta"].standings = {"web": Standing(role=Role.ACTIVE, epoch=9), "mail": READY}
    mail = two.node.duties["mail"]
    # Each of these alone keeps it here.
    leader.role, was = Role.ACQUIRING, leader.role
    two.node._rejoin(mail, leader, two.now)
    assert mail.role is Role.ACTIVE
    leader.role = was
    mail.step = ports.Step.POST_ACQ
    two.node._rejoin(mail, leader, two.now)
    assert mail.role is Role.ACTIVE
    mail.step, mail.unconfirmed = None, True
    two.node._rejoin(mail, leader, two.now)
    assert mail.role is Role.ACTIVE
    mail.unconfirmed = False
    mail.yield_at = two.now + 1.0
    assert two.node._rejoin(mail, leader, two.now) == two.now + 1.0 and mail.role is Role.ACTIVE
    two.node.peers["beta"].heard_at = two.now + 1.0 - two.node.timing.missed
    two.node._rejoin(mail, leader, two.now + 1.0)
    assert mail.role is Role.RELEASING and mail.yield_at == two.now + 1.0 + two.node.timing.retry_first


def test_who_was_not_heard_lately_may_not_have_it_any_more() -> None:
    two = gone_to_beta(NOT_READY)
    mail, leader, timing = two.node.duties["mail"], two.node.duties["web"], two.node.timing
    two.node.peers["beta"].standings["mail"] = READY
    late = two.node.peers["beta"].heard_at + timing.missed + 0.001
    two.node._rejoin(mail, leader, late)
    assert mail.role is Role.ACTIVE


def test_what_is_wrong_with_it_is_wrong_with_the_one_that_leads() -> None:
    two = Two(TOGETHER)
    web = two.node.duties["web"]
    two.feed(ports.Fitness("mail", False, "page: refused"))
    assert two.role("web") is Role.FAULT and (web.fit, web.unfit) == (False, "mail: page: refused")
    two.feed(ports.Fitness("web", False, "disk: full"))
    assert web.unfit == "disk: full; mail: page: refused"
    since = web.unfit_since
    two.now += 1.0
    two.feed(ports.Fitness("mail", True))
    assert web.unfit == "disk: full" and web.unfit_since == since
    two.feed(ports.LinkChanged("eth1", False))
    assert web.unfit == "disk: full; mail: eth1 is down"
    two.feed(ports.Fitness("web", True))
    assert web.unfit == "mail: eth1 is down" and two.told("web", "fault")[-1]["reason"] == "check"
    two.feed(ports.LinkChanged("eth1", True))
    assert web.fit and web.unfit == "" and web.unfit_since == math.inf and two.role("web") is Role.STANDBY
    assert two.told("web", "standby")[-1]["reason"] == "check"


def test_an_interface_of_which_nothing_is_known_yet_is_no_alarm() -> None:
    node = Coordinator(config(TOGETHER), "alpha", "alpha/1", now=1.0, rng=Random(1))
    node.step(1.0, ports.LinkChanged("eth0", True))
    node.step(1.0, ports.Fitness("mail", True))
    node.step(1.0, ports.Fitness("web", True))
    assert node.duties["web"].fit and node.duties["web"].role is Role.STANDBY


def test_a_drain_moves_the_one_that_leads_and_the_others_follow() -> None:
    two = holding_both()
    two.beta(web=READY, mail=NOT_READY)
    two.ask("drain", node="alpha")
    assert two.role("web") is Role.PAUSED and two.role("mail") is Role.ACTIVE and two.node.drained
    assert not two.told("alpha", "refused")
    two.ask("undrain", node="alpha")
    assert not two.node.drained and not two.told("alpha", "refused"), "nothing needs to be able to go"


# -- apart ---------------------------------------------------------------------------------------------------------


def test_the_second_waits_as_long_as_the_first_is_here() -> None:
    two = Two(APART)
    two.live(6.0)
    assert sorted(two.role(name).value for name in ("web", "mail")) == ["active", "standby"]
    idle = "mail" if two.role("web") is Role.ACTIVE else "web"
    assert not two.standing(idle).ready and not two.told(idle, "claiming")


def test_what_a_reload_sets_apart_goes_apart_and_the_second_one_goes() -> None:
    two = holding_both(SECOND)
    mail = two.node.duties["mail"]
    two.node.step(two.now, ports.Adopt(config(APART)))
    two.live(1.0)
    assert two.role("mail") is Role.ACTIVE, "nobody could take it"
    two.beta(web=READY, mail=READY)
    assert two.role("mail") is Role.STANDBY and two.role("web") is Role.ACTIVE
    (told,) = two.told("mail", "releasing")
    assert told["reason"] == "apart" and told["peer"] == "beta" and "command" not in told
    assert mail.yield_at == two.now + two.node.timing.retry_first


@pytest.mark.parametrize("what", ["unconfirmed", "busy", "just refused"])
def test_it_goes_only_when_it_can(what: str) -> None:
    two = holding_both(SECOND)
    two.node.step(two.now, ports.Adopt(config(APART)))
    two.node.peers["beta"].standings = {"web": READY, "mail": READY}
    two.node.peers["beta"].heard_at = two.now
    mail = two.node.duties["mail"]
    mail.unconfirmed = what == "unconfirmed"
    mail.step = ports.Step.POST_ACQ if what == "busy" else None
    mail.yield_at = two.now + 1.0 if what == "just refused" else -math.inf
    assert two.node._part(mail, two.now) == (two.now + 1.0 if what == "just refused" else math.inf)
    assert mail.role is Role.ACTIVE
    mail.unconfirmed, mail.step = False, None
    assert two.node._part(mail, max(two.now, mail.yield_at)) == math.inf
    assert mail.role is Role.RELEASING


def test_a_switchover_to_where_the_other_is_is_refused_and_to_another_node_is_not() -> None:
    two = Two(APART)
    two.live(4.0)
    here, there = ("web", "mail") if two.role("web") is Role.ACTIVE else ("mail", "web")
    two.beta(**{here: READY, there: Standing(role=Role.ACTIVE, epoch=900)})
    two.ask(service=here, to="beta")
    assert two.told(here, "refused")[-1]["why"] == f"beta has {there}, which must be apart from it"
    two.beta(**{here: READY, there: NOT_READY})
    two.ask(service=here, to="beta")
    assert two.role(here) is Role.STANDBY and len(two.told(here, "refused")) == 1


def test_a_claim_ends_when_the_other_is_taken_first() -> None:
    two = Two(APART)
    two.hears = False
    while two.role("web") is not Role.CLAIMING and two.role("mail") is not Role.CLAIMING:
        two.hears = True
        two.live(0.02)
        two.hears = False
        assert two.now < 110
    claimant = "web" if two.role("web") is Role.CLAIMING else "mail"
    other = "mail" if claimant == "web" else "web"
    two.node.duties[other].role = Role.ACTIVE
    two.node._press_claim(two.node.duties[claimant], two.now)
    assert two.role(claimant) is Role.STANDBY and two.told(claimant, "standby") == []
    reasons = [one.data["reason"] for one in two.node._later if isinstance(one, ports.Emit)]
    assert reasons == ["apart"]


# -- the node's commands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["reload", "restart"])
def test_what_the_agent_itself_must_do_is_handed_to_it(verb: str) -> None:
    two = Two(SECOND)
    command = Command.model_validate({"id": "c9", "command": verb, "node": "alpha"})
    assert ports.Obey(command) in two.feed(ports.CommandHeard(command))
    assert ports.Obey(command) not in two.feed(ports.CommandHeard(command)), "once"


# -- the watchdog --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [standby, claiming, fault])
def test_who_does_not_use_a_service_needs_no_watchdog(build) -> None:  # type: ignore[no-untyped-def]
    rim: Rim = build()
    assert rim.node.usable_until("web") is None


@pytest.mark.parametrize("build", [acquiring, active, releasing])
def test_a_service_may_be_used_until_shortly_before_another_may_act(build) -> None:  # type: ignore[no-untyped-def]
    rim: Rim = build()
    timing = rim.node.timing
    until = rim.duty.lease.confirmed_at() + timing.window - timing.margin
    assert rim.node.usable_until("web") == until
    rim.now += 0.3
    assert rim.node.usable_until("web") == until


def test_another_hosts_answer_counts_only_under_hold_and_for_who_has_the_address() -> None:
    for policy, counts in (("hold", True), ("release", False)):
        rim = active()
        rim.node.config = rim.node.config.model_copy(update={"on_bus_loss": policy})
        confirmed_at, timing = rim.duty.lease.confirmed_at(), rim.node.timing
        rim.node._echo_at = confirmed_at + 1.0
        expected = confirmed_at + (1.0 if counts else 0.0) + timing.window - timing.margin
        assert rim.node.usable_until("web") == expected
        rim.duty.has_address = False
        assert rim.node.usable_until("web") == confirmed_at + timing.window - timing.margin


def test_a_service_that_another_has_taken_may_not_be_used_at_all() -> None:
    rim = active()
    rim.duty.lease.hear(0, "beta/1", rim.duty.lease.epoch + 1, True, rim.now, -math.inf, False, False)
    assert rim.node.usable_until("web") == -math.inf


# -- what a run of mutants found untested --------------------------------------------------------------------------


def test_a_reload_that_sets_together_what_was_not_makes_the_one_that_leads_unfit() -> None:
    two = Two(SECOND)
    two.feed(ports.Fitness("mail", False, "page: refused"))
    assert two.node.duties["web"].fit
    two.feed(ports.Adopt(config(TOGETHER)))
    web = two.node.duties["web"]
    assert not web.fit and web.unfit_since == two.now and two.role("web") is Role.FAULT


def test_why_a_node_is_fit_again_is_told_whatever_it_was_in_fault_for() -> None:
    rim = fault()
    rim.feed(ports.Fitness("web", False, "page: refused"))
    rim.feed(ports.LinkChanged("eth0", True))
    assert rim.role is Role.FAULT
    rim.feed(ports.Fitness("web", True))
    assert [told["reason"] for told in emitted(rim, "standby")][-1:] == ["check"]
