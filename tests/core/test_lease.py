"""The six rules of the lease, one by one; and that together they never let two nodes hold.

Here a message is what a broker hands on: who says it, at which epoch, whether it holds, and when it was sent.
"""

from collections import deque
from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locum.lease import HEARD_MOST, Lease
from locum.timing import Timing

settings.register_profile("busy", deadline=None)  # how long an example takes says nothing on a busy machine
settings.load_profile("busy")

TIMING = Timing(beat=0.5, lease=2.0)
W = TIMING.window
A, B, C = "alpha/1", "beta/1", "gamma/1"


def listening(brokers: int = 1, since: float = 0.0, me: str = A) -> Lease:
    """A lease that hears all brokers from `since` on."""
    lease = Lease(me, brokers, TIMING)
    for broker in range(brokers):
        lease.subscribed(broker, since)
    return lease


def beats_return(lease: Lease, at: float) -> None:
    """Our own beats come back from every broker that we hear, as they always do: the latest was sent at `at`."""
    for broker, view in enumerate(lease.views):
        if view.since is not None:
            holds = lease.claimed_at is not None
            lease.hear(broker, lease.me, lease.epoch, holds, at, sent_at=at)


def quiet_at(lease: Lease, now: float = 50.0) -> float:
    """From when on it is quiet, as it looks at `now`, on connections that live."""
    beats_return(lease, now)
    return lease.quiet_at(now)


def released(lease: Lease, now: float) -> bool:
    """Whether the service may be taken at once, as it looks at `now`, on connections that live."""
    beats_return(lease, now)
    return lease.released(now)


def holding(brokers: int = 1, at: float = 10.0) -> Lease:
    """A lease whose claim was sent, and granted, at `at`."""
    lease = listening(brokers)
    claim(lease, at, range(brokers))
    assert lease.granted(at)
    return lease


def claim(lease: Lease, at: float, brokers: range) -> int:
    """Claims, and hears the claim come back at once."""
    epoch = lease.claim(at)
    for broker in brokers:
        lease.hear(broker, lease.me, epoch, True, at, sent_at=at)
    return epoch


# -- 1. register --------------------------------------------------------------------------------------------------


def test_a_higher_epoch_takes_the_register() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(0, C, 4, True, 1.1)
    assert (lease.views[0].epoch, lease.views[0].holder) == (4, C)


def test_at_the_same_epoch_the_first_to_come_has_it() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(0, C, 3, True, 1.1)
    assert (lease.views[0].epoch, lease.views[0].holder) == (3, B)


def test_a_release_by_its_holder_empties_it_and_one_by_another_does_not() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(0, C, 3, False, 1.1)
    assert lease.views[0].holder == B
    lease.hear(0, B, 2, False, 1.2)
    assert lease.views[0].holder == B, "a release of an older claim"
    lease.hear(0, B, 3, False, 1.3)
    assert lease.views[0].holder is None


def test_what_is_stale_changes_nothing_in_the_register() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(0, C, 2, True, 1.1)
    assert (lease.views[0].epoch, lease.views[0].holder) == (3, B)


def test_an_emptied_register_is_not_taken_at_the_same_epoch() -> None:
    """Two claimed at one epoch, the first withdrew: the second is not the holder for that."""
    lease = listening()
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(0, B, 3, False, 1.1)
    lease.hear(0, C, 3, True, 1.2)
    assert lease.views[0].holder is None


# -- 2. quiet -----------------------------------------------------------------------------------------------------


def test_nobody_is_quiet_before_it_has_listened_for_a_window() -> None:
    lease = Lease(A, 1, TIMING)
    assert quiet_at(lease) == inf
    lease.subscribed(0, 5.0)
    assert quiet_at(lease) == 5.0 + W
    lease.subscribed(0, 7.0)
    assert quiet_at(lease) == 7.0 + W, "whatever was said between the two"
    lease.unsubscribed(0)
    assert quiet_at(lease) == inf


@pytest.mark.parametrize("epoch", [1, 7])
def test_a_claim_or_a_holders_beat_starts_the_window_again(epoch: int) -> None:
    """At whatever epoch: a claim that comes to nothing counts too, since it may be about to succeed."""
    lease = listening()
    lease.hear(0, C, 7, True, 1.0)
    lease.hear(0, B, epoch, True, 4.0)
    assert quiet_at(lease) == 4.0 + W


def test_what_a_standby_says_does_not() -> None:
    lease = listening()
    lease.hear(0, B, 3, False, 4.0)
    assert quiet_at(lease) == W


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_who_does_not_get_its_own_beats_back_is_deaf(brokers: int) -> None:
    """A claim would wait in a dead connection, and depose a living holder when that comes back to life."""
    lease = listening(brokers)
    beats_return(lease, 9.9)
    assert lease.quiet_at(9.9 + TIMING.missed) == W
    assert lease.quiet_at(10.0 + TIMING.missed) == inf
    for broker in range(brokers):
        lease.hear(broker, A, 0, False, 10.0 + TIMING.missed, sent_at=10.0)
        assert (lease.quiet_at(10.0 + TIMING.missed) == W) == (broker + 1 > brokers / 2)


def test_what_came_back_on_an_earlier_connection_says_nothing_about_the_present_one() -> None:
    lease = listening()
    beats_return(lease, 9.9)
    lease.subscribed(0, 10.0)
    assert lease.quiet_at(10.1) == inf


def test_our_own_beats_do_not() -> None:
    lease = holding(at=10.0)
    lease.release()
    assert quiet_at(lease) == W


def test_a_release_clears_the_releasers_own_entry_only() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0)
    lease.hear(0, C, 4, True, 5.0)
    lease.hear(0, C, 4, False, 5.1)
    assert quiet_at(lease) == 4.0 + W
    lease.hear(0, B, 3, False, 5.2)
    assert quiet_at(lease) == W


def test_our_own_former_life_is_somebody_else() -> None:
    lease = listening(me="alpha/2")
    lease.hear(0, "alpha/1", 3, True, 4.0)
    assert quiet_at(lease) == 4.0 + W


def test_who_was_starved_waits_for_a_window_again() -> None:
    lease = listening()
    lease.doubt(9.0)
    assert quiet_at(lease) == 9.0 + W


def test_who_is_deaf_and_starved_stays_deaf() -> None:
    lease = listening()
    lease.unsubscribed(0)
    lease.doubt(9.0)
    assert quiet_at(lease) == inf


def test_only_a_release_in_good_order_lets_one_take_over_without_asking_the_wire() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0, claim=True)
    assert not released(lease, 4.1)
    lease.hear(0, B, 3, False, 4.2, clean=True)
    assert released(lease, 4.2)
    assert released(lease, 4.2 + W)
    assert not released(lease, 4.2 + W + 0.01), "long ago: anybody may have it by now"


def test_so_does_one_of_a_holder_that_was_heard_for_a_whole_window() -> None:
    lease = listening()
    for beat in range(6):
        lease.hear(0, B, 3, True, 4.0 + beat * 0.5)
    lease.hear(0, B, 3, False, 6.6, clean=True)
    assert released(lease, 6.6)


def test_the_first_beat_after_the_subscription_counts_from_the_subscription_on() -> None:
    lease = listening(since=0.0)
    for beat in range(5):
        lease.hear(0, B, 3, True, 0.5 + beat * 0.5)
    lease.hear(0, B, 3, False, 2.6, clean=True)
    assert released(lease, 2.6)


@pytest.mark.parametrize("heard", [[], [6.5], [4.0, 4.5, 5.0, 6.0, 6.5], [3.0, 3.5, 4.0, 4.5, 5.0, 5.5]])
def test_an_old_release_does_not(heard: list[float]) -> None:
    """Of a connection that was stalled, or a process that slept: somebody may have taken over meanwhile."""
    lease = listening()
    lease.hear(0, B, 3, True, 0.1, claim=True)
    lease.subscribed(0, 1.0)
    for at in heard:
        lease.hear(0, B, 3, True, at)
    lease.hear(0, B, 3, False, 6.6, clean=True)
    assert not released(lease, 6.6)


def test_a_claim_that_was_withdrawn_is_no_such_release() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0)
    lease.hear(0, B, 3, False, 4.2, clean=False)
    assert not released(lease, 4.2)


def test_a_release_while_another_one_claims_is_none_either() -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 4.0)
    lease.hear(0, C, 4, True, 4.1)
    lease.hear(0, B, 3, False, 4.2, clean=True)
    assert not released(lease, 4.2)


# -- 3. claim -----------------------------------------------------------------------------------------------------


def test_a_claim_is_above_every_epoch_seen_or_used() -> None:
    lease = listening(brokers=3)
    lease.hear(0, B, 3, True, 1.0)
    lease.hear(1, C, 8, False, 1.0)
    lease.learn(5)
    assert lease.claim(10.0) == 9
    lease.release()
    assert lease.claim(20.0) == 10
    lease.release()
    lease.learn(30)
    lease.learn(20)
    assert lease.claim(30.0) == 31


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_a_claim_that_was_heard_on_any_broker_is_waited_for(brokers: int) -> None:
    """The other brokers may still be quiet; a second claim, with a higher epoch, would depose the first for nothing."""
    lease = listening(brokers)
    assert lease.undecided_until() == -inf
    lease.hear(brokers - 1, B, 3, True, 10.0, claim=True)
    assert lease.undecided_until() == 10.0 + TIMING.claim_timeout


@pytest.mark.parametrize("holds", [True, False], ids=["it was granted", "it was withdrawn"])
def test_until_it_is_decided(holds: bool) -> None:
    lease = listening()
    lease.hear(0, B, 3, True, 10.0, claim=True)
    lease.hear(0, C, 2, False, 10.1)
    assert lease.undecided_until() > 10.1
    lease.hear(0, B, 3, holds, 10.2)
    assert lease.undecided_until() == -inf


def test_our_own_claim_is_none_that_we_wait_for() -> None:
    lease = listening()
    lease.hear(0, A, lease.claim(10.0), True, 10.1, sent_at=10.0, claim=True)
    assert lease.granted(10.1)
    assert lease.undecided_until() == -inf


# -- 4. grant -----------------------------------------------------------------------------------------------------


def test_a_claim_is_granted_when_it_comes_back() -> None:
    lease = listening()
    epoch = lease.claim(10.0)
    assert not lease.granted(10.0)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0)
    assert lease.granted(10.1)


def test_not_if_another_claim_came_before_it() -> None:
    """Both claim at one epoch; whose claim the broker puts second hears the first one's before its own."""
    lease = listening()
    epoch = lease.claim(10.0)
    lease.hear(0, B, epoch, True, 10.05, claim=True)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0, claim=True)
    assert not lease.granted(10.1)


def test_a_claim_that_comes_after_ours_takes_nothing_back_but_a_holders_beat_does() -> None:
    lease = listening()
    epoch = lease.claim(10.0)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0, claim=True)
    lease.hear(0, B, epoch, True, 10.15, claim=True)
    assert lease.granted(10.15)
    lease.hear(0, C, epoch, True, 10.2)
    assert not lease.granted(10.2)


def test_not_if_a_holders_beat_came_before_it() -> None:
    """It was on its way when we claimed: quiet is judged again when the claim is back."""
    lease = listening()
    epoch = lease.claim(10.0)
    lease.hear(0, B, epoch - 1, True, 10.05)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0)
    assert not lease.granted(10.1)


def test_not_if_we_connected_anew_meanwhile() -> None:
    lease = listening()
    epoch = lease.claim(10.0)
    lease.subscribed(0, 10.05)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0)
    assert not lease.granted(10.1)


def test_not_if_we_were_starved_meanwhile() -> None:
    lease = listening()
    epoch = lease.claim(10.0)
    lease.doubt(10.05)
    lease.hear(0, A, epoch, True, 10.1, sent_at=10.0)
    assert not lease.granted(10.1)


def test_not_after_its_time() -> None:
    """It must be shorter than the guard: else a holder that lost one broker of several could still hold."""
    assert TIMING.claim_timeout < TIMING.guard
    lease = listening()
    epoch = lease.claim(10.0)
    late = 10.0 + TIMING.claim_timeout + 0.01
    lease.hear(0, A, epoch, True, late, sent_at=10.0)
    assert not lease.granted(late)


def test_not_by_an_echo_of_an_older_claim() -> None:
    lease = listening()
    old = lease.claim(10.0)
    lease.release()
    lease.claim(10.2)
    lease.hear(0, A, old, True, 10.3, sent_at=10.0)
    assert not lease.granted(10.3)


def test_not_once_it_is_superseded_or_withdrawn() -> None:
    lease = holding(at=10.0)
    lease.hear(0, B, lease.epoch + 1, True, 10.05)
    assert not lease.granted(10.1)
    lease = holding(at=10.0)
    lease.release()
    assert not lease.granted(10.1)


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_a_majority_grants(brokers: int) -> None:
    for count in range(brokers + 1):
        lease = listening(brokers)
        claim(lease, 10.0, range(count))
        assert lease.granted(10.0) == (count > brokers / 2), f"{count} of {brokers}"


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_a_majority_must_be_quiet(brokers: int) -> None:
    for loud in range(brokers + 1):
        lease = listening(brokers)
        for broker in range(loud):
            lease.hear(broker, B, 3, True, 9.0)
        assert (quiet_at(lease) <= 10.0) == (loud < brokers / 2), f"{loud} of {brokers} are loud"
        claim(lease, 10.0, range(brokers))
        assert lease.granted(10.0) == (loud < brokers / 2)


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_a_majority_must_be_there(brokers: int) -> None:
    lease = listening(brokers)
    for broker in range(brokers // 2):
        lease.unsubscribed(broker)
    assert quiet_at(lease) == W
    lease.unsubscribed(brokers // 2)
    assert quiet_at(lease) == inf


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_a_majority_must_have_seen_the_release(brokers: int) -> None:
    lease = listening(brokers)
    for broker in range(brokers):
        lease.hear(broker, B, 3, True, 9.0, claim=True)
    for broker in range(brokers):
        lease.hear(broker, B, 3, False, 9.5, clean=True)
        assert released(lease, 9.5) == (broker + 1 > brokers / 2)


# -- 5. renew -----------------------------------------------------------------------------------------------------


def test_the_lease_runs_from_the_send_time_not_from_the_return() -> None:
    lease = holding(at=10.0)
    assert lease.ends_at() == 12.0
    lease.hear(0, A, lease.epoch, True, 11.9, sent_at=10.5)
    assert lease.ends_at() == 12.5


def test_a_beat_that_returns_late_does_not_shorten_it() -> None:
    lease = holding(at=10.0)
    lease.hear(0, A, lease.epoch, True, 11.0, sent_at=10.9)
    lease.hear(0, A, lease.epoch, True, 11.1, sent_at=10.4)
    assert lease.ends_at() == 12.9


def test_a_beat_whose_send_time_is_forgotten_confirms_nothing() -> None:
    lease = holding(at=10.0)
    lease.hear(0, A, lease.epoch, True, 11.0)
    assert lease.ends_at() == 12.0


def test_a_beat_that_returns_when_the_register_is_anothers_confirms_nothing() -> None:
    lease = holding(at=10.0)
    lease.hear(0, B, lease.epoch + 1, True, 10.5)
    lease.hear(0, A, lease.epoch, True, 10.6, sent_at=10.55)
    assert lease.ends_at() == 12.0


def test_a_beat_of_before_the_claim_confirms_nothing() -> None:
    lease = listening()
    lease.claim(10.0)
    lease.hear(0, A, 0, False, 10.1, sent_at=9.9)
    assert lease.ends_at() == -inf


def test_nothing_of_an_old_lease_counts_for_a_new_one() -> None:
    lease = holding(at=10.0)
    lease.release()
    assert lease.ends_at() == -inf
    lease.claim(11.0)
    assert lease.ends_at() == -inf


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_the_newest_beat_that_a_majority_returned_counts(brokers: int) -> None:
    lease = holding(brokers, at=10.0)
    for broker in range(brokers):
        lease.hear(broker, A, lease.epoch, True, 11.0, sent_at=10.5)
        assert lease.ends_at() == (12.5 if broker + 1 > brokers / 2 else 12.0)


# -- 6. lose ------------------------------------------------------------------------------------------------------


def test_a_higher_epoch_ends_it_by_whatever_way_it_is_seen() -> None:
    for brokers in (1, 3, 5):
        lease = holding(brokers)
        assert not lease.superseded()
        lease.hear(brokers - 1, B, lease.epoch + 1, True, 10.1)
        assert lease.superseded()
    lease = holding()
    lease.learn(lease.epoch + 1, held=True)
    assert lease.superseded()


def test_a_higher_epoch_that_was_only_released_deposes_nobody() -> None:
    """A claim that came to nothing is known by its release alone to whoever connected meanwhile."""
    lease = holding()
    lease.hear(0, B, lease.epoch + 1, False, 10.1)
    lease.learn(lease.epoch + 2)
    assert not lease.superseded()


def test_the_same_epoch_does_not() -> None:
    lease = holding()
    lease.hear(0, B, lease.epoch, True, 10.1)
    assert not lease.superseded()


def test_losing_a_broker_takes_nothing_away_before_the_leases_end() -> None:
    lease = holding(at=10.0)
    lease.unsubscribed(0)
    assert lease.ends_at() == 12.0


# -- bounds -------------------------------------------------------------------------------------------------------


def test_boots_of_old_are_forgotten() -> None:
    lease = listening()
    for number in range(1000):
        lease.hear(0, f"beta/{number:x}", 0, True, 10.0 * number)
        assert len(lease.views[0].heard) <= HEARD_MOST + 1


@given(st.integers(1, 200), st.lists(st.integers(0, 199), max_size=20))
def test_a_crowd_is_bounded_and_stays_loud(count: int, leaving: list[int]) -> None:
    """More boots than anybody remembers, all within one window. Whoever does not release keeps it from being quiet."""
    lease = listening()
    boots = {f"beta/{number:x}": 10.0 + number / 1000 for number in range(count)}
    for boot, at in boots.items():
        lease.hear(0, boot, 1, True, at)
    assert len(lease.views[0].heard) <= HEARD_MOST
    for number in leaving:
        boot = f"beta/{number:x}"
        lease.hear(0, boot, 1, False, 11.0)
        boots.pop(boot, None)
    if boots:
        assert quiet_at(lease) >= max(boots.values()) + W


def test_those_of_a_crowd_that_are_not_remembered_count_all_the_same() -> None:
    lease = listening()
    for number in range(3 * HEARD_MOST):
        lease.hear(0, f"beta/{number:x}", 1, True, 10.0 + number / 1000)
    for number in range(2 * HEARD_MOST, 3 * HEARD_MOST):
        lease.hear(0, f"beta/{number:x}", 1, False, 11.0)
    assert quiet_at(lease) >= 10.0 + W


# -- all of them together -----------------------------------------------------------------------------------------

STEP = 0.1
SAID = tuple[str, int, bool, float, bool]


@dataclass
class Pipe:
    """Between one node and one broker: what is under way in each direction, in order, unless it is stuck."""

    up: deque[SAID] = field(default_factory=deque)
    down: deque[SAID] = field(default_factory=deque)
    stuck_up: bool = False
    stuck_down: bool = False
    cut_until: float = -inf


@dataclass
class World:
    """Nodes that follow the rules, brokers that hand on what they get, and pipes that a test may clog."""

    brokers: int
    turns: tuple[float, float, float] = (0.0, 0.3, 0.6)
    """Seconds that each node waits when it might claim."""
    nodes: dict[str, Lease] = field(default_factory=dict)
    pipes: dict[tuple[str, int], Pipe] = field(default_factory=dict)
    holders: set[str] = field(default_factory=set)
    beat_at: dict[str, float] = field(default_factory=dict)
    now: float = 0.0
    takeovers: int = 0

    def __post_init__(self) -> None:
        for place, name in enumerate((A, B, C)):
            self.nodes[name] = listening(self.brokers, me=name)
            self.beat_at[name] = 0.1 * place
            for broker in range(self.brokers):
                self.pipes[name, broker] = Pipe()

    def say(self, name: str, holds: bool, epoch: int) -> None:
        for broker in range(self.brokers):
            pipe = self.pipes[name, broker]
            if self.now >= pipe.cut_until:
                pipe.up.append((name, epoch, holds, self.now, holds and name not in self.holders))

    def step(self) -> None:
        """Everything that is not stuck arrives; then everybody does what the rules tell it to do."""
        self.now += STEP
        for (name, broker), pipe in self.pipes.items():
            if pipe.cut_until > self.now:
                continue
            if pipe.cut_until > 0:
                pipe.cut_until = -inf
                self.nodes[name].subscribed(broker, self.now)
            while pipe.up and not pipe.stuck_up:
                said = pipe.up.popleft()
                for other in self.nodes:
                    if self.pipes[other, broker].cut_until == -inf:
                        self.pipes[other, broker].down.append(said)
        for (name, broker), pipe in self.pipes.items():
            while pipe.down and not pipe.stuck_down:
                boot, epoch, holds, sent_at, claims = pipe.down.popleft()
                sent_at = sent_at if boot == name else -inf
                self.nodes[name].hear(broker, boot, epoch, holds, self.now, sent_at, claim=claims)
                self.judge(name)
        for (name, lease), turn in zip(self.nodes.items(), self.turns, strict=True):
            self.judge(name)
            if lease.claimed_at is None and lease.quiet_at(self.now) + turn <= self.now:
                self.say(name, True, lease.claim(self.now))
            elif self.now >= self.beat_at[name] + TIMING.beat - STEP / 2:
                self.beat_at[name] = self.now
                self.say(name, lease.claimed_at is not None, lease.epoch)

    def judge(self, name: str) -> None:
        lease = self.nodes[name]
        if lease.claimed_at is None:
            return
        if name not in self.holders:
            if lease.granted(self.now):
                self.holders.add(name)
                self.takeovers += 1
            elif lease.superseded() or self.now > lease.claimed_at + TIMING.claim_timeout:
                self.let_go(name)
        if name in self.holders and (lease.superseded() or self.now >= lease.ends_at()):
            self.let_go(name)
        holders = [one for one in self.holders if self.now < self.nodes[one].ends_at()]
        assert len(holders) < 2, f"two hold at {self.now:.1f}: {holders}"

    def let_go(self, name: str) -> None:
        self.holders.discard(name)
        self.nodes[name].release()
        self.say(name, False, self.nodes[name].epoch)

    def cut(self, name: str, broker: int, seconds: float) -> None:
        pipe = self.pipes[name, broker]
        pipe.up.clear()
        pipe.down.clear()
        pipe.cut_until = self.now + seconds
        self.nodes[name].unsubscribed(broker)


@pytest.mark.parametrize("brokers", [1, 3, 5])
def test_undisturbed_one_node_holds_and_keeps_it(brokers: int) -> None:
    world = World(brokers)
    for _ in range(300):
        world.step()
    assert len(world.holders) == 1
    assert world.takeovers == 1


troubles = st.tuples(
    st.integers(0, 15),  # steps until it happens
    st.sampled_from(["clog up", "clog down", "clear", "cut", "release"]),
    st.sampled_from([A, B, C]),
    st.integers(0, 2),  # broker
    st.sampled_from([0.2, 1.0, 3.0]),  # seconds of a cut
)


waits = st.sampled_from([0.0, 0.1, 0.5])


@given(st.sampled_from([1, 3]), st.tuples(waits, waits, waits), st.lists(troubles, max_size=40))
@settings(max_examples=200)
def test_whatever_comes_late_or_never_two_never_hold(
    brokers: int, turns: tuple[float, float, float], story: list[tuple[int, str, str, int, float]]
) -> None:
    """Messages wait for any time in either direction, in order; connections break and lose what they carried."""
    world = World(brokers, turns)
    for steps, trouble, name, broker, seconds in story:
        for _ in range(steps):
            world.step()
        pipe = world.pipes[name, broker % brokers]
        match trouble:
            case "clog up":
                pipe.stuck_up = True
            case "clog down":
                pipe.stuck_down = True
            case "clear":
                pipe.stuck_up = pipe.stuck_down = False
            case "cut":
                world.cut(name, broker % brokers, seconds)
            case "release" if name in world.holders:
                world.let_go(name)
    for pipe in world.pipes.values():
        pipe.stuck_up = pipe.stuck_down = False
    for _ in range(30):
        world.step()
