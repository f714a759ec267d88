"""The lease on one service, as one node knows it. Pure: no clock, no socket, no file; time is an argument.

The broker is the arbiter. It hands every subscriber the same messages in the same order, and every node draws the same
conclusions from them. Six rules:

1. Register. A message with a higher epoch takes a broker's register; at the same epoch the first to come has it; a
   release by its holder empties it; everything else is stale.
2. Quiet. A broker is quiet when our subscription there is older than the window and nobody else's claim or holder's
   beat came for a window. Claims count like beats: a claim may be about to succeed. A release clears only the
   releaser's own entry. A broker that does not return our own beats is not heard, and so never quiet: a claim would
   wait in a dead connection, and depose a living holder when that comes back to life.
3. Claim. With a majority quiet, a claim goes out with an epoch above every one seen or ever used.
4. Grant. Our claim comes back. Only now is everything before it in that broker's order known, so quiet is judged again
   at this moment, and the register must be ours. A majority of such brokers grants, if it does within the claim's time.
5. Renew. The lease ends at the send time of the newest beat that a majority has returned, plus the lease.
6. Lose. At the lease's end, or at the sight of a higher epoch, it is over.

A node is known here by its boot (a name that a start of the agent gives itself), so that what an earlier life of the
same node said counts as somebody else's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from locum.timing import Timing

HEARD_MOST = 16
"""Boots remembered one by one, for each broker."""


@dataclass(slots=True)
class View:
    """What one broker's order of messages has told us about the service."""

    since: float | None = None
    """When the present subscription began (or when we last had cause to doubt that we heard everything)."""
    heard: dict[str, float] = field(default_factory=dict)
    """Other boots, and when their last claim or holder's beat came."""
    steady: dict[str, float] = field(default_factory=dict)
    """Since when each of them has been heard without missing a beat."""
    witnessed: tuple[str, int] | None = None
    """Who took the register in the present subscription, with which epoch: we know all that came after it."""
    epoch: int = 0
    holder: str | None = None
    """The register: the highest epoch and who has it."""
    released_at: float = -inf
    """When a holder, of which we know that nobody came after it, removed the addresses and emptied the register."""
    echoed: float = -inf
    """When we sent the latest message of ours, of any kind, that came back in the present subscription."""
    confirmed: float = -inf
    """When we sent the latest message of ours that came back while the register was ours."""
    granted: bool = False
    crowd_at: float = -inf
    """The latest of those claims and beats that are no longer remembered one by one."""


class Lease:
    """Rules 1 to 6 for one service on one node, over any number of brokers."""

    __slots__ = ("brokers", "claimant", "claimed_at", "epoch", "me", "rival", "timing", "top", "views")

    def __init__(self, me: str, brokers: int, timing: Timing) -> None:
        """`me` is our boot; `brokers` how many there are (an odd number)."""
        self.me = me
        self.brokers = brokers
        self.timing = timing
        self.views = [View() for _ in range(brokers)]
        self.top = 0
        """The highest epoch that we have seen or used."""
        self.rival = 0
        """The highest epoch of another's claim or holder's beat. One that was only released deposes nobody."""
        self.claimant: tuple[str, float] = ("", -inf)
        """Who else claimed last, on whatever broker, and when: until that is decided, another claim would only hurt."""
        self.epoch = 0
        """The epoch of our present or latest claim; 0 before the first."""
        self.claimed_at: float | None = None
        """When the present claim was sent; None when we neither claim nor hold."""

    def recall(self, epoch: int, top: int, rival: int, views: Sequence[tuple[int, bool, float]]) -> None:
        """What an agent that is started anew in place knew of its lease: the same as after a lost connection.

        `views`: for each broker the epoch of its register, whether that is ours, and what it had confirmed; none, if
        the service is not held on.
        """
        self.epoch, self.top, self.rival = epoch, top, rival
        for view, (at, ours, confirmed) in zip(self.views, views, strict=False):
            view.epoch, view.holder, view.confirmed = at, self.me if ours else None, confirmed

    def remember(self) -> list[tuple[int, bool, float]]:
        """The last argument of `recall`."""
        return [(view.epoch, view.holder == self.me, view.confirmed) for view in self.views]

    @property
    def majority(self) -> int:
        return self.brokers // 2 + 1

    # -- what the brokers tell us ---------------------------------------------------------------------------------

    def subscribed(self, broker: int, now: float) -> None:
        """A subscription begins: whatever was said on that broker before, we may have missed."""
        view = self.views[broker]
        view.since = now
        view.echoed = -inf
        view.granted = False
        view.steady.clear()
        view.witnessed = None

    def unsubscribed(self, broker: int) -> None:
        view = self.views[broker]
        view.since = None
        view.granted = False

    def doubt(self, now: float) -> None:
        """We were stopped or starved: what we did not hear proves nothing. Wait a whole window again."""
        for view in self.views:
            if view.since is not None:
                view.since = now
                view.granted = False

    def learn(self, epoch: int, held: bool = False) -> None:
        """An epoch that was used, by whatever source: never claim it again. `held`: by another node, now."""
        self.top = max(self.top, epoch)
        if held:
            self.rival = max(self.rival, epoch)

    def hear(
        self,
        broker: int,
        boot: str,
        epoch: int,
        holding: bool,
        now: float,
        sent_at: float = -inf,
        claim: bool = False,
        clean: bool = False,
    ) -> None:
        """One message about the service, in the broker's order.

        `holding`: it is a claim or a holder's beat at `epoch`; else a release of `epoch` (0: never had any).
        `sent_at`: for our own messages, when we sent this one.
        `claim`: it is a claim that is not granted yet, no holder's beat.
        `clean`: the release of a holder that has removed the addresses (not of a claim that came to nothing).
        """
        view = self.views[broker]
        if epoch > self.top:
            self.top = epoch
        mine = boot == self.me
        if mine and sent_at > view.echoed:
            view.echoed = sent_at
        if claim and not mine:
            self.claimant = boot, now
        elif boot == self.claimant[0]:
            self.claimant = "", -inf
        if not holding:
            if view.holder == boot and view.epoch == epoch:
                view.holder = None
                if not mine and clean and self._knows(view, boot, epoch, now):
                    view.released_at = now
            if not mine:
                view.heard.pop(boot, None)
                view.steady.pop(boot, None)
            return
        if not mine:
            if now - view.heard.get(boot, -inf) > self.timing.missed:
                since = view.since
                view.steady[boot] = since if since is not None and now - since <= self.timing.missed else now
            view.heard[boot] = now
            self.rival = max(self.rival, epoch)
            if not claim:
                # A later claim is the loser in this order, and knows it. A holder's beat is another thing: its sender
                # may have missed our claim, connecting again just after it passed.
                view.granted = False
            if len(view.heard) > HEARD_MOST:
                self._forget(view, now)
        if epoch > view.epoch:
            view.epoch, view.holder = epoch, boot
            view.witnessed = (boot, epoch) if claim else None
        if mine and epoch == self.epoch and self.claimed_at is not None and view.holder == boot and view.epoch == epoch:
            if sent_at > view.confirmed:
                view.confirmed = sent_at
            if not view.granted and self._quiet(view, now):
                view.granted = True

    def _forget(self, view: View, now: float) -> None:
        """Drops what no longer counts (a node that restarts often leaves one boot behind each time), and of a crowd
        beyond reason the oldest, whose time goes on counting."""
        view.heard = {boot: at for boot, at in view.heard.items() if now - at <= self.timing.window}
        view.steady = {boot: since for boot, since in view.steady.items() if boot in view.heard}
        while len(view.heard) > HEARD_MOST:
            oldest = min(view.heard, key=view.heard.__getitem__)
            view.crowd_at = max(view.crowd_at, view.heard.pop(oldest))
            view.steady.pop(oldest, None)

    def _knows(self, view: View, boot: str, epoch: int, now: float) -> bool:
        """Whether nobody can have followed this holder without our knowledge.

        Either we heard its claim, and so all that came after it; or we have heard it beat for a whole window, without a
        gap in which another might have taken over. Else its release may be an old one, of a connection that was stalled
        or of a process that slept.
        """
        if view.witnessed == (boot, epoch):
            return True
        beating = now - view.heard.get(boot, -inf) <= self.timing.missed
        return beating and now - view.steady.get(boot, now) >= self.timing.window

    # -- what follows -----------------------------------------------------------------------------------------------

    def _quiet(self, view: View, now: float) -> bool:
        return self._quiet_at(view, now) <= now

    def _quiet_at(self, view: View, now: float) -> float:
        if view.since is None or now > view.echoed + self.timing.missed:
            return inf
        latest = max(view.since, view.crowd_at)
        for at in view.heard.values():
            if at > latest:
                latest = at
        return latest + self.timing.window

    def quiet_at(self, now: float) -> float:
        """From when on a majority of brokers is quiet, if nothing more is heard; `inf` while no majority is heard."""
        return sorted(self._quiet_at(view, now) for view in self.views)[self.majority - 1]

    def undecided_until(self) -> float:
        """Until when another's claim may still be granted, as far as we have heard."""
        return self.claimant[1] + self.timing.claim_timeout

    def attentive_at(self) -> float:
        """From when on our subscriptions are old enough to judge quiet on a majority; `inf` without a majority."""
        ages = sorted(inf if view.since is None else view.since for view in self.views)
        return ages[self.majority - 1] + self.timing.window

    def released(self, now: float) -> bool:
        """Whether a majority is quiet because the holder itself let go, within the last window."""
        window = self.timing.window
        count = 0
        for view in self.views:
            if view.holder is None and now - view.released_at <= window and self._quiet(view, now):
                count += 1
        return count >= self.majority

    def claim(self, now: float) -> int:
        """Rule 3: begins a claim and returns its epoch. The caller publishes it on every broker."""
        self.top += 1
        self.epoch = self.top
        self.claimed_at = now
        for view in self.views:
            view.granted = False
            view.confirmed = -inf
        return self.epoch

    def granted(self, now: float) -> bool:
        """Rule 4: whether a majority grants the present claim now."""
        if self.claimed_at is None or now > self.claimed_at + self.timing.claim_timeout or self.superseded():
            return False
        return sum(view.granted for view in self.views) >= self.majority

    def superseded(self) -> bool:
        """Rule 6: whether a higher epoch than ours was seen, claimed or held."""
        return self.rival > self.epoch

    def confirmed_at(self) -> float:
        """The send time of the newest message of ours that a majority has returned; `-inf` if none."""
        if self.brokers == 1:
            return self.views[0].confirmed
        return sorted((view.confirmed for view in self.views), reverse=True)[self.majority - 1]

    def ends_at(self) -> float:
        """Rule 5: the end of the lease; `-inf` without one."""
        return self.confirmed_at() + self.timing.lease

    def release(self) -> None:
        """We let go. The caller publishes the release of `epoch` on every broker."""
        self.claimed_at = None
        for view in self.views:
            view.granted = False
            view.confirmed = -inf
